"""Bytes from a server that serves a client: notes what matters, passes everything on, sees when it may be parted with.

Rules
1. Every byte goes to the client in the order in which it came; nothing is added and nothing kept back (but see rule 6 of
   upkeep).
2. Messages that change what we know (ReadyForQuery, CommandComplete, errors, parameters, COPY) are looked at when they
   are whole; all others stream through.
3. A server is parted from its client only when it is idle (ReadyForQuery I), owes nothing, and no message is half
   forwarded in either direction (`may_part`). It is given back before the client is written to: a slow reader costs
   the pool nothing.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from doorman.shm.atomics cimport add32
from doorman.shm.counters cimport count_error, count_time
from doorman.shm.layout cimport CounterRow
from doorman.workers.relay.answers cimport feed_answers
from doorman.workers.relay.buffer cimport buffer_length
from doorman.workers.relay.engine cimport (
    DIRT_CONNECTED,
    DIRT_CREATED,
    DIRT_CURSORS,
    DIRT_EVERYTHING,
    DIRT_LISTEN,
    DIRT_NAMED,
    DIRT_PLANS,
    DIRT_SETTINGS,
    DIRT_STATEMENTS,
    DIRT_TEMPORARY,
    HOLD,
    STAGE_NONE,
    Client,
    Engine,
    Server,
)
from doorman.workers.relay.pending cimport pending_copied, pending_copy_in, pending_error, pending_head_is_query, pending_ready
from doorman.workers.relay.upkeep cimport must_restore, start_restore

cdef enum:
    MAX_SERVER_MESSAGE = 1_073_741_824      # PostgreSQL's own limit for one message
    DROPPED = 1                             # Server.drops_types;
    UNDROPPED = 2                           # a ROLLBACK came behind it: of all, if it was the transaction's end

cdef uint8_t[256] NOTED                     # message types that rule 2 looks at
for _letter in tuple(b"ZCESGWATn"):
    NOTED[_letter] = 1


cdef inline uint32_t read_length(const char *at) noexcept nogil:
    cdef const uint8_t *b = <const uint8_t *>at
    return <uint32_t>b[0] << 24 | <uint32_t>b[1] << 16 | <uint32_t>b[2] << 8 | b[3]


cdef Py_ssize_t feed_server(Engine engine, Server server, const char *data, Py_ssize_t length) except -2:
    """Take what a server sent to its client. Returns how many bytes are dealt with, or -1 when the server is gone."""
    cdef Client client = server.client
    cdef Py_ssize_t at = <Py_ssize_t>min(server.body_left, <uint64_t>length)
    cdef Py_ssize_t total, here
    cdef uint32_t size
    if client.follows:
        return feed_answers(engine, server, data, length)
    server.body_left -= at
    if server.streaming and not server.body_left:
        end_stream(server, client.counters, False)
    while length - at >= 5:
        size = read_length(data + at + 1)
        if size < 4 or size > MAX_SERVER_MESSAGE or (data[at] == b"Z" and size != 5):
            engine.answer(client, data, at)
            engine.lose_server(server)
            return -1
        total = <Py_ssize_t>size + 1
        here = min(total, length - at)
        if NOTED[<uint8_t>data[at]]:
            if here < total and total <= HOLD:
                break
            take_note(server, data + at, here, engine.now)
            if data[at] == b"S":
                engine.log_parameter(client, data[at : at + here])
            if data[at] == b"Z" and is_settled(server):
                spread_change(engine, server)
            if data[at] == b"Z" and may_restore(server, client) and must_restore(server):
                engine.answer(client, data, at)
                if buffer_length(&client.outb):             # it reads slowly, which would hold up the answer to ours as well
                    server.restore_due = True
                else:
                    start_restore(engine, server)
                return at + here                            # a notification behind it waits for what comes now
        server.body_left = total - here
        if here < total and total > HOLD:
            note_stream(server, data[at], total)
        at += here
    engine.answer(client, data, at)
    return at


cdef bint is_settled(Server server) noexcept:
    """Has a transaction changed what others' texts mean, for good?"""
    return server.changes and (server.status == b"I" or server.lasts)


cdef bint may_restore(Server server, Client client) noexcept:
    """Has the client gone back to the server's own settings, where it had asked for others at startup?"""
    return (
        server.went_back and client.startup is not None and server.status != b"E"
        and is_quiet(server) and not client.body_left
    )


