"""Messages of clients in transaction mode: notes what each will be answered by, and renames prepared statements.

Rules
1. The server knows a statement by the name of its digest; the client's name for it never leaves this process. A name
   that the client does not have goes out as it is, so that PostgreSQL itself says what is wrong with it (and SQL-level
   PREPARE works within a transaction); but never one that begins like ours.
2. What would be prepared twice is answered here instead (`REPLY_PARSE_KNOWN`); see `prepare` for the rest.
3. Names change as soon as the message is read; if PostgreSQL then fails or skips it, `answers` undoes the change. What
   depends on a change that an earlier segment may still undo waits for it (`must_hold`).
4. Whatever is sent, its reply is queued first.
"""

import hashlib

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from doorman.shm.statements cimport set_has
from doorman.workers.relay.copying cimport is_of_copy, pass_copy
from doorman.workers.relay.engine cimport (
    DIRT_NAMED,
    DIRT_PLANS,
    DIRT_SETTINGS,
    DIRT_TEMPORARY,
    Client,
    Engine,
    Server,
)
from doorman.workers.relay.heal cimport seal
from doorman.workers.relay.outgoing cimport Outgoing, outgoing_add, outgoing_room, write_length
from doorman.workers.relay.own_names cimport pass_on
from doorman.workers.relay.pending cimport pending_sent
from doorman.workers.relay.portals cimport (
    NAME_LENGTH,
    describe_portal,
    execute_deed,
    forget_portal,
    note_bound,
    note_deed,
    put_back,
)
from doorman.workers.relay.prepare cimport (
    FIT_RETYPED,
    FIT_STALE,
    FIT_UNKNOWN,
    bind_stale,
    drop_statement,
    ensure,
    heed_epoch,
    hold_for_description,
    note_start,
    prepare,
    prepare_nothing,
    take_over,
    try_parse,
    write_parse,
)
from doorman.workers.relay.replies cimport (
    REPLY_BIND,
    REPLY_CALL,
    REPLY_CLOSE,
    REPLY_CLOSE_KNOWN,
    REPLY_COPY_END,
    REPLY_DESCRIBE,
    REPLY_EXECUTE,
    REPLY_NAME_KNOWN,
    REPLY_OURS,
    REPLY_PARSE,
    REPLY_PARSE_CLASH,
    REPLY_PARSE_KNOWN,
    REPLY_QUERY,
    REPLY_SYNC,
    replies_at,
    replies_head,
    replies_push,
)
from doorman.workers.relay.statements cimport SERVER_NAME_LENGTH, Named, Statement
from doorman.workers.relay.sql_names cimport lend_to, note_bound_names, take_back, targets_of
from doorman.workers.relay.traces cimport does_change, leads_back, may_copy, may_set, moves_portals, traces_in, traces_of_call
from doorman.workers.relay.upkeep cimport note_way_back

from doorman.workers.set_texts import folds, hides_value, settings_in
from doorman.workers.temporary_texts import temporary_made

cdef enum:
    LARGE = 16_384                  # a text of this size counts when many answers are owed


