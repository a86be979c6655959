"""Makes the table whole after a process died. Runs in the master; repair.pxd has the rules."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from doorman.shm.atomics cimport cas32, load32, or32, store32
from doorman.shm.clients cimport dismiss_client, rebuild_free_clients
from doorman.shm.layout cimport (
    ATTEND_POOLS,
    CLIENT_FREE,
    NONE,
    ROLE_KEEPER,
    SLOT_ACTIVE,
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
    PoolRow,
    SlotRow,
)
from doorman.shm.lock cimport acquire, release, seize
from doorman.shm.pools cimport BACK_CLOSE, give_back, link_waiter, unlink_waiter
from doorman.shm.slots cimport move_slot, relink_idle
from doorman.shm.table cimport Table, now_us


def repair_after(Table table, int process, unsigned int dead_pid) -> tuple[list[tuple[int, int]], int]:
    """Repair what the dead `process` left. Its servers go to the keeper.

    Returns the (slot, generation) pairs whose connection ended with the process and must be forgotten everywhere, and
    the processes to wake as a bit set.
    """
    cdef uint64_t wake = 0
    seize_locks(table, dead_pid)
    void_claims(table, dead_pid)
    drop_clients(table, process, &wake)
    freed = take_slots(table, process, &wake)
    nudge_keepers(table, &wake)
    return freed, wake & ~(<uint64_t>1 << process)


cdef void seize_locks(Table table, uint32_t dead) noexcept nogil:
    cdef int pool
    for pool in range(<int>table.header.n_pools):
        if seize(&table.pools[pool].lock, dead, table.pid):
            rebuild_pool(table, pool)
            release(&table.pools[pool].lock)
    if seize(&table.header.clients_lock, dead, table.pid):
        rebuild_free_clients(table)
        release(&table.header.clients_lock)


cdef void void_claims(Table table, uint32_t dead) noexcept nogil:
    cdef int slot
    for slot in range(<int>table.header.n_slots):
        if load32(&table.slots[slot].claim) == dead:
            store32(&table.slots[slot].claim, 0)


# --- a pool whose lock holder died -----------------------------------------------------------------------------------

cdef void rebuild_pool(Table table, int pool) noexcept nogil:
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


cdef void rebuild_slots(Table table, PoolRow *row, int pool) noexcept nogil:
    cdef SlotRow *server
    cdef int slot
    for slot in range(<int>table.header.n_slots):
        server = &table.slots[slot]
        if server.state == SLOT_FREE or server.pool != pool:
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
            waiter.slot = NONE
            waiter.wait_state = WAIT_QUEUED
        if waiter.wait_state == WAIT_QUEUED:
            link_in_order(table, row, pool, client)


cdef bint holds_grant(Table table, int client) noexcept nogil:
    cdef int slot = table.clients[client].slot
    cdef uint32_t state
    if slot == NONE or table.slots[slot].client != client:
        return False
    state = table.slots[slot].state
    return state == SLOT_GRANTED or (state == SLOT_ACTIVE and table.slots[slot].owner == table.clients[client].worker)


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

cdef void drop_clients(Table table, int process, uint64_t *wake) noexcept nogil:
    cdef int client
    for client in range(<int>table.header.clients_high):
        if table.clients[client].state != CLIENT_FREE and table.clients[client].worker == process:
            drop_client(table, client, wake)


cdef void drop_client(Table table, int client, uint64_t *wake) noexcept nogil:
    cdef ClientRow *row = &table.clients[client]
    cdef PoolRow *pool
    cdef int granted = NONE
    if row.pool != NONE:
        pool = &table.pools[row.pool]
        acquire(&pool.lock, table.pid)
        if row.wait_state == WAIT_QUEUED:
            unlink_waiter(table, client)
        elif row.wait_state == WAIT_GRANTED and row.slot != NONE:
            if table.slots[row.slot].state == SLOT_GRANTED and table.slots[row.slot].client == client:
                granted = row.slot
        row.wait_state = WAIT_NO
        release(&pool.lock)
    if granted != NONE and give_back(table, granted, now_us(), wake) == BACK_CLOSE:
        leave_to_keeper(table, granted, wake)
    row.slot = NONE
    dismiss_client(table, client)


cdef list take_slots(Table table, int process, uint64_t *wake):
    """Everything that the dead process owned ends; the pairs returned have no connection any more."""
    cdef SlotRow *row
    cdef int slot
    freed = []
    for slot in range(<int>table.header.n_slots):
        row = &table.slots[slot]
        if row.state == SLOT_FREE:
            continue
        if row.canceller == process:
            end_dead_cancel(table, slot, wake)
        if row.owner != process:
            continue
        if row.state == SLOT_OPENING:
            freed.append((slot, row.generation))
            free_slot(table, slot)
        elif row.state == SLOT_ACTIVE or row.state == SLOT_RESETTING or row.state == SLOT_GRANTED:
            condemn(table, slot, wake)
        elif row.state == SLOT_CLOSING:
            leave_to_keeper(table, slot, wake)
    return freed


cdef void free_slot(Table table, int slot) noexcept nogil:
    cdef PoolRow *pool = &table.pools[table.slots[slot].pool]
    acquire(&pool.lock, table.pid)
    move_slot(table, slot, SLOT_CLOSING)
    move_slot(table, slot, SLOT_FREE)
    release(&pool.lock)


cdef void condemn(Table table, int slot, uint64_t *wake) noexcept nogil:
    """Nobody knows what is under way on this server: it ends."""
    cdef PoolRow *pool = &table.pools[table.slots[slot].pool]
    acquire(&pool.lock, table.pid)
    table.slots[slot].client = NONE
    move_slot(table, slot, SLOT_CLOSING)
    release(&pool.lock)
    leave_to_keeper(table, slot, wake)


cdef void end_dead_cancel(Table table, int slot, uint64_t *wake) noexcept nogil:
    """The canceller died: whether its request is still on its way nobody knows, so the server must not be lent again."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef bint held
    acquire(&pool.lock, table.pid)
    row.canceller = NONE
    held = row.held
    row.held = 0
    row.epoch = table.pools[row.pool].epoch - 1     # outdated: closed when it is given back
    release(&pool.lock)
    if held:
        condemn(table, slot, wake)


cdef void leave_to_keeper(Table table, int slot, uint64_t *wake) noexcept nogil:
    """Make the keeper the owner of a CLOSING slot; a keeper that is just being born finds it by looking."""
    cdef int process
    for process in range(<int>table.header.n_processes):
        if table.processes[process].role == ROLE_KEEPER:
            table.slots[slot].owner = process
            table.post_mail(process, slot)
            wake[0] |= <uint64_t>1 << process
            return


cdef void nudge_keepers(Table table, uint64_t *wake) noexcept nogil:
    """Room may have come for waiters of any pool."""
    cdef int process
    for process in range(<int>table.header.n_processes):
        if table.processes[process].role == ROLE_KEEPER:
            or32(&table.processes[process].attention, ATTEND_POOLS)
            wake[0] |= <uint64_t>1 << process
