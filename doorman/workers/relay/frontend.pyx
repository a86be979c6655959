"""Bytes from a logged-in client: frames them, decides which need a server, forwards runs of them in one write.

Rules
1. A message of up to HOLD bytes is forwarded whole or not at all; a larger one streams and keeps its server until its
   last byte has been forwarded.
2. What the server will answer is noted (`pending`) for each message before it is forwarded.
3. Without a server only what needs none is answered or dropped here; everything else waits for one (`Engine.attach`).
4. After an error of ours inside a batch nothing of that batch reaches any server (`skip_to_sync`).
5. What PostgreSQL takes only up to SMALL_MESSAGE bytes is refused here beyond that: it would end its connection. So such
   messages are always whole when they are looked at.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr

from doorman.workers.relay.batch cimport take_batch
from doorman.workers.relay.engine cimport (
    DIRT_CONNECTED,
    DIRT_STATEMENTS,
    HOLD,
    MAX_MESSAGE,
    STAGE_NONE,
    Client,
    Engine,
    Server,
)
from doorman.workers.relay.heal cimport remember_sent
from doorman.workers.relay.local cimport answer_here, begin_now, is_check, ready
from doorman.workers.relay.outgoing cimport Outgoing, outgoing_add, outgoing_free
from doorman.workers.relay.pending cimport pending_sent
from doorman.workers.relay.rename cimport STEP_CUT, STEP_HOLD, STEP_HOLD_CUT, STEP_PASS, rename
from doorman.workers.relay.sql_names cimport lend_names, note_executed, speaks_of_names
from doorman.workers.relay.traces cimport does_change, leads_back, makes_from_query, may_set, text_of_parse, traces_of
from doorman.workers.relay.upkeep cimport note_way_back

cdef enum Need:                 # what a message type needs when the client has no server
    NEED_UNKNOWN = 0            # no message type of the frontend
    NEED_SERVER = 1
    NEED_NOTHING = 2            # left over from a COPY that failed, or a Flush with nothing to flush: PostgreSQL ignores it
    NEED_GOODBYE = 3            # Terminate

cdef uint8_t[256] NEEDS
for _letter in tuple(b"QPBDECSF"):     # Query Parse Bind Describe Execute Close Sync FunctionCall
    NEEDS[_letter] = NEED_SERVER
for _letter in tuple(b"dcfH"):         # CopyData CopyDone CopyFail Flush
    NEEDS[_letter] = NEED_NOTHING
NEEDS[88] = NEED_GOODBYE        # X: Terminate

cdef enum:
    LARGE = 16_384              # a run of this size is written by itself rather than copied
    SMALL_MESSAGE = 10_000      # PostgreSQL's PQ_SMALL_MESSAGE_LIMIT

cdef uint32_t[256] MOST         # that a message's length field may say; 0: no message type of the frontend
for _letter in tuple(b"QPBFd"):
    MOST[_letter] = MAX_MESSAGE
for _letter in tuple(b"DCEHScfX"):
    MOST[_letter] = SMALL_MESSAGE


cdef inline uint32_t read_length(const char *at) noexcept nogil:
    """A message's length field: big-endian, counts itself."""
    cdef const uint8_t *b = <const uint8_t *>at
    return <uint32_t>b[0] << 24 | <uint32_t>b[1] << 16 | <uint32_t>b[2] << 8 | b[3]