cdef int rename(
    Engine engine, Client client, Server server, const char *run, Py_ssize_t run_length,
    const char *message, Py_ssize_t here, Py_ssize_t total,
) except -1:
    """Deal with one message; `run` are the bytes before it that go out as they are and have not been sent yet."""
    cdef char kind = message[0]
    cdef uint32_t traces
    cdef Statement dropped = None
    cdef Outgoing *out = &engine.to_server
    if server.replies.broken:
        return pass_unknown(engine, server, kind)
    if server.pending.copy_in:
        return pass_copy(engine, server, run, run_length, message, here)
    if server.pending.skipping and kind != b"S":        # PostgreSQL would ignore it
        outgoing_add(out, run, run_length)
        client.dropping = True
        return STEP_CUT
    if server.went_back and server.replies.synced and client.startup is not None and (kind == b"Q" or not client.renames):
        return hold(server)                             # it is to find what was asked for at startup again
    if not client.renames:
        return pass_on(engine, server, run, run_length, message, here, total)
    if kind == b"B":                                    # Bind
        return rename_bind(engine, client, server, run, run_length, message, here, total)
    if kind == b"P":                                    # Parse
        return rename_parse(engine, client, server, run, run_length, message, total)
    if kind == b"D" and here > 6 and message[5] == b"S":
        return rename_describe(engine, client, server, run, run_length, message, total)
    if kind == b"C" and here > 6 and message[5] == b"S":
        return rename_close(engine, client, server, run, run_length, message, total)
    if kind == b"Q":                                    # Query: PostgreSQL drops the unnamed statement
        dropped = client.unnamed
        client.unnamed = None
        traces = traces_in(message, here, total)
        server.dirt |= traces
        if traces & DIRT_TEMPORARY:
            server.unexplained = True                   # names mean something else to what is parsed from now on
            server.temporary += temporary_made(message[5:here]) if here == total else 0
        if traces & DIRT_SETTINGS or may_set(message + 5, here - 5):
            note_set(engine, server, message, here, total)
        note_led_back(client, server, message, here, total)
        server.makes |= does_change(message + 5, here - 5)
        if client.portals is not None and moves_portals(message + 5, here - 5):
            client.portals = None                       # what they run is not known any more
    elif kind == b"F":                                  # FunctionCall
        traces = traces_of_call(message, here)
        server.dirt |= traces
        if traces == DIRT_SETTINGS:
            server.unexplained = True
            server.dirt |= DIRT_PLANS
    elif kind == b"C" and (client.portals is not None or client.deeds is not None):     # Close of a portal
        forget_portal(client, message[6 : 6 + min(max(length_of_name(message + 6, here - 6), 0), NAME_LENGTH)])
    elif kind == b"D":                                  # of a portal
        return describe_portal(engine, client, server, message, here)
    elif kind == b"E":                                  # Execute
        server.limited = server.limited or has_limit(message, here)
        if server.touchy or client.deeds is not None:
            return execute_deed(engine, client, server, run, run_length, message, here)
    note(engine, server, kind)
    if kind == b"Q" and may_copy(message + 5, here - 5):
        server.holding = True                           # rule 1 of copying
    if dropped is not None and server.replies.length > 1:       # it may be skipped for an error before it
        Py_INCREF(dropped)
        replies_at(&server.replies, server.replies.length - 1).old = <PyObject *>dropped
    if kind == b"S" and server.replaying and not server.replay_sealed:
        outgoing_add(out, run, run_length)
        outgoing_add(out, message, here)
        seal(engine, server)
        return STEP_CUT
    return STEP_PASS


cdef bint has_limit(const char *execute, Py_ssize_t here) noexcept:
    """Does it ask for some rows only?"""
    return here < 10 or memcmp(execute + here - 4, b"\0\0\0\0", 4) != 0


cdef int note_told(Client client, object bound) except -1:
    """The client gets a description of this Named or unnamed Statement; None: of nothing that is ours."""
    if isinstance(bound, Named):
        (<Named>bound).told = True
    elif bound is not None and bound is client.unnamed:
        client.unnamed_told = True
    return 0


cdef int pass_unknown(Engine engine, Server server, char kind) except -1:
    """Answers cannot be told any more."""
    if not is_of_copy(kind):
        server.pending.doubtful = True
    note_start(engine, server)
    pending_sent(&server.pending, kind)
    if kind == b"S" and not server.pending.copy_in:
        replies_push(&server.replies, REPLY_SYNC, NULL, NULL, NULL)
    return STEP_PASS


cdef int note(Engine engine, Server server, char kind) except -1:
    """A message that goes out as it is (rule 4)."""
    cdef bint doubtful = server.pending.doubtful
    note_start(engine, server)
    if (kind == b"c" or kind == b"f") and not server.pending.copy_in:
        if server.replies.length and not server.pending.skipping:
            replies_push(&server.replies, REPLY_COPY_END, NULL, NULL, NULL)
    pending_sent(&server.pending, kind)
    if kind == b"Q" or kind == b"F":
        server.pending.doubtful = doubtful              # rule 5 of pending: here it is known whose an error is,
        server.condemned |= server.executed             # but PostgreSQL may lose count all the same
    if kind == b"E":
        server.executed = True
        replies_push(&server.replies, REPLY_EXECUTE, NULL, NULL, NULL)
    elif kind == b"S":
        replies_push(&server.replies, REPLY_SYNC, NULL, NULL, NULL)
        server.client.fresh_unnamed = False
        server.sets = False
        server.executed = False
        server.limited = False
    elif kind == b"Q":
        server.limited = False
        replies_push(&server.replies, REPLY_QUERY, NULL, NULL, NULL)
        server.replies.batch = server.replies.length == 1
    elif kind == b"D":
        replies_push(&server.replies, REPLY_DESCRIBE, NULL, NULL, NULL)
    elif kind == b"C":
        replies_push(&server.replies, REPLY_CLOSE, NULL, NULL, NULL)
    elif kind == b"B":
        replies_push(&server.replies, REPLY_BIND, NULL, NULL, NULL)
    elif kind == b"P":
        replies_push(&server.replies, REPLY_PARSE_CLASH, NULL, NULL, NULL)
    elif kind == b"F":
        replies_push(&server.replies, REPLY_CALL, NULL, NULL, NULL)
    elif kind == b"H":                                  # Flush
        server.client.row.has_flushed = 1
        engine.give_known(server)
    return 0


