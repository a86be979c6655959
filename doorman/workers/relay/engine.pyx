"""Birth and death of the relay's objects; see engine.pxd for what they are."""

from doorman.workers.relay.buffer cimport buffer_free
from doorman.workers.relay.pending cimport pending_free
from doorman.workers.relay.replies cimport replies_free


cdef class Conn:
    """A socket in the relay's epoll set."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        buffer_free(&self.inb)
        buffer_free(&self.outb)


cdef class Watcher(Conn):
    """A socket that Python code cares for: channel, a server being opened, a cancel request."""

    def __cinit__(self):
        self.kind = KIND_WATCHER


cdef class Client(Conn):
    """A client connection."""

    def __cinit__(self):
        self.kind = KIND_CLIENT
        self.number = -1
        self.pool = -1
        self.parked = -1

    @property
    def is_gone(self) -> bool:
        """The connection is closed."""
        return self.closed

    @property
    def peer(self) -> bytes:
        """Its IP address in network order: 4 or 16 bytes, none on the Unix socket."""
        if self.row == NULL:
            return b""
        return <bytes>self.row.address[:4 if self.row.family == 4 else 16 if self.row.family == 6 else 0]


cdef class Server(Conn):
    """A server connection, or rather this process's handle of it: the slot row says whose it is."""

    def __cinit__(self):
        self.kind = KIND_SERVER
        self.slot = -1
        self.status = b"I"

    def __dealloc__(self):
        pending_free(&self.pending)
        replies_free(&self.replies)
        buffer_free(&self.replay)


cdef class Engine:
    """What the parts of the relay may ask of the loop; `relay.Relay` answers."""

    cdef bint attach(self, Client client) except -1:
        """Find a server for a client whose next message needs one. False: it waits, and is resumed later."""
        raise NotImplementedError

    cdef int retire(self, int pool) except -1:
        """Have a pool's servers end when they are idle, and others opened."""
        raise NotImplementedError

    cdef int release(self, Server server) except -1:
        """The transaction is over: part server and client."""
        raise NotImplementedError

    cdef int forward(self, Server server, const char *data, size_t length) except -1:
        raise NotImplementedError

    cdef int answer(self, Client client, const char *data, size_t length) except -1:
        raise NotImplementedError

    cdef int end_client(self, Client client) except -1:
        """The client is gone or must go: free what it holds."""
        raise NotImplementedError

    cdef int lose_server(self, Server server) except -1:
        """The server's stream ended."""
        raise NotImplementedError

    cdef int close_server(self, Server server, bint polite) except -1:
        """End a server connection. polite: it is quiet and may be sent Terminate."""
        raise NotImplementedError

    cdef int serve(self, Client client) except -1:
        """Take the next step towards the client's first message on its server: parameters, login, or the message."""
        raise NotImplementedError

    cdef int synced(self, Server server) except -1:
        """The server answered to the client's parameters."""
        raise NotImplementedError

    cdef int refuse(self, Client client, str severity, str sqlstate, str message) except -1:
        raise NotImplementedError

    cdef int request_cancel(self, Server server) except -1:
        raise NotImplementedError

    cdef int note_deadline(self, Server server, int64_t deadline) except -1:
        raise NotImplementedError

    cdef int ready_again(self, Server server) except -1:
        """A server without a client is clean and quiet: give it back."""
        raise NotImplementedError

    cdef int queue(self, Client client) except -1:
        """Go on with what the client has sent, soon."""
        raise NotImplementedError

    cdef int open(self, int pool, int slot) except -1:
        """Open a server for a slot that this process reserved."""
        raise NotImplementedError

    cdef int say_goodbye(self, Server server, bint polite) except -1:
        """End the connection of a slot that is CLOSING."""
        raise NotImplementedError

    cdef int adopt_orphan(self, int slot) except -1:
        """End the connection of a slot that is CLOSING and this process's, whose socket may be elsewhere."""
        raise NotImplementedError

    cdef int finish_login(self, Client client) except -1:
        """Everything is known that a client is greeted with."""
        raise NotImplementedError

    cdef int farewell(self, Client client) except -1:
        """Close as soon as the client has taken what is written to it."""
        raise NotImplementedError

    cdef int look_at_waiters(self) except -1:
        """Some waiter of this process was failed or cancelled."""
        raise NotImplementedError

    cdef int note_listen(self, Client client) except -1:
        """A client listens in transaction mode, where nothing will come of it."""
        raise NotImplementedError

    cdef int follow_parameter(self, Client client, bytes report) except -1:
        """The client is sent a ParameterStatus."""
        raise NotImplementedError

    cdef int log_parameter(self, Client client, bytes report) except -1:
        """Likewise, in session mode."""
        raise NotImplementedError

    cdef int give_known(self, Server server) except -1:
        """Flush: answers of ours that are due go to the client."""
        raise NotImplementedError
