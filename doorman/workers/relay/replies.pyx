"""The queue of replies; replies.pxd has the rules. Pure state, no sockets."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF, Py_XINCREF
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from doorman.shm.statements cimport Digest

cdef int replies_grow(Replies *replies) except -1:
    cdef uint32_t at
    cdef uint32_t capacity = replies.capacity * 2 if replies.capacity else 16
    cdef Reply *larger = <Reply *>malloc(capacity * sizeof(Reply))
    if larger == NULL:
        raise MemoryError("no memory for the queue of replies")
    for at in range(replies.length):
        larger[at] = replies_at(replies, at)[0]
    free(replies.ring)
    replies.ring = larger
    replies.head = 0
    replies.capacity = capacity
    return 0


cdef int replies_push_first(Replies *replies, uint8_t kind, PyObject *new) except -1:
    """A message of ours that goes in front of everything: nothing of that is under way."""
    cdef Reply *reply
    if replies.length == replies.capacity:
        replies_grow(replies)
    replies.batch = False
    replies.head = (replies.head + replies.capacity - 1) & (replies.capacity - 1)
    reply = &replies.ring[replies.head]
    Py_XINCREF(new)
    reply.kind = kind
    reply.new = new
    reply.old = NULL
    reply.digest.high = reply.digest.low = 0
    replies.length += 1
    replies.unproven += is_unproven(kind)
    if replies.synced:
        replies.synced += 1
        replies.unproven_synced += is_unproven(kind)
    return 0


cdef void replies_copy_in(Replies *replies) noexcept:
    """CopyInResponse came: PostgreSQL drops the Syncs that stand right behind the message that started the COPY, but not
    those behind its end, if that was sent already."""
    cdef uint32_t behind = 0
    if not replies.length:
        return
    while behind + 1 < replies.length and replies_at(replies, behind + 1).kind == REPLY_SYNC:
        behind += 1
    if behind + 1 < replies.length and replies_at(replies, behind + 1).kind == REPLY_COPY_END:
        behind += 1
    if not behind:
        return
    replies_at(replies, behind)[0] = replies_head(replies)[0]
    replies.head = (replies.head + behind) & (replies.capacity - 1)
    replies.length -= behind
    recount(replies)


cdef int replies_unskip(Replies *replies, uint32_t syncs) except -1:
    """So many of the Syncs are answered after all: they stand behind the head again."""
    cdef Reply first = replies_head(replies)[0]
    cdef uint32_t at
    while replies.length + syncs > replies.capacity:
        replies_grow(replies)
    replies.head = (replies.head + replies.capacity - syncs) & (replies.capacity - 1)
    replies.length += syncs
    replies_head(replies)[0] = first
    for at in range(1, syncs + 1):
        replies_at(replies, at).kind = REPLY_SYNC
        replies_at(replies, at).new = NULL
        replies_at(replies, at).old = NULL
    recount(replies)
    return 0


cdef void recount(Replies *replies) noexcept:
    """What is known of the entries up to the last that ReadyForQuery answers."""
    cdef uint32_t at
    replies.batch = False
    replies.synced = 0
    replies.unproven_synced = 0
    for at in range(replies.length):
        if replies_at(replies, at).kind < FIRST_ANSWERED:
            replies.synced = at + 1
    for at in range(replies.synced):
        replies.unproven_synced += is_unproven(replies_at(replies, at).kind)


cdef int replies_push_batch(
    Replies *replies, PyObject *statement, PyObject *unnamed, PyObject *bound, bint parsed, bint described
) except -1:
    """Into an empty queue, all at once: Parse (parsed; `unnamed` is the statement before), Bind, Describe (described),
    Execute, Sync."""
    cdef Reply *reply
    cdef uint32_t length = 3 + parsed + described
    while replies.capacity < length:
        replies_grow(replies)
    replies.head = 0
    reply = replies.ring
    if parsed:
        reply_set(reply, REPLY_PARSE_KNOWN, statement, unnamed)
        reply += 1
    reply_set(reply, REPLY_BIND, bound, NULL)
    if described:
        reply += 1
        reply_set(reply, REPLY_DESCRIBE, bound, NULL)
    reply_set(reply + 1, REPLY_EXECUTE, NULL, NULL)
    reply_set(reply + 2, REPLY_SYNC, NULL, NULL)
    replies.length = length
    replies.synced = length
    replies.batch = True
    return 0


cdef void replies_clear(Replies *replies) noexcept:
    """Forget everything, undo nothing."""
    cdef uint32_t at
    for at in range(replies.length):
        Py_XDECREF(replies_at(replies, at).new)
        Py_XDECREF(replies_at(replies, at).old)
    replies.head = 0                                    # the same few lines of cache again
    replies.length = 0
    replies.synced = 0
    replies.unproven = 0
    replies.unproven_synced = 0
    replies.queries = 0
    replies.broken = False
    replies.batch = False


cdef void replies_free(Replies *replies) noexcept:
    replies_clear(replies)
    free(replies.ring)
    replies.ring = NULL
    replies.capacity = 0
