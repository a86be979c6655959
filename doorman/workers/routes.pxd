"""Types for the compiled form of routes.py. The module works without it."""

cdef class Route:
    cdef public object startup
    cdef public str address
    cdef public object exchange
    cdef public str kind
    cdef public int pool
    cdef public object generation
    cdef public bint has_settings


cdef class Routes:
    cdef object _roster
    cdef object _changes
    cdef dict _known

    cpdef Route find(self, bytes packet, bytes peer)
