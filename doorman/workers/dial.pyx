"""The system calls of opening a server, without Python's socket objects: a login in the cold pays for each line of code.

Rules
1. Every socket is non-blocking and close-on-exec; the descriptor is the caller's.
2. What may fail in the ordinary course of things answers with an errno, nothing is raised for it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.string cimport memcpy, memset
from posix.unistd cimport close


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr
    struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    void *CMSG_DATA(cmsghdr *control)
    size_t CMSG_LEN(size_t length)
    int socket(int family, int kind, int protocol)
    int connect(int fd, const sockaddr *address, unsigned int length)
    int setsockopt(int fd, int level, int option, const void *value, unsigned int length)
    int getsockopt(int fd, int level, int option, void *value, unsigned int *length)
    ssize_t recv(int fd, void *into, size_t room, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, SCM_RIGHTS, MSG_NOSIGNAL

DEF ROOM = 16384


cpdef int dial(int family, bytes address, tuple options) except? -1:
    """Start to connect. address: a packed sockaddr. options: (level, option, value). The descriptor, or -errno."""
    cdef int level, option, value, code
    cdef int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -errno
    for level, option, value in options:
        if setsockopt(fd, level, option, &value, sizeof(value)) < 0:
            code = errno
            close(fd)
            return -code
    if connect(fd, <const sockaddr *><const char *>address, <unsigned int>len(address)) < 0 and errno != EINPROGRESS:
        code = errno
        close(fd)
        return -code
    return fd


cpdef int outcome(int fd) except? -1:
    """What has become of the connection: 0 when it stands, or why it does not (errno)."""
    cdef int code = 0
    cdef unsigned int length = sizeof(code)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length) < 0:
        return errno
    return code


cpdef bytes receive(int fd):
    """What has come, at most 16 KiB; empty at the end of the stream, None when there is nothing now. Raises OSError."""
    cdef char[ROOM] into
    cdef ssize_t n = recv(fd, into, ROOM, 0)
    if n >= 0:
        return PyBytes_FromStringAndSize(into, n)
    if errno == EAGAIN or errno == EINTR:
        return None
    raise OSError(errno, "no answer")


cpdef bint send_whole(int fd, bytes data) except -1:
    """Send something short; False when the peer does not read. Raises OSError."""
    cdef ssize_t n = send(fd, <const char *>data, len(data), MSG_NOSIGNAL)
    if n < 0 and errno != EAGAIN and errno != EINTR:
        raise OSError(errno, "not sent")
    return n == len(data)


cpdef int send_descriptor(int channel, bytes packet, int fd) noexcept:
    """One packet with one descriptor; 0, or why it could not be sent now (errno)."""
    cdef msghdr message
    cdef iovec part
    cdef char[64] control
    cdef cmsghdr *rights
    memset(&message, 0, sizeof(message))
    memset(control, 0, sizeof(control))
    part.iov_base = <char *>packet
    part.iov_len = len(packet)
    message.msg_iov = &part
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = sizeof(control)
    rights = CMSG_FIRSTHDR(&message)
    rights.cmsg_level = SOL_SOCKET
    rights.cmsg_type = SCM_RIGHTS
    rights.cmsg_len = CMSG_LEN(sizeof(int))
    memcpy(CMSG_DATA(rights), &fd, sizeof(int))
    message.msg_controllen = (rights.cmsg_len + sizeof(size_t) - 1) & ~(sizeof(size_t) - 1)
    return 0 if sendmsg(channel, &message, MSG_NOSIGNAL) >= 0 else errno