cdef bint must_hold(Server server) noexcept:
    """Rule 3: is there anything under way that may change what names and statements mean?"""
    return server.replies.synced > 0 and (
        server.replies.unproven_synced > 0 or server.replies.queries > 0 or server.touchy
    )


cdef int hold(Server server) noexcept:
    server.holding = True
    return STEP_HOLD


# --- the client's names ----------------------------------------------------------------------------------------------

cdef Named find_named(Client client, const char *name, Py_ssize_t length):
    """What the client calls so; most use the same name again and again."""
    cdef Named named = client.last_named
    if length > NAME_LENGTH:
        length = NAME_LENGTH
    if named is not None and len(named.name) == length and memcmp(<const char *>named.name, name, length) == 0:
        return named
    if client.names is None:
        return None
    named = client.names.get(PyBytes_FromStringAndSize(name, length))
    if named is not None:
        client.last_named = named
    return named


cdef Py_ssize_t length_of_name(const char *name, Py_ssize_t room) noexcept:
    """Bytes before the NUL; -1 when there is none."""
    cdef const char *end
    if room <= 0:
        return -1
    end = <const char *>memchr(name, 0, room)
    return end - name if end != NULL else -1


cdef bint is_like_ours(const char *name, Py_ssize_t length) noexcept:
    return length >= 8 and memcmp(name, b"DOORMAN_", 8) == 0


cdef int rename_parse(
    Engine engine, Client client, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t total
) except -1:
    cdef const char *name = message + 5
    cdef Py_ssize_t name_length = length_of_name(name, total - 5)
    cdef const char *body = name + name_length + 1
    cdef Py_ssize_t length = message + total - body
    cdef Statement statement
    cdef Named named = None
    cdef bint has
    if name_length < 0 or length_of_name(body, length) < 0:
        note(engine, server, b"P")                      # malformed: PostgreSQL says so
        return STEP_PASS
    if must_hold(server):
        return hold(server)
    statement = engine.statements.intern(planner_of(engine, client, server), body, length)
    if statement.momentary:
        statement = of_this_moment(engine, server, statement)
    server.heavy += length if length > LARGE else 0
    heed_epoch(engine, server)
    has = set_has(engine.table, server.slot, &statement.digest)
    if has and server.status != b"I" and may_have_failed(server):
        return hold(server)
    outgoing_add(&engine.to_server, run, run_length)
    if statement.speaks:
        lend_to(engine, client, server, statement)
        has = set_has(engine.table, server.slot, &statement.digest)
    elif statement.fetches:
        drop_statement(engine, server, statement)       # its cursor may be another one than when somebody parsed it
        has = False
    if name_length:
        named = find_named(client, name, name_length)
        if named is not None:
            return parse_again(engine, server, named, body, length)
        named = Named()
        named.name = name[: min(name_length, NAME_LENGTH)]
        named.statement = statement
        add_named(client, named)
    if name_length and server.dirt & DIRT_NAMED:
        try_parse(engine, client, server, statement, named, named.name + b"\0", body, length)     # SQL may have taken it
    elif not has:
        prepare(engine, server, statement, REPLY_PARSE, <PyObject *>named if name_length else <PyObject *>statement,
                NULL if name_length else <PyObject *>client.unnamed)
    elif server.status == b"E":
        try_parse(engine, client, server, statement, named, None, body, length)
    else:
        if server.limited:                              # a Parse shows what a portal that is not done has changed
            prepare_nothing(engine, server)
        if name_length:
            replies_push(&server.replies, REPLY_NAME_KNOWN, <PyObject *>named, NULL, NULL)
        else:
            replies_push(&server.replies, REPLY_PARSE_KNOWN, <PyObject *>statement, <PyObject *>client.unnamed, NULL)
    if not name_length:
        client.unnamed = statement
        client.unnamed_told = False
        client.unnamed_shape = 0
        client.unnamed_types = 0
        client.fresh_unnamed = True
    return STEP_CUT


