"""SQL texts that speak of prepared statements by name: DEALLOCATE, EXECUTE, PREPARE. What a client has prepared by
Parse is called otherwise on servers, so PostgreSQL would not know what such a text means.

Rules
1. Right before such a text the server is given the statements of the client that it names, under those names. So
   PostgreSQL itself does what the text says, and words its errors. A name is what stands right behind one of these words;
   any other word that a statement happens to be called by is none: to prepare that might fail, or wait for a lock.
2. They are lent for this transaction only (DIRT_STATEMENTS), and given anew before each text: what the client means by a
   name is decided here. One that it has no more is closed (`Server.lent`). What is not executed is given as an empty text:
   that of the client might fail by now, or wait for a lock.
3. Before a Query a Sync of ours ends the lending, unless something of the client's is unsynced: should PostgreSQL refuse
   one of the texts, the client's is still run, and is told why instead of that there is no such statement. In a failed
   transaction nothing is lent, for nothing is run, unless the batch under way may have ended it.
4. Which names a DEALLOCATE has taken is known from the order of its tags (`Server.forgetting`). It may be what EXECUTE
   executes: the client's statement of that name speaks of another, and that perhaps of a third (`follow`).
5. A text is lent MOST_LENT bytes, or one statement: all of it is put together before it is written. For what is beyond,
   PostgreSQL says that there is no such statement, and the client is told why.
6. What a lent statement leaves in the session is noted when the text that executes it is run, as if it had been bound.
"""

from cpython.object cimport PyObject
from libc.string cimport strlen

from doorman.shm.statements cimport Digest
from doorman.workers.relay.engine cimport DIRT_PLANS, DIRT_STATEMENTS, Client, Engine, Server
from doorman.workers.relay.outgoing cimport outgoing_add
from doorman.workers.relay.pending cimport pending_sent, pending_unsynced
from doorman.workers.relay.prepare cimport doubt_set, drop_statement, note_start, take_over, write_parse
from doorman.workers.relay.replies cimport REPLY_CLOSE_OURS, REPLY_PARSE_LENT, REPLY_SYNC_OURS, replies_push
from doorman.workers.relay.statements cimport Named, Statement
from doorman.wire.backend import error_response
from doorman.workers.sql_tokens cimport (
    TOKEN_END,
    TOKEN_IDENTIFIER,
    TOKEN_NONE,
    TOKEN_WORD,
    Scan,
    begin_scan,
    is_word,
    name_of,
    next_token,
)

cdef extern from "<string.h>" nogil:
    char *strcasestr(const char *haystack, const char *needle)

cdef enum:
    MOST_LENT = 16_777_216              # bytes of texts

cdef bytes TOO_MUCH = error_response(
    "54000", "statements that were prepared by Parse are too long for one text to execute them all",
    severity="ERROR", hint="Execute them by several Query messages.")
cdef bytes SYNC = b"S\x00\x00\x00\x04"
cdef bytes NOTHING = b"\0\0\0"          # body of a Parse: no text, no types

cdef frozenset EXECUTES = frozenset((b"execute", b"explain", b"create"))    # first words of what may execute one


cdef bint speaks_of_names(const char *text) noexcept nogil:
    """May a text, NUL behind it, speak of prepared statements?"""
    return (
        strcasestr(text, b"deallocate") != NULL or strcasestr(text, b"execute") != NULL
        or strcasestr(text, b"prepare") != NULL
    )


