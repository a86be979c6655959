"""Types for the compiled form of roster.py. The module works without it."""

cimport cython


@cython.final
cdef class Roster:
    cdef dict _last
    cdef dict _live
    cdef dict _accounts
    cdef readonly long long changes