cdef Py_ssize_t feed_client(Engine engine, Client client, const char *data, Py_ssize_t length) except -2:
    """Take what the client sent. Returns how many bytes are dealt with (the rest is to be offered again), or -1 when
    the client is gone."""
    cdef Py_ssize_t at = <Py_ssize_t>min(client.body_left, <uint64_t>length)
    cdef Py_ssize_t start = 0 if client.server is not None and not client.dropping else at
    cdef Py_ssize_t gathered = <Py_ssize_t>client.gathering     # the first message is that; counted until it is dealt with
    cdef Py_ssize_t total, here
    cdef uint32_t size
    cdef char kind
    cdef int step
    client.body_left -= at
    if not client.body_left:
        client.dropping = False
    while length - at >= 5:
        if gathered and at >= gathered:
            end_gathering(engine, client)
            gathered = 0
        kind = data[at]
        size = read_length(data + at + 1)
        if size < 4 or size > MOST[<uint8_t>kind]:
            send_noted(engine, client, data + start, at - start)
            return violate(engine, client, kind, size)
        total = <Py_ssize_t>size + 1
        here = min(total, length - at)
        if here < total and total <= HOLD:
            break
        if here < total and kind == b"B" and client.renames and not has_names(data + at, here):
            break
        if here < total and must_be_whole(client, kind):
            if start_gathering(engine, client, total):
                break
            send_noted(engine, client, data + start, at - start)
            client.lingers = True                   # most of it is still to come
            engine.refuse(client, "FATAL", "53200", "pg_doorman has no memory for a statement of this size "
                          "(max_memory_usage)")
            return -1
        if kind == b"X":                        # Terminate
            send_noted(engine, client, data + start, at - start)
            client.took_leave = True
            engine.end_client(client)
            return -1
        if client.server is None:
            if needs_no_server(engine, client, kind, data + at, here if here == total else 0):
                client.body_left = total - here
                client.dropping = client.body_left > 0
                at += here
                start = at
                continue
            client.extended = kind != b"Q" and kind != b"F"
            if not engine.attach(client):
                break
        if client.server.stage != STAGE_NONE:
            break
        if client.follows:
            if client.server.holding:
                break
            if start == at and client.renames and (kind == b"B" or kind == b"P"):
                here = take_batch(engine, client, client.server, data + at, length - at)
                if here:
                    at += here
                    start = at
                    continue
                here = min(total, length - at)
            step = follow(engine, client, data + start, at - start, data + at, here, total)
            if step == STEP_HOLD:
                break
            if step == STEP_HOLD_CUT:
                start = at
                break
            if step == STEP_CUT:
                start = at + here
        else:
            note_sent(client.server, data + at, here, total, engine.now)
        client.body_left = total - here
        client.sending = kind
        client.dropping = client.dropping and client.body_left > 0
        at += here
    if gathered and at >= gathered:
        end_gathering(engine, client)
    send_noted(engine, client, data + start, at - start)
    return at


cdef bint has_names(const char *bind, Py_ssize_t here) noexcept:
    """Have both names of a large Bind come? If they do not fit HOLD bytes, no statement is called so."""
    cdef const char *end
    if here >= HOLD:
        return True
    end = <const char *>memchr(bind + 5, 0, here - 5)
    return end != NULL and memchr(end + 1, 0, bind + here - end - 1) != NULL


cdef int send_noted(Engine engine, Client client, const char *run, Py_ssize_t length) except -1:
    """Whatever way `feed_client` is left: what was noted as sent must reach its server, which would owe it for ever; and
    what was put together must not be there when the next client is dealt with."""
    return send_on(engine, client.server, run, length) if length or engine.to_server.length else 0


cdef int follow(
    Engine engine, Client client, const char *run, Py_ssize_t run_length,
    const char *message, Py_ssize_t here, Py_ssize_t total,
) except -1:
    """A message of a client in transaction mode whose server is there."""
    cdef Server server = client.server
    if client.begin is not None:
        begin_now(engine, client, server)
    server.capture = None                               # only a check query by itself is remembered
    if message[0] == b"Q" and here == total:
        if not server.replies.length and server.status == b"I" and is_check(client, message, total):
            server.capture = bytearray()
            client.counters.checks_sent += 1
        elif (
            (client.names is not None or server.lent is not None or (server.touchy and server.replies.synced))
            and not message[total - 1] and not server.pending.skipping and not server.pending.copy_in
            and not server.replies.broken and speaks_of_names(message + 5)
        ):
            if server.replies.synced:                   # which state and which names will it meet?
                server.holding = True
                return STEP_HOLD
            outgoing_add(&engine.to_server, run, run_length)
            names = lend_names(engine, client, server, message[5 : total - 1])
            if rename(engine, client, server, message, 0, message, here, total) == STEP_PASS:
                outgoing_add(&engine.to_server, message, total)
            note_executed(engine, client, server, names, True)
            return STEP_CUT
    return rename(engine, client, server, run, run_length, message, here, total)


