"""Pools appear, change and disappear at run time. Runs in the master, `enter_pool` in workers; lifecycle.pxd has the rules."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from doorman.shm.atomics cimport load32, or32, store32
from doorman.shm.layout cimport (
    ATTEND_POOLS,
    CLIENT_FREE,
    FAILURE_BYTES,
    NONE,
    POOL_LIVE,
    POOL_REMOVED,
    POOL_UNUSED,
    SLOT_CLOSING,
    SLOT_FREE,
    WAIT_FAILED,
    CounterRow,
    PoolRow,
    WindowRow,
)
from doorman.shm.lock cimport acquire, release
from doorman.shm.pools cimport servers_of
from doorman.shm.repair cimport find_keeper, leave_to, lock_pool
from doorman.shm.rows cimport write_limits
from doorman.shm.slots cimport move_slot
from doorman.shm.table cimport Table, copy_text
from doorman.shm.waiters cimport dismiss_waiter, unlink_waiter

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *address, size_t length, int advice)
    int MADV_REMOVE

cdef uintptr_t PAGE = 4096
REMOVED = ("57P01", "terminating connection because its pool was removed from the configuration")
"""SQLSTATE and message that the clients of a removed pool are sent away with."""


def find_unused_pool(Table table) -> int:
    """The number of a row for a new pool (`set_up_pool`), -1 when all are in use."""
    cdef int number
    for number in range(<int>table.header.n_pools):
        if load32(&table.pools[number].state) == POOL_UNUSED:
            return number
    return NONE


def pool_generation(Table table, int number) -> int:
    """Which of the pools that have had this row has it now."""
    return table.pools[number].generation


cdef bint enter_pool(Table table, int client, int pool, uint32_t generation) noexcept nogil:
    """Make a client of this process a client of the pool; False when that pool is not there any more."""
    cdef PoolRow *row = &table.pools[pool]
    cdef bint enters
    acquire(&row.lock, table.pid)
    enters = row.state == POOL_LIVE and row.generation == generation
    if enters:
        table.clients[client].pool = pool
    release(&row.lock)
    return enters


# --- change ----------------------------------------------------------------------------------------------------------

def change_pool(Table table, int number, *, session_mode: bool, pool_size: int, min_pool_size: int, max_opening: int,
                round_robin: bool, check_after_us: int, cleanup: bool, statements: bool, statement_limit: int,
                version: int, catalog: int = 0) -> tuple[list[tuple[int, int]], int]:
    """New limits for a live pool: they hold from the next checkout. Another `version` than before outdates all servers.

    Returns the (slot, generation) pairs to forget (none, as long as there is a keeper), and the processes to wake.
    """
    cdef PoolRow *row = &table.pools[number]
    cdef uint64_t wake = 0
    freed = []
    lock_pool(table, number, &wake)
    write_limits(row, session_mode, pool_size, min_pool_size, max_opening, round_robin, check_after_us, cleanup,
                 statements, statement_limit, catalog)
    if row.version != <uint32_t>version:
        row.version = version
        row.epoch += 1
        row.failed_at = 0
        end_idle(table, number, 0, freed)
    else:
        end_idle(table, number, row.pool_size, freed)
    release(&row.lock)
    return freed, wake | alert_keeper(table)


cdef int end_idle(Table table, int number, uint32_t most, list freed) except -1:
    """Take idle servers out of the pool, the least recently used first, until it has no more than `most` or none is
    left. The lock is held."""
    cdef PoolRow *row = &table.pools[number]
    cdef int keeper = find_keeper(table)
    cdef int slot
    while row.idle_tail != NONE and row.n_idle + row.n_busy + row.n_opening > most:
        slot = row.idle_tail
        generation = table.slots[slot].generation
        move_slot(table, slot, SLOT_CLOSING)
        if keeper == NONE:
            move_slot(table, slot, SLOT_FREE)
            freed.append((slot, generation))
        else:
            leave_to(table, slot, keeper)
    return 0


cdef uint64_t alert_keeper(Table table) noexcept nogil:
    """It has mail, and pools to look at."""
    cdef int keeper = find_keeper(table)
    if keeper == NONE:
        return 0
    or32(&table.processes[keeper].attention, ATTEND_POOLS)
    return <uint64_t>1 << keeper


# --- the end ---------------------------------------------------------------------------------------------------------

def remove_pool(Table table, int number) -> tuple[list[tuple[int, int]], int]:
    """The pool takes nobody in any more, and lends nothing. Its waiters are told so, its idle servers end; its other
    clients are their workers' to send away (`Relay.dismiss_pool`). Returns what `change_pool` does."""
    cdef PoolRow *row = &table.pools[number]
    cdef uint64_t wake = 0
    freed = []
    lock_pool(table, number, &wake)
    row.state = POOL_REMOVED
    row.epoch += 1
    copy_text(row.failure_sqlstate, sizeof(row.failure_sqlstate), REMOVED[0].encode())
    copy_text(row.failure, FAILURE_BYTES, REMOVED[1].encode())
    end_idle(table, number, 0, freed)
    dismiss_all(table, row, &wake)
    release(&row.lock)
    return freed, wake | alert_keeper(table)


