"""Which sockets are watched, and the only calls of recv and send in the relay (the seam for TLS records).

Rules
1. A socket is taken out of epoll before it is closed: its duplicates in other processes keep a registration alive. Only
   a client's has none (but in a child between fork and exec, and where it was handed over a moment ago: an event by edge
   comes once, and rule 2 drops it).
2. An event names fd and serial; one for an earlier owner of the fd is dropped.
3. A TCP socket is watched by edge (`edge`, EPOLLET), which spares the kernel a second look at it: an event then comes
   once for what arrived. A read that took less than it had room for took everything (epoll(7)); whoever leaves something
   unread, or saw the end of the stream announced, calls `look_again`. Changing what is watched looks again by itself.
   Unix sockets are watched by level, for there a short read proves nothing.
4. What a peer does not take goes to its `outb`, and whoever fills it stops reading its counterpart until it is empty. It
   is watched for EPOLLOUT until then, whatever else keeps it from being read (`rest`).
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.unistd cimport close

from doorman.workers.relay.buffer cimport buffer_append, buffer_consume, buffer_free, buffer_length
from doorman.workers.relay.engine cimport KIND_CLIENT, SCRATCH, Conn, Engine, Watcher
from doorman.workers.relay.sealed cimport cut_off, receive_sealed, say_farewell, transmit_sealed


cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *into, size_t room, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    int getsockopt(int fd, int level, int option, void *value, unsigned int *length)
    int MSG_DONTWAIT, MSG_NOSIGNAL, SOL_SOCKET, SO_DOMAIN, AF_INET, AF_INET6

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, int *value)
    unsigned long FIONREAD, TIOCOUTQ


cdef class Sockets(Engine):
    """Epoll set, reading and writing."""

    def __cinit__(self):
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, "no epoll instance")
        self.conns = []
        self.next_serial = 1
        self.scratch = <char *>malloc(SCRATCH)
        if self.scratch == NULL:
            raise MemoryError("no memory for the relay's read buffer")

    def __dealloc__(self):
        free(self.scratch)
        if self.epoll >= 0:
            close(self.epoll)

    cdef int enroll(self, Conn conn, int fd) except -1:
        """The connection owns this fd from now on."""
        conn.fd = fd
        conn.serial = self.next_serial
        self.next_serial += 1
        while len(self.conns) <= fd:
            self.conns.append(None)
        self.conns[fd] = conn
        return 0

    cdef int arm(self, Conn conn, uint32_t events) except -1:
        """Watch for these events and no others."""
        cdef epoll_event event
        if conn.armed == events:
            return 0
        event.events = events
        if conn.edge and events & EPOLLIN:
            event.events |= EPOLLET | EPOLLRDHUP
        event.data.u64 = <unsigned long long>conn.serial << 32 | <uint32_t>conn.fd
        if epoll_ctl(self.epoll, EPOLL_CTL_MOD if conn.armed else EPOLL_CTL_ADD, conn.fd, &event) < 0:
            raise OSError(errno, "a socket could not be watched")
        conn.armed = events
        return 0

    cdef int rest(self, Conn conn, uint32_t events) except -1:
        """Do not read it for the present; watch for these events at most."""
        if buffer_length(&conn.outb):
            return 0                            # it is watched for what it takes, and not read either (rule 4)
        return self.arm(conn, events)

    cdef int look_again(self, Conn conn) except -1:
        """Have what may still be unread announced once more (rule 3)."""
        cdef uint32_t events = conn.armed
        if not conn.edge or not events & EPOLLIN:
            return 0
        conn.armed = EPOLLERR
        return self.arm(conn, events)

    cdef int disarm(self, Conn conn) except -1:
        cdef epoll_event event
        if conn.armed:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, conn.fd, &event)
            conn.armed = 0
        return 0

    cdef int shut(self, Conn conn) except -1:
        """Close this process's fd (rule 1). The connection itself lives on while others have it."""
        if conn.fd < 0:
            return 0
        if conn.kind != KIND_CLIENT or not conn.edge:
            self.disarm(conn)
        self.conns[conn.fd] = None
        if conn.tls is not None:
            if conn.kind == KIND_CLIENT:
                say_farewell(conn)
            conn.tls = None
        close(conn.fd)
        conn.fd = -1
        conn.closed = True
        buffer_free(&conn.inb)
        buffer_free(&conn.outb)
        return 0

    cdef Py_ssize_t receive(self, Conn conn, char *into, size_t room) noexcept:
        """Bytes read; 0 at the end of the stream or after an error, -1 when there is nothing to read now."""
        cdef ssize_t n
        if conn.tls is not None:
            return receive_sealed(conn, into, room)
        while True:
            n = recv(conn.fd, into, room, MSG_DONTWAIT)         # network op
            conn.drained = n < <ssize_t>room
            if n >= 0:
                return n
            if errno == EINTR:
                continue
            return -1 if errno == EAGAIN else 0

    cdef Py_ssize_t transmit(self, Conn conn, const char *data, size_t length) except -2:
        """Write, or queue behind what is queued already. Bytes that remain queued; SEND_GONE when the peer is gone."""
        cdef ssize_t n = 0
        if conn.tls is not None:
            return transmit_sealed(conn, data, length)
        if not buffer_length(&conn.outb):
            n = send(conn.fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL)    # network op
            if n == <ssize_t>length:
                return 0
            if n < 0:
                if errno != EAGAIN and errno != EINTR:
                    cut_off(conn, errno)
                    return SEND_GONE
                n = 0
        buffer_append(&conn.outb, data + n, length - n)
        return <Py_ssize_t>buffer_length(&conn.outb)

    cdef bint flush(self, Conn conn) except -1:
        """Write what is queued. True when nothing is left to write (or nobody is left to write to)."""
        cdef ssize_t n
        if buffer_length(&conn.outb):
            n = send(conn.fd, conn.outb.data + conn.outb.start, buffer_length(&conn.outb), MSG_DONTWAIT | MSG_NOSIGNAL)
            if n < 0:
                if errno == EAGAIN or errno == EINTR:
                    return False
                cut_off(conn, errno)
                buffer_free(&conn.outb)         # reading will find the end of the stream
                return True
            buffer_consume(&conn.outb, n)
        return not buffer_length(&conn.outb)

    cdef Py_ssize_t read(self, Conn conn) except -2:
        """Read behind what is left of an earlier read. Bytes now in scratch; 0 = end of stream, -1 = nothing came."""
        cdef size_t left = buffer_length(&conn.inb)
        cdef Py_ssize_t n
        if left >= SCRATCH:                     # nobody may leave so much unread
            return 0
        if left:
            memcpy(self.scratch, conn.inb.data + conn.inb.start, left)
        n = self.receive(conn, self.scratch + left, SCRATCH - left)
        if n <= 0:
            return n
        if left:
            buffer_free(&conn.inb)
        return <Py_ssize_t>left + n

    cpdef Watcher watch(self, int fd, uint32_t events, callback, bint stays=False):
        """Call `callback(events)` when the fd is ready. The relay owns and closes the fd (`unwatch`). stays: what the
        callback does gives uvloop nothing to do, so the relay need not return to it."""
        cdef Watcher watcher = Watcher()
        watcher.stays = stays
        watcher.callback = callback
        self.enroll(watcher, fd)
        self.arm(watcher, events)
        return watcher

    cpdef rewatch(self, Watcher watcher, uint32_t events):
        """Watch for other events."""
        self.arm(watcher, events)

    cpdef unwatch(self, Watcher watcher, bint keep=False):
        """Stop watching, and close the fd unless it is to be kept."""
        if watcher.fd < 0:
            return
        self.disarm(watcher)
        if keep:
            self.conns[watcher.fd] = None
            watcher.fd = -1
        else:
            self.shut(watcher)
        watcher.callback = None

    cdef int replace(self, Watcher watcher, Conn conn) except -1:
        """The socket is another connection's from now on, which is enrolled; its registration serves on."""
        conn.armed = EPOLLERR if watcher.armed else 0       # so that `arm` changes it
        watcher.armed = 0
        watcher.fd = -1
        watcher.callback = None
        return 0


cdef bint is_tcp(int fd) noexcept:
    """Is this no Unix socket?"""
    cdef int domain = 0
    cdef unsigned int length = sizeof(domain)
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length)
    return domain == AF_INET or domain == AF_INET6


cdef bint has_unread(int fd) noexcept:
    """Has something come that was not read?"""
    cdef int unread = 0
    return ioctl(fd, FIONREAD, &unread) == 0 and unread > 0


cdef int count_unacknowledged(int fd) noexcept:
    """Bytes that were sent and that the peer has not acknowledged (for a Unix socket: not read); 0 if it cannot be told."""
    cdef int sent = 0
    return sent if ioctl(fd, TIOCOUTQ, &sent) == 0 else 0