cdef bint may_have_failed(Server server) noexcept:
    """Is anything under way that can make the open transaction a failed one? A BEGIN of ours alone cannot."""
    return server.begin_fails or server.replies.synced > (
        1 if server.replies.length and replies_head(&server.replies).kind == REPLY_OURS else 0
    )


cdef uint64_t planner_of(Engine engine, Client client, Server server) noexcept:
    """Digest of the settings under which the server reads a text that is sent now."""
    if server.sets:
        return server.private_planner
    if server.unexplained:                              # nobody else may share what is parsed from now on
        server.unexplained = False
        engine.nonce += 1
        server.local_planner = engine.nonce << 32 | <uint32_t>server.row.served
    return client.planner ^ server.local_planner


cdef int note_set(Engine engine, Server server, const char *message, Py_ssize_t here, Py_ssize_t total) except -1:
    """A Query that may set something."""
    cdef bytes text
    if here < total:
        server.unexplained = True
        server.dirt |= DIRT_PLANS
        return 0
    text = message[5 : total - 1]
    tags, matters = settings_in(text)
    server.explained += <uint32_t>tags
    if matters:
        server.local_planner = mix_text(server.local_planner, text)
        server.unexplained |= hides_value(text)
        server.dirt |= DIRT_PLANS if folds(text) else 0
    return 0


cdef int note_led_back(Client client, Server server, const char *message, Py_ssize_t here, Py_ssize_t total) except -1:
    """A Query that may lead back to the server's own settings. Of a large one the tags must tell."""
    if client.startup is not None and here == total and may_lead_back(message + 5, here - 5):
        if note_way_back(server, message + 5, here - 5):
            server.holding = True                       # what follows is to find again what was asked for at startup
    return 0


cdef bint may_lead_back(const char *text, Py_ssize_t length) except -1:
    return may_set(text, length) or leads_back(text, length)


cdef uint64_t mix_text(uint64_t planner, bytes text):
    """The same in all processes."""
    return int.from_bytes(hashlib.blake2b(planner.to_bytes(8, "big") + text, digest_size=8).digest(), "big")


cdef Statement of_this_moment(Engine engine, Server server, Statement statement):
    """PostgreSQL reads 'now' and 'today' when it parses a text: the plan is this one Parse's, nobody shares it."""
    engine.nonce += 1
    return engine.statements.intern(
        engine.nonce << 32 | <uint32_t>server.row.served, statement.body, len(statement.body))


cdef Statement as_of_now(Engine engine, Client client, Server server, Statement statement):
    """What is prepared under other settings than those that its digest stands for is another statement. One that is prepared
    already does not change for what its client sets for this transaction, but for something temporary that hides others."""
    cdef uint64_t planner = planner_of(engine, client, server)
    if statement.planner == planner or statement.momentary:
        return statement
    if (
        statement.planner == client.planner and not server.dirt & DIRT_TEMPORARY
        and set_has(engine.table, server.slot, &statement.digest)
    ):
        return statement
    return engine.statements.intern(planner, statement.body, len(statement.body))


cdef int add_named(Client client, Named named) except -1:
    if client.names is None:
        client.names = {}
    client.names[named.name] = named
    client.last_named = named
    return 0


cdef int parse_again(Engine engine, Server server, Named named, const char *body, Py_ssize_t length) except -1:
    """The client has a statement of that name: PostgreSQL is to look at the new text, and then to say so. It does under the
    name of one that is made for that, and cannot fail, as the client's own could if it has to be prepared here first."""
    cdef Statement nothing = prepare_nothing(engine, server)
    pending_sent(&server.pending, b"P")
    replies_push(&server.replies, REPLY_PARSE_CLASH, <PyObject *>named, NULL, NULL)
    write_parse(&engine.to_server, nothing.name, SERVER_NAME_LENGTH + 1, body, length)
    return STEP_CUT


