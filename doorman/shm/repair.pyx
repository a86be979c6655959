"""Makes the table whole after a process died. Runs in the master; repair.pxd has the rules."""

import os

from libc.stdint cimport uint32_t, uint64_t

from doorman.shm.atomics cimport cas32, load32, or32, store32
from doorman.shm.clients cimport give_up_row, rebuild_free_clients
from doorman.shm.layout cimport (
    ATTEND_POOLS,
    ATTEND_WAITERS,
    CLIENT_FREE,
    NONE,
    ROLE_KEEPER,
    ROLE_NONE,
    SLOT_CLOSING,
    SLOT_FREE,
    SLOT_GRANTED,
    SLOT_IDLE,
    SLOT_OPENING,
    SLOT_RESETTING,
    WAIT_GRANTED,
    WAIT_NO,
    WAIT_QUEUED,
    ClientRow,
    Lock,
    PoolRow,
    SlotRow,
)
from doorman.shm.lock cimport acquire_within, release, seize
from doorman.shm.pools cimport BACK_CLOSE, give_back_locked
from doorman.shm.slots cimport move_slot, relink_idle
from doorman.shm.table cimport Table, now_us
from doorman.shm.users cimport wipe_half_written
from doorman.shm.waiters cimport link_waiter, serve_waiters, unlink_waiter


def repair_after(Table table, int process, unsigned int dead_pid) -> tuple[list[tuple[int, int]], int]:
    """Repair what the dead `process` left. Its servers go to the keeper.

    Returns the (slot, generation) pairs whose connection ended with the process and must be forgotten everywhere, and
    the processes to wake as a bit set. Raises ValueError when the row belongs to another process by now.
    """
    cdef uint64_t wake = 0
    cdef uint32_t pid = load32(&table.processes[process].pid)
    if pid != 0 and pid != dead_pid:            # 0: it died before it had entered
        raise ValueError(f"process row {process} belongs to {pid}, not to {dead_pid}")
    seize_locks(table, dead_pid, &wake)
    void_claims(table, dead_pid)
    withdraw_clients(table, process, &wake)
    freed = take_slots(table, process, &wake)
    dismiss_clients(table, process)
    store32(&table.processes[process].asleep, 1)
    store32(&table.processes[process].pid, 0)
    return freed, wake_all(table) & ~(<uint64_t>1 << process)


cdef void seize_locks(Table table, uint32_t dead, uint64_t *wake) noexcept nogil:
    cdef int pool
    for pool in range(<int>table.header.pools_high):
        if seize(&table.pools[pool].lock, dead, table.pid):
            rebuild_pool(table, pool, wake)
            release(&table.pools[pool].lock)
    if seize(&table.header.clients_lock, dead, table.pid):
        rebuild_free_clients(table)
        release(&table.header.clients_lock)
    if seize(&table.header.users_lock, dead, table.pid):
        wipe_half_written(table)
        release(&table.header.users_lock)


cdef void void_claims(Table table, uint32_t dead) noexcept nogil:
    cdef int slot
    for slot in range(<int>table.header.n_slots):
        cas32(&table.slots[slot].claim, dead, 0)


# --- locks whose holder may be dead ----------------------------------------------------------------------------------

cdef int lock_pool(Table table, int pool, uint64_t *wake) except -1:
    """The master's `acquire`: a holder that is dead too, but not buried yet, would never let go."""
    if take_or_seize(table, &table.pools[pool].lock):
        rebuild_pool(table, pool, wake)
    return 0


cdef int lock_clients(Table table) except -1:
    if take_or_seize(table, &table.header.clients_lock):
        rebuild_free_clients(table)
    return 0


cdef int take_or_seize(Table table, Lock *lock) except -1:
    """The lock is ours; True: its holder died with it."""
    cdef uint32_t holder
    while not acquire_within(lock, table.pid, 1):
        holder = load32(&lock.owner)
        if holder and has_died(holder) and seize(lock, holder, table.pid):
            return True
    return False


