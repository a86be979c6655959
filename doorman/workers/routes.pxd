"""Types for the compiled form of routes.py. The module works without it."""

cimport cython

from doorman.auth.exchange cimport ScramExchange
from doorman.wire.backend cimport parameter_status
from doorman.wire.text cimport encode
from doorman.workers.roster cimport Roster


@cython.final
cdef class Route:
    cdef public object startup
    cdef public str address
    cdef public ScramExchange scram
    cdef public bytes name
    cdef public bytes report
    cdef public int secret_bytes
    cdef public str kind
    cdef public int pool
    cdef public object generation
    cdef public bint has_settings


@cython.final
cdef class Routes:
    cdef Roster _roster
    cdef long long _changes
    cdef dict _known

    cpdef Route find(self, bytes packet, bytes peer)
