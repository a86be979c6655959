"""Decisions about who gets which server, and nothing else: no sockets, no clock of its own.

Runs in workers and keeper (the master calls it only to repair). pools.pxd has the rules.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from doorman.shm.atomics cimport cas32, store32
from doorman.shm.layout cimport (
    FAILURE_BYTES,
    NONE,
    POOL_LIVE,
    PREPARING_CANCELLED,
    PREPARING_YES,
    SLOT_ACTIVE,
    SLOT_CLOSING,
    SLOT_FREE,
    SLOT_GRANTED,
    SLOT_IDLE,
    SLOT_OPENING,
    SLOT_RESETTING,
    WAIT_CANCELLED,
    WAIT_GRANTED,
    WAIT_NO,
    WAIT_QUEUED,
    ClientRow,
    PoolRow,
    SlotRow,
)
from doorman.shm.lock cimport acquire, release
from doorman.shm.slots cimport claim_free_slot, move_slot
from doorman.shm.table cimport Table, copy_text
from doorman.shm.waiters cimport (
    dismiss_waiter,
    enqueue,
    fail_waiters,
    grant,
    send_grant,
    serve_waiters,
    unlink_waiter,
)

cdef enum:
    HOME_LOOKS = 16                 # idle slots looked at for one whose home is this worker
    RETRY_AFTER_US = 100_000        # pause after a failed attempt to open a server


# --- a client wants a server -----------------------------------------------------------------------------------------

cdef void take(Table table, int pool, int client, int64_t now, Taken *taken) noexcept nogil:
    """Give an idle server to a client of this process, or put the client in the queue."""
    cdef PoolRow *row = &table.pools[pool]
    cdef int slot = NONE
    taken.to_open = NONE
    acquire(&row.lock, table.pid)
    if row.idle_head != NONE and row.wait_head == NONE and not row.paused:
        slot = choose_idle(table, row)
        lend(table, slot, client, now)
    else:
        enqueue(table, pool, client, now)
        taken.to_open = reserve_for_waiters(table, pool, now)
        if row.n_opening >= row.max_opening and row.n_waiting > row.n_opening and servers_of(row) < row.pool_size:
            table.counter_row(pool).gate_waits += 1
    release(&row.lock)
    taken.slot = slot


cdef int choose_idle(Table table, PoolRow *row) noexcept nogil:
    """One of this worker's own, else the most recently used; the oldest with server_round_robin."""
    cdef int slot = row.idle_head
    cdef int looks
    if row.round_robin:
        return row.idle_tail
    for looks in range(HOME_LOOKS):
        if slot == NONE:
            break
        if table.slots[slot].home == table.process:
            return slot
        slot = table.slots[slot].next
    return row.idle_head


cdef void lend(Table table, int slot, int client, int64_t now) noexcept nogil:
    """Make an IDLE or GRANTED slot the client's. The client is of this process."""
    cdef SlotRow *row = &table.slots[slot]
    row.owner = table.process
    row.client = client
    row.to_check = table.pools[row.pool].check_after > 0 and now - row.used_at > table.pools[row.pool].check_after
    row.active_since = now
    row.uses += 1
    table.clients[client].slot = slot
    move_slot(table, slot, SLOT_ACTIVE)
    table.clients[client].wait_state = WAIT_NO


cdef bint accept_grant(Table table, int slot, int client, int64_t now) noexcept nogil:
    """The grantee's side of a grant: GRANTED -> ACTIVE; False when the slot is not granted to this client (any more)."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef bint granted
    acquire(&pool.lock, table.pid)
    granted = row.state == SLOT_GRANTED and row.client == client and table.clients[client].worker == table.process
    if granted:
        lend(table, slot, client, now)
    release(&pool.lock)
    return granted


# --- the queue -------------------------------------------------------------------------------------------------------

cdef int leave_queue(Table table, int client) noexcept nogil:
    """The client stops waiting. When it was granted a slot meanwhile: that slot, which the caller gives back."""
    cdef ClientRow *row = &table.clients[client]
    cdef PoolRow *pool
    cdef int slot = NONE
    if row.pool == NONE:
        return NONE
    pool = &table.pools[row.pool]
    acquire(&pool.lock, table.pid)
    if row.wait_state == WAIT_QUEUED:
        unlink_waiter(table, client)
    elif row.wait_state == WAIT_GRANTED:
        slot = row.slot
        row.slot = NONE
    row.wait_state = WAIT_NO
    release(&pool.lock)
    return slot


cdef int grant_next(Table table, int slot, int64_t now, uint64_t *wake) noexcept nogil:
    """Hand a slot to the oldest waiter. A client of this process gets it at once and is returned; the grant to another
    process is put in its mailbox. NONE when nobody waits. The pool's lock is held."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef int client = pool.wait_head
    if client == NONE or pool.paused:
        return NONE
    grant(table, slot, client)
    if row.owner == table.process:
        lend(table, slot, client, now)
        return client
    send_grant(table, slot, wake)
    return BACK_GRANTED


