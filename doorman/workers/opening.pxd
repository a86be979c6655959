"""Types for the compiled form of opening.py. The module works without it."""

cimport cython

from doorman.auth.server_login cimport Credentials, ServerLogin
from doorman.shm.counters cimport count_opening, count_phase
from doorman.shm.table cimport monotonic_us
from doorman.tls.record cimport RecordLayer
from doorman.workers.destination cimport Destination
from doorman.workers.dial cimport dial, outcome, receive, send_whole
from doorman.workers.host cimport Host
from doorman.workers.relay.engine cimport Watcher

cdef int _CONNECT, _ENCRYPTION, _AUTHENTICATION, _STARTUP
cdef int _READABLE, _WRITABLE
cdef int _NEWEST, _DEBUG
cdef double _LEAST, _RANGE


@cython.final
@cython.freelist(8)
cdef class Opening:
    cdef public Host process
    cdef public Destination destination
    cdef public object pool
    cdef public int slot
    cdef public object generation
    cdef public int fd
    cdef public bytes first_words
    cdef public bytes peer
    cdef public Watcher watcher
    cdef public Credentials credentials
    cdef public str mode
    cdef public object refused_plain
    cdef public object tls
    cdef public RecordLayer layer
    cdef public int row
    cdef public int minor
    cdef public ServerLogin login
    cdef public long long phase_began
    cdef public long long deadline_us
    cdef public long long ends_us
    cdef public list others
    cdef public bint ended

    cpdef start(self)
    cdef attempt(self, int family, bytes address, tuple options)
    @cython.locals(words=bytes)
    cdef say_first(self)
    cdef say_late(self)
    @cython.locals(data=bytes, answer=bytes, login=ServerLogin, was_authenticated=cython.bint)
    cdef read(self)
    cdef start_login(self, bytes binding)
    @cython.locals(destination=Destination, words=bytes)
    cdef bytes startup(self, bytes binding)
    cdef bytes tls_request(self)
    cdef bytes open(self, bytes records)
    cdef shake(self, bytes data)
    cdef break_off(self, error)
    cdef say(self, bytes data)
    @cython.locals(now=cython.longlong)
    cdef end_phase(self, int phase)
    cdef succeed(self)
    cdef end(self)

@cython.locals(spread=cython.longlong, chance=cython.double)
cpdef long long jitter(long long milliseconds) except? -1
