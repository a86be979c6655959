"""Servers between two clients: drained when their client vanished, rolled back, cleaned, probed, given new parameters.

Rules
1. Nothing that a server sends here reaches a client, but for parameters and notifications in RESTORE.
2. Stages follow one another: DRAIN -> ROLLBACK -> CLEAN -> given back; each ends with ReadyForQuery and has a deadline.
3. Any error, any status but I after ROLLBACK or CLEAN, any doubt: the server is closed, never lent again.
4. PROBE, SYNC and RESTORE happen while a client is attached; its next message waits for their end.
5. A cancel request may come before the statement that it is meant for, which PostgreSQL then runs all the same: it is sent
   again (`cancel_again`). It may also come too late and hit what we ask for ourselves: that is asked once more.
6. What a client asked for at startup is set in the server's session. So what leads back to the server's values inside a
   transaction is followed by a Query that sets it again (`restore`), and the client gets that one's Z. In session mode,
   where answers are not followed one by one, that is a stage of its own (`start_restore`). What was led back is known by
   the texts (`note_way_back`); where they do not tell, PostgreSQL is asked, which costs a snapshot.
7. Should that Query fail, the client gets its error: its transaction has failed. Outside of one it is asked once more first.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from doorman.shm.statements cimport set_clear
from doorman.shm.table cimport now_us
from doorman.workers.relay.backend cimport forgets, note_tag, spread_change
from doorman.workers.relay.engine cimport (
    DIRT_CONNECTED,
    DIRT_CREATED,
    DIRT_CURSORS,
    DIRT_EVERYTHING,
    DIRT_LISTEN,
    DIRT_LOCKS,
    DIRT_PLANS,
    DIRT_SETTINGS,
    DIRT_STATEMENTS,
    DIRT_TEMPORARY,
    HOLD,
    STAGE_CLEAN,
    STAGE_CLOSING,
    STAGE_DRAIN,
    STAGE_LISTEN,
    STAGE_NONE,
    STAGE_PROBE,
    STAGE_RESTORE,
    STAGE_ROLLBACK,
    STAGE_SYNC,
    Engine,
    Server,
)
from doorman.workers.relay.prepare cimport note_start
from doorman.workers.relay.replies cimport REPLY_RESTORE, replies_push
from doorman.workers.relay.pending cimport (
    pending_copied,
    pending_copy_in,
    pending_error,
    pending_ready,
    pending_sent,
    pending_unsynced,
)

from doorman.workers.settings import restoring
from doorman.workers.way_back import MAY_LEAD_BACK, WayBack

cdef enum:
    PATIENCE_US = 3_000_000             # for each stage of a server without a client
    CANCELS = 5                         # of one statement,
    CANCEL_US = 100_000                 # with this between the first and the second, then twice that, and so on
    MAX_SERVER_MESSAGE = 1_073_741_824
    OF_TRANSACTIONS = 0x10000           # bit of a digest of settings: transactions begin otherwise (Settings)

cdef bytes SYNC = b"S\x00\x00\x00\x04"
cdef bytes READY = b"Z\x00\x00\x00\x05"
cdef bytes SPOIL = b"E\x00\x00\x00\x14client gone\x00\x00\x00\x00\x00"     # Execute of a portal that there is not
cdef bytes COPY_FAIL = b"f\x00\x00\x00\x10client gone\x00"


def query(text: str) -> bytes:
    """A Query message."""
    body = text.encode() + b"\x00"
    return b"Q" + (len(body) + 4).to_bytes(4, "big") + body


cdef bytes ROLLBACK = query("ROLLBACK")
cdef bytes PROBE = query(";")
cdef bytes DISCARD_ALL = query("DISCARD ALL")
cdef bytes DISCARD_PLANS = query("DISCARD PLANS")
cdef bytes RESET_SETTINGS = query("RESET ROLE; RESET ALL")

CLEANERS = (
    (<int>DIRT_SETTINGS, "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL"),
    (<int>DIRT_STATEMENTS, "DEALLOCATE ALL"),
    (<int>DIRT_CURSORS, "CLOSE ALL"),
    (<int>DIRT_LISTEN, "UNLISTEN *"),
    (<int>DIRT_TEMPORARY, "DISCARD TEMP"),
    (<int>DIRT_LOCKS, "SELECT pg_catalog.pg_advisory_unlock_all()"),
    (64, "DISCARD PLANS"),
)


def cleaner(dirt: int) -> bytes:
    """The Query that removes this dirt."""
    return query("; ".join(text for bit, text in CLEANERS if dirt & bit))


cdef list CLEANER_OF = [cleaner(dirt) for dirt in range(128)]      # by its lower bits, and whether plans are to go


# --- starting a stage ------------------------------------------------------------------------------------------------

cdef int enter(Engine engine, Server server, int stage, int64_t patience) except -1:
    server.stage = stage
    server.failed = False
    engine.note_deadline(server, now_us() + patience)
    return 0


cdef int ask(Engine engine, Server server, int stage, bytes message, int64_t patience) except -1:
    """Enter a stage by sending a Query of our own."""
    enter(engine, server, stage, patience)
    pending_sent(&server.pending, b"Q")
    engine.forward(server, <const char *>message, len(message))
    return 0


cdef int start_probe(Engine engine, Server server, int64_t patience) except -1:
    """Is a server that was idle for long still there?"""
    return ask(engine, server, STAGE_PROBE, PROBE, patience)


cdef int start_sync(Engine engine, Server server, bytes query, bint anew, int64_t patience) except -1:
    """Make the client's parameters those of the server's session. anew: from the defaults, so that PostgreSQL reports
    all that differs from them: within one Query it reports nothing that ends as it began. Likewise where
    the settings before might have the transaction of that Query wait (a deferrable one)."""
    server.reported = []
    if server.row.plans_digest != server.client.plans_digest:
        pending_sent(&server.pending, b"Q")
        query = DISCARD_PLANS + query                   # those in functions hold what was read under other settings
    if anew or server.row.parameter_digest & OF_TRANSACTIONS:
        pending_sent(&server.pending, b"Q")
        query = RESET_SETTINGS + query
    return ask(engine, server, STAGE_SYNC, query, patience)


cdef bint note_way_back(Server server, const char *text, Py_ssize_t length) except -1:
    """The server of a client that has asked for something at startup runs a text (up to a NUL) which may set something.
    True: it leads something back (rule 6)."""
    cdef bytes words
    if length > HOLD:                               # too much to be read; the server will be asked
        server.way_back = server.way_back or WayBack(server.client.startup)
        server.way_back.doubtful = True
        server.went_back = True
        return True
    words = text[:length].partition(b"\0")[0]
    if server.way_back is None:
        if MAY_LEAD_BACK.search(words) is None:
            return False
        way_back = WayBack(server.client.startup)
        if not way_back.note(words):
            return False
        server.way_back = way_back
        server.failed = False
    elif not server.way_back.note(words):
        return False
    server.went_back = True
    return True


cdef int forget_undone(Server server) except -1:
    """An error has taken back what the texts did, or nearly all of it."""
    if server.way_back is not None and server.way_back.ended:
        server.way_back.doubtful = True
    else:
        forget_way_back(server)
    return 0


cdef bint must_restore(Server server) except -1:
    """Is there anything to be set again? If not, what was noted of it is forgotten."""
    if server.client.startup is not None and query_of(server):
        return True
    return forget_way_back(server)


cdef bytes query_of(Server server):
    """The Query that sets again what was led back; empty when there is nothing."""
    if server.way_back is None:
        return restoring(server.client.startup)
    return server.way_back.query(in_transaction=server.status == b"T")


cdef bint forget_way_back(Server server) except -1:
    server.went_back = False
    server.way_back = None
    server.failed = False
    server.restores_again = False
    return False


cdef bint restore(Engine engine, Server server) except -1:
    """Rule 6. True: ReadyForQuery is to be kept back, the client gets another."""
    cdef bytes message
    if not must_restore(server):
        return False
    message = query_of(server)
    server.explained = message.count(b"SET ")           # tags that are to come
    note_start(engine, server)
    pending_sent(&server.pending, b"Q")
    replies_push(&server.replies, REPLY_RESTORE, NULL, NULL, NULL)
    server.holding = True                               # what is parsed now is read by which settings?
    engine.forward(server, <const char *>message, len(message))
    return True


cdef bint end_restore(Engine engine, Server server) except -1:
    """ReadyForQuery of `restore` came. True: it is kept back, as the Query is sent once more (rules 5 and 7)."""
    if server.client.followed is not None:
        server.client.followed.moment = None
    server.explained = 0
    if server.failed and server.status == b"I" and not server.restores_again:
        server.failed = False
        if restore(engine, server):
            server.restores_again = True
            return True
    return forget_way_back(server)


cdef int start_restore(Engine engine, Server server) except -1:
    """Rule 6. The client was not given its last ReadyForQuery yet."""
    server.restore_due = False
    server.restores_again = False
    server.reported = []
    if server.failed:                                   # of which message?
        server.way_back = None
    return ask(engine, server, STAGE_RESTORE, query_of(server), PATIENCE_US)


cdef bint restored(Engine engine, Server server) except -1:
    """What the client is told is what holds now (rule 7)."""
    cdef bytes message
    if server.failed and server.status == b"I" and not server.restores_again:
        server.restores_again = True                    # rule 5
        server.reported = [message for message in server.reported if message[:1] != b"E"]
        ask(engine, server, STAGE_RESTORE, query_of(server), PATIENCE_US)
        return False
    forget_way_back(server)
    server.stage = STAGE_NONE
    for message in server.reported:
        if message[:1] == b"S":
            engine.log_parameter(server.client, message)
    message = b"".join(server.reported) + READY + <bytes>(&server.status)[:1]
    server.reported = None
    engine.answer(server.client, message, len(message))
    engine.queue(server.client)
    return False


cdef int start_drain(Engine engine, Server server, bint complete) except -1:
    """The client is gone. Ask for the end of whatever is under way, read what is owed, go on to the next stage.

    complete: it took its leave in order, so statements that it sent before may run to their end, as PostgreSQL would
    have it; but not for ever.
    """
    cdef bint completes = complete and not pending_unsynced(&server.pending) and not server.pending.copy_in
    enter(engine, server, STAGE_DRAIN, PATIENCE_US)
    if server.pending.copy_in:
        end_copy(engine, server)
    if pending_unsynced(&server.pending):
        engine.forward(server, <const char *>SPOIL, len(SPOIL))     # our Sync must not commit what its client did not
    if pending_unsynced(&server.pending) or server.pending.skipping:
        pending_sent(&server.pending, b"S")
        engine.forward(server, <const char *>SYNC, len(SYNC))
    if not server.pending.length:
        return after_drain(engine, server)
    return 0 if completes else cancel(engine, server)


cdef int cancel(Engine engine, Server server) except -1:
    """Have PostgreSQL stop what it runs for nobody, and look soon whether it did (rule 5)."""
    engine.note_deadline(server, now_us() + (CANCEL_US << server.cancels))
    server.cancels += 1
    return engine.request_cancel(server)


cdef bint cancel_again(Engine engine, Server server) except -1:
    """The time of a stage is over. True: what still runs is cancelled (again) and gets more time. A statement that was left
    to complete is cancelled now."""
    if server.cancels >= CANCELS or not (server.stage == STAGE_DRAIN or (server.stage == STAGE_CLOSING and server.cancels)):
        return False
    cancel(engine, server)
    return True


cdef int end_copy(Engine engine, Server server) except -1:
    pending_sent(&server.pending, b"f")
    engine.forward(server, <const char *>COPY_FAIL, len(COPY_FAIL))
    return 0


cdef int after_drain(Engine engine, Server server) except -1:
    server.makes = server.altered = False
    server.description = 0
    if server.changes:
        spread_change(engine, server)
    if server.status != b"I":
        return ask(engine, server, STAGE_ROLLBACK, ROLLBACK, PATIENCE_US)
    return start_clean(engine, server)


cdef int start_clean(Engine engine, Server server) except -1:
    """Remove what the client left, if anything; then the server is fit for the next."""
    cdef uint32_t dirt = server.dirt
    server.dirt = 0
    if dirt & DIRT_CONNECTED:
        return engine.close_server(server, True)
    if dirt & DIRT_CREATED:
        dirt |= DIRT_TEMPORARY
    if not dirt:
        server.stage = STAGE_NONE
        return engine.ready_again(server)
    if dirt & (DIRT_SETTINGS | DIRT_EVERYTHING):
        dirt |= DIRT_PLANS if server.row.plans_digest else 0
        server.row.parameter_digest = server.row.plans_digest = 0
    if dirt & (DIRT_STATEMENTS | DIRT_EVERYTHING):
        set_clear(engine.table, server.slot)
    if dirt & DIRT_EVERYTHING:
        return ask(engine, server, STAGE_CLEAN, DISCARD_ALL, PATIENCE_US)
    return ask(engine, server, STAGE_CLEAN, CLEANER_OF[dirt & 63 | (64 if dirt & DIRT_PLANS else 0)], PATIENCE_US)


# --- what the server says meanwhile ----------------------------------------------------------------------------------

cdef inline uint32_t read_length(const char *at) noexcept nogil:
    cdef const uint8_t *b = <const uint8_t *>at
    return <uint32_t>b[0] << 24 | <uint32_t>b[1] << 16 | <uint32_t>b[2] << 8 | b[3]


cdef Py_ssize_t feed_quiet(Engine engine, Server server, const char *data, Py_ssize_t length) except -2:
    """Take what a server sent in any stage but NONE. Returns how many bytes are dealt with, -1 when it is gone."""
    cdef Py_ssize_t at = <Py_ssize_t>min(server.body_left, <uint64_t>length)
    cdef Py_ssize_t total, here
    cdef uint32_t size
    cdef bint held
    server.body_left -= at
    while length - at >= 5:
        size = read_length(data + at + 1)
        if size < 4 or size > MAX_SERVER_MESSAGE or (data[at] == b"Z" and size != 5):
            engine.lose_server(server)
            return -1
        total = <Py_ssize_t>size + 1
        here = min(total, length - at)
        held = data[at] == b"Z" or data[at] == b"S" or data[at] == b"E" or data[at] == b"C" or (
            server.stage == STAGE_RESTORE and data[at] == b"A")
        if held and here < total and total <= HOLD:
            break
        if here < total and server.reported is not None and (data[at] == b"S" or data[at] == b"E" or data[at] == b"A"):
            engine.lose_server(server)              # it is to be told as a whole
            return -1
        server.body_left = total - here
        if heed(engine, server, data + at, here, length - at - here):
            return -1
        at += here
        if server.stage == STAGE_NONE:
            break
    if server.stage == STAGE_LISTEN and at == length and not server.body_left:
        server.stage = STAGE_NONE
        engine.ready_again(server)
    return at


cdef bint heed(Engine engine, Server server, const char *message, Py_ssize_t length, Py_ssize_t more) except -1:
    """One message, `more` bytes behind it. True when the server was given up."""
    cdef char kind = message[0]
    if kind == b"Z":                                # ReadyForQuery
        server.status = message[5]
        if not pending_ready(&server.pending) or server.pending.doubtful:
            return give_up(engine, server)
        if not server.pending.length and not server.pending.skipping:
            return stage_done(engine, server, more)
    elif kind == b"E":                              # ErrorResponse
        if server.failed and (server.stage == STAGE_SYNC or server.stage == STAGE_RESTORE):
            return give_up_reports(engine, server)
        pending_error(&server.pending)
        server.failed = True
        if server.stage == STAGE_LISTEN:
            return give_up(engine, server)
        if server.stage == STAGE_SYNC or server.stage == STAGE_RESTORE:
            server.reported.append(message[:length])
    elif kind == b"S" and server.stage == STAGE_SYNC:     # ParameterStatus
        server.reported.append(message[:length])
    elif (kind == b"S" or kind == b"A") and server.stage == STAGE_RESTORE:      # likewise, NotificationResponse
        server.reported.append(message[:length])
    elif (kind == b"S" or kind == b"C") and server.stage == STAGE_DRAIN:
        if kind == b"C" and server.pending.copying:
            pending_copied(&server.pending)
        note_late(engine, server, message, length)
    elif kind == b"T" and server.stage == STAGE_DRAIN:    # RowDescription
        server.description = kind
    elif kind == b"G" and server.stage == STAGE_DRAIN:    # CopyInResponse
        pending_copy_in(&server.pending)
        end_copy(engine, server)
        if pending_unsynced(&server.pending):
            pending_sent(&server.pending, b"S")
            engine.forward(server, <const char *>SYNC, len(SYNC))
    return False


cdef int note_late(Engine engine, Server server, const char *message, Py_ssize_t length) except -1:
    """What a client that is gone leaves behind even now: its last statements run to their end."""
    cdef uint32_t dirt = server.dirt
    if message[0] == b"S":                          # ParameterStatus
        server.dirt |= DIRT_SETTINGS
    else:                                           # CommandComplete
        note_tag(server, message + 5, length - 5)
        server.description = 0
        if forgets(message + 5, length - 5):
            set_clear(engine.table, server.slot)
    if not engine.table.pools[server.row.pool].cleanup:
        server.dirt = dirt
    return 0


cdef bint stage_done(Engine engine, Server server, Py_ssize_t more) except -1:
    """The last ReadyForQuery of a stage came. Bytes behind it are nobody's: such a server is not lent."""
    cdef int stage = server.stage
    if more and stage != STAGE_RESTORE:
        return give_up(engine, server)
    if stage == STAGE_DRAIN:
        after_drain(engine, server)
    elif stage == STAGE_SYNC:
        server.stage = STAGE_NONE
        engine.synced(server)
    elif stage == STAGE_RESTORE:
        return restored(engine, server)
    elif server.failed and server.cancels and (stage == STAGE_ROLLBACK or stage == STAGE_CLEAN):
        server.cancels = 0                              # rule 5
        if stage == STAGE_CLEAN:
            server.dirt = DIRT_EVERYTHING
        after_drain(engine, server)
    elif server.failed or server.status != b"I":
        return give_up(engine, server)
    elif stage == STAGE_PROBE:
        server.row.to_check = 0
        server.stage = STAGE_NONE
        engine.serve(server.client)
    elif stage == STAGE_ROLLBACK:
        start_clean(engine, server)
    elif stage == STAGE_CLEAN:
        server.stage = STAGE_NONE
        engine.ready_again(server)
    return server.closed or server.stage == STAGE_CLOSING


cdef bint give_up_reports(Engine engine, Server server) except -1:
    """It cannot tell a value in its client's encoding: PostgreSQL tries that for ever instead of being ready."""
    if server.stage == STAGE_SYNC:
        server.stage = STAGE_NONE
        engine.synced(server)
        return True
    return give_up(engine, server)


cdef bint give_up(Engine engine, Server server) except -1:
    """Rule 3."""
    engine.lose_server(server)
    return True