cdef void set_paused(Table table, int pool, bint paused, uint64_t *wake) noexcept nogil:
    """PAUSE or RESUME. After RESUME the caller must still `reserve`: servers may have to be opened."""
    cdef PoolRow *row = &table.pools[pool]
    acquire(&row.lock, table.pid)
    row.paused = paused
    serve_waiters(table, pool, wake)
    release(&row.lock)


# --- a server comes back ---------------------------------------------------------------------------------------------

cdef int give_back(Table table, int slot, int64_t now, uint64_t *wake) noexcept nogil:
    """A server that is clean and quiet goes to the oldest waiter, else to the idle list.

    Returns the client row of this process that holds it now, or a `GiveBack` value. From OPENING it is a new server.
    """
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef int result
    acquire(&pool.lock, table.pid)
    result = give_back_locked(table, slot, now, wake)
    release(&pool.lock)
    return result


cdef int give_back_locked(Table table, int slot, int64_t now, uint64_t *wake) noexcept nogil:
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef int result
    if row.state == SLOT_IDLE or row.state == SLOT_CLOSING or row.state == SLOT_FREE:
        return BACK_REFUSED
    if row.state == SLOT_OPENING:
        pool.failed_at = 0
    part(table, slot)
    if row.canceller != NONE:
        return hold(table, slot)
    if pool.state != POOL_LIVE or row.epoch != pool.epoch or has_surplus(pool):
        row.owner = table.process
        move_slot(table, slot, SLOT_CLOSING)
        return BACK_CLOSE
    if not row.to_check and row.state != SLOT_GRANTED:          # else nobody has used it
        row.used_at = now
    result = grant_next(table, slot, now, wake)
    if result == NONE:
        move_slot(table, slot, SLOT_IDLE)
        row.owner = NONE
    return result


cdef inline bint has_surplus(PoolRow *pool) noexcept nogil:
    """More servers live than `pool_size`, which was lowered."""
    return pool.n_idle + pool.n_busy + pool.n_opening > pool.pool_size


cdef void part(Table table, int slot) noexcept nogil:
    """Slot and client name each other no longer."""
    cdef SlotRow *row = &table.slots[slot]
    if row.client != NONE and table.clients[row.client].slot == slot:
        table.clients[row.client].slot = NONE
    row.client = NONE


cdef int hold(Table table, int slot) noexcept nogil:
    """Keep a server out of the pool while a cancel request is on its way to it."""
    cdef SlotRow *row = &table.slots[slot]
    if row.state != SLOT_RESETTING and not move_slot(table, slot, SLOT_RESETTING):
        return BACK_REFUSED
    row.held = 1
    return BACK_HELD


cdef bint claim_idle(Table table, int slot, uint32_t generation, uint32_t to) noexcept nogil:
    """Take an idle server out of the pool for upkeep (RESETTING) or the end (CLOSING); False when it is idle no more."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool
    cdef bint claimed
    if row.state != SLOT_IDLE:
        return False
    pool = &table.pools[row.pool]
    acquire(&pool.lock, table.pid)
    claimed = row.state == SLOT_IDLE and row.generation == generation and &table.pools[row.pool] == pool
    if claimed:
        row.owner = table.process
        row.client = NONE
        claimed = move_slot(table, slot, to)
    release(&pool.lock)
    return claimed


cdef bint start_reset(Table table, int slot) noexcept nogil:
    """The client is done with an ACTIVE server, which is not fit to be lent yet."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef bint moved
    acquire(&pool.lock, table.pid)
    moved = row.state == SLOT_ACTIVE
    if moved:
        part(table, slot)
        move_slot(table, slot, SLOT_RESETTING)
    release(&pool.lock)
    return moved


# --- a server ends ---------------------------------------------------------------------------------------------------

