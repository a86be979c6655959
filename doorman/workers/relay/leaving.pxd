"""Fields and methods of `Leaving`. See leaving.pyx."""

from doorman.workers.relay.client_side cimport ClientSide
from doorman.workers.relay.engine cimport Client


cdef class Leaving(ClientSide):
    cdef readonly bint draining

    cdef bint is_idle(self, Client client) noexcept
    cdef int look_at_condemned(self) except -1
    cdef int expel(self, Client client) except -1
    cdef int send_away(self, Client client, why) except -1
