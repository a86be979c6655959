"""Has servers hold the statements that clients use: prepares, evicts, asks what rows a statement returns.

Rules
1. A statement is prepared right before the message that needs it, in the same write, where the server lacks it.
2. Eviction closes a statement in front of the Parse that needs its place. A later message of the same batch that needs
   it again has it prepared again (rule 1), so no order of messages can meet a missing statement.
3. Whoever was told what rows a statement returns gets such rows, or an error (0A000), on every server: DDL may have come
   between the preparation here and there. `shape` is what is compared; unknown, it is asked for once.
4. Parameters have the types that the client was told (`types`), on every server: PostgreSQL decides at the first Parse
   what was left open. Where a later one would decide otherwise, they are spelled out in it (`retype`).
5. Whatever is sent, its reply is queued first.
6. A server holds at most `statement_limit` statements, and MOST_TEXT bytes of them; the least recently used goes first.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from doorman.shm.layout cimport PoolRow
from doorman.shm.statements cimport (
    Digest,
    StatementNode,
    StatementSet,
    set_add,
    set_clear,
    set_evict,
    set_find,
    set_of,
    set_remove,
)
from doorman.workers.relay.engine cimport (
    DIRT_SETTINGS,
    DIRT_STATEMENTS,
    DIRT_TEMPORARY,
    Client,
    Engine,
    Server,
)
from doorman.workers.relay.heal cimport watch_for_stale
from doorman.workers.relay.outgoing cimport Outgoing, outgoing_add, outgoing_room, write_length
from doorman.workers.relay.pending cimport pending_sent
from doorman.workers.relay.rename cimport STEP_CUT, STEP_HOLD_CUT, as_of_now
from doorman.workers.relay.upkeep cimport note_way_back
from doorman.workers.relay.replies cimport (
    REPLY_BIND_STALE,
    REPLY_CLOSE_OURS,
    REPLY_DESCRIBE_OURS,
    REPLY_OURS,
    REPLY_PARSE_OURS,
    REPLY_PARSE_TRIED,
    replies_at,
    replies_push,
    replies_push_first,
)
from doorman.workers.relay.statements cimport SERVER_NAME_LENGTH, Named, Statement, write_name

cdef enum:
    NOBODYS = 1                     # a digest of settings that no client has
    MOST_TEXT = 16_777_216          # bytes of statements that a server holds: PostgreSQL keeps text and trees of each

cdef bytes NOTHING = b"\0\0\0"          # body of a Parse: no text, no types
cdef bytes TRIAL = b"DOORMAN_trial\x00"          # a name that no statement keeps


cdef void note_start(Engine engine, Server server) noexcept:
    """The clock of the statement."""
    if not server.pending.length:
        server.started = engine.now
        if server.status == b"I":
            server.transaction_started = engine.now
        server.row.running = 1


cdef int take_over(Engine engine, Server server, Statement statement) except -1:
    """What running a statement means for the server's session."""
    server.dirt |= statement.dirt
    if statement.dirt & DIRT_TEMPORARY:
        server.unexplained = True                       # names mean something else to what is parsed from now on
        server.temporary += statement.temporary
    server.makes |= statement.untagged
    if statement.control:
        renew_effect(engine, server, statement)
        if server.client.startup is not None and (statement.sets or (server.way_back is not None and statement.ends)):
            note_way_back(server, <const char *>statement.body, len(statement.body))
    return 0


cdef int renew_effect(Engine engine, Server server, Statement statement) except -1:
    """What is parsed from now on meets what a statement of control leaves: behind its Bind, and once more behind its Execute,
    since others may have been parsed between the two."""
    server.touchy = True
    if statement.sets or (statement.ends and (server.sets or server.dirt & DIRT_SETTINGS)):     # what holds behind it?
        server.sets = True
        engine.nonce += 1
        server.private_planner = server.client.planner ^ (engine.nonce << 32 | <uint32_t>server.row.served)
    if statement.forgets or (statement.changes and not server.dirt & DIRT_TEMPORARY):
        doubt_set(engine, server)
    elif statement.changes:
        server.unexplained = True
    return 0


cdef int doubt_set(Engine engine, Server server) noexcept:
    """What the server holds is not known (any more). It is told to drop everything before it goes to another client."""
    set_clear(engine.table, server.slot)
    set_of(engine.table, server.slot).doubtful = 1
    server.dirt |= DIRT_STATEMENTS
    return 0


cdef int heed_epoch(Engine engine, Server server) except -1:
    """Some plan of this pool was found stale since the server's statements were prepared: they all go."""
    cdef StatementSet *statements = set_of(engine.table, server.slot)
    cdef uint32_t epoch = engine.table.pools[server.row.pool].statement_epoch
    if statements.epoch != epoch:
        if statements.count:
            doubt_set(engine, server)
        statements.epoch = epoch
    return 0