def has_died(pid: int) -> bool:
    """Whether a process has ended. Leaves a child to be reaped; of another generation's child only `kill` can tell."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


# --- a pool whose lock holder died -----------------------------------------------------------------------------------

cdef void rebuild_pool(Table table, int pool, uint64_t *wake) noexcept nogil:
    """Make counts, idle list and queue again from slot and client states. The pool's lock is held."""
    cdef PoolRow *row = &table.pools[pool]
    row.idle_head = NONE
    row.idle_tail = NONE
    row.n_idle = 0
    row.n_busy = 0
    row.n_opening = 0
    row.n_closing = 0
    rebuild_slots(table, row, pool)
    rebuild_queue(table, row, pool)
    serve_waiters(table, pool, wake)


cdef void rebuild_slots(Table table, PoolRow *row, int pool) noexcept nogil:
    cdef SlotRow *server
    cdef int slot
    for slot in range(<int>table.header.n_slots):
        server = &table.slots[slot]
        if load32(&server.state) == SLOT_FREE or server.pool != pool:   # a FREE row is perhaps just changing its pool
            continue
        if server.state == SLOT_IDLE:
            server.owner = NONE
            server.client = NONE
            row.n_idle += 1
            relink_idle(table, slot)
        elif server.state == SLOT_OPENING:
            row.n_opening += 1
        elif server.state == SLOT_CLOSING:
            row.n_closing += 1
            if server.owner != NONE:            # whoever was handing it to the keeper may have died before the mail
                table.post_mail(server.owner, slot)
        else:
            row.n_busy += 1
            if server.state == SLOT_GRANTED and server.client != NONE:
                server.owner = table.clients[server.client].worker
                table.post_mail(server.owner, slot)


cdef void rebuild_queue(Table table, PoolRow *row, int pool) noexcept nogil:
    """Link the waiters again in the order of their tickets. A grant that was only half written waits on."""
    cdef ClientRow *waiter
    cdef int client
    cdef int high = <int>table.header.clients_high
    row.wait_head = NONE
    row.wait_tail = NONE
    row.n_waiting = 0
    for client in range(high):
        waiter = &table.clients[client]
        if waiter.state == CLIENT_FREE or waiter.pool != pool:
            continue
        if waiter.wait_state == WAIT_GRANTED and not holds_grant(table, client):
            waiter.wait_state = WAIT_QUEUED
        if waiter.wait_state == WAIT_QUEUED:
            waiter.slot = NONE
            link_in_order(table, row, pool, client)


cdef bint holds_grant(Table table, int client) noexcept nogil:
    cdef int slot = table.clients[client].slot
    return slot != NONE and table.slots[slot].state == SLOT_GRANTED and table.slots[slot].client == client


cdef void link_in_order(Table table, PoolRow *row, int pool, int client) noexcept nogil:
    cdef ClientRow *waiter = &table.clients[client]
    cdef int after = row.wait_tail
    cdef int before
    while after != NONE and table.clients[after].wait_ticket > waiter.wait_ticket:
        after = table.clients[after].wait_previous
    if after == row.wait_tail:
        link_waiter(table, pool, client)
        return
    before = row.wait_head if after == NONE else table.clients[after].wait_next
    waiter.wait_previous = after
    waiter.wait_next = before
    table.clients[before].wait_previous = client
    if after == NONE:
        row.wait_head = client
    else:
        table.clients[after].wait_next = client
    row.n_waiting += 1


# --- what the dead process owned -------------------------------------------------------------------------------------

cdef int withdraw_clients(Table table, int process, uint64_t *wake) except -1:
    """Its clients wait no longer. From here on nobody grants a slot to the dead process; what was granted before is
    passed on by `take_slots`, because the process owns it."""
    cdef ClientRow *row
    cdef int client
    for client in range(<int>table.header.clients_high):
        row = &table.clients[client]
        if load32(&row.state) == CLIENT_FREE or row.worker != process or row.pool == NONE:
            continue
        lock_pool(table, row.pool, wake)
        if row.wait_state == WAIT_QUEUED:
            unlink_waiter(table, client)
        row.wait_state = WAIT_NO
        row.slot = NONE
        release(&table.pools[row.pool].lock)
    return 0


