"""Which prepared statements each server connection holds: a set of digests for each slot, least recently used last.

Rules
1. A set belongs to its slot: only the process that owns the slot (ACTIVE, RESETTING) reads or writes it, so no lock
   guards it. If that process dies in the middle, the connection ends with it, and a new one begins with an empty set.
2. A digest is in the set exactly when the server holds the statement, or will when it has worked through what was sent
   to it; whoever learns that a Parse failed or a Close was skipped corrects the set.
3. `doubtful` says that the server may hold statements that the set does not name: each Parse is then preceded by a
   Close of the same name. It ends with DEALLOCATE ALL.
4. A set of capacity 0 is as good as one that forgets at once: `set_has` is never true.
"""

from libc.stdint cimport uint32_t, uint64_t

from doorman.shm.table cimport Table

cdef struct Digest:
    uint64_t high
    uint64_t low

cdef struct StatementNode:
    Digest digest
    uint32_t chain              # next node of the same bucket; node numbers count from 1, 0 = none
    uint32_t newer              # towards the most recently used
    uint32_t older
    uint32_t shape              # of the rows that it returns, 0 = not known (relay/heal.pxd)
    uint32_t size               # bytes of its Parse message's body
    uint32_t types              # digest of its parameters' types as the server sees them, 0 = not known

cdef struct StatementSet:
    uint32_t count
    uint32_t newest             # head of the list of use
    uint32_t oldest
    uint32_t unused             # nodes that were freed, chained
    uint32_t touched            # nodes ever used since the set was last cleared
    uint32_t doubtful
    uint32_t epoch              # of the pool, when the set was last cleared: PoolRow.statement_epoch
    uint32_t evicted
    uint64_t hits
    uint64_t misses
    uint64_t bytes              # of all that it holds
    uint64_t spare

cdef uint32_t buckets_for(uint32_t capacity) noexcept nogil
cdef size_t set_bytes(uint32_t capacity) noexcept nogil
cdef StatementSet *set_of(Table table, int slot) noexcept nogil
cdef StatementNode *set_find(Table table, int slot, const Digest *digest) noexcept nogil
cdef bint set_has(Table table, int slot, const Digest *digest) noexcept nogil
cdef bint set_add(Table table, int slot, const Digest *digest, uint32_t size) noexcept nogil
cdef bint set_evict(Table table, int slot, uint32_t most, StatementNode *victim) noexcept nogil
cdef bint set_remove(Table table, int slot, const Digest *digest) noexcept nogil
cdef void set_clear(Table table, int slot) noexcept nogil