cdef int ensure(Engine engine, Server server, Statement statement, Client client, Py_ssize_t name_length) except -1:
    """Have the server hold this statement when it gets to what is sent next. client: who uses it by a name of that
    length. Returns a Fit; what is then held for its description is `as_of_now`."""
    cdef StatementNode *node
    cdef bint told = False
    cdef uint32_t shape = 0, types = 0
    heed_epoch(engine, server)
    if client is not None:
        told = client.last_named.told if name_length else client.unnamed_told
        shape = client.last_named.shape if name_length else client.unnamed_shape
        types = client.last_named.types if name_length else client.unnamed_types
    node = set_find(engine.table, server.slot, &statement.digest)
    if node == NULL:
        server.client.counters.statement_misses += 1
        prepare(engine, server, statement, REPLY_PARSE_OURS, <PyObject *>statement, NULL)
        if shape and set_find(engine.table, server.slot, &statement.digest) != NULL:
            return FIT_UNKNOWN
        return FIT_GOOD                             # or there is no place to remember what rows it returns: do not ask
    server.client.counters.statement_hits += 1
    if shape and node.shape != shape:
        if not node.shape:
            return FIT_UNKNOWN
        if server.verified is not None and is_same(&server.verified.digest, &statement.digest):
            server.verified = None
            return FIT_STALE
        drop_statement(engine, server, statement)       # the client's description or the server's plan: which is older?
        statement = as_of_now(engine, client, server, statement)
        server.verified = statement
        prepare(engine, server, statement, REPLY_PARSE_OURS, <PyObject *>statement, NULL)
        return FIT_UNKNOWN
    server.verified = None
    if types and node.types != types:
        return FIT_RETYPED if node.types else FIT_UNKNOWN
    if client is not None and not told and not server.pending.length and server.status == b"I":
        watch_for_stale(engine, server, statement)
    return FIT_GOOD


cdef inline bint is_same(const Digest *one, const Digest *other) noexcept nogil:
    return one.high == other.high and one.low == other.low


cdef int drop_statement(Engine engine, Server server, Statement statement) except -1:
    """If the server holds it, it does no more. A doubtful one is told so when it is prepared again."""
    cdef StatementNode *node = set_find(engine.table, server.slot, &statement.digest)
    cdef uint32_t size
    if node == NULL:
        return 0
    size = node.size
    set_remove(engine.table, server.slot, &statement.digest)
    if not set_of(engine.table, server.slot).doubtful:
        write_close(engine, server, &statement.digest, size, True)
    return 0


cdef int hold_for_description(Engine engine, Server server, Statement statement) except -1:
    """The client knows what rows the statement returned elsewhere: do they look the same here? That decides about its
    message (rule 3). Asked once for each statement of a server."""
    cdef char *into = outgoing_room(&engine.to_server, 6 + SERVER_NAME_LENGTH + 1 + 5)
    into[0] = b"D"
    write_length(into + 1, 5 + SERVER_NAME_LENGTH + 1)
    into[5] = b"S"
    memcpy(into + 6, statement.name, SERVER_NAME_LENGTH + 1)
    memcpy(into + 6 + SERVER_NAME_LENGTH + 1, b"H\x00\x00\x00\x04", 5)
    note_start(engine, server)
    pending_sent(&server.pending, b"D")
    replies_push(&server.replies, REPLY_DESCRIBE_OURS, <PyObject *>statement, NULL, NULL)
    server.verifying = True
    server.holding = True
    return STEP_HOLD_CUT


cdef int bind_stale(Engine engine, Server server) except -1:
    """Let PostgreSQL refuse a Bind, so that the transaction fails as it must; `answers` says why."""
    cdef char *into = outgoing_room(&engine.to_server, 6 + len(TRIAL) + 6)
    into[0] = b"B"
    write_length(into + 1, 5 + <uint32_t>len(TRIAL) + 6)
    into[5] = 0
    memcpy(into + 6, <const char *>TRIAL, len(TRIAL))
    memset(into + 6 + len(TRIAL), 0, 6)
    note_start(engine, server)
    pending_sent(&server.pending, b"B")
    replies_push(&server.replies, REPLY_BIND_STALE, NULL, NULL, NULL)
    return STEP_CUT


cdef int prepare(Engine engine, Server server, Statement statement, uint8_t kind, PyObject *new, PyObject *old) except -1:
    """Send Parse, and before it a Close of what must go for it (rule 6)."""
    cdef PoolRow *pool = &engine.table.pools[server.row.pool]
    cdef StatementSet *statements = set_of(engine.table, server.slot)
    cdef uint32_t size = <uint32_t>len(statement.body)
    cdef StatementNode victim
    if set_evict(engine.table, server.slot, pool.statement_limit, &victim):
        write_close(engine, server, &victim.digest, victim.size, True)
    while statements.bytes + size > MOST_TEXT and set_evict(engine.table, server.slot, 0, &victim):
        write_close(engine, server, &victim.digest, victim.size, True)
    if statements.doubtful:
        write_close(engine, server, &statement.digest, 0, False)
    if not set_add(engine.table, server.slot, &statement.digest, size) or not pool.statement_limit:
        server.dirt |= DIRT_STATEMENTS
    if (server.executed or server.replies.synced) and not server.sets and not statement.sets:
        server.parses_shared = True
    note_start(engine, server)
    pending_sent(&server.pending, b"P")
    replies_push(&server.replies, kind, new, old, NULL)
    return write_parse(&engine.to_server, statement.name, SERVER_NAME_LENGTH + 1, statement.body, len(statement.body))


