"""Types for the compiled form of host.py. The module works without it."""

from doorman.shm.table cimport Table
from doorman.workers.destination cimport Destinations
from doorman.workers.relay.client_side cimport ClientSide
from doorman.workers.roster cimport Roster
from doorman.workers.routes cimport Routes


cdef class Host:
    cdef public object config
    cdef public Table table
    cdef public ClientSide relay
    cdef public Roster pools
    cdef public Routes routes
    cdef public Destinations destinations
    cdef public set openings
    cdef public set old_servers
    cdef public bint logs_logins
