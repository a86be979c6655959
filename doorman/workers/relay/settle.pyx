"""Finds out which Syncs PostgreSQL answers when a COPY IN has failed into which Syncs were sent, and frees servers whose
answers could not be told.

A Sync that it reads while the COPY is under way is ignored, one that it reads behind the failure is answered. If the
COPY failed by CopyFail, all of them came before that. Otherwise it shows in no message which of them it was. So more is
sent behind everything, a Sync and then more Closes than anything of the client's could be mistaken for: how many
ReadyForQuery come before their answers tells.

Rules
1. What comes behind the end of such a COPY waits for its outcome (`rename`). Nothing behind the error is looked at before
   that is known: it stays unread (`feed_answers`), the client waits.
2. So nothing was sent behind the COPY, but where its end was sent before it was announced. Then it is tried only if that
   cannot begin another COPY, was not taken for known in an open transaction, and no Sync more could end it. Otherwise the
   server stays doubtful.
3. If PostgreSQL has answered none, it was skipping to the client's next Sync and our Sync has ended that: so the client's
   messages are dropped here until it comes (`Server.skips`).
4. A doubtful server is not its client's for ever. When both have been silent for a while, and nothing of the client's
   waits for a Sync, one of ours goes behind everything. Its answer comes where it is expected: the client was told all
   and goes on with another server, this one is closed. Anything else, or none: both connections end.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from doorman.shm.statements cimport Digest
from doorman.workers.relay.buffer cimport buffer_length
from doorman.workers.relay.engine cimport HOLD, Client, Engine, Server
from doorman.workers.relay.pending cimport pending_clear, pending_sent, pending_unswallow, pending_unsynced
from doorman.workers.relay.replies cimport (
    FIRST_ANSWERED,
    REPLY_BIND,
    REPLY_CLOSE,
    REPLY_CLOSE_KNOWN,
    REPLY_CLOSE_OURS,
    REPLY_COPY_END,
    REPLY_EXECUTE,
    REPLY_NAME_KNOWN,
    REPLY_PARSE_KNOWN,
    REPLY_SYNC,
    REPLY_SYNC_OURS,
    Reply,
    replies_at,
    replies_head,
    replies_push,
    replies_unskip,
)
from doorman.workers.relay.statements cimport Named, Statement

cdef extern from "<string.h>" nogil:
    char *strcasestr(const char *haystack, const char *needle)
    void *memmem(const void *haystack, size_t length, const void *needle, size_t needle_length)

cdef enum:
    TRIAL_SECONDS = 5               # for PostgreSQL to answer a Sync
    MOST_UNREAD = HOLD              # bytes: what is not looked at must fit into one read

cdef uint8_t[32] HARMLESS           # rule 2
for _kind in (
    <int>REPLY_SYNC, <int>REPLY_COPY_END, <int>REPLY_CLOSE, <int>REPLY_CLOSE_KNOWN, <int>REPLY_PARSE_KNOWN, <int>REPLY_NAME_KNOWN
):
    HARMLESS[_kind] = 1

cdef bytes SYNC = b"S\x00\x00\x00\x04"
cdef bytes CLOSE = b"C\x00\x00\x00\x13SDOORMAN_trial\x00"     # of nothing: answered in whatever state a session is


cdef bint settle(Engine engine, Server server, const char *error, Py_ssize_t here, Py_ssize_t length) except -1:
    """The error has come with which a COPY ends. error: that message, `here` bytes, and what came behind it, `length` bytes
    in all. False: more has to come first."""
    cdef int ready
    if not server.settling:
        if is_of_copy_fail(error, here):
            server.pending.swallowed = 0
            return True
        if is_last_word(error, here):
            return True
        if not can_be_told(server):
            return True
        ask(engine, server)
    ready = ready_before_closes(error + here, length - here, server.settling)
    if ready < 0:
        server.hopeless = length - here > MOST_UNREAD
        return server.hopeless
    resolve(server, ready)
    return True


cdef bint is_of_copy_fail(const char *error, Py_ssize_t here) noexcept:
    """By the SQLSTATE and the routine that reads the data; a cancel request has the same SQLSTATE."""
    return memmem(error, here, b"\0C57014\0", 8) != NULL and memmem(error, here, b"\0RCopyGetData\0", 14) != NULL


cdef bint is_last_word(const char *error, Py_ssize_t here) noexcept:
    """Its severity: the connection ends with it, nothing is answered any more."""
    return memmem(error, here, b"\0VFATAL\0", 8) != NULL or memmem(error, here, b"\0VPANIC\0", 8) != NULL


cdef bint can_be_told(Server server) except -1:
    """Rule 2. What is executed behind the COPY was bound behind it: portals end with a failure."""
    cdef uint32_t at
    cdef uint8_t kind
    cdef bint synced = False, executes = False
    if server.client.body_left or server.pending.doubtful or not server.replies.length:
        return False
    for at in range(server.replies.length - 1, 0, -1):
        kind = replies_at(&server.replies, at).kind
        synced = synced or kind == REPLY_SYNC
        executes = executes or kind == REPLY_EXECUTE
        if not HARMLESS[kind] and (not synced or kind < FIRST_ANSWERED):
            return False
        if server.status != b"I" and (kind == REPLY_PARSE_KNOWN or kind == REPLY_NAME_KNOWN):
            return False                                # PostgreSQL may take no statement there
        if kind == REPLY_BIND and executes and may_copy(replies_at(&server.replies, at)):
            return False
    return True


cdef bint may_copy(Reply *bind) except -1:
    """May what is bound there be a COPY?"""
    cdef bytes body
    if bind.new == NULL:
        return True
    bound = <object>bind.new
    body = (<Named>bound).statement.body if isinstance(bound, Named) else (<Statement>bound).body
    return strcasestr(PyBytes_AS_STRING(body), b"copy") != NULL


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
    """An answer to our messages came; was it the last? (Rules 3 and 4.)"""
    if server.replies.length:
        server.on_trial = 0                             # its client has said more: once more when both are silent again
        return
    if server.skips:
        server.skips = False
        server.pending.skipping = True
    if server.on_trial:
        server.on_trial = 0
        if server.status == b"I":
            pending_clear(&server.pending)
            server.condemned = True


# --- servers that are in doubt and seem to be idle (rule 4) ----------------------------------------------------------

cdef int settle_idle(Engine engine, Server server) except -1:
    """Once a second for a server in doubt."""
    cdef uint64_t moved = server.row.bytes_sent + server.row.bytes_received
    cdef bint silent = moved == server.moved
    server.moved = moved
    if not silent or server.settling:
        return 0
    if server.pending.copy_in and server.holding and not buffer_length(&server.outb):       # rule 2 of copying
        return give_up(engine, server)
    if is_lost(server) or (server.on_trial > TRIAL_SECONDS and is_only_ours(server)):
        return give_up(engine, server)
    if server.on_trial:
        server.on_trial += is_only_ours(server)
        return 0
    if not seems_idle(server):
        return 0
    server.on_trial = 1
    pending_sent(&server.pending, b"S")
    replies_push(&server.replies, REPLY_SYNC_OURS, NULL, NULL, NULL)
    return engine.forward(server, PyBytes_AS_STRING(SYNC), len(SYNC))


cdef int give_up(Engine engine, Server server) except -1:
    """In doubt the connection ends, and the client's with it, in PostgreSQL's words."""
    server.condemned = True
    return engine.refuse(server.client, "FATAL", "08P01",
                         "terminating connection because protocol synchronization was lost")


cdef bint seems_idle(Server server) noexcept:
    """A Sync takes nothing from the client: nothing of its is unsynced, skipped, half sent, or data of a COPY."""
    cdef Client client = server.client
    return (
        server.status == b"I" and not server.pending.copy_in and not server.pending.skipping
        and not pending_unsynced(&server.pending) and not client.body_left and not client.gathering
        and not buffer_length(&client.inb) and not buffer_length(&client.outb)
        and not buffer_length(&server.outb)
    )


cdef bint is_lost(Server server) noexcept:
    """It said what does not fit, or what PostgreSQL does not say."""
    return server.replies.broken or (server.status != b"I" and server.status != b"T" and server.status != b"E")


cdef bint is_only_ours(Server server) noexcept:
    """PostgreSQL should have answered that at once, if its machine is not too busy."""
    return server.replies.length == 1 and replies_head(&server.replies).kind == REPLY_SYNC_OURS