cdef bint is_quiet(Server server) noexcept:
    """Nothing owed, nothing unread, nothing unsent as far as the protocol goes."""
    return (
        not server.pending.length
        and not server.replies.length
        and not server.pending.copy_in
        and not server.pending.skipping
        and not server.body_left
        and not buffer_length(&server.outb)
    )


cdef bint is_amid_message(Server server) noexcept:
    """Has its client got half a message?"""
    return server.body_left > 0 and not server.keeps_back and server.stage == STAGE_NONE


cdef bint may_part(Server server, Client client) noexcept:
    """Rule 3. In session mode the client keeps its server: it may be at rest all the same."""
    return not client.session_mode and is_at_rest(server, client)


cdef bint is_at_rest(Server server, Client client) noexcept:
    """No transaction is open, and everything that was asked for is answered."""
    return (
        server.status == b"I" and is_quiet(server) and not client.body_left
        and not server.pending.doubtful and not server.said_fatal
    )


cdef int take_note(Server server, const char *message, Py_ssize_t length, int64_t now) except -1:
    cdef char kind = message[0]
    if kind == b"Z":                                # ReadyForQuery
        note_ready(server, message[5], now)
    elif kind == b"C":                              # CommandComplete
        if server.pending.copying:
            pending_copied(&server.pending)
        note_tag(server, message + 5, length - 5)
        server.description = 0
    elif kind == b"E":                              # ErrorResponse
        pending_error(&server.pending)
        server.description = 0
        server.failed = True
        server.temporary = 0                        # of which of them is not known: what is made is taken for everybody's
        server.client.row.errors += 1
        server.said_fatal = note_error(server.client.counters, message + 5, length - 5)
    elif kind == b"S":                              # ParameterStatus: some setting of the session changed
        server.dirt |= DIRT_SETTINGS
    elif kind == b"T" or kind == b"n":              # RowDescription, NoData
        server.description = kind
    elif kind == b"G":                              # CopyInResponse
        pending_copy_in(&server.pending)
    elif kind == b"W":                              # CopyBothResponse: replication, which is not for pools
        server.pending.doubtful = True
    elif kind == b"A":                              # NotificationResponse
        server.dirt |= DIRT_LISTEN
    return 0


cdef int spread_change(Engine engine, Server server) except -1:
    """A transaction with DDL in it is over: all servers of its database prepare anew. Before its client hears of it. On other
    hosts too: they may be replicas."""
    cdef int pool
    cdef uint32_t catalog = engine.table.pools[server.row.pool].catalog
    cdef bint drops_types = server.drops_types == DROPPED or (server.drops_types and server.status != b"I")
    server.changes = server.lasts = False
    server.drops_types = 0
    for pool in range(<int>engine.table.header.n_pools):
        if engine.table.pools[pool].catalog == catalog:
            add32(&engine.table.pools[pool].statement_epoch, 1)
            if drops_types:                             # functions in PL/pgSQL keep their variables' types, while the session lasts
                engine.retire(pool)
    return 0


cdef void note_ready(Server server, char status, int64_t now) noexcept:
    cdef CounterRow *counters = server.client.counters
    server.status = status
    server.description = 0
    if status != b"I" and status != b"T" and status != b"E":
        server.pending.doubtful = True
    if not pending_ready(&server.pending):
        return
    counters.queries += 1
    counters.query_time += now - server.started
    count_time(counters.query_histogram, now - server.started)
    server.row.queries += 1
    server.client.row.queries += 1
    server.started = now
    server.row.running = server.pending.length > 0
    server.makes = server.makes and (server.replies.length > 0 or server.pending.length > 0)
    if status == b"I":
        if server.client.session_mode:
            pass                                        # what it has set stays set
        elif server.replies.length <= 1:
            server.local_planner = 0
            server.unexplained = False
        elif server.local_planner:
            server.unexplained = True                   # of this transaction, or of one that is under way already
        counters.transactions += 1
        counters.transaction_time += now - server.transaction_started
        count_time(counters.transaction_histogram, now - server.transaction_started)
        server.row.transactions += 1
        server.client.row.transactions += 1
        server.transaction_started = now