cdef Statement prepare_nothing(Engine engine, Server server):
    """Have the server hold an empty text, which even a failed transaction takes, whatever it held under that name."""
    cdef Statement nothing = engine.statements.intern(NOBODYS, NOTHING, len(NOTHING))
    write_close(engine, server, &nothing.digest, 0, False)
    pending_sent(&server.pending, b"P")
    replies_push(&server.replies, REPLY_PARSE_OURS, <PyObject *>nothing, NULL, NULL)
    write_parse(&engine.to_server, nothing.name, SERVER_NAME_LENGTH + 1, nothing.body, len(nothing.body))
    return nothing


cdef int prepare_again(Engine engine, Server server, Statement statement) except -1:
    """Put a Close and a Parse of ours in front of everything (heal). What is sent again behind it may close it: nobody counts
    on it any more, and whoever needs it next prepares it (the set is doubtful)."""
    replies_push_first(&server.replies, REPLY_PARSE_OURS, <PyObject *>statement)
    replies_push_first(&server.replies, REPLY_CLOSE_OURS, NULL)
    note_start(engine, server)
    pending_sent(&server.pending, b"P")
    write_close_message(&engine.to_server, &statement.digest)
    return write_parse(&engine.to_server, statement.name, SERVER_NAME_LENGTH + 1, statement.body, len(statement.body))


cdef int write_parse(Outgoing *out, const char *name, Py_ssize_t name_length, const char *body, Py_ssize_t length) except -1:
    """A Parse message; the name comes with its NUL."""
    cdef char *into = outgoing_room(out, 5 + name_length + length)
    into[0] = b"P"
    write_length(into + 1, <uint32_t>(4 + name_length + length))
    memcpy(into + 5, name, name_length)
    memcpy(into + 5 + name_length, body, length)
    return 0


cdef int write_close(Engine engine, Server server, const Digest *digest, uint32_t size, bint held) except -1:
    """A Close of ours. held: the set had it, and gets it back, with its size, when PostgreSQL skips this."""
    cdef Digest none
    none.high = none.low = 0
    write_close_message(&engine.to_server, digest)
    note_start(engine, server)
    pending_sent(&server.pending, b"C")
    replies_push(&server.replies, REPLY_CLOSE_OURS, NULL, NULL, digest if held else &none)
    replies_at(&server.replies, server.replies.length - 1).size = size
    return 0


cdef int write_close_message(Outgoing *out, const Digest *digest) except -1:
    cdef char *into = outgoing_room(out, 6 + SERVER_NAME_LENGTH + 1)
    into[0] = b"C"
    write_length(into + 1, 5 + SERVER_NAME_LENGTH + 1)
    into[5] = b"S"
    write_name(into + 6, digest)
    return 0


cdef int send_ours(Engine engine, Server server, bytes query) except -1:
    """A Query message of ours in front of the client's, in the same write; nobody sees its answer."""
    note_start(engine, server)
    pending_sent(&server.pending, b"Q")
    replies_push(&server.replies, REPLY_OURS, NULL, NULL, NULL)
    return outgoing_add(&engine.to_server, query, len(query))


cdef int try_parse(
    Engine engine, Client client, Server server, Statement statement, Named named, bytes name, const char *body,
    Py_ssize_t length,
) except -1:
    """Let PostgreSQL judge a text under this name (its NUL behind it; None: one of ours), and keep nothing: what it has already
    may be refused all the same, in a failed transaction, or because SQL has taken its name."""
    cdef Digest none
    cdef bytes close
    if name is None:
        name = TRIAL
    close = b"C" + (len(name) + 5).to_bytes(4, "big") + b"S" + name
    none.high = none.low = 0
    note_start(engine, server)
    pending_sent(&server.pending, b"P")
    if named is not None:
        replies_push(&server.replies, REPLY_PARSE_TRIED, <PyObject *>named, NULL, NULL)
    else:
        replies_push(&server.replies, REPLY_PARSE_TRIED, <PyObject *>statement, <PyObject *>client.unnamed, NULL)
    write_parse(&engine.to_server, name, len(name), body, length)
    outgoing_add(&engine.to_server, close, len(close))
    return replies_push(&server.replies, REPLY_CLOSE_OURS, NULL, NULL, &none)
