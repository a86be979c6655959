"""Finds out which Syncs PostgreSQL answers when a COPY IN has failed into which Syncs were sent.

A Sync that it reads while the COPY is under way is ignored, one that it reads behind the failure is answered; which of
them it was shows in no message. So more is sent behind everything, a Sync and then more Closes than anything of the
client's could be mistaken for: how many ReadyForQuery come before their answers tells.

Rules
1. Nothing behind the error is looked at before that is known: it stays unread (`feed_answers`), the client waits.
2. It is tried only where nothing was sent behind the COPY that can begin another one, or (unsynced) that a Sync more
   could end, and no message is half sent. Otherwise the server stays doubtful.
3. If PostgreSQL has answered none, it was skipping to the client's next Sync and our Sync has ended that: so the client's
   messages are dropped here until it comes (`Server.skips`).
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t

from doorman.shm.statements cimport Digest
from doorman.workers.relay.engine cimport Engine, Server
from doorman.workers.relay.pending cimport pending_sent, pending_unswallow
from doorman.workers.relay.replies cimport (
    FIRST_ANSWERED,
    REPLY_CLOSE,
    REPLY_CLOSE_KNOWN,
    REPLY_CLOSE_OURS,
    REPLY_COPY_END,
    REPLY_EXECUTE,
    REPLY_NAME_KNOWN,
    REPLY_PARSE_KNOWN,
    REPLY_SYNC,
    REPLY_SYNC_OURS,
    replies_at,
    replies_head,
    replies_push,
    replies_unskip,
)

cdef enum:
    MOST_UNREAD = 1 << 20           # bytes; nothing but ReadyForQuery, notices and the like can come

cdef uint8_t[32] HARMLESS           # rule 2
for _kind in (
    <int>REPLY_SYNC, <int>REPLY_COPY_END, <int>REPLY_CLOSE, <int>REPLY_CLOSE_KNOWN, <int>REPLY_PARSE_KNOWN, <int>REPLY_NAME_KNOWN
):
    HARMLESS[_kind] = 1

cdef bytes SYNC = b"S\x00\x00\x00\x04"
cdef bytes CLOSE = b"C\x00\x00\x00\x13SDOORMAN_trial\x00"     # of nothing: answered in whatever state a session is


cdef bint settle(Engine engine, Server server, const char *behind, Py_ssize_t length) except -1:
    """The error has come with which a COPY ends, and this behind it. False: more has to come first."""
    cdef int ready
    if not server.settling:
        if not can_be_told(server):
            return True
        ask(engine, server)
    ready = ready_before_closes(behind, length, server.settling)
    if ready < 0:
        if length > MOST_UNREAD:
            engine.lose_server(server)
            return True
        return False
    resolve(server, ready)
    return True


cdef bint can_be_told(Server server) noexcept:
    """Rule 2."""
    cdef uint32_t at
    cdef uint8_t kind
    cdef bint synced = False
    if server.client.body_left or server.pending.doubtful or not server.replies.length:
        return False
    for at in range(server.replies.length - 1, 0, -1):
        kind = replies_at(&server.replies, at).kind
        synced = synced or kind == REPLY_SYNC
        if not HARMLESS[kind] and (not synced or kind < FIRST_ANSWERED or kind == REPLY_EXECUTE):
            return False
    return True


cdef int ask(Engine engine, Server server) except -1:
    cdef Digest none
    cdef bytes message
    cdef uint32_t at
    none.high = none.low = 0
    server.settling = server.replies.length + server.pending.swallowed + 1
    server.holding = True
    server.pending.copy_in = False
    pending_sent(&server.pending, b"S")
    replies_push(&server.replies, REPLY_SYNC_OURS, NULL, NULL, NULL)
    for at in range(server.settling):
        pending_sent(&server.pending, b"C")
        replies_push(&server.replies, REPLY_CLOSE_OURS, NULL, NULL, &none)
    pending_sent(&server.pending, b"S")
    replies_push(&server.replies, REPLY_SYNC_OURS, NULL, NULL, NULL)
    message = SYNC + CLOSE * server.settling + SYNC
    return engine.forward(server, PyBytes_AS_STRING(message), len(message))


cdef int ready_before_closes(const char *data, Py_ssize_t length, uint32_t closes) noexcept:
    """How many ReadyForQuery stand before the answers to our Closes, -1 while those have not all come."""
    cdef const uint8_t *at = <const uint8_t *>data
    cdef const uint8_t *end = at + length
    cdef Py_ssize_t total
    cdef uint32_t run = 0
    cdef int ready = 0
    while end - at >= 5:
        total = 1 + (<Py_ssize_t>at[1] << 24 | <Py_ssize_t>at[2] << 16 | <Py_ssize_t>at[3] << 8 | at[4])
        if end - at < total:
            return -1
        if at[0] == b"3":
            run += 1
        elif at[0] == b"Z":
            if run >= closes:
                return ready
            run = 0
            ready += 1
        at += total
    return -1


cdef int resolve(Server server, int ready) except -1:
    """`ready` of the client's Syncs, the Query if it was one, and one of ours were answered."""
    cdef uint32_t at
    cdef int certain = replies_head(&server.replies).kind < FIRST_ANSWERED
    cdef uint32_t syncs
    for at in range(1, server.replies.length):
        certain += replies_at(&server.replies, at).kind == REPLY_SYNC
    syncs = min(<uint32_t>max(ready - 1 - certain, 0), server.pending.swallowed)
    server.skips = not syncs and not certain
    server.settling = 0
    pending_unswallow(&server.pending, syncs)
    return replies_unskip(&server.replies, syncs)


cdef void settled(Server server) noexcept:
    """The last answer to our messages came (rule 3)."""
    if server.skips and not server.replies.length:
        server.skips = False
        server.pending.skipping = True