cdef bint note_error(CounterRow *counters, const char *fields, Py_ssize_t length) noexcept:
    """Count an ErrorResponse by its SQLSTATE (field C). True when it says that the connection ends: field V (which is
    not translated) is FATAL or PANIC."""
    cdef const char *sqlstate = b"     "
    cdef bint fatal = False
    cdef Py_ssize_t at = 0
    while at < length and fields[at]:
        if fields[at] == b"V" and length - at > 6:
            fatal = memcmp(fields + at + 1, b"FATAL", 5) == 0 or memcmp(fields + at + 1, b"PANIC", 5) == 0
        elif fields[at] == b"C" and length - at > 6:
            sqlstate = fields + at + 1
        while at < length and fields[at]:
            at += 1
        at += 1
    count_error(counters, sqlstate)
    return fatal


cdef void note_stream(Server server, char kind, Py_ssize_t total) noexcept:
    """A message that is passed on in pieces begins (DataRow, CopyData or FunctionCallResponse)."""
    if kind == b"D":
        server.streaming = 1
    elif kind == b"d":
        server.streaming = 2
    elif kind == b"V":
        server.streaming = 3
    else:
        return
    server.stream_bytes = total
    server.stream_moved = 0


cdef void end_stream(Server server, CounterRow *counters, bint failed) noexcept:
    """It is over. Of one that failed the bytes that never came are not counted."""
    if failed:
        counters.streams_failed[server.streaming - 1] += 1
    else:
        counters.streams[server.streaming - 1] += 1
    counters.streamed_bytes[server.streaming - 1] += server.stream_bytes - server.body_left
    server.streaming = 0


cdef bint forgets(const char *tag, Py_ssize_t length) noexcept:
    """DEALLOCATE ALL and DISCARD ALL: the server has no prepared statement left."""
    return (
        (length >= 12 and memcmp(tag, b"DISCARD ALL\x00", 12) == 0)
        or (length >= 15 and memcmp(tag, b"DEALLOCATE ALL\x00", 15) == 0)
    )


cdef struct Tag:
    const char *text
    Py_ssize_t length
    uint32_t dirt

cdef enum:
    TAG_RESET = 1                   # its place in TAGS
    TAG_DO = 6
    TAG_EXPLAIN = 7
    TAG_IMPORT = 8
    N_TAGS = 9

cdef Tag[N_TAGS] TAGS
TAGS[0] = Tag(b"SET\x00", 4, DIRT_SETTINGS)
TAGS[1] = Tag(b"RESET\x00", 6, DIRT_SETTINGS)
TAGS[2] = Tag(b"PREPARE\x00", 8, DIRT_STATEMENTS | DIRT_NAMED)
TAGS[3] = Tag(b"DECLARE CURSOR\x00", 15, DIRT_CURSORS)
TAGS[4] = Tag(b"LISTEN\x00", 7, DIRT_LISTEN)
TAGS[5] = Tag(b"CREATE ", 7, DIRT_CREATED)
TAGS[6] = Tag(b"DO\x00", 3, DIRT_EVERYTHING)
TAGS[7] = Tag(b"EXPLAIN\x00", 8, 0)
TAGS[8] = Tag(b"IMPORT FOREIGN SCHEMA\x00", 22, 0)


# Objects that no text is read otherwise for when they are made, changed or dropped; PostgreSQL itself sees to rules.
cdef tuple HARMLESS_WORDS = (
    b"INDEX", b"USER MAPPING", b"DATABASE", b"TABLESPACE", b"TRIGGER", b"EVENT TRIGGER", b"POLICY", b"RULE",
    b"STATISTICS", b"PUBLICATION", b"SUBSCRIPTION", b"SERVER", b"FOREIGN DATA WRAPPER", b"ACCESS METHOD", b"LANGUAGE",
    b"DEFAULT PRIVILEGES", b"SYSTEM", b"LARGE OBJECT", b"TRANSFORM", b"CONVERSION",
)

cdef enum:
    N_HARMLESS = 20

cdef Tag[N_HARMLESS] HARMLESS
for _at in range(N_HARMLESS):
    HARMLESS[_at] = Tag(<bytes>HARMLESS_WORDS[_at], len(HARMLESS_WORDS[_at]), 0)


