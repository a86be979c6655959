"""What a server's next messages answer, message by message, for clients whose statements are renamed.

`pending` counts which ReadyForQuery is owed; this queue knows each message: which answers are the client's, which are
to messages of ours and are kept from it, and which we owe it ourselves because nothing was sent.

Rules
1. One entry for each message that PostgreSQL answers, in the order in which they were (or would have been) sent.
2. An entry of the KNOWN kinds stands for a message that was not sent: when it comes to the head, its answer is given.
   So the client sees exactly the order that PostgreSQL would have given.
3. An error drops everything up to the next Sync; what those entries had changed in advance is undone, last first.
4. An entry is *unproven* while a statement it makes or closes may still fail to be made or closed. A later segment
   (behind a Sync) that depends on such a thing waits (`must_hold`): what it means is not decided yet.
5. An answer that does not fit makes the queue `broken`: nothing is added or kept back any more, and the server ends with
   its client (`Pending.doubtful`).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF, Py_XINCREF
from libc.stdint cimport uint8_t, uint32_t

from doorman.shm.statements cimport Digest

cdef enum ReplyKind:
    REPLY_SYNC = 1              # Z
    REPLY_QUERY = 2             # anything, then Z
    REPLY_CALL = 3              # likewise
    REPLY_OURS = 4              # a Query of ours: all of its answer is kept back
    REPLY_RESTORE = 5           # likewise, but the client gets what it says about parameters, and its Z
    REPLY_SYNC_OURS = 6         # Z, kept back
    REPLY_BIND = 7              # 2
    REPLY_DESCRIBE = 8          # T or n, a t before it; `new` is the Named, or the unnamed Statement
    REPLY_EXECUTE = 9           # rows, then C, I or s; `old` is what `undo_deed` needs
    REPLY_CLOSE = 10            # 3
    REPLY_CLOSE_OURS = 11       # 3, kept back; `digest` was in the set, zero: nothing to undo, or `new` was a name in `lent`
    REPLY_CLOSE_KNOWN = 12      # 3, given by us; `new` is the Named that was closed, or the unnamed Statement
    REPLY_PARSE = 13            # 1; `new` was named and prepared
    REPLY_PARSE_TRIED = 14      # 1; `new` was named, but the server keeps nothing
    REPLY_PARSE_CLASH = 15      # 1, but an error is what must come: `new` is the Named that exists
    REPLY_PARSE_OURS = 16       # 1, kept back; `new` was prepared
    REPLY_PARSE_KNOWN = 17      # 1, given by us; `new` is now the unnamed statement
    REPLY_NAME_KNOWN = 18       # 1, given by us; `new` is a Named
    REPLY_DESCRIBE_OURS = 19    # t, then T or n, kept back; `new` is the Statement
    REPLY_BIND_STALE = 20       # the error that comes is written anew: the statement returns other rows now
    REPLY_COPY_END = 22         # nothing: CopyDone or CopyFail, sent before its COPY was announced; never at the head
    REPLY_PARSE_LENT = 21       # 1 or an error, kept back: a statement is given to the server by its client's own name

cdef enum:
    FIRST_ANSWERED = 7          # below: ended by ReadyForQuery

cdef struct Reply:
    uint8_t kind
    uint32_t size               # of the statement that `digest` names
    PyObject *new               # Statement or Named, owned; NULL
    PyObject *old               # the unnamed statement before, owned; NULL
    Digest digest

cdef struct Replies:
    Reply *ring
    uint32_t head
    uint32_t length
    uint32_t capacity           # a power of two
    uint32_t synced             # entries up to the last Sync, Query or FunctionCall
    uint32_t unproven           # rule 4
    uint32_t unproven_synced    # those of them among the first `synced`
    uint32_t queries            # Query messages of the client's
    bint broken                 # rule 5
    bint batch                  # one batch as `batch.pyx` knows it, or one Query, and nothing is answered yet

cdef int replies_grow(Replies *replies) except -1
cdef int replies_push_first(Replies *replies, uint8_t kind, PyObject *new) except -1
cdef void replies_copy_in(Replies *replies) noexcept
cdef int replies_unskip(Replies *replies, uint32_t syncs) except -1
cdef int replies_push_batch(
    Replies *replies, PyObject *statement, PyObject *unnamed, PyObject *bound, bint parsed, bint described
) except -1
cdef void replies_clear(Replies *replies) noexcept
cdef void replies_free(Replies *replies) noexcept


# Once or more for each message; so they stand here, where every caller gets a copy of its own.

cdef inline bint is_unproven(uint8_t kind) noexcept nogil:
    """Rule 4."""
    return (
        kind == REPLY_CLOSE or kind == REPLY_CLOSE_OURS or kind == REPLY_CLOSE_KNOWN or kind == REPLY_PARSE
        or kind == REPLY_PARSE_TRIED or kind == REPLY_PARSE_CLASH or kind == REPLY_PARSE_OURS or kind == REPLY_NAME_KNOWN
    )


cdef inline Reply *replies_at(Replies *replies, uint32_t at) noexcept:
    """The entry `at` places behind the head."""
    return &replies.ring[(replies.head + at) & (replies.capacity - 1)]


cdef inline Reply *replies_head(Replies *replies) noexcept:
    """What the next message of the server answers; NULL when nothing is owed."""
    return &replies.ring[replies.head] if replies.length else NULL


cdef inline void reply_set(Reply *reply, uint8_t kind, PyObject *new, PyObject *old) noexcept:
    Py_XINCREF(new)
    Py_XINCREF(old)
    reply.kind = kind
    reply.new = new
    reply.old = old


cdef inline void reply_remember(PyObject **field, PyObject *value) noexcept:
    """Another value for `new` or `old`."""
    cdef PyObject *before = field[0]
    Py_XINCREF(value)
    field[0] = value
    Py_XDECREF(before)


cdef inline int replies_push(Replies *replies, uint8_t kind, PyObject *new, PyObject *old, const Digest *digest) except -1:
    """One message more that will be answered."""
    cdef Reply *reply
    if replies.length == replies.capacity:
        replies_grow(replies)
    reply = replies_at(replies, replies.length)
    reply_set(reply, kind, new, old)
    replies.batch = False
    if digest != NULL:
        reply.digest = digest[0]
    replies.length += 1
    replies.unproven += is_unproven(kind)
    if kind < FIRST_ANSWERED:
        replies.synced = replies.length
        replies.unproven_synced = replies.unproven
        replies.queries += kind == REPLY_QUERY
    return 0


cdef inline void replies_pop(Replies *replies) noexcept:
    """The head is answered."""
    cdef Reply *reply = &replies.ring[replies.head]
    replies.batch = False
    replies.head = (replies.head + 1) & (replies.capacity - 1)
    replies.length -= 1
    replies.unproven -= is_unproven(reply.kind)
    replies.queries -= reply.kind == REPLY_QUERY
    if replies.synced:
        replies.synced -= 1
        replies.unproven_synced -= is_unproven(reply.kind)
    Py_XDECREF(reply.new)
    Py_XDECREF(reply.old)
    while replies.length and replies.ring[replies.head].kind == REPLY_COPY_END:
        replies.head = (replies.head + 1) & (replies.capacity - 1)
        replies.length -= 1
        replies.synced -= replies.synced > 0