cdef int rename_bind(
    Engine engine, Client client, Server server, const char *run, Py_ssize_t run_length,
    const char *message, Py_ssize_t here, Py_ssize_t total,
) except -1:
    cdef const char *portal = message + 5
    cdef Py_ssize_t portal_length = length_of_name(portal, here - 5)
    cdef const char *name = portal + portal_length + 1
    cdef Py_ssize_t name_length = length_of_name(name, message + here - name) if portal_length >= 0 else -1
    cdef const char *rest = name + name_length + 1
    cdef Py_ssize_t rest_length = message + here - rest
    cdef Statement statement
    cdef tuple targets = (None, False)
    cdef char *into
    cdef int fit
    if name_length < 0:
        note(engine, server, b"B")
        return STEP_PASS
    if must_wait_for_name(client, server, name_length):
        return hold(server)
    statement = statement_of(client, name, name_length)
    if statement is None:
        bound = None
    else:
        bound = client.last_named if name_length else statement
    before = note_bound(client, portal, portal_length, bound)
    if client.deeds is not None:
        client.deeds.pop(portal[: min(portal_length, NAME_LENGTH)], None)
    if statement is None and not is_like_ours(name, name_length):
        note(engine, server, b"B")
        return STEP_PASS
    outgoing_add(&engine.to_server, run, run_length)
    if statement is not None:
        if statement.speaks:
            targets = targets_of(engine, client, server, statement)
        statement = as_of_now(engine, client, server, statement)
        fit = ensure(engine, server, statement, None if statement.speaks or statement.fetches else client, name_length)
        if fit == FIT_RETYPED:
            statement = retype(engine, client, server, statement, name_length)
            bound = client.last_named if name_length else statement
            note_bound(client, portal, portal_length, bound)
            fit = ensure(engine, server, statement, client, name_length)
        if fit == FIT_UNKNOWN:
            put_back(client, before)                    # this message comes again
            return hold_for_description(engine, server, as_of_now(engine, client, server, statement))
        if fit == FIT_STALE:
            client.dropping = True                      # of a large one the rest comes yet
            return bind_stale(engine, server)
        take_over(engine, server, statement)
        if statement.speaks:
            note_bound_names(engine, client, server, statement)
        server.dirt |= DIRT_PLANS if statement.folds else 0
        if statement.speaks or statement.matters or statement.copies:
            before = note_deed(
                engine, client, portal[: min(portal_length, NAME_LENGTH)], before, statement, targets, rest[:rest_length])
        if statement.moves:
            client.portals = None                       # what they run is not known any more
    note_start(engine, server)
    pending_sent(&server.pending, b"B")
    replies_push(&server.replies, REPLY_BIND, <PyObject *>bound if bound is not None else NULL,
                 <PyObject *>before if before is not None else NULL, NULL)
    into = write_renamed(&engine.to_server, message, portal_length + 1, statement, name_length, total)
    memcpy(outgoing_room(&engine.to_server, rest_length), rest, rest_length)
    return STEP_CUT


cdef bint has_told_types(Client client, Py_ssize_t name_length) noexcept:
    """Was it told the types of its parameters, and are there any?"""
    if name_length:
        return client.last_named.types and len(client.last_named.parameters) > 2
    return client.unnamed_types and len(client.unnamed_parameters) > 2


cdef Statement retype(Engine engine, Client client, Server server, Statement statement, Py_ssize_t name_length):
    """The client's statement from now on: the same text, with the types that the client was told (rule 4 of prepare)."""
    cdef bytes text = statement.body[: statement.body.index(b"\0") + 1]
    cdef bytes body = text + (client.last_named.parameters if name_length else client.unnamed_parameters)
    cdef Statement typed
    if body == statement.body:
        return statement
    typed = engine.statements.intern(
        statement.planner if statement.momentary else planner_of(engine, client, server), body, len(body))
    if name_length:
        client.last_named.statement = typed
    else:
        client.unnamed = typed
    return typed


cdef bint must_wait_for_name(Client client, Server server, Py_ssize_t name_length) noexcept:
    """May the meaning of the name change through answers that have not come yet?"""
    if not server.replies.synced or (not name_length and client.fresh_unnamed):
        return False
    return not name_length or must_hold(server)


cdef Statement statement_of(Client client, const char *name, Py_ssize_t length):
    cdef Named named
    if not length:
        return client.unnamed
    named = find_named(client, name, length)
    return named.statement if named is not None else None


