"""Types for the compiled `Frames` (framing.py)."""

cimport cython

from doorman.wire.packing cimport part_of_buffer, refill


@cython.final
@cython.freelist(8)
cdef class Frames:
    cdef bytearray _buffer
    cdef Py_ssize_t _limit
    cdef Py_ssize_t _start

    @cython.locals(buffer=bytearray, start=Py_ssize_t, end=Py_ssize_t, length=cython.longlong)
    cpdef tuple take(self)
    @cython.locals(buffer=bytearray, start=Py_ssize_t, at=Py_ssize_t, there=Py_ssize_t, length=Py_ssize_t)
    cpdef bytes take_run(self, int letter)
    cpdef feed(self, bytes data)
    cpdef bytes rest(self)