cdef void dismiss_all(Table table, PoolRow *row, uint64_t *wake) noexcept nogil:
    cdef int client
    while row.wait_head != NONE:
        client = row.wait_head
        unlink_waiter(table, client)
        dismiss_waiter(table, &table.clients[client], WAIT_FAILED, wake)


def collect_pool(Table table, int number, generation: int) -> bool:
    """`remove_pool` if nobody is in it: no server, no client. False, and nothing done, otherwise."""
    cdef PoolRow *row = &table.pools[number]
    cdef uint64_t wake = 0
    cdef bint unused
    lock_pool(table, number, &wake)
    unused = row.state == POOL_LIVE and row.generation == <uint32_t>generation and is_deserted(table, number)
    if unused:
        row.state = POOL_REMOVED
    release(&row.lock)
    return unused


def free_pool(Table table, int number) -> bool:
    """A REMOVED row that nobody names any more becomes UNUSED; False when somebody still does."""
    cdef PoolRow *row = &table.pools[number]
    cdef uint64_t wake = 0
    cdef bint unused
    lock_pool(table, number, &wake)
    unused = row.state == POOL_REMOVED and is_deserted(table, number)
    release(&row.lock)
    if unused:                                      # nobody can come: rule 2
        clear_counters(table, number)
        if table.windows[number].turns:
            memset(&table.windows[number], 0, sizeof(WindowRow))
        row.generation += 1
        store32(&row.state, POOL_UNUSED)
    return unused


cdef bint is_deserted(Table table, int number) noexcept nogil:
    """No slot and no client names the pool. The lock is held."""
    cdef int client
    if servers_of(&table.pools[number]) or table.pools[number].n_waiting:
        return False
    for client in range(<int>table.header.clients_high):
        if load32(&table.clients[client].state) != CLIENT_FREE and table.clients[client].pool == number:
            return False
    return True


cdef void clear_counters(Table table, int number) noexcept nogil:
    """Zero for the next pool. Whole pages go back to the kernel, which gives zeros when they are touched again."""
    cdef char *at = <char *>&table.counters[number * <int>table.header.n_processes]
    cdef char *end = at + table.header.n_processes * sizeof(CounterRow)
    cdef char *first = <char *>((<uintptr_t>at + PAGE - 1) // PAGE * PAGE)
    cdef char *last = <char *>(<uintptr_t>end // PAGE * PAGE)
    if first >= last or madvise(first, last - first, MADV_REMOVE) != 0:
        memset(at, 0, end - at)
        return
    memset(at, 0, first - at)
    memset(last, 0, end - last)
