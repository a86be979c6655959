"""The console's orders. Runs in workers (the keeper carries some of them out); orders.pxd has the rules."""

from libc.stdint cimport uint32_t, uint64_t

from doorman.shm.atomics cimport load32, or32
from doorman.shm.layout cimport (
    ATTEND_CONDEMNED,
    ATTEND_POOLS,
    CLIENT_FREE,
    NONE,
    SLOT_CLOSING,
    SLOT_FREE,
    ClientRow,
    PoolRow,
    SlotRow,
)
from doorman.shm.lock cimport acquire, release
from doorman.shm.pools cimport set_paused
from doorman.shm.repair cimport find_keeper, leave_to
from doorman.shm.slots cimport move_slot
from doorman.shm.table cimport Table


def pause_pool(Table table, int pool) -> int:
    """The pool lends no server from now on. Returns the processes to wake, like everything here that returns an int."""
    cdef uint64_t wake = 0
    set_paused(table, pool, True, &wake)
    return wake


def resume_pool(Table table, int pool) -> int:
    """It lends again: idle servers go to the waiters, and the keeper sees whether more must be opened."""
    cdef uint64_t wake = 0
    cdef int keeper = find_keeper(table)
    set_paused(table, pool, False, &wake)
    if keeper != NONE:
        or32(&table.processes[keeper].attention, ATTEND_POOLS)
        wake |= <uint64_t>1 << keeper
    return wake


def reconnect_pool(Table table, int pool) -> int:
    """Rule 3."""
    cdef uint64_t wake = 0
    outdate_servers(table, pool, &wake)
    return wake


def enable_pool(Table table, int pool, bint enabled) -> None:
    """Whether the pool takes new clients."""
    cdef PoolRow *row = &table.pools[pool]
    acquire(&row.lock, table.pid)
    row.disabled = not enabled
    release(&row.lock)


cpdef bint is_enabled(Table table, int pool):
    """Does the pool take new clients?"""
    return not load32(&table.pools[pool].disabled)


def condemn_client(Table table, int client, connection_id: int) -> int:
    """Rule 4; 0 when there is no such client (any more)."""
    cdef uint64_t wake = 0
    condemn(table, client, connection_id, &wake)
    return wake


def busy_servers(Table table, int pool) -> int:
    """Servers of a pool that are lent, or about to be."""
    return load32(&table.pools[pool].n_busy)


def outdated_servers(Table table, int pool) -> int:
    """Connections of a pool that RECONNECT (or a change of its settings) has outdated and that have not ended yet."""
    cdef SlotRow *row
    cdef uint32_t slot, count = 0
    cdef uint32_t epoch = load32(&table.pools[pool].epoch)
    for slot in range(table.header.n_slots):
        row = &table.slots[slot]
        if load32(&row.state) != SLOT_FREE and row.pool == pool and row.epoch != epoch:
            count += 1
    return count


cdef void outdate_servers(Table table, int pool, uint64_t *wake) noexcept nogil:
    """No process but this one may be the heir of the idle ones while there is no keeper."""
    cdef PoolRow *row = &table.pools[pool]
    cdef int heir = find_keeper(table)
    if heir == NONE:
        heir = table.process
    acquire(&row.lock, table.pid)
    row.epoch += 1
    row.failed_at = 0
    close_idle_ones(table, row, heir, wake)
    release(&row.lock)


cdef void replace_servers(Table table, int pool, uint64_t *wake) noexcept nogil:
    """Those that there are end when they are idle. What is known of the pool's servers goes on to be true."""
    cdef PoolRow *row = &table.pools[pool]
    cdef int heir = find_keeper(table)
    cdef uint32_t slot
    if heir == NONE:
        heir = table.process
    acquire(&row.lock, table.pid)
    for slot in range(table.header.n_slots):
        if table.slots[slot].pool == pool and load32(&table.slots[slot].state) != SLOT_FREE:
            table.slots[slot].epoch = row.epoch - 1
    close_idle_ones(table, row, heir, wake)
    release(&row.lock)


cdef void close_idle_ones(Table table, PoolRow *row, int heir, uint64_t *wake) noexcept nogil:
    cdef int slot
    while row.idle_tail != NONE:
        slot = row.idle_tail
        table.slots[slot].owner = table.process         # should we die here, it is found with us
        move_slot(table, slot, SLOT_CLOSING)
        leave_to(table, slot, heir)
        wake[0] |= <uint64_t>1 << heir


cdef bint condemn(Table table, int client, uint64_t connection_id, uint64_t *wake) noexcept nogil:
    """True: the client was there."""
    cdef ClientRow *row = &table.clients[client]
    if load32(&row.state) == CLIENT_FREE or row.connection_id != connection_id:
        return False
    row.condemned = connection_id
    or32(&table.processes[row.worker].attention, ATTEND_CONDEMNED)
    wake[0] |= <uint64_t>1 << row.worker
    return True
