"""The relay's epoll set and the transport seam. See sockets.pyx."""

from libc.stdint cimport uint32_t

from doorman.workers.relay.engine cimport Conn, Engine, Watcher


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data:
        unsigned long long u64
    struct epoll_event:
        uint32_t events
        epoll_data data
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR, EPOLLRDHUP, EPOLLET, EPOLLEXCLUSIVE
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef enum:
    SEND_GONE = -1

cdef bint is_tcp(int fd) noexcept
cdef bint has_unread(int fd) noexcept
cdef int count_unacknowledged(int fd) noexcept


cdef class Sockets(Engine):
    cdef readonly int epoll
    cdef list conns                 # by fd: whose it is
    cdef uint32_t next_serial

    cpdef Watcher watch(self, int fd, uint32_t events, callback, bint stays=*)
    cpdef rewatch(self, Watcher watcher, uint32_t events)
    cpdef unwatch(self, Watcher watcher, bint keep=*)
    cdef int replace(self, Watcher watcher, Conn conn) except -1
    cdef int enroll(self, Conn conn, int fd) except -1
    cdef int arm(self, Conn conn, uint32_t events) except -1
    cdef int rest(self, Conn conn, uint32_t events) except -1
    cdef int look_again(self, Conn conn) except -1
    cdef int disarm(self, Conn conn) except -1
    cdef int shut(self, Conn conn) except -1
    cdef Py_ssize_t receive(self, Conn conn, char *into, size_t room) noexcept
    cdef Py_ssize_t transmit(self, Conn conn, const char *data, size_t length) except -2
    cdef bint flush(self, Conn conn) except -1
    cdef Py_ssize_t read(self, Conn conn) except -2
