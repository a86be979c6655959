"""Types for the compiled form of randomness.py. The module works without it."""

cimport cython

from doorman.wire.packing cimport part


@cython.final
cdef class RandomPage:
    cdef bytes _page
    cdef Py_ssize_t _at

    cpdef drop(self)
    @cython.locals(end=Py_ssize_t, taken=bytes)
    cpdef bytes take(self, Py_ssize_t count)

cdef RandomPage _PAGE

cpdef bytes random_bytes(Py_ssize_t count)
cpdef bytes draw(source, Py_ssize_t count)
