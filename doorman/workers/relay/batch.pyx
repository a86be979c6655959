"""The shape that drivers send most, dealt with at once instead of message by message: Parse of the unnamed statement or
none, Bind, Describe of the portal or none, Execute, Sync; unnamed portal; a statement that the server has and that says
nothing of sessions, transactions or statements. Its answer, or that to a Query, likewise, when it comes whole and without
an error.

Rules
1. What these functions do is what `rename` and `answers` would do message by message: the same bytes, the same state.
2. They decide before they change anything; whatever is not of this shape, or meets a server that is not at rest, is left
   to those, untouched.
3. `Replies.batch` says that the queue holds one such batch, or one Query, and nothing else: any change of the queue takes
   it back.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from doorman.shm.statements cimport StatementNode, StatementSet, set_find, set_of
from doorman.workers.relay.answers cimport give
from doorman.workers.relay.backend cimport may_part, take_note
from doorman.workers.relay.engine cimport Client, Engine, Server
from doorman.workers.relay.heal cimport note_shape, seal, watch_for_stale
from doorman.workers.relay.outgoing cimport outgoing_add, outgoing_room
from doorman.workers.relay.pending cimport pending_batch
from doorman.workers.relay.prepare cimport note_start
from doorman.workers.relay.rename cimport find_named, write_renamed
from doorman.workers.relay.replies cimport (
    REPLY_DESCRIBE,
    REPLY_PARSE_KNOWN,
    REPLY_QUERY,
    Reply,
    replies_at,
    replies_clear,
    replies_head,
    replies_push_batch,
)
from doorman.workers.relay.statements cimport Named, Statement

cdef const char *DESCRIBE_PORTAL = b"D\x00\x00\x00\x06P\x00"
cdef const char *EXECUTE_PORTAL = b"E\x00\x00\x00\x09\x00"          # and four bytes: how many rows
cdef const char *SYNC = b"S\x00\x00\x00\x04"
cdef const char *PARSE_COMPLETE = b"1\x00\x00\x00\x04"
cdef const char *BIND_COMPLETE = b"2\x00\x00\x00\x04"
cdef const char *NO_DATA = b"n\x00\x00\x00\x04"
cdef const char *READY = b"Z\x00\x00\x00\x05"


cdef struct Batch:
    const char *body            # of the Parse, behind the name; NULL: there is none
    Py_ssize_t body_length
    const char *bind
    Py_ssize_t bind_length
    Py_ssize_t name_length      # of the statement, in Bind
    bint described
    Py_ssize_t length           # bytes of all of it


cdef inline Py_ssize_t whole(const char *data, Py_ssize_t length, char kind) noexcept nogil:
    """Bytes of the message at `data`; 0 when it is of another type or has not come whole."""
    cdef const uint8_t *b = <const uint8_t *>data
    cdef Py_ssize_t total
    if length < 5 or data[0] != kind:
        return 0
    total = 1 + (<Py_ssize_t>b[1] << 24 | <Py_ssize_t>b[2] << 16 | <Py_ssize_t>b[3] << 8 | b[4])
    return total if 5 <= total <= length else 0


# --- from the client -------------------------------------------------------------------------------------------------

cdef bint read_batch(const char *data, Py_ssize_t length, Batch *batch) noexcept:
    """Is it of this shape, as far as the bytes tell?"""
    cdef Py_ssize_t at = whole(data, length, b"P")
    cdef const char *end
    batch.body = NULL
    if at:
        if at < 8 or data[5]:
            return False
        batch.body = data + 6
        batch.body_length = at - 6
    batch.bind = data + at
    batch.bind_length = whole(data + at, length - at, b"B")
    if batch.bind_length < 12 or batch.bind[5]:                         # two names, three counts
        return False
    end = <const char *>memchr(batch.bind + 6, 0, batch.bind_length - 6)
    if end == NULL:
        return False
    batch.name_length = end - (batch.bind + 6)
    at += batch.bind_length
    batch.described = length - at >= 7 and memcmp(data + at, DESCRIBE_PORTAL, 7) == 0
    if batch.described:
        at += 7
    if length - at < 15 or memcmp(data + at, EXECUTE_PORTAL, 6) != 0 or memcmp(data + at + 10, SYNC, 5) != 0:
        return False
    batch.length = at + 15
    return True


cdef inline bint is_at_rest(Client client, Server server) noexcept:
    """Nothing is under way or out of the ordinary between the two (rule 2)."""
    return (
        client.begin is None and client.deeds is None and not server.replies.length and not server.replies.broken
        and not server.pending.length and not server.pending.doubtful and not server.pending.copy_in
        and not server.pending.skipping and (server.status == b"I" or server.status == b"T")
        and not server.begin_fails and not server.sets and not server.unexplained
    )


cdef Statement statement_bound(Engine engine, Client client, Batch *batch, uint64_t planner):
    """The statement that the Bind runs; None: the client has none of that name."""
    cdef Statement statement = client.unnamed
    cdef Named named
    if batch.body != NULL:
        if batch.name_length or memchr(batch.body, 0, batch.body_length) == NULL:
            return None
        if (
            statement is None or statement.planner != planner or len(statement.body) != batch.body_length
            or memcmp(<const char *>statement.body, batch.body, batch.body_length) != 0
        ):
            return engine.statements.intern(planner, batch.body, batch.body_length)
        statement.recent = True
        return statement
    if not batch.name_length:
        return statement
    named = find_named(client, batch.bind + 6, batch.name_length)
    return named.statement if named is not None else None


cdef Py_ssize_t take_batch(Engine engine, Client client, Server server, const char *data, Py_ssize_t length) except -1:
    """Send a batch on. Bytes that are dealt with; 0: it is none of ours (rule 2)."""
    cdef Batch batch
    cdef Statement statement
    cdef Named named = None
    cdef StatementSet *statements
    cdef StatementNode *node
    cdef uint64_t planner = client.planner ^ server.local_planner
    cdef uint32_t shape = 0, types = 0
    cdef bint told = False
    if not is_at_rest(client, server) or not read_batch(data, length, &batch):
        return 0
    statement = statement_bound(engine, client, &batch, planner)
    if statement is None or not statement.plain or statement.planner != planner:
        return 0
    if batch.name_length:
        named = client.last_named                       # `find_named` left it there
        told, shape, types = named.told, named.shape, named.types
    elif batch.body == NULL:
        told, shape, types = client.unnamed_told, client.unnamed_shape, client.unnamed_types
    statements = set_of(engine.table, server.slot)
    if statements.epoch != engine.table.pools[server.row.pool].statement_epoch:
        return 0
    node = set_find(engine.table, server.slot, &statement.digest)
    if node == NULL:
        statements.misses -= 1                          # it will be looked for again
        return 0
    if (shape and node.shape != shape) or (types and node.types != types):
        statements.hits -= 1
        return 0
    statements.hits += batch.body != NULL
    client.counters.statement_hits += 1
    server.capture = None
    server.verified = None
    if not told and server.status == b"I":
        watch_for_stale(engine, server, statement)
    note_start(engine, server)
    queue_replies(client, server, &batch, statement, named)
    server.dirt |= statement.dirt
    write_batch(engine, &batch, statement)
    if server.replaying and not server.replay_sealed:
        seal(engine, server)
    return batch.length


cdef int queue_replies(Client client, Server server, Batch *batch, Statement statement, Named named) except -1:
    """What will answer it, and what it does to the client's names and portal."""
    cdef PyObject *bound = <PyObject *>named if named is not None else <PyObject *>statement
    pending_batch(&server.pending)
    replies_push_batch(&server.replies, <PyObject *>statement, <PyObject *>client.unnamed, bound,
                       batch.body != NULL, batch.described)
    if batch.body != NULL:
        client.unnamed = statement
        client.unnamed_told = False
        client.unnamed_shape = 0
        client.unnamed_types = 0
    if batch.described:
        if named is not None:
            named.told = True
        else:
            client.unnamed_told = True
    client.last_bound = <object>bound
    client.fresh_unnamed = False
    return 0


