"""New clients: taken from the listening sockets, and shared out evenly among the workers.

Rules
1. The kernel spreads connections over the workers' sockets by a hash: of 16 clients one of two workers has ten or more
   in nearly half of all cases, and every transaction costs more then. So a worker that has MARGIN clients (or an
   eighth) more than another hands a new one over to the worker that has fewest.
2. Nothing has been read of a client that is handed over. What cannot be handed over is served here.
3. It goes through a socket pair that the master keeps: what a worker has not taken when it dies its successor takes.
4. A client counts as the other's from before it is sent (`offered`) until that has taken it (`taken`), then as its own
   (`clients`): of a hundred that come at once not all are handed to the same.
   A process that is killed in between leaves one too many for good, which makes the worker look busier by one.
5. Nobody is handed a client who is dead, has shown no sign of life for FRESH_US, or has no descriptor left (`resting`);
   nobody at all while the pooler ends, which `phase` says before any worker is told.
"""

import logging

from libc.errno cimport EINTR, EMFILE, ENFILE, errno
from libc.stdint cimport int32_t, int64_t
from posix.fcntl cimport F_DUPFD_CLOEXEC, fcntl
from posix.unistd cimport close

from doorman.shm.atomics cimport add32, load32, sub32
from doorman.shm.layout cimport ROLE_WORKER, ProcessCounterRow, ProcessRow
from doorman.shm.table cimport Table, now_us
from doorman.workers.relay.client_side cimport sockaddr_storage
from doorman.workers.relay.engine cimport KIND_LISTENER, Client, Conn, Watcher
from doorman.workers.relay.leaving cimport Leaving
from doorman.workers.relay.sockets cimport EPOLLEXCLUSIVE, EPOLLIN

log = logging.getLogger("doorman.relay")

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    int SOCK_NONBLOCK, SOCK_CLOEXEC
    int accept4(int fd, sockaddr *address, unsigned int *length, int flags)

cdef extern from * nogil:
    """
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>

    union dm_control {                              /* room for one descriptor, aligned as the kernel wants it */
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    };

    /* Send a descriptor and an address; false if that did not go. */
    static int dm_send_socket(int via, int fd, struct sockaddr_storage *address) {
        struct iovec data = {address, sizeof(*address)};
        union dm_control control;
        struct msghdr message = {0};
        memset(&control, 0, sizeof(control));
        message.msg_iov = &data;
        message.msg_iovlen = 1;
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
        return sendmsg(via, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(*address);
    }

    /* Bytes received, <= 0 as of recvmsg; the descriptor, -1 if none came with them. */
    static ssize_t dm_receive_socket(int via, int *fd, struct sockaddr_storage *address) {
        struct iovec data = {address, sizeof(*address)};
        union dm_control control;
        struct msghdr message = {0};
        ssize_t n;
        message.msg_iov = &data;
        message.msg_iovlen = 1;
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        *fd = -1;
        n = recvmsg(via, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n > 0 && CMSG_FIRSTHDR(&message) && control.header.cmsg_type == SCM_RIGHTS)
            memcpy(fd, CMSG_DATA(&control.header), sizeof(int));
        return n;
    }
    """
    bint send_socket "dm_send_socket"(int via, int fd, sockaddr_storage *address)
    ssize_t receive_socket "dm_receive_socket"(int via, int *fd, sockaddr_storage *address)

cdef enum:
    MARGIN = 2                      # rule 1
    FRESH_US = 500_000              # rule 5; a worker gives a sign of life ten times a second
    PHASE_OPEN = 1