cdef tuple read_names(const char *text, Py_ssize_t length, bint of_parse):
    """What a text says of prepared statements: whom it names, and whether to execute it; what DEALLOCATE or EXECUTE names,
    statement by statement, and whether it is EXECUTE; whether one forgets all. of_parse: PostgreSQL takes one statement
    only, so no other is looked at."""
    cdef Scan scan = begin_scan(text, length)
    cdef Scan executed
    cdef int kind = TOKEN_END
    cdef bint due, every = False        # due: the token before was EXECUTE
    cdef list head, forgotten = []
    cdef dict names = {}
    while kind != TOKEN_NONE:
        head = []                       # the first three words: (name, whether in quotes), None for what is none
        executed.text = NULL
        due = False
        while True:
            kind = next_token(&scan)
            if kind == TOKEN_NONE or kind == TOKEN_END:
                break
            if len(head) < 3:
                head.append((name_of(&scan), kind == TOKEN_IDENTIFIER)
                            if kind == TOKEN_WORD or kind == TOKEN_IDENTIFIER else None)
            if due and (kind == TOKEN_WORD or kind == TOKEN_IDENTIFIER):
                executed = scan         # the last: CREATE TABLE execute AS EXECUTE name
            due = kind == TOKEN_WORD and is_word(&scan, b"execute", 7)
        if not head:
            continue
        if executed.text != NULL and head[0] is not None and head[0][0] in EXECUTES:
            names[name_of(&executed)] = True
        every = note_head(head, names, forgotten) or every
        if of_parse:
            break
    return names, forgotten, every


cdef bint note_head(list head, dict names, list forgotten) except -1:
    """What a statement that begins so deallocates or prepares. True: it forgets all."""
    cdef list rest = head[1:]
    if head[0] == (b"deallocate", False):
        if rest[:1] == [(b"prepare", False)] and len(rest) > 1:
            rest = rest[1:]
        if rest == [(b"all", False)]:
            return True
        if rest and rest[0] is not None:
            forgotten.append((rest[0][0], False))
    elif head[0] == (b"execute", False):
        if rest and rest[0] is not None:
            forgotten.append((rest[0][0], True))
        return False
    elif head[0] == (b"discard", False):
        return rest == [(b"all", False)]
    elif head[0] != (b"prepare", False):
        return False
    if rest and rest[0] is not None:
        names.setdefault(rest[0][0], False)
    return False


cdef tuple spoken_by(Statement statement):
    """`read_names` of a statement, which is asked for again and again."""
    if statement.spoken is None:
        statement.spoken = read_names(<const char *>statement.body, strlen(<const char *>statement.body), True)
    return statement.spoken


cdef bytes follow(Client client, bytes name, bint executes, dict names):
    """What a DEALLOCATE or EXECUTE of this name deallocates in the end; None: nothing. Whom it speaks of on the way there
    joins `names`."""
    cdef Named named
    cdef set met = set()
    while executes:
        named = client.names.get(name) if client.names is not None else None
        if named is None or not named.statement.speaks or name in met:
            return None
        met.add(name)
        spoken, forgotten, _ = spoken_by(named.statement)
        for other in spoken:
            names[other] = spoken[other] or names.get(other, False)
        if not forgotten:
            return None
        name, executes = forgotten[0]
    return name


cdef dict lend_names(Engine engine, Client client, Server server, bytes text):
    """Rules 1 to 3, for a Query. Returns its names, for `note_executed`."""
    cdef dict names
    names, forgotten, _ = read_names(text, len(text), False)
    ends = [follow(client, name, executes, names) for name, executes in forgotten]
    server.forgetting = [name for name in ends if name is not None]
    if server.status != b"E":
        lend_all(engine, client, server, names, not pending_unsynced(&server.pending))
    return names


cdef int lend_all(Engine engine, Client client, Server server, dict names, bint alone) except -1:
    """alone: a Sync may stand behind it."""
    cdef Named named
    cdef bint sent = False
    cdef Py_ssize_t lent = 0                # bytes
    if server.status == b"E" and not server.touchy:
        return 0
    for name, executes in names.items():
        named = client.names.get(name) if client.names is not None else None
        if named is not None and executes:
            if lent and lent + len(named.statement.body) > MOST_LENT:
                server.refused = server.refused or TOO_MUCH
                named = None
            else:
                lent += len(named.statement.body)
        if named is not None:
            if server.lent is None:
                server.lent = set()
            server.lent.add(name)
        elif server.lent is None or name not in server.lent:
            continue
        else:
            server.lent.remove(name)
        lend(engine, server, name, named, executes)
        sent = True
    if sent:
        server.dirt |= DIRT_STATEMENTS
        if alone:
            pending_sent(&server.pending, b"S")
            replies_push(&server.replies, REPLY_SYNC_OURS, NULL, NULL, NULL)
            outgoing_add(&engine.to_server, SYNC, len(SYNC))
    return 0


