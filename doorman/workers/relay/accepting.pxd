"""Fields and methods of `Accepting`. See accepting.pyx."""

from libc.stdint cimport int64_t

from doorman.workers.relay.client_side cimport sockaddr_storage
from doorman.workers.relay.engine cimport Watcher
from doorman.workers.relay.leaving cimport Leaving

cdef enum:
    ACCEPTS = 32                    # connections accepted in a row


cdef class Accepting(Leaving):
    cdef list listeners             # (Watcher, whether other processes accept from it too)
    cdef bint stop_listening        # no descriptor is left: until the next tick
    cdef int64_t complained_at
    cdef list handing               # by process row: where clients are handed to it; empty: they are not
    cdef Watcher handed             # and where they come in; None: nowhere

    cdef int accept(self, Watcher listener, int most) except -1
    cdef int meet(self, int fd, sockaddr_storage *address) except -1
    cdef int turn_away(self, int fd) except -1
    cdef int resume_accepting(self) except -1
    cdef int take_some(self) except -1
    cdef bint has_spare_descriptor(self) noexcept
    cdef int rest_from_accepting(self) except -1
    cdef int complain(self) except -1
    cdef int accept_forgotten(self) except -1
    cdef bint hand_over(self, int fd, sockaddr_storage *address) except -1
    cdef int least_busy(self) noexcept
