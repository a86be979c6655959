/* Preloaded into pg_doorman: system calls that answer as a test wishes, by files in the directory DOORMAN_FAULTS.
 *
 * send         the file is taken away, and one call of send fails with ENOBUFS: no memory in the kernel
 * full.T       the file is taken away, and one send that begins with this letter fails with EAGAIN: the peer takes nothing
 * recvmsg.PID  as long as the file is there recvmsg fails in that process, with ENOMEM
 * sendmsg.PID  as long as the file is there that process sleeps for half a second after it has sent a descriptor
 * back         the wall clock is a day behind as long as the file is there
 * ahead        or a day ahead
 * epoll        as long as the file is there epoll_create1 fails with EMFILE
 * names        the host name "several.test" stands for the addresses in it, one in a line
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char *path_of(const char *name, char *room, size_t size) {
    const char *directory = getenv("DOORMAN_FAULTS");
    snprintf(room, size, "%s/%s", directory ? directory : "/nowhere", name);
    return room;
}

ssize_t send(int fd, const void *data, size_t length, int flags) {
    static ssize_t (*next)(int, const void *, size_t, int);
    char name[32], room[4096];
    if (!next) next = dlsym(RTLD_NEXT, "send");
    snprintf(name, sizeof name, "full.%c", length && *(const char *)data > ' ' ? *(const char *)data : '-');
    if (unlink(path_of(name, room, sizeof room)) == 0) {
        errno = EAGAIN;
        return -1;
    }
    if (unlink(path_of("send", room, sizeof room)) == 0) {
        errno = ENOBUFS;
        return -1;
    }
    return next(fd, data, length, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    static ssize_t (*next)(int, struct msghdr *, int);
    char name[32], room[4096];
    if (!next) next = dlsym(RTLD_NEXT, "recvmsg");
    snprintf(name, sizeof name, "recvmsg.%d", getpid());
    if (access(path_of(name, room, sizeof room), F_OK) == 0) {
        errno = ENOMEM;
        return -1;
    }
    return next(fd, message, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    static ssize_t (*next)(int, const struct msghdr *, int);
    char name[32], room[4096];
    ssize_t sent;
    if (!next) next = dlsym(RTLD_NEXT, "sendmsg");
    sent = next(fd, message, flags);
    snprintf(name, sizeof name, "sendmsg.%d", getpid());
    if (message->msg_controllen && access(path_of(name, room, sizeof room), F_OK) == 0) usleep(500000);
    return sent;
}

int epoll_create1(int flags) {
    static int (*next)(int);
    char room[4096];
    if (!next) next = dlsym(RTLD_NEXT, "epoll_create1");
    if (access(path_of("epoll", room, sizeof room), F_OK) == 0) {
        errno = EMFILE;
        return -1;
    }
    return next(flags);
}

int clock_gettime(clockid_t clock, struct timespec *into) {
    static int (*next)(clockid_t, struct timespec *);
    char room[4096];
    int answer;
    if (!next) next = dlsym(RTLD_NEXT, "clock_gettime");
    answer = next(clock, into);
    if (answer == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        if (access(path_of("back", room, sizeof room), F_OK) == 0) into->tv_sec -= 86400;
        if (access(path_of("ahead", room, sizeof room), F_OK) == 0) into->tv_sec += 86400;
    }
    return answer;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    char room[4096], line[64];
    FILE *names;
    if (!next) next = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!node || strcmp(node, "several.test") || !(names = fopen(path_of("names", room, sizeof room), "r")))
        return next(node, service, hints, found);
    *found = NULL;
    while (fgets(line, sizeof line, names)) {
        line[strcspn(line, "\n")] = 0;
        if (next(line, service, hints, found)) break;
        while (*found) found = &(*found)->ai_next;
    }
    fclose(names);
    return 0;
}
