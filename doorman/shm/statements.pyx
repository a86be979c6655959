"""The sets of prepared statements; statements.pxd has the rules. A chained hash table and a list of use in one array.

The digests are uniformly distributed (BLAKE2b), so their low bits choose the bucket.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from doorman.shm.table cimport Table


cdef uint32_t buckets_for(uint32_t capacity) noexcept nogil:
    """A power of two, one bucket for each statement or more."""
    cdef uint32_t n = 8
    while n < capacity:
        n *= 2
    return n


cdef size_t set_bytes(uint32_t capacity) noexcept nogil:
    """Bytes of one set: its head, its buckets, its nodes (node 0 is never used). Whole cache lines."""
    cdef size_t size
    if not capacity:
        return sizeof(StatementSet)
    size = sizeof(StatementSet) + buckets_for(capacity) * sizeof(uint32_t)
    size += (<size_t>capacity + 1) * sizeof(StatementNode)
    return (size + 63) // 64 * 64


cdef StatementSet *set_of(Table table, int slot) noexcept nogil:
    """The head of a slot's set."""
    return <StatementSet *>(table.statements + <size_t>slot * table.statement_set_bytes)


cdef inline uint32_t *buckets_of(StatementSet *statements) noexcept nogil:
    return <uint32_t *>(statements + 1)


cdef inline StatementNode *nodes_of(Table table, StatementSet *statements) noexcept nogil:
    return <StatementNode *>(buckets_of(statements) + table.statement_buckets)


cdef inline uint32_t *bucket_of(Table table, StatementSet *statements, const Digest *digest) noexcept nogil:
    return &buckets_of(statements)[<uint32_t>digest.low & (table.statement_buckets - 1)]


cdef inline uint32_t find(Table table, StatementSet *statements, const Digest *digest) noexcept nogil:
    """Number of the digest's node, 0 when it is not there."""
    cdef StatementNode *nodes = nodes_of(table, statements)
    cdef uint32_t at
    if not statements.count:
        return 0
    at = bucket_of(table, statements, digest)[0]
    while at and (nodes[at].digest.low != digest.low or nodes[at].digest.high != digest.high):
        at = nodes[at].chain
    return at


cdef inline void unlink(StatementSet *statements, StatementNode *nodes, uint32_t at) noexcept nogil:
    cdef StatementNode *node = &nodes[at]
    if node.newer:
        nodes[node.newer].older = node.older
    else:
        statements.newest = node.older
    if node.older:
        nodes[node.older].newer = node.newer
    else:
        statements.oldest = node.newer


cdef inline void put_first(StatementSet *statements, StatementNode *nodes, uint32_t at) noexcept nogil:
    nodes[at].newer = 0
    nodes[at].older = statements.newest
    if statements.newest:
        nodes[statements.newest].newer = at
    else:
        statements.oldest = at
    statements.newest = at


cdef bint set_has(Table table, int slot, const Digest *digest) noexcept nogil:
    """Does the server hold this statement? It then is the most recently used one."""
    return set_find(table, slot, digest) != NULL


cdef StatementNode *set_find(Table table, int slot, const Digest *digest) noexcept nogil:
    """The statement's node, now the most recently used one; NULL when the server does not hold it."""
    cdef StatementSet *statements = set_of(table, slot)
    cdef uint32_t at = find(table, statements, digest)
    cdef StatementNode *nodes
    if not at:
        statements.misses += 1
        return NULL
    statements.hits += 1
    nodes = nodes_of(table, statements)
    if statements.newest != at:
        unlink(statements, nodes, at)
        put_first(statements, nodes, at)
    return &nodes[at]


cdef bint set_add(Table table, int slot, const Digest *digest, uint32_t size) noexcept nogil:
    """The server gets this statement. False: there is no room for it, and the set becomes doubtful (rule 3)."""
    cdef StatementSet *statements = set_of(table, slot)
    cdef StatementNode *nodes
    cdef uint32_t at
    cdef uint32_t *bucket
    if find(table, statements, digest):
        return True
    if statements.count >= table.header.statement_capacity:
        statements.doubtful = 1
        return False
    nodes = nodes_of(table, statements)
    at = statements.unused
    if at:
        statements.unused = nodes[at].chain
    else:
        statements.touched += 1
        at = statements.touched
    bucket = bucket_of(table, statements, digest)
    nodes[at].digest = digest[0]
    nodes[at].shape = 0
    nodes[at].types = 0
    nodes[at].size = size
    nodes[at].chain = bucket[0]
    bucket[0] = at
    put_first(statements, nodes, at)
    statements.count += 1
    statements.bytes += size
    return True


cdef bint set_evict(Table table, int slot, uint32_t most, StatementNode *victim) noexcept nogil:
    """Make room for one more among at most `most` statements. True: `victim` is no longer in the set, close it."""
    cdef StatementSet *statements = set_of(table, slot)
    if not statements.count or statements.count < most:
        return False
    victim[0] = nodes_of(table, statements)[statements.oldest]
    set_remove(table, slot, &victim.digest)
    statements.evicted += 1
    return True


cdef bint set_remove(Table table, int slot, const Digest *digest) noexcept nogil:
    """The server does not hold this statement (any more). True when the set named it."""
    cdef StatementSet *statements = set_of(table, slot)
    cdef uint32_t at = find(table, statements, digest)
    cdef StatementNode *nodes
    cdef uint32_t *link
    if not at:
        return False
    nodes = nodes_of(table, statements)
    link = bucket_of(table, statements, digest)
    while link[0] != at:
        link = &nodes[link[0]].chain
    link[0] = nodes[at].chain
    unlink(statements, nodes, at)
    nodes[at].chain = statements.unused
    statements.unused = at
    statements.count -= 1
    statements.bytes -= nodes[at].size
    return True


cdef void set_clear(Table table, int slot) noexcept nogil:
    """The server holds no statement: it is new, or was told DEALLOCATE ALL."""
    cdef StatementSet *statements = set_of(table, slot)
    if statements.touched:
        memset(buckets_of(statements), 0, table.statement_buckets * sizeof(uint32_t))
    statements.count = 0
    statements.bytes = 0
    statements.newest = 0
    statements.oldest = 0
    statements.unused = 0
    statements.touched = 0
    statements.doubtful = 0
