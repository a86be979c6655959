"""Types for the compiled `Opening` (opening.py)."""

from doorman.auth.server_login cimport ServerLogin
from doorman.workers.destination cimport Destination


cdef class Opening:
    cdef public object process
    cdef public Destination destination
    cdef public object pool
    cdef public int slot
    cdef public object generation
    cdef public int fd
    cdef public bytes first_words
    cdef public bytes peer
    cdef public object watcher
    cdef public object credentials
    cdef public object mode
    cdef public object refused_plain
    cdef public object tls
    cdef public object layer
    cdef public int row
    cdef public int minor
    cdef public ServerLogin login
    cdef public long long phase_began
    cdef public long long deadline_us
    cdef public bint ended

    cpdef read(self)
    cdef start_login(self, binding)
    cdef bytes startup(self, binding)
    cdef bytes tls_request(self)
    cdef guard(self, step)
    cdef say(self, bytes data)
    cdef end_phase(self, int phase)
    cdef succeed(self)
    cdef end(self)