cdef int send_on(Engine engine, Server server, const char *run, Py_ssize_t length) except -1:
    """Write what was put together, and the run behind it."""
    cdef Outgoing *out = &engine.to_server
    if server.replaying and not server.replay_sealed:
        if out.length > server.replay_from:
            remember_sent(server, out.data + server.replay_from, out.length - server.replay_from)
        if server.replaying:
            remember_sent(server, run, length)
        server.replay_from = 0
    if not out.length:
        return engine.forward(server, run, length)
    if length < LARGE:
        outgoing_add(out, run, length)
        length = 0
    engine.forward(server, out.data, out.length)
    outgoing_free(out)
    return engine.forward(server, run, length) if length else 0


cdef bint must_be_whole(Client client, char kind) noexcept:
    """A large Parse is not streamed: its text names it."""
    return kind == b"P" and client.renames and not client.skip_to_sync


cdef bint start_gathering(Engine engine, Client client, Py_ssize_t total) noexcept:
    """Gather it, within the limit of all processes together: False when there is no memory for it."""
    cdef uint32_t process
    cdef uint64_t gathered = total
    if not client.gathering:
        for process in range(engine.table.header.n_processes):
            gathered += engine.table.process_counters[process].gathered
        if gathered > engine.gather_limit:
            return False
        client.gathering = total
        engine.table.process_counters[engine.table.process].gathered += total
    return True


cdef void end_gathering(Engine engine, Client client) noexcept:
    """It is dealt with, or its client is gone."""
    engine.table.process_counters[engine.table.process].gathered -= client.gathering
    client.gathering = 0


cdef bint needs_no_server(Engine engine, Client client, char kind, const char *message, Py_ssize_t length) except -1:
    """True when a message that came without a server is dropped or answered here. length: 0 when it is not whole."""
    if client.skip_to_sync:
        if kind == b"S":                        # Sync
            client.skip_to_sync = False
            ready(engine, client)
        return True
    if kind == b"Q" and length and client.follows and answer_here(engine, client, message, length):
        return True
    return NEEDS[<uint8_t>kind] == NEED_NOTHING


cdef int note_sent(Server server, const char *message, Py_ssize_t here, Py_ssize_t total, int64_t now) except -1:
    """Rule 2, and the clock of the statement."""
    cdef char kind = message[0]
    cdef const char *text = message + 5
    if not server.pending.length:
        server.started = now
        if server.status == b"I":
            server.transaction_started = server.started
        server.row.running = 1
    pending_sent(&server.pending, kind)
    if kind == b"P":                            # Parse
        if total > 5 and (here <= 5 or message[5]):         # of a named statement
            server.dirt |= DIRT_STATEMENTS
        text = text_of_parse(message, here)
        server.makes |= makes_from_query(text, message + here - text)
    elif kind == b"Q":                          # Query
        server.makes |= does_change(text, message + here - text)
    if kind == b"Q" or kind == b"P":
        note_text(server, text, message + here - text)
    return 0


cdef int note_text(Server server, const char *text, Py_ssize_t length) except -1:
    """What it may leave that is not simply set back, and what it may set back."""
    server.dirt |= traces_of(text, length) & DIRT_CONNECTED
    if server.client.startup is not None and (may_set(text, length) or leads_back(text, length)):
        note_way_back(server, text, length)
    return 0


cdef Py_ssize_t violate(Engine engine, Client client, char kind, uint32_t size) except -2:
    """The stream cannot be framed any more: only this connection ends."""
    if NEEDS[<uint8_t>kind] == NEED_UNKNOWN:
        engine.refuse(client, "FATAL", "08P01", f"invalid frontend message type {<uint8_t>kind}")
    else:
        engine.refuse(client, "FATAL", "08P01", f"invalid message length {size} of message type {chr(kind)}")
    return -1
