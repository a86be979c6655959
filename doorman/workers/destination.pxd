"""Types for the compiled form of destination.py. The module works without it."""

cimport cython

from doorman.auth.server_login cimport Credentials
from doorman.auth.verifier cimport ScramVerifier
from doorman.shm.table cimport Table
from doorman.workers.credentials cimport passed_through
from doorman.workers.roster cimport Roster


@cython.final
cdef class Destination:
    cdef public object pool
    cdef public str user
    cdef public str database
    cdef public tuple host_and_port
    cdef public str mode
    cdef public long long lifetime_ms
    cdef public long long idle_timeout_ms
    cdef public long long connect_timeout_ms
    cdef public tuple options
    cdef public bint is_local
    cdef public dict parameters
    cdef public dict first_words
    cdef public ScramVerifier verifier
    cdef public Credentials fixed
    cdef public int family
    cdef public bytes address
    cdef public dict unreachable

    cpdef Credentials credentials(self, Table table)


@cython.final
cdef class Destinations:
    cdef readonly object options
    cdef Table _table
    cdef Roster _roster
    cdef long long _changes
    cdef dict _known

    @cython.locals(known=Destination)
    cpdef Destination find(self, int row)