cdef int write_batch(Engine engine, Batch *batch, Statement statement) except -1:
    """Bind with the server's name of the statement; everything behind the name goes out as it came."""
    cdef Py_ssize_t used = 6 + batch.name_length + 1
    cdef Py_ssize_t parse_length = 6 + batch.body_length if batch.body != NULL else 0
    cdef Py_ssize_t rest = batch.length - parse_length - used
    write_renamed(&engine.to_server, batch.bind, 1, statement, batch.name_length, batch.bind_length)
    memcpy(outgoing_room(&engine.to_server, rest), batch.bind + used, rest)
    return 0


# --- from the server -------------------------------------------------------------------------------------------------

cdef bint answer_batch(Engine engine, Server server, const char *data, Py_ssize_t length) except -1:
    """Pass on the answer to a batch if it is all there and nothing else. False: it is not (rule 2)."""
    cdef Client client = server.client
    cdef Reply *head = replies_head(&server.replies)
    cdef bint parsed = head.kind == REPLY_PARSE_KNOWN
    cdef Reply *described = NULL
    cdef Py_ssize_t description = 0
    if (
        server.healing or server.holding or server.hopeless or server.body_left or server.changes
        or server.went_back or server.kept is not None or server.capture is not None or server.forgetting is not None
    ):
        return False
    if head.kind != REPLY_QUERY:
        described = replies_at(&server.replies, 2 if parsed else 1)
    if not read_answer(data, length, described, &description):
        return False
    server.replaying = False
    if described != NULL and described.kind == REPLY_DESCRIBE:
        note_shape(engine, server, <object>described.new, None, data + 5, description)
    replies_clear(&server.replies)
    take_note(server, data + length - 6, 6, engine.now)
    server.touchy = False
    server.explained = 0
    if parsed:
        outgoing_add(&engine.to_client, PARSE_COMPLETE, 5)
    if may_part(server, client) or engine.release_early:
        engine.release(server)
    give(engine, client, data, length)
    return True


