"""The door between slot states. Runs in every process; slots.pxd has the rules."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from doorman.shm.atomics cimport cas32, load32, store32
from doorman.shm.layout cimport (
    NONE,
    SECRET_BYTES,
    SLOT_ACTIVE,
    SLOT_CLOSING,
    SLOT_FREE,
    SLOT_GRANTED,
    SLOT_IDLE,
    SLOT_OPENING,
    SLOT_RESETTING,
    PoolRow,
    SlotRow,
    TlsRow,
)
from doorman.shm.statements cimport set_clear, set_of
from doorman.shm.table cimport Table

# For each state the set of states that may follow, as bits.
cdef uint32_t[7] FOLLOWERS
FOLLOWERS[<int>SLOT_FREE] = 1 << <int>SLOT_OPENING
FOLLOWERS[<int>SLOT_OPENING] = 1 << <int>SLOT_IDLE | 1 << <int>SLOT_GRANTED | 1 << <int>SLOT_CLOSING
FOLLOWERS[<int>SLOT_IDLE] = 1 << <int>SLOT_ACTIVE | 1 << <int>SLOT_RESETTING | 1 << <int>SLOT_GRANTED | 1 << <int>SLOT_CLOSING
FOLLOWERS[<int>SLOT_ACTIVE] = 1 << <int>SLOT_IDLE | 1 << <int>SLOT_RESETTING | 1 << <int>SLOT_GRANTED | 1 << <int>SLOT_CLOSING
FOLLOWERS[<int>SLOT_RESETTING] = 1 << <int>SLOT_IDLE | 1 << <int>SLOT_GRANTED | 1 << <int>SLOT_CLOSING
FOLLOWERS[<int>SLOT_GRANTED] = 1 << <int>SLOT_ACTIVE | 1 << <int>SLOT_IDLE | 1 << <int>SLOT_GRANTED | 1 << <int>SLOT_CLOSING
FOLLOWERS[<int>SLOT_CLOSING] = 1 << <int>SLOT_FREE


cdef inline uint32_t *count_of(PoolRow *pool, uint32_t state) noexcept nogil:
    """The counter of a pool that a slot in this state is part of; NULL for FREE."""
    if state == SLOT_IDLE:
        return &pool.n_idle
    if state == SLOT_OPENING:
        return &pool.n_opening
    if state == SLOT_CLOSING:
        return &pool.n_closing
    if state == SLOT_FREE:
        return NULL
    return &pool.n_busy


cdef bint move_slot(Table table, int slot, uint32_t to) noexcept nogil:
    """Move a slot to a state; False, and nothing done, when rule 1 does not allow it. The pool's lock is held."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef uint32_t state = row.state
    cdef uint32_t *count
    if not (FOLLOWERS[state] >> to) & 1:
        return False
    if state == SLOT_IDLE:
        unlink_idle(table, pool, slot)
    if to == SLOT_FREE:
        row.generation += 1
        if row.tls:                                 # set before the keys are written
            memset(&table.slot_tls[slot], 0, sizeof(TlsRow))
            row.tls = 0
    store32(&row.state, to)
    if to == SLOT_IDLE:
        push_idle(table, pool, slot)
    count = count_of(pool, state)
    if count != NULL:
        count[0] -= 1
    count = count_of(pool, to)
    if count != NULL:
        count[0] += 1
    return True


cdef void push_idle(Table table, PoolRow *pool, int slot) noexcept nogil:
    cdef SlotRow *row = &table.slots[slot]
    row.previous = NONE
    row.next = pool.idle_head
    if pool.idle_head != NONE:
        table.slots[pool.idle_head].previous = slot
    else:
        pool.idle_tail = slot
    pool.idle_head = slot


cdef void unlink_idle(Table table, PoolRow *pool, int slot) noexcept nogil:
    cdef SlotRow *row = &table.slots[slot]
    if row.previous != NONE:
        table.slots[row.previous].next = row.next
    else:
        pool.idle_head = row.next
    if row.next != NONE:
        table.slots[row.next].previous = row.previous
    else:
        pool.idle_tail = row.previous


cdef void relink_idle(Table table, int slot) noexcept nogil:
    """Repair only: put an IDLE slot back in a list that is being rebuilt, keeping the most recently used first."""
    cdef SlotRow *row = &table.slots[slot]
    cdef PoolRow *pool = &table.pools[row.pool]
    cdef int after = NONE
    cdef int before = pool.idle_head
    while before != NONE and table.slots[before].used_at > row.used_at:
        after = before
        before = table.slots[before].next
    row.previous = after
    row.next = before
    if after == NONE:
        pool.idle_head = slot
    else:
        table.slots[after].next = slot
    if before == NONE:
        pool.idle_tail = slot
    else:
        table.slots[before].previous = slot


cdef int read_cancel_key(Table table, int slot, uint32_t generation, uint32_t *pid, uint8_t *secret) noexcept nogil:
    """Backend pid and cancel secret (room for SECRET_BYTES) of a server that this process is cancelling; the secret's
    length. NONE when the row has another server by now, which must not be hit: the owner may close it at any time."""
    cdef SlotRow *row = &table.slots[slot]
    cdef int length = <int>row.secret_length
    pid[0] = row.backend_pid
    memcpy(secret, row.secret, SECRET_BYTES)
    if load32(<uint32_t *>&row.canceller) != <uint32_t>table.process or load32(&row.generation) != generation:
        return NONE
    return length


cdef int claim_free_slot(Table table, int pool, int64_t now) noexcept nogil:
    """Turn a FREE row into an OPENING one of this pool, owned by this process; NONE when the table is full.
    The lock of `pool` is held."""
    cdef SlotRow *row
    cdef uint32_t i, at, n = table.header.n_slots
    cdef uint32_t start = <uint32_t>(pool * 7919) % n     # pools start apart, so that they seldom meet
    for i in range(n):
        at = (start + i) % n
        row = &table.slots[at]
        if row.state != SLOT_FREE or load32(&row.claim) or not cas32(&row.claim, 0, table.pid):
            continue
        if load32(&row.state) == SLOT_FREE:
            fill_claimed(table, row, pool, now)
            set_clear(table, <int>at)
            set_of(table, <int>at).hits = 0
            set_of(table, <int>at).misses = 0
            set_of(table, <int>at).epoch = table.pools[pool].statement_epoch
            table.pools[pool].n_opening += 1
            store32(&row.state, SLOT_OPENING)
            store32(&row.claim, 0)
            return <int>at
        store32(&row.claim, 0)
    return NONE


cdef void fill_claimed(Table table, SlotRow *row, int pool, int64_t now) noexcept nogil:
    row.pool = pool
    row.owner = table.process
    row.client = NONE
    row.home = NONE
    row.epoch = table.pools[pool].epoch
    row.next = NONE
    row.previous = NONE
    row.canceller = NONE
    row.held = 0
    row.backend_pid = 0
    row.secret_length = 0
    row.tls = 0
    row.opened_at = now
    row.used_at = now
    row.active_since = 0
    row.lifetime = 0
    row.idle_timeout = 0
    row.parameter_digest = 0
    row.plans_digest = 0
    row.to_check = 0
    row.transactions = 0
    row.queries = 0
    row.bytes_sent = 0
    row.bytes_received = 0
    row.uses = 0
    row.running = 0
    row.served = 0
    row.served_row = NONE
