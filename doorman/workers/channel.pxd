"""Types for the compiled form of channel.py. The module works without it."""

cimport cython

from doorman.workers.dial cimport send_descriptor


@cython.final
cdef class Channel:
    cdef public object socket
    cdef public object deposits
    cdef int _deposits_fd
    cdef object _queue
    cdef list _parts

    cpdef bint deposit(self, message, int fd=*) except -1

cpdef bint may_wait(int code) except -1
