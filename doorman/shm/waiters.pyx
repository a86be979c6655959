"""The queue of a pool. Runs in workers and keeper, in the master only to repair; waiters.pxd has the rules."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from doorman.shm.atomics cimport or32, store32
from doorman.shm.layout cimport (
    ATTEND_WAITERS,
    NONE,
    SLOT_GRANTED,
    WAIT_FAILED,
    WAIT_GRANTED,
    WAIT_QUEUED,
    ClientRow,
    PoolRow,
    SlotRow,
)
from doorman.shm.lock cimport acquire, release
from doorman.shm.slots cimport move_slot
from doorman.shm.table cimport Table


cdef void enqueue(Table table, int pool, int client, int64_t now) noexcept nogil:
    cdef ClientRow *row = &table.clients[client]
    row.wait_ticket = table.pools[pool].next_ticket
    table.pools[pool].next_ticket += 1
    row.wait_since = now
    row.slot = NONE
    link_waiter(table, pool, client)
    store32(&row.wait_state, WAIT_QUEUED)


cdef void link_waiter(Table table, int pool, int client) noexcept nogil:
    cdef PoolRow *pool_row = &table.pools[pool]
    cdef ClientRow *row = &table.clients[client]
    row.wait_next = NONE
    row.wait_previous = pool_row.wait_tail
    if pool_row.wait_tail == NONE:
        pool_row.wait_head = client
    else:
        table.clients[pool_row.wait_tail].wait_next = client
    pool_row.wait_tail = client
    pool_row.n_waiting += 1


cdef void unlink_waiter(Table table, int client) noexcept nogil:
    cdef ClientRow *row = &table.clients[client]
    cdef PoolRow *pool = &table.pools[row.pool]
    if row.wait_previous == NONE:
        pool.wait_head = row.wait_next
    else:
        table.clients[row.wait_previous].wait_next = row.wait_next
    if row.wait_next == NONE:
        pool.wait_tail = row.wait_previous
    else:
        table.clients[row.wait_next].wait_previous = row.wait_previous
    row.wait_next = NONE
    row.wait_previous = NONE
    pool.n_waiting -= 1


cdef void grant(Table table, int slot, int client) noexcept nogil:
    """The owner comes last: a slot that is not GRANTED yet must still be found with the process that was granting it."""
    cdef SlotRow *row = &table.slots[slot]
    cdef ClientRow *waiter = &table.clients[client]
    unlink_waiter(table, client)
    waiter.slot = slot
    store32(&waiter.wait_state, WAIT_GRANTED)
    row.client = client
    move_slot(table, slot, SLOT_GRANTED)
    row.owner = waiter.worker


cdef void send_grant(Table table, int slot, uint64_t *wake) noexcept nogil:
    cdef int process = table.slots[slot].owner
    table.post_mail(process, slot)
    wake[0] |= <uint64_t>1 << process


cdef void serve_waiters(Table table, int pool, uint64_t *wake) noexcept nogil:
    """Idle servers and waiters meet only after a pause. The lock is held."""
    cdef PoolRow *row = &table.pools[pool]
    cdef int slot
    while row.idle_head != NONE and row.wait_head != NONE and not row.paused:
        slot = row.idle_head
        grant(table, slot, row.wait_head)
        send_grant(table, slot, wake)


cdef void fail_waiters(Table table, PoolRow *pool, int64_t began, uint64_t *wake) noexcept nogil:
    cdef ClientRow *waiter
    cdef int client = pool.wait_head
    cdef int following
    while client != NONE:
        waiter = &table.clients[client]
        following = waiter.wait_next
        if waiter.wait_since <= began:
            unlink_waiter(table, client)
            dismiss_waiter(table, waiter, WAIT_FAILED, wake)
        client = following


cdef void dismiss_waiter(Table table, ClientRow *waiter, uint32_t why, uint64_t *wake) noexcept nogil:
    """Say to an unlinked waiter's process that it waits no longer."""
    store32(&waiter.wait_state, why)
    or32(&table.processes[waiter.worker].attention, ATTEND_WAITERS)
    wake[0] |= <uint64_t>1 << waiter.worker


cdef int expired_waiter(Table table, int pool, int64_t before) noexcept nogil:
    """A client of this process that has been waiting since before that time; NONE when there is none. Takes the lock."""
    cdef PoolRow *row = &table.pools[pool]
    cdef int client
    acquire(&row.lock, table.pid)
    client = row.wait_head
    while client != NONE and table.clients[client].worker != table.process:
        client = table.clients[client].wait_next
    if client != NONE and table.clients[client].wait_since > before:
        client = NONE
    release(&row.lock)
    return client