cdef bint read_answer(const char *data, Py_ssize_t length, Reply *described, Py_ssize_t *description) noexcept:
    """Is it BindComplete (described: not NULL), a description where one is due, rows, CommandComplete, ReadyForQuery?"""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t total
    cdef bint returns_rows = True
    if length < 5 + 6 + 6 or memcmp(data + length - 6, READY, 5) != 0:
        return False
    if described != NULL:
        if memcmp(data, BIND_COMPLETE, 5) != 0:
            return False
        at = 5
    if described == NULL or described.kind == REPLY_DESCRIBE:
        description[0] = whole(data + at, length - at, b"T")
        returns_rows = description[0] > 0
        if not returns_rows and described != NULL:
            if memcmp(data + at, NO_DATA, 5) != 0:
                return False
            description[0] = 5
        at += description[0]
    total = whole(data + at, length - at, b"D")
    while total:
        at += total
        total = whole(data + at, length - at, b"D")
    total = whole(data + at, length - at, b"C")
    return at + total + 6 == length and is_plain(data + at + 5, total - 5) and (returns_rows or data[at + 5] != b"S")


cdef bint is_plain(const char *tag, Py_ssize_t length) noexcept:
    """A command's tag that tells nothing of the session (`note_tag`)."""
    if length < 8:
        return False
    return (
        memcmp(tag, b"SELECT ", 7) == 0 or memcmp(tag, b"INSERT ", 7) == 0
        or memcmp(tag, b"UPDATE ", 7) == 0 or memcmp(tag, b"DELETE ", 7) == 0
    )