cdef void note_change(Server server, const char *tag, Py_ssize_t length) noexcept:
    """DDL behind which a text may mean something else, or nothing (rule 1 of heal). What is temporary is seen by its client
    alone, who shares nothing that it parses behind it."""
    cdef const char *what = <const char *>memchr(tag, 32, length)
    cdef bint standing = server.client is not None and server.client.standing_dirt != 0
    cdef int i
    if what == NULL or not (
        (length > 6 and memcmp(tag, b"ALTER ", 6) == 0) or (length > 7 and memcmp(tag, b"CREATE ", 7) == 0)
        or (length > 5 and memcmp(tag, b"DROP ", 5) == 0)
    ):
        return
    what += 1
    length -= what - tag
    for i in range(N_HARMLESS):
        if length > HARMLESS[i].length and memcmp(what, HARMLESS[i].text, HARMLESS[i].length) == 0:
            return
    if tag[0] == b"C" and server.temporary and not standing:
        server.temporary -= 1
    elif tag[0] == b"D" and server.dirt & DIRT_TEMPORARY and not standing and length >= 6 and memcmp(what, b"TABLE", 6) == 0:
        server.unexplained = True                               # the temporary one, mostly: what it has hidden is seen again
    else:
        server.changes = server.altered = True
        if tag[0] == b"D" and length >= 5 and (memcmp(what, b"TYPE", 5) == 0 or memcmp(what, b"DOMAIN", min(length, 7)) == 0):
            server.drops_types = DROPPED


cdef void note_select(Server server) noexcept:
    """CREATE TABLE … AS and SELECT … INTO have a SELECT's tag, but return no rows."""
    if server.makes or server.description == b"n" or (not server.description and pending_head_is_query(&server.pending)):
        if server.temporary and not (server.client is not None and server.client.standing_dirt):
            server.temporary -= 1
        else:
            server.changes = server.altered = True


cdef void note_tag(Server server, const char *tag, Py_ssize_t length) noexcept:
    """What a command may have left in the session, by its tag. SELECT, INSERT and kin leave nothing that a tag shows."""
    cdef int i
    if length < 1:
        return
    if tag[0] == b"S" and (length < 4 or tag[2] != b"T"):       # SELECT, SAVEPOINT, START: the most frequent by far
        if length > 7 and tag[2] == b"L":
            note_select(server)
        return
    if length >= 12 and memcmp(tag, b"DISCARD ALL\x00", 12) == 0:
        if server.pending.length <= 1 and server.replies.length <= 1:   # else more was sent behind it already
            server.dirt &= DIRT_EVERYTHING | DIRT_CONNECTED
        server.row.parameter_digest = server.row.plans_digest = 0
        server.went_back = True
        return
    if (length >= 9 and memcmp(tag, b"ROLLBACK\x00", 9) == 0) or (length >= 7 and memcmp(tag, b"COMMIT\x00", 7) == 0):
        server.unexplained |= server.local_planner != 0         # part of what was set is not any more
        server.altered |= server.changes                        # nor is part of what was changed
        server.lasts |= server.changes and tag[0] == b"C"       # but the rest is there for all: the next may be chained to it
        if server.drops_types:
            server.drops_types = DROPPED if tag[0] == b"C" else UNDROPPED
        return
    if length > 4 and (tag[1] == b"L" or tag[1] == b"R"):           # ALTER, DROP, CREATE
        note_change(server, tag, length)
    for i in range(N_TAGS):
        if length >= TAGS[i].length and tag[0] == TAGS[i].text[0] and memcmp(tag, TAGS[i].text, TAGS[i].length) == 0:
            server.dirt |= TAGS[i].dirt
            if i <= TAG_RESET and server.client is not None and not server.client.renames:
                server.dirt |= DIRT_PLANS                       # whether it matters to plans is not looked at
            if i == TAG_RESET:
                server.went_back = True
            if i == TAG_DO:
                server.unexplained = True
            if i == TAG_EXPLAIN and server.temporary:
                server.temporary -= 1                           # perhaps: what is made is taken for everybody's, then
            if i >= TAG_DO:
                if server.makes or i == TAG_IMPORT:
                    server.changes = server.altered = True
            elif i <= TAG_RESET:
                if server.explained:
                    server.explained -= 1
                else:
                    server.unexplained = True
            return
