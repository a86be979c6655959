"""Fields and methods of `Lending`. See lending.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from doorman.shm.layout cimport PoolRow
from doorman.workers.relay.engine cimport Client, Conn, Server
from doorman.workers.relay.sockets cimport Sockets


cdef tuple learnt_for(Client client)


cdef class Lending(Sockets):
    cdef object host
    cdef list clients               # by client row: Client or None
    cdef list servers               # by slot: Server or None
    cdef int *wake_fds              # by process row
    cdef list parked                # (client, slot, generation) that wait for a server's socket
    cdef dict settings_of           # `learnt_for` -> ParameterStatus messages
    cdef uint32_t *known_versions   # by pool row: with which settings this process would open a server
    cdef int64_t probe_patience
    cdef int64_t query_wait
    cdef int64_t listen_logged_at
    cdef uint32_t patience          # events of another process that a server is kept watched for
    cdef list to_grant              # clients that have a slot (`parked`) and wait for their turn in `grant`
    cdef bint granting              # `grant` is at work
    cdef uint64_t to_wake           # processes that have new mail, as bits
    cdef bint in_round              # `run` is at work: it wakes them at the end of its round

    cdef bint attach_now(self, Client client) except -1
    cdef bint attach_on(self, Client client) except -1
    cdef int64_t patience_with(self, Client client) noexcept
    cdef int end_long_wait(self, Client client) except -1
    cdef int attach_again(self, Client client) except -1
    cdef int begin(self, Client client) except -1
    cdef int end_cancelled(self, Client client) except -1
    cdef int end_wait(self, Client client, str sqlstate, str message, detail) except -1
    cdef bint bind(self, Client client, int slot) except -1
    cdef bint prepared(self, Client client) except -1
    cdef bint must_learn_settings(self, Client client)
    cdef bint can_greet(self, PoolRow *pool) noexcept
    cdef bint must_learn_parameters(self, PoolRow *pool) noexcept
    cdef int learn_settings(self, Client client, list reported) except -1
    cdef int refuse_settings(self, Client client, Server server) except -1
    cdef int send_off(self, Client client, bytes last_words) except -1
    cdef int grant(self, int slot, Client client) except -1
    cdef int grant_now(self, int slot, Client client) except -1
    cdef int granted(self, int slot, Client client) except -1
    cdef int fail(self, Conn conn) except -1
    cdef int keep_parameters(self, Client client) except -1
    cdef int take_settings(self, Client client, settings) except -1
    cdef int tell_returned(self, Client client) except -1
    cdef int correct_parameters(self, Client client, list reported) except -1
    cdef int part(self, Server server) except -1
    cdef int hand_on(self, int slot) except? -99
    cdef int end_outdated(self, int slot) except -1
    cdef int wake(self, uint64_t processes) except -1
    cdef int wake_now(self) except -1
    cdef Server known(self, int slot)
    cdef Server handle(self, int slot, uint32_t generation, int fd)
    cdef int equip(self, Server server) except -1
    cdef int drop_handle(self, Server server) except -1
    cdef int listen_to(self, Server server) except -1