cdef bint start_close(Table table, int slot) noexcept nogil:
    """From now on the slot only counts; the caller ends the connection and then says `finish_close`.
    False when the slot is CLOSING already, and somebody else sees to it, or free."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef bint moved
    acquire(&pool.lock, table.pid)
    moved = row.state != SLOT_CLOSING and row.state != SLOT_FREE
    if moved:
        part(table, slot)
        row.owner = table.process
        move_slot(table, slot, SLOT_CLOSING)
    release(&pool.lock)
    return moved


cdef void finish_close(Table table, int slot) noexcept nogil:
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    acquire(&pool.lock, table.pid)
    move_slot(table, slot, SLOT_FREE)
    release(&pool.lock)


# --- a server is opened ----------------------------------------------------------------------------------------------

cdef uint32_t servers_of(PoolRow *pool) noexcept nogil:
    return pool.n_idle + pool.n_busy + pool.n_opening + pool.n_closing


cdef int reserve(Table table, int pool, int64_t now) noexcept nogil:
    """A slot that this process must open now because clients wait, or NONE."""
    cdef int slot
    acquire(&table.pools[pool].lock, table.pid)
    slot = reserve_for_waiters(table, pool, now)
    release(&table.pools[pool].lock)
    return slot


cdef int reserve_for_waiters(Table table, int pool, int64_t now) noexcept nogil:
    cdef PoolRow *row = &table.pools[pool]
    if row.n_opening >= row.n_waiting or row.n_opening >= row.max_opening or row.paused or row.state != POOL_LIVE:
        return NONE
    if servers_of(row) >= row.pool_size:
        return NONE
    if row.failed_at and now - row.failed_at < RETRY_AFTER_US:
        return NONE
    return claim_free_slot(table, pool, now)


cdef int reserve_minimum(Table table, int pool, int64_t now) noexcept nogil:
    """A slot to open so that the pool has its `min_pool_size`, or NONE."""
    cdef PoolRow *row = &table.pools[pool]
    cdef int slot = NONE
    acquire(&row.lock, table.pid)
    if (
        row.state == POOL_LIVE
        and not row.paused
        and servers_of(row) < row.min_pool_size
        and servers_of(row) < row.pool_size
        and row.n_opening < row.max_opening
        and (row.failed_at == 0 or now - row.failed_at >= RETRY_AFTER_US)
    ):
        slot = claim_free_slot(table, pool, now)
    release(&row.lock)
    return slot


cdef void open_failed(Table table, int slot, int64_t now, bytes sqlstate, bytes message, uint64_t *wake):
    """An attempt to open ended without a server; see rule 6."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef int64_t began = row.opened_at
    acquire(&pool.lock, table.pid)
    pool.failed_at = now
    copy_text(pool.failure_sqlstate, sizeof(pool.failure_sqlstate), sqlstate)
    copy_text(pool.failure, FAILURE_BYTES, message)
    if row.state != SLOT_CLOSING:
        move_slot(table, slot, SLOT_CLOSING)
    move_slot(table, slot, SLOT_FREE)
    if pool.n_idle + pool.n_busy + pool.n_opening == 0:
        fail_waiters(table, pool, began, wake)
    release(&pool.lock)


# --- cancel requests -------------------------------------------------------------------------------------------------

cdef bint begin_cancel(
    Table table, int client, uint64_t connection_id, int *slot, uint64_t *wake
) noexcept nogil:
    """A cancel request for this client row came to this process.

    A waiting client leaves the queue (its worker tells it), one whose server is not ready for it gets the error when it
    would be. Otherwise `slot` (NONE: there is nothing to do) runs a statement of the client. True: the caller cancels it; the
    server is kept from everybody else until `end_cancel`, so that a late cancel cannot hit a stranger. False: somebody
    does already. `connection_id` is what the row had when the key was compared: it may have got another client since.
    """
    cdef ClientRow *row = &table.clients[client]
    cdef PoolRow *pool
    cdef SlotRow *server
    cdef int pool_number = row.pool
    cdef bint wanted = False
    slot[0] = NONE
    if pool_number == NONE:
        return False
    pool = &table.pools[pool_number]
    acquire(&pool.lock, table.pid)
    if row.pool != pool_number or row.connection_id != connection_id:
        pass
    elif row.wait_state == WAIT_QUEUED:
        unlink_waiter(table, client)
        dismiss_waiter(table, row, WAIT_CANCELLED, wake)
    elif cas32(&row.preparing, PREPARING_YES, PREPARING_CANCELLED):
        pass
    elif row.slot != NONE:
        server = &table.slots[row.slot]
        if server.state == SLOT_ACTIVE and server.client == client and server.running:
            slot[0] = row.slot
            wanted = server.canceller == NONE
            if wanted:
                server.canceller = table.process
    release(&pool.lock)
    return wanted


cdef bint mark_canceller(Table table, int slot) noexcept nogil:
    """This process, which owns the slot, sends it a cancel request itself: its client vanished."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef bint marked
    acquire(&pool.lock, table.pid)
    marked = row.canceller == NONE
    if marked:
        row.canceller = table.process
    release(&pool.lock)
    return marked


cdef bint end_cancel(Table table, int slot, uint32_t generation, bint doubtful) noexcept nogil:
    """The cancel request is dealt with. True: the server was given back meanwhile, the caller gives it on.

    doubtful: nobody knows whether it may still hit; the server is outdated and ends when it is given back.
    """
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef bint held = False
    acquire(&pool.lock, table.pid)
    if row.generation == generation and row.canceller == table.process:
        if doubtful:
            row.epoch = pool.epoch - 1
        held = row.held and row.state == SLOT_RESETTING
        if held:                                # ours before the mark goes: should we die, it is found with us
            store32(<uint32_t *>&row.owner, <uint32_t>table.process)
        store32(&row.held, 0)
        row.canceller = NONE
    release(&pool.lock)
    return held