cdef class Accepting(Leaving):
    """Takes new clients in."""

    def listen(self, fd: int, *, shared: bool) -> None:
        """Accept clients here. shared: other processes accept from the same socket."""
        cdef Watcher listener = Watcher()
        listener.kind = KIND_LISTENER
        self.enroll(listener, fd)
        self.arm(listener, EPOLLIN | EPOLLEXCLUSIVE if shared else EPOLLIN)
        self.listeners.append((listener, shared))

    def share_clients(self, mine: int, handing: list[int]) -> None:
        """Share new clients out: ours come in by the socket `mine`, that of the worker in row n is `handing[n]`."""
        self.handing = handing
        self.handed = self.watch(mine, EPOLLIN, self.take_handed, True)

    def stop_accepting(self) -> None:
        """No more clients but those that knock already. The port refuses when every process has closed its descriptor."""
        for listener, _ in self.listeners:
            self.accept(listener, ACCEPTS)
            self.shut(listener)
        self.listeners = []
        if self.handed is not None:
            while self.take_some() == ACCEPTS:
                pass

    cdef int accept(self, Watcher listener, int most) except -1:
        """While nothing else is to be done epoll says whether there are more; otherwise it is not asked for each."""
        cdef sockaddr_storage address
        cdef unsigned int length
        cdef int fd, i
        for i in range(most):
            length = sizeof(address)
            fd = accept4(listener.fd, <sockaddr *>&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                if not self.hand_over(fd, &address):
                    self.meet(fd, &address)
            elif errno == EMFILE or errno == ENFILE:
                return self.rest_from_accepting()
            elif errno != EINTR:
                return 0
        return 0

    cdef int meet(self, int fd, sockaddr_storage *address) except -1:
        """A new client of this process. An error ends it, and neither the listening socket nor the pair of rule 3."""
        cdef Client client
        try:
            client = self.welcome(fd, address)
        except Exception:
            self.turn_away(fd)
            return 0
        try:
            self.hear(client)
        except Exception:
            self.fail(client)
        return 0

    cdef int turn_away(self, int fd) except -1:
        """It could not even be welcomed: whether the socket is a client's already depends on how far that came."""
        cdef Conn conn = <Conn>self.conns[fd] if fd < len(self.conns) else None
        if conn is None:
            close(fd)
        return self.fail(conn)

    cdef bint hand_over(self, int fd, sockaddr_storage *address) except -1:
        """Rule 1. False: the client is to be served here."""
        cdef ProcessCounterRow *counters
        cdef int process, via
        if not self.handing:
            return False
        process = self.least_busy()
        if process == self.table.process:
            return False
        counters = &self.table.process_counters[process]
        via = self.handing[process]
        add32(&counters.offered, 1)
        if not send_socket(via, fd, address):
            sub32(&counters.offered, 1)
            return False
        close(fd)
        return True

    cdef int least_busy(self) noexcept:
        """The process row that a new client goes to: this one's, unless others have fewer by far (rules 1 and 5)."""
        cdef Table table = self.table
        cdef ProcessRow *row
        cdef ProcessCounterRow *counters
        cdef int process, chosen = table.process
        cdef int64_t fewest = clients_of(&table.process_counters[chosen])
        cdef int64_t ours = fewest, clients, fresh
        if fewest < MARGIN or load32(&table.header.phase) != PHASE_OPEN:
            return chosen
        fresh = now_us() - FRESH_US
        for process in range(<int>table.header.n_processes):
            row = &table.processes[process]
            counters = &table.process_counters[process]
            clients = clients_of(counters)
            if clients < fewest and is_well(row, fresh) and not load32(&counters.resting):
                chosen = process
                fewest = clients
        return chosen if ours - fewest >= max(<int64_t>MARGIN, fewest // 8) else table.process

    def take_handed(self, events: int) -> None:
        """Clients come from other workers (rule 3)."""
        self.take_some()

    cdef int take_some(self) except -1:
        """How many were taken, ACCEPTS at most. One for which there is no descriptor would be lost: it stays there."""
        cdef sockaddr_storage address
        cdef ProcessCounterRow *counters = &self.table.process_counters[self.table.process]
        cdef int i, fd
        for i in range(ACCEPTS):
            if not self.has_spare_descriptor():
                self.rest_from_accepting()
                return i
            if receive_socket(self.handed.fd, &fd, &address) <= 0:
                return i
            add32(&counters.taken, 1)
            if fd >= 0:
                self.meet(fd, &address)
            else:
                log.error("a client was lost on its way from another worker")
        return ACCEPTS

    cdef bint has_spare_descriptor(self) noexcept:
        """Could a client be taken in?"""
        cdef int spare = fcntl(self.epoll, F_DUPFD_CLOEXEC, 0)
        if spare < 0:
            return False
        close(spare)
        return True

    cdef int rest_from_accepting(self) except -1:
        """Out of file descriptors: accepting again at once would spin. `resume_accepting` looks at each tick."""
        for listener, _ in self.listeners:
            self.disarm(listener)
        if self.handed is not None:
            self.disarm(self.handed)
        self.table.process_counters[self.table.process].resting = 1
        self.stop_listening = True
        return self.complain()

    cdef int complain(self) except -1:
        cdef int64_t now = now_us()
        if now - self.complained_at > 5_000_000:
            self.complained_at = now
            log.error("no file descriptor is left for a new client; accepting again in a moment (raise LimitNOFILE)")
        return 0

    cdef int resume_accepting(self) except -1:
        if not self.has_spare_descriptor():
            return self.complain()
        for listener, shared in self.listeners:
            self.arm(listener, EPOLLIN | EPOLLEXCLUSIVE if shared else EPOLLIN)
        if self.handed is not None:
            self.arm(self.handed, EPOLLIN)
        self.table.process_counters[self.table.process].resting = 0
        self.stop_listening = False
        return 0

    cdef int accept_forgotten(self) except -1:
        """From a shared socket the kernel wakes one process (EPOLLEXCLUSIVE). If that was just being killed, nobody else
        hears of the connection."""
        for listener, shared in self.listeners:
            if shared:
                self.accept(listener, ACCEPTS)
        return 0


cdef inline bint is_well(ProcessRow *row, int64_t fresh) noexcept nogil:
    """Rule 5."""
    return row.role == ROLE_WORKER and load32(&row.pid) and row.heartbeat > fresh


cdef inline int64_t clients_of(ProcessCounterRow *counters) noexcept nogil:
    """Those it has and those on their way to it (rule 4)."""
    cdef int32_t coming = <int32_t>(load32(&counters.offered) - load32(&counters.taken))
    return <int64_t>load32(&counters.clients) + max(coming, 0)
