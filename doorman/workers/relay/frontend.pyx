"""Bytes from a logged-in client: frames them, decides which need a server, forwards runs of them in one write.

Rules
1. A message of up to HOLD bytes is forwarded whole or not at all; a larger one streams and keeps its server until its
   last byte has been forwarded.
2. What the server will answer is noted (`pending`) for each message before it is forwarded.
3. Without a server only what needs none is answered or dropped here; everything else waits for one (`Engine.attach`).
4. After an error of ours inside a batch nothing of that batch reaches any server (`skip_to_sync`).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from doorman.workers.relay.engine cimport (
    DIRT_STATEMENTS,
    HOLD,
    MAX_MESSAGE,
    STAGE_NONE,
    Client,
    Engine,
    Server,
)
from doorman.workers.relay.pending cimport Pending, pending_sent

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

cdef bytes READY_IDLE = b"Z\x00\x00\x00\x05I"


cdef inline uint32_t read_length(const char *at) noexcept nogil:
    """A message's length field: big-endian, counts itself."""
    cdef const uint8_t *b = <const uint8_t *>at
    return <uint32_t>b[0] << 24 | <uint32_t>b[1] << 16 | <uint32_t>b[2] << 8 | b[3]


cdef Py_ssize_t feed_client(Engine engine, Client client, const char *data, Py_ssize_t length) except -2:
    """Take what the client sent. Returns how many bytes are dealt with (the rest is to be offered again), or -1 when
    the client is gone."""
    cdef Py_ssize_t at = go_on_with_body(client, length)
    cdef Py_ssize_t start = 0 if client.server is not None else at
    cdef Py_ssize_t total, here
    cdef uint32_t size
    cdef char kind
    while length - at >= 5:
        kind = data[at]
        size = read_length(data + at + 1)
        if size < 4 or size > MAX_MESSAGE or NEEDS[<uint8_t>kind] == NEED_UNKNOWN:
            if at > start:                      # noted as sent: the server must get it, or it would owe it for ever
                engine.forward(client.server, data + start, at - start)
            return violate(engine, client, kind, size)
        total = <Py_ssize_t>size + 1
        here = min(total, length - at)
        if here < total and total <= HOLD:
            break
        if kind == b"X":                        # Terminate
            if at > start:
                engine.forward(client.server, data + start, at - start)
            client.took_leave = True
            engine.end_client(client)
            return -1
        if client.server is None:
            if needs_no_server(engine, client, kind):
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
        note_sent(client.server, kind, size > 4 and (here <= 5 or data[at + 5] != 0), engine.now)
        client.body_left = total - here
        at += here
    if at > start:
        engine.forward(client.server, data + start, at - start)
    return at


cdef Py_ssize_t go_on_with_body(Client client, Py_ssize_t length) noexcept:
    """How many of these bytes belong to the large message under way."""
    cdef Py_ssize_t part = <Py_ssize_t>min(client.body_left, <uint64_t>length)
    client.body_left -= part
    if not client.body_left:
        client.dropping = False
    return part


cdef bint needs_no_server(Engine engine, Client client, char kind) except -1:
    """True when a message that came without a server is dropped or answered here."""
    if client.skip_to_sync:
        if kind == b"S":                        # Sync
            client.skip_to_sync = False
            engine.answer(client, <const char *>READY_IDLE, len(READY_IDLE))
        return True
    return NEEDS[<uint8_t>kind] == NEED_NOTHING


cdef int note_sent(Server server, char kind, bint named, int64_t now) except -1:
    """Rule 2, and the clock of the statement."""
    if not server.pending.length:
        server.started = now
        if server.status == b"I":
            server.transaction_started = server.started
        server.row.running = 1
    pending_sent(&server.pending, kind)
    if kind == b"P" and named:                  # Parse of a named statement
        server.dirt |= DIRT_STATEMENTS
    return 0


cdef Py_ssize_t violate(Engine engine, Client client, char kind, uint32_t size) except -2:
    """The stream cannot be framed any more: only this connection ends."""
    if NEEDS[<uint8_t>kind] == NEED_UNKNOWN:
        engine.refuse(client, "FATAL", "08P01", f"invalid frontend message type {<uint8_t>kind}")
    else:
        engine.refuse(client, "FATAL", "08P01", f"invalid message length {size} of message type {chr(kind)}")
    return -1
