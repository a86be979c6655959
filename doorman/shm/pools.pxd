"""The doors of a pool: take a server, give it back, wait, open, close. Everything happens under the pool's lock.

Rules
1. Strict FIFO over all workers: nobody takes an idle server while somebody waits; who gives back serves the oldest waiter.
2. A waiter is a client row in the pool's queue (linked through the rows), in order of its ticket.
3. No server is opened when n_idle + n_busy + n_opening + n_closing is pool_size: a closing server counts until
   PostgreSQL let go of it. When pool_size is lowered (lifecycle), idle servers above it end at once and others when
   they are given back.
4. A grant names slot and client in both rows; the grantee accepts it (`accept_grant`) or passes it on (`give_back`).
   A grant that comes too late is passed on, never dropped.
5. Servers are opened for waiters, at most `max_opening` at once and never more than wait. Who reserved a slot opens it.
6. When the last hope of a pool fails (no server lives, none is being opened), all who waited since before that attempt
   began are failed together; while others live, the waiters go on waiting for those.
7. `wake` collects processes (bit = process row) that must be woken after the lock is released.
8. A process may be killed between any two instructions. So the order of writes matters where it is commented, and
   whoever takes over a server (the canceller of a held one) becomes its owner before the trace of the former is gone.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from doorman.shm.layout cimport PoolRow
from doorman.shm.table cimport Table

cdef enum GiveBack:
    BACK_IDLE = -1          # it went to the idle list
    BACK_GRANTED = -2       # it was granted to a client of another process
    BACK_HELD = -3          # a cancel request is on its way to it: whoever sent that gives it on
    BACK_CLOSE = -4         # outdated: it is CLOSING now and the caller closes it
    BACK_REFUSED = -5       # it was not in a state to be given back: a bug, close it

cdef struct Taken:
    int slot                # ACTIVE and this client's, or NONE: the client waits
    int to_open             # reserved for the caller to open, or NONE

cdef void take(Table table, int pool, int client, int64_t now, Taken *taken) noexcept nogil
cdef int give_back(Table table, int slot, int64_t now, uint64_t *wake) noexcept nogil
cdef bint accept_grant(Table table, int slot, int client, int64_t now) noexcept nogil
cdef int leave_queue(Table table, int client) noexcept nogil
cdef uint32_t servers_of(PoolRow *pool) noexcept nogil
cdef int reserve(Table table, int pool, int64_t now) noexcept nogil
cdef int reserve_minimum(Table table, int pool, int64_t now) noexcept nogil
cdef void open_failed(Table table, int slot, int64_t now, bytes sqlstate, bytes message, uint64_t *wake)
cdef bint claim_idle(Table table, int slot, uint32_t generation, uint32_t to) noexcept nogil
cdef bint start_reset(Table table, int slot) noexcept nogil
cdef bint start_close(Table table, int slot) noexcept nogil
cdef void finish_close(Table table, int slot) noexcept nogil
cdef bint begin_cancel(Table table, int client, uint64_t connection_id, int *slot, uint64_t *wake) noexcept nogil
cdef bint mark_canceller(Table table, int slot) noexcept nogil
cdef bint end_cancel(Table table, int slot, uint32_t generation, bint doubtful) noexcept nogil
cdef int give_back_locked(Table table, int slot, int64_t now, uint64_t *wake) noexcept nogil
cdef void set_paused(Table table, int pool, bint paused, uint64_t *wake) noexcept nogil