cdef int note_executed(Engine engine, Client client, Server server, dict names, bint of_query) except -1:
    """Rule 6. What comes behind a Query waits for its answer: there is nothing to be read by settings of its own."""
    cdef Named named
    cdef bint sets = server.sets
    if (server.status == b"E" and (of_query or not server.touchy)) or client.names is None:
        return 0
    for name, executes in names.items():
        named = client.names.get(name) if executes else None
        if named is not None:
            take_over(engine, server, named.statement)
            server.unexplained |= named.statement.matters
            server.dirt |= DIRT_PLANS if named.statement.folds else 0
    if of_query:
        server.sets = sets
    return 0


cdef int take_back(Engine engine, Server server, bytes name) except -1:
    """The client closes what it calls so: it must not find what was lent."""
    if server.lent is not None and name in server.lent:
        server.lent.remove(name)
        lend(engine, server, name, None, False)
    return 0


cdef int lend(Engine engine, Server server, bytes name, Named named, bint executes) except -1:
    """Close what the server has under this name, and give it what the client means by it; None: nothing, and it has it all
    the same (`Server.lent`) when PostgreSQL skips this."""
    cdef bytes body
    cdef Digest none
    none.high = none.low = 0
    note_start(engine, server)
    pending_sent(&server.pending, b"C")
    replies_push(&server.replies, REPLY_CLOSE_OURS, <PyObject *>name if named is None else NULL, NULL, &none)
    close = b"C" + (len(name) + 6).to_bytes(4, "big") + b"S" + name + b"\0"
    outgoing_add(&engine.to_server, close, len(close))
    if named is None:
        return 0
    replies_push(&server.replies, REPLY_PARSE_LENT, NULL, NULL, NULL)
    body = named.statement.body if executes else NOTHING
    return write_parse(&engine.to_server, name, len(name) + 1, body, len(body))


cdef int lend_to(Engine engine, Client client, Server server, Statement statement) except -1:
    """Parse, Bind or Describe of a statement that speaks of others. What an EXECUTE returns is decided when it is
    prepared, so that is done anew each time, and it is compared with nothing (nor does PostgreSQL)."""
    lend_all(engine, client, server, spoken_by(statement)[0], False)
    if not statement.forgets:
        drop_statement(engine, server, statement)
    return 0


cdef tuple targets_of(Engine engine, Client client, Server server, Statement statement):
    """Bind of a statement that speaks of others; what its Execute will forget: the Named or None, and whether all."""
    lend_to(engine, client, server, statement)
    _, forgotten, every = spoken_by(statement)
    return client.names.get(forgotten[0][0]) if forgotten and not forgotten[0][1] and client.names is not None else None, every


cdef int note_bound_names(Engine engine, Client client, Server server, Statement statement) except -1:
    """Rule 6, for a statement that speaks of others and is bound."""
    return note_executed(engine, client, server, spoken_by(statement)[0], False)


cdef int note_deallocated(Engine engine, Server server) except -1:
    """The tag of a DEALLOCATE in a Query came (rule 4). It may have named anything, even statements of others."""
    cdef Client client = server.client
    cdef bytes name
    doubt_set(engine, server)
    if not server.forgetting:
        return 0
    name = server.forgetting.pop(0)
    if server.lent is not None:
        server.lent.discard(name)
    if client.names is not None and client.names.pop(name, None) is not None:
        client.last_named = None
    return 0


def names_in(bytes text) -> tuple[dict[bytes, bool], list[tuple[bytes, bool]], bool]:
    """`read_names` of a Query for tests."""
    return read_names(text, len(text), False)
