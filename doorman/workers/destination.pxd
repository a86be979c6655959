"""Types for the compiled form of destination.py. The module works without it."""


cdef class Destination:
    cdef public object pool
    cdef public object options
    cdef public bint is_local
    cdef public dict parameters
    cdef public dict first_words
    cdef public object verifier
    cdef public object fixed
    cdef public int family
    cdef public bytes address

    cpdef credentials(self, table)


cdef class Destinations:
    cdef object _table
    cdef object _options
    cdef dict _known

    cpdef Destination find(self, int row, pool)
