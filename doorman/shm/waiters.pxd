"""The queue of a pool: client rows linked through `wait_next` and `wait_previous`, in the order of their tickets.

Rules
1. Everything here happens under the pool's lock, which all but `expired_waiter` find taken.
2. A client is in the queue exactly while its `wait_state` is QUEUED: it is linked before that is written and unlinked
   before it is written over, so that after a death the queue can be rebuilt from the states.
3. A waiter that leaves without a server is told why by its `wait_state`, and its process by an `Attention` bit.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from doorman.shm.layout cimport ClientRow, PoolRow
from doorman.shm.table cimport Table

cdef void enqueue(Table table, int pool, int client, int64_t now) noexcept nogil
cdef void link_waiter(Table table, int pool, int client) noexcept nogil
cdef void unlink_waiter(Table table, int client) noexcept nogil
cdef void grant(Table table, int slot, int client) noexcept nogil
cdef void send_grant(Table table, int slot, uint64_t *wake) noexcept nogil
cdef void serve_waiters(Table table, int pool, uint64_t *wake) noexcept nogil
cdef void fail_waiters(Table table, PoolRow *pool, int64_t began, uint64_t *wake) noexcept nogil
cdef int expired_waiter(Table table, int pool, int64_t before) noexcept nogil
cdef void dismiss_waiter(Table table, ClientRow *waiter, uint32_t why, uint64_t *wake) noexcept nogil
