"""Who is in which pool right now: clients and servers counted in one pass over their rows. For console and /metrics.

Rows change meanwhile; each figure is true for some instant of the pass.
"""

import msgspec

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from doorman.shm.atomics cimport load32
from doorman.shm.layout cimport (
    CLIENT_ACTIVE,
    CLIENT_FREE,
    CLIENT_IDLE,
    CLIENT_LOGIN,
    CLIENT_WAITING,
    NONE,
    SLOT_ACTIVE,
    SLOT_FREE,
    STATEMENT_UNIT,
    ClientRow,
    SlotRow,
)
from doorman.shm.statements cimport StatementNode, StatementSet, set_of
from doorman.shm.table cimport Table, now_us

cdef struct Counts:
    uint64_t login
    uint64_t idle
    uint64_t active
    uint64_t waiting
    uint64_t flushed
    uint64_t named
    uint64_t unnamed
    uint64_t client_bytes
    uint64_t longest_wait
    uint64_t servers
    uint64_t oldest_active
    uint64_t outdated
    uint64_t statements
    uint64_t hits
    uint64_t misses
    uint64_t tls


class Presence(msgspec.Struct, frozen=True):
    """One pool now. Times in microseconds; `longest_wait` is the longest that a client of now ever waited and
    `statements` are what its servers have prepared, with the hits and misses of these servers. `client_bytes` is what
    the statements of its clients take: names, texts (for each client that has one) and what holds them together."""

    login: int = 0
    idle: int = 0
    active: int = 0
    waiting: int = 0
    flushed: int = 0
    named: int = 0
    unnamed: int = 0
    client_bytes: int = 0
    longest_wait: int = 0
    servers: int = 0
    oldest_active: int = 0
    outdated: int = 0
    statements: int = 0
    hits: int = 0
    misses: int = 0
    tls: int = 0


cdef enum:
    CLIENT_STATEMENT_BYTES = 200        # of a client's statement besides text and name: its place in the dict and the like

STATEMENT_BYTES = sizeof(StatementNode) + sizeof(uint32_t)


def presence(Table table) -> list[Presence]:
    """For each pool row that was ever used."""
    cdef uint32_t n = load32(&table.header.pools_high)
    cdef uint32_t pool
    cdef Counts *counts = <Counts *>calloc(max(n, 1), sizeof(Counts))
    cdef Counts *c
    if counts == NULL:
        raise MemoryError("no memory to count clients and servers")
    try:
        with nogil:
            count_clients(table, counts, n)
            count_servers(table, counts, n)
        found = []
        for pool in range(n):
            c = &counts[pool]
            found.append(Presence(
                c.login, c.idle, c.active, c.waiting, c.flushed, c.named, c.unnamed, c.client_bytes, c.longest_wait, c.servers,
                c.oldest_active, c.outdated, c.statements, c.hits, c.misses, c.tls))
        return found
    finally:
        free(counts)


cdef void count_clients(Table table, Counts *counts, uint32_t n) noexcept nogil:
    cdef ClientRow *row
    cdef Counts *c
    cdef uint32_t client, state
    for client in range(table.header.clients_high):
        row = &table.clients[client]
        state = load32(&row.state)
        if state == CLIENT_FREE or row.pool < 0 or <uint32_t>row.pool >= n:
            continue
        c = &counts[row.pool]
        if state == CLIENT_IDLE:
            c.idle += 1
        elif state == CLIENT_ACTIVE:
            c.active += 1
        elif state == CLIENT_WAITING:
            c.waiting += 1
        elif state == CLIENT_LOGIN:
            c.login += 1
        c.flushed += row.has_flushed
        c.named += row.named_statements
        c.unnamed += row.has_unnamed
        c.client_bytes += <uint64_t>STATEMENT_UNIT * row.statement_units + CLIENT_STATEMENT_BYTES * (row.named_statements + row.has_unnamed)
        c.longest_wait = max(c.longest_wait, row.wait_max)


cdef void count_servers(Table table, Counts *counts, uint32_t n) noexcept nogil:
    cdef SlotRow *row
    cdef StatementSet *held
    cdef Counts *c
    cdef uint32_t slot, state
    cdef int64_t now = now_us()
    for slot in range(table.header.n_slots):
        row = &table.slots[slot]
        state = load32(&row.state)
        if state == SLOT_FREE or row.pool < 0 or <uint32_t>row.pool >= n:
            continue
        c = &counts[row.pool]
        c.servers += 1
        if state == SLOT_ACTIVE and now > row.active_since:
            c.oldest_active = max(c.oldest_active, <uint64_t>(now - row.active_since))
        c.outdated += row.epoch != table.pools[row.pool].epoch
        held = set_of(table, slot)
        c.statements += held.count
        c.hits += held.hits
        c.misses += held.misses
        c.tls += row.tls


def slot_statements(Table table, int slot) -> tuple[int, int, int]:
    """Prepared statements of a server: hits, misses, how many it holds."""
    cdef StatementSet *held = set_of(table, slot)
    return held.hits, held.misses, held.count


def held_statements(Table table, int pool) -> dict[int, int]:
    """Digests (128 bits) of what the servers of a pool have prepared, and how many servers each. Their owners change
    the sets meanwhile, so a statement may be missed or be gone already; the walk ends in any case."""
    cdef StatementSet *held
    cdef StatementNode *nodes
    cdef uint32_t slot, at, steps
    cdef uint32_t capacity = table.header.statement_capacity
    found = {}
    for slot in range(table.header.n_slots):
        if load32(&table.slots[slot].state) == SLOT_FREE or table.slots[slot].pool != pool:
            continue
        held = set_of(table, slot)
        if not held.count:
            continue
        nodes = <StatementNode *>(<uint32_t *>(held + 1) + table.statement_buckets)
        at = held.newest
        for steps in range(capacity):
            if not at or at > capacity:
                break
            digest = <object>nodes[at].digest.high << 64 | nodes[at].digest.low
            found[digest] = found.get(digest, 0) + 1
            at = nodes[at].older
    return found


def named_statements(Table table, int client) -> tuple[int, int]:
    """How many statements a client has a name for, and whether it has an unnamed one (0 or 1); once a second."""
    return table.clients[client].named_statements, table.clients[client].has_unnamed