cdef char *write_renamed(
    Outgoing *out, const char *message, Py_ssize_t prefix, Statement statement, Py_ssize_t name_length, Py_ssize_t total
) except NULL:
    """The head of a message: type, new length, `prefix` bytes, the name on servers (None: one that no server has)."""
    cdef Py_ssize_t new_length = SERVER_NAME_LENGTH if statement is not None else name_length
    cdef char *into = outgoing_room(out, 5 + prefix + new_length + 1)
    into[0] = message[0]
    write_length(into + 1, <uint32_t>(total - 1 - name_length + new_length))
    memcpy(into + 5, message + 5, prefix)
    if statement is not None:
        memcpy(into + 5 + prefix, statement.name, SERVER_NAME_LENGTH + 1)
    else:
        memcpy(into + 5 + prefix, message + 5 + prefix, name_length + 1)
        into[5 + prefix + 7] = b"-"
    return into


cdef int rename_describe(
    Engine engine, Client client, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t total
) except -1:
    cdef const char *name = message + 6
    cdef Py_ssize_t name_length = length_of_name(name, total - 6)
    cdef Statement statement
    cdef int fit
    if name_length < 0:
        note(engine, server, b"D")
        return STEP_PASS
    if must_wait_for_name(client, server, name_length):
        return hold(server)
    statement = statement_of(client, name, name_length)
    if statement is None and not is_like_ours(name, name_length):
        note(engine, server, b"D")
        return STEP_PASS
    outgoing_add(&engine.to_server, run, run_length)
    note_start(engine, server)
    if statement is None:
        replies_push(&server.replies, REPLY_DESCRIBE, NULL, NULL, NULL)
    else:
        if statement.speaks:
            lend_to(engine, client, server, statement)
        elif statement.fetches:
            drop_statement(engine, server, statement)
        statement = as_of_now(engine, client, server, statement)
        if has_told_types(client, name_length) and not set_has(engine.table, server.slot, &statement.digest):
            statement = retype(engine, client, server, statement, name_length)
        fit = ensure(engine, server, statement, None if statement.fetches else client, name_length)
        if fit == FIT_RETYPED:
            statement = retype(engine, client, server, statement, name_length)
            fit = ensure(engine, server, statement, client, name_length)
        if fit == FIT_UNKNOWN:
            statement = as_of_now(engine, client, server, statement)
        server.verified = None                          # whatever its rows look like: the client asks
        described = client.last_named if name_length else client.unnamed
        note_told(client, described)
        replies_push(&server.replies, REPLY_DESCRIBE, <PyObject *>described, <PyObject *>statement, NULL)
    pending_sent(&server.pending, b"D")
    write_renamed(&engine.to_server, message, 1, statement, name_length, total)
    return outgoing_rest(engine, message, total, 6 + name_length + 1)


cdef int outgoing_rest(Engine engine, const char *message, Py_ssize_t total, Py_ssize_t at) except -1:
    """What stands behind the name (nothing, in a message that PostgreSQL accepts)."""
    outgoing_add(&engine.to_server, message + at, total - at)
    return STEP_CUT


cdef int rename_close(
    Engine engine, Client client, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t total
) except -1:
    """The server keeps the statement: others use it."""
    cdef const char *name = message + 6
    cdef Py_ssize_t name_length = length_of_name(name, total - 6)
    cdef Named named
    if name_length < 0 or name_length != total - 7:
        note(engine, server, b"C")
        return STEP_PASS
    if must_wait_for_name(client, server, name_length):
        return hold(server)
    if not name_length:
        outgoing_add(&engine.to_server, run, run_length)
        replies_push(&server.replies, REPLY_CLOSE_KNOWN, <PyObject *>client.unnamed, NULL, NULL)
        client.unnamed = None
        return STEP_CUT
    named = find_named(client, name, name_length)
    if named is not None:
        outgoing_add(&engine.to_server, run, run_length)
        replies_push(&server.replies, REPLY_CLOSE_KNOWN, <PyObject *>named, NULL, NULL)
        forget_named(client, named)
        take_back(engine, server, named.name)
        return STEP_CUT
    note(engine, server, b"C")
    if not is_like_ours(name, name_length):
        return STEP_PASS
    outgoing_add(&engine.to_server, run, run_length)
    write_renamed(&engine.to_server, message, 1, None, name_length, total)
    return STEP_CUT


cdef int forget_named(Client client, Named named) except -1:
    del client.names[named.name]
    if client.last_named is named:
        client.last_named = None
    return 0
