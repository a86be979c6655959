"""Types for the compiled form of channel.py. The module works without it."""

cimport cython

from doorman.wire.packing cimport joined, number
from doorman.workers.dial cimport send_descriptor

cdef bytes _PUBLISH, _GENERATION


@cython.final
cdef class Channel:
    cdef public object socket
    cdef public object deposits
    cdef int _deposits_fd
    cdef object _queue
    cdef list _parts

    cpdef bint deposit(self, message) except -1
    cpdef bint deposit_server(self, int slot, long long generation, int fd) except -1

cpdef bint may_wait(int code) except -1