cdef void pass_on(Table table, int slot, int process, uint64_t *wake) noexcept nogil:
    """A server granted to the dead was not touched yet: it goes to the next. An outdated one stays with the dead."""
    if give_back_locked(table, slot, now_us(), wake) == BACK_CLOSE:
        table.slots[slot].owner = process


cdef list take_slots(Table table, int process, uint64_t *wake):
    """Everything that the dead process owned ends; the pairs returned have no connection any more."""
    cdef SlotRow *row
    cdef uint32_t generation
    cdef int slot, pool
    cdef bint ended
    freed = []
    for slot in range(<int>table.header.n_slots):
        row = &table.slots[slot]
        if load32(&row.state) == SLOT_FREE or (row.owner != process and row.canceller != process):
            continue
        pool = row.pool
        lock_pool(table, pool, wake)
        generation = row.generation
        ended = row.pool == pool and take_slot(table, slot, process, wake)
        release(&table.pools[pool].lock)
        if ended:
            freed.append((slot, generation))
    return freed


cdef bint take_slot(Table table, int slot, int process, uint64_t *wake) noexcept nogil:
    """True: the slot is FREE now. Its pool's lock is held."""
    cdef SlotRow *row = &table.slots[slot]
    cdef int keeper = find_keeper(table)
    if row.state != SLOT_FREE and row.canceller == process:
        end_dead_cancel(table, slot, process)
    if row.owner == process and row.state == SLOT_GRANTED:
        pass_on(table, slot, process, wake)
    if row.state == SLOT_FREE or row.owner != process:
        return False
    row.client = NONE
    if row.state != SLOT_CLOSING:
        move_slot(table, slot, SLOT_CLOSING)
    if keeper == NONE:
        move_slot(table, slot, SLOT_FREE)
        return True
    leave_to(table, slot, keeper)
    return False


cdef void end_dead_cancel(Table table, int slot, int process) noexcept nogil:
    """Whether its cancel request is still on its way nobody knows, so the server must not be lent again. It ends when
    its owner gives it back; one that was given back already (held) is nobody's, hence the dead process's."""
    cdef SlotRow *row = &table.slots[slot]
    row.epoch = table.pools[row.pool].epoch - 1
    if row.held and row.state == SLOT_RESETTING:
        row.owner = process
    row.held = 0
    row.canceller = NONE


cdef int find_keeper(Table table) noexcept nogil:
    cdef int process
    for process in range(<int>table.header.n_processes):
        if table.processes[process].role == ROLE_KEEPER:
            return process
    return NONE


cdef void leave_to(Table table, int slot, int keeper) noexcept nogil:
    """Make the keeper the owner of a CLOSING slot; a keeper that is just being born finds it by looking."""
    table.slots[slot].owner = keeper
    table.post_mail(keeper, slot)


cdef int dismiss_clients(Table table, int process) except -1:
    cdef ClientRow *row
    cdef int client
    lock_clients(table)
    for client in range(<int>table.header.clients_high):
        row = &table.clients[client]
        if row.state != CLIENT_FREE and row.worker == process:
            give_up_row(table, client)
    release(&table.header.clients_lock)
    return 0


cdef uint64_t wake_all(Table table) noexcept nogil:
    """Waiters may have been sent away unheard, and room may have come for those of any pool."""
    cdef uint64_t wake = 0
    cdef int process
    for process in range(<int>table.header.n_processes):
        if table.processes[process].role == ROLE_NONE:
            continue
        or32(&table.processes[process].attention, ATTEND_WAITERS)
        if table.processes[process].role == ROLE_KEEPER:
            or32(&table.processes[process].attention, ATTEND_POOLS)
        wake |= <uint64_t>1 << process
    return wake
