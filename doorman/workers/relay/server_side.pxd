"""Fields and methods of `ServerSide`. See server_side.pyx."""

from libc.stdint cimport int64_t, uint32_t

from doorman.tls.record cimport RecordLayer
from doorman.workers.relay.engine cimport Client, Server, Watcher
from doorman.workers.relay.lending cimport Lending


cdef class ServerSide(Lending):
    cdef list timed                 # servers whose stage has a deadline
    cdef list to_open               # (pool, slot, generation) of reserved slots
    cdef set orphans                # (slot, generation) of CLOSING slots of ours whose socket has been asked for
    cdef bint yield_now

    cpdef opened(self, int slot, int fd, uint32_t pid, bytes secret, bytes parameters, int64_t lifetime_us,
                 int64_t idle_timeout_us, RecordLayer layer=*, bytes peer=*, Watcher watcher=*)
    cdef int server_event(self, Server server, uint32_t events) except -1
    cdef int lose(self, Server server, bint has_ended) except -1
    cdef int read_server(self, Server server) except -1
    cdef bint idle_server_speaks(self, Server server, uint32_t events) except -1
    cdef int pass_by(self, Server server, uint32_t events) except -1
    cdef Py_ssize_t feed_stage(self, Server server, Py_ssize_t length) except -2
    cdef int heard_nothing(self, Server server) except -1
    cdef int finish_server(self, Server server) except -1
    cdef int open_if_needed(self, int pool) except -1
    cdef int give_up_parking(self, int slot, uint32_t generation) except -1
    cdef int finish(self, int slot, uint32_t generation) except -1
    cdef int undo_opening(self, Server server, str sqlstate, str message) except -1
    cdef int use_late(self, Client client, int slot) except -1
