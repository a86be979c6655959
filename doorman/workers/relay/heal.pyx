"""After DDL a shared plan can be stale: PostgreSQL refuses to run it ("cached plan must not change result type").

A client whose Parse was answered here has not asked for an old plan; with a direct connection it would have got a new one.

Rules
1. Such an error always ends the sharing: all servers of the pool drop what they have prepared (`statement_epoch`). So does
   DDL of a client that may cause one, by its tag: its own server at once, those of the database's pools when it is done.
2. It is healed, out of the client's sight, only if the statement is the first message of its batch that reached the server,
   no transaction block is open, and the client has been told nothing about the statement: the statement is prepared anew
   and the batch sent again. Nothing of it had run.
3. A client that was told a description gets the error, as from PostgreSQL: it would read new rows with old types.
4. What is sent again is remembered from the statement's first message on, up to a Sync, at most HOLD bytes.
   Behind a Parse or Close of something else it is not healed: those would be undone with it.
5. A statement that the server has no more (a function of somebody's ran DEALLOCATE, which shows in no tag) is like a stale
   one, but of this server alone.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from doorman.shm.atomics cimport add32
from doorman.shm.statements cimport StatementNode, set_find, set_of
from doorman.workers.relay.buffer cimport buffer_append, buffer_length
from doorman.workers.relay.engine cimport HOLD, Client, Engine, Server
from doorman.workers.relay.outgoing cimport outgoing_add, outgoing_free
from doorman.workers.relay.pending cimport pending_error, pending_ready, pending_sent
from doorman.workers.relay.prepare cimport doubt_set, prepare_again
from doorman.workers.relay.replies cimport REPLY_SYNC, replies_at
from doorman.workers.relay.statements cimport Named, Statement

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t length, const void *needle, size_t needle_length)

cdef uint64_t FNV_BASIS = 14695981039346656037
cdef uint64_t FNV_PRIME = 1099511628211
cdef bytes SYNC = b"S\x00\x00\x00\x04"


cdef int watch_for_stale(Engine engine, Server server, Statement statement) except -1:
    """The next message that is put together uses a statement that the server has had before (rule 4)."""
    server.replay.start = 0
    server.replay.end = 0
    server.replaying = True
    server.replay_sealed = False
    server.replay_from = engine.to_server.length
    server.replayed = statement
    return 0


cdef int remember_sent(Server server, const char *data, size_t length) except -1:
    """More of the batch goes out."""
    if buffer_length(&server.replay) + length > HOLD:
        server.replaying = False
        return 0
    return buffer_append(&server.replay, data, length)


cdef int seal(Engine engine, Server server) except -1:
    """The Sync of the batch was put together: what comes later is not part of it."""
    remember_sent(server, engine.to_server.data + server.replay_from, engine.to_server.length - server.replay_from)
    server.replay_sealed = True
    return 0


cdef bint is_stale(const char *fields, Py_ssize_t length) noexcept:
    """Is this ErrorResponse about a plan whose objects have changed? By SQLSTATE and the routine that says so, which are
    not translated."""
    cdef Py_ssize_t at = 0
    cdef bint is_feature = False, is_internal = False, is_revalidation = False, is_lookup = False
    while at < length and fields[at]:
        if fields[at] == b"C" and length - at > 6:
            is_feature = memcmp(fields + at + 1, b"0A000", 5) == 0
            is_internal = memcmp(fields + at + 1, b"XX000", 5) == 0
        elif fields[at] == b"R" and length - at > 22:
            is_revalidation = memcmp(fields + at + 1, b"RevalidateCachedQuery", 21) == 0
        elif fields[at] == b"M" and length - at > 20:
            is_lookup = memcmp(fields + at + 1, b"cache lookup failed", 19) == 0
        while at < length and fields[at]:
            at += 1
        at += 1
    return (is_feature and is_revalidation) or (is_internal and is_lookup)


cdef bint note_unusable(Engine engine, Server server, const char *fields, Py_ssize_t length) except -1:
    """Rules 1 and 5. False: this error is about something else."""
    if is_stale(fields, length):
        note_stale(engine, server)
    elif memmem(fields, length, b"\0C26000\0", 8) != NULL and memmem(fields, length, b"DOORMAN_", 8) != NULL:
        doubt_set(engine, server)
    else:
        return False
    return True


cdef int note_stale(Engine engine, Server server) except -1:
    """Rule 1. The epoch counts on only when this server was prepared under the present one: many finds are one."""
    cdef uint32_t *epoch = &engine.table.pools[server.row.pool].statement_epoch
    if set_of(engine.table, server.slot).epoch == epoch[0]:
        add32(epoch, 1)
    doubt_set(engine, server)
    return 0


cdef bint start_healing(Engine engine, Server server) except -1:
    """An error of a stale plan came. True: nobody is told, and the batch will be sent again (rule 2)."""
    cdef uint32_t n
    cdef bint synced = False
    if not server.replaying or server.pending.doubtful or server.client.body_left:      # half of a message is on its way
        return False
    for n in range(server.replies.length):
        if replies_at(&server.replies, n).kind == REPLY_SYNC:
            if n + 1 < server.replies.length:           # a later batch is under way already
                return False
            synced = True
    pending_error(&server.pending)
    server.healing = True
    server.holding = True
    if not synced:
        pending_sent(&server.pending, b"S")
        engine.forward(server, <const char *>SYNC, len(SYNC))
    return True


cdef int run_again(Engine engine, Server server) except -1:
    """PostgreSQL has skipped to the Sync: prepare the statement anew and send the batch again."""
    cdef size_t at = server.replay.start
    cdef char *data = server.replay.data
    pending_ready(&server.pending)
    server.healing = False
    server.replaying = False
    prepare_again(engine, server, server.replayed)
    while server.replay.end - at >= 5:
        pending_sent(&server.pending, data[at])
        at += 1 + (
            <size_t>(<unsigned char>data[at + 1]) << 24 | <size_t>(<unsigned char>data[at + 2]) << 16
            | <size_t>(<unsigned char>data[at + 3]) << 8 | <unsigned char>data[at + 4]
        )
    outgoing_add(&engine.to_server, data + server.replay.start, buffer_length(&server.replay))
    engine.forward(server, engine.to_server.data, engine.to_server.length)
    outgoing_free(&engine.to_server)
    if not server.replies.synced and not server.announcing:
        server.holding = False
        engine.queue(server.client)
    return 0


cdef uint32_t shape_of(const char *description, Py_ssize_t length) noexcept:
    """What PostgreSQL compares of a RowDescription: names, types and modifiers of the columns. Above 3; NoData is 1."""
    cdef uint64_t shape = FNV_BASIS
    cdef Py_ssize_t at = 7, end
    cdef const char *name_end
    while at < length:
        name_end = <const char *>memchr(description + at, 0, length - at)
        end = name_end - description if name_end != NULL else length
        shape = mix(shape, description + at, min(end + 1, length) - at)
        if end + 19 <= length:
            shape = mix(shape, description + end + 7, 10)      # type, its length, its modifier
        at = end + 19
    return max(<uint32_t>(shape >> 32), <uint32_t>4)


cdef Py_ssize_t whole_length(const char *message) noexcept:
    cdef const uint8_t *b = <const uint8_t *>message
    return 1 + (<Py_ssize_t>b[1] << 24 | <Py_ssize_t>b[2] << 16 | <Py_ssize_t>b[3] << 8 | b[4])


cdef uint64_t mix(uint64_t shape, const char *bytes, Py_ssize_t length) noexcept:
    """FNV-1a by words of eight bytes instead of one; the same in every process."""
    cdef uint64_t word
    while length > 0:
        word = 0
        memcpy(&word, bytes, min(length, 8))
        shape = (shape ^ word) * FNV_PRIME
        shape ^= shape >> 32
        bytes += 8
        length -= 8
    return shape


cdef int note_shape(
    Engine engine, Server server, object whose, Statement statement, const char *message, Py_ssize_t length
) except -1:
    """A description came: of a Named, of the client's unnamed Statement, or (asked for by us) of a Statement. statement:
    what was described for it, if that is another one (`as_of_now`)."""
    cdef uint32_t shape = 1 if message[0] == b"n" else shape_of(message, length)
    cdef StatementNode *node
    cdef Client client = server.client
    if whole_length(message) != length:                 # thousands of columns: comparable with nothing
        shape = 3 if server.verifying else 0
    if isinstance(whose, Named):
        (<Named>whose).shape = shape
    elif not server.verifying and client.unnamed is whose:
        client.unnamed_shape = shape
    node = node_of(engine, server, whose, statement)
    if node != NULL:
        node.shape = shape
    return 0


cdef int note_types(
    Engine engine, Server server, object whose, Statement statement, const char *message, Py_ssize_t length
) except -1:
    """ParameterDescription came; see `note_shape`."""
    cdef bint is_whole = whole_length(message) == length
    cdef uint32_t types = max(<uint32_t>(mix(FNV_BASIS, message + 5, length - 5) >> 32), <uint32_t>4) if is_whole else 0
    cdef Client client = server.client
    cdef StatementNode *node = node_of(engine, server, whose, statement)
    if isinstance(whose, Named):
        if (<Named>whose).types != types:
            (<Named>whose).types = types
            (<Named>whose).parameters = message[5:length]
    elif not server.verifying and client.unnamed is whose and client.unnamed_types != types:
        client.unnamed_types = types
        client.unnamed_parameters = message[5:length]
    if node != NULL:
        node.types = max(types, <uint32_t>3)             # 3: comparable with nothing, but asked for
    return 0


cdef StatementNode *node_of(Engine engine, Server server, object whose, Statement statement) noexcept:
    """What the server knows of a statement that it has described."""
    if statement is None:
        statement = (<Named>whose).statement if isinstance(whose, Named) else <Statement>whose
    return set_find(engine.table, server.slot, &statement.digest)
