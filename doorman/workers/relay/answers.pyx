"""Bytes from a server to a client whose statements are renamed: keeps back what answers messages of ours, gives what is
answered without the server, and follows errors with what they undo.

Rules
1. The client gets every byte that answers its own messages, in the order in which it came; nothing else of the
   structure of the answer. Notices, notifications and parameters always pass, but during a Query of ours.
2. An answer of ours goes out as soon as everything before it has (`add_known`), never between the rows of a result.
3. Messages of the types in `LOOKED_AT` are looked at when they are whole; rows and COPY data stream through.
4. rules 2 and 3 of `backend` hold here too.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

import re

from doorman.wire.backend import notice_response
from doorman.wire.packing import message as make_message

from doorman.shm.statements cimport set_add, set_clear, set_of, set_remove
from doorman.workers.relay.batch cimport answer_batch
from doorman.workers.relay.backend cimport end_stream, is_settled, may_part, note_stream, spread_change, take_note
from doorman.workers.relay.engine cimport DIRT_PLANS, HEAVY, HOLD, Client, Engine, Server
from doorman.workers.relay.heal cimport note_shape, note_types, note_unusable, run_again, start_healing
from doorman.workers.relay.local cimport note_check
from doorman.workers.relay.outgoing cimport Outgoing, outgoing_add, outgoing_free
from doorman.workers.relay.pending cimport pending_error, pending_ready, pending_settle
from doorman.workers.relay.replies cimport (
    FIRST_ANSWERED,
    REPLY_BIND,
    REPLY_BIND_STALE,
    REPLY_CLOSE,
    REPLY_CLOSE_KNOWN,
    REPLY_CLOSE_OURS,
    REPLY_DESCRIBE,
    REPLY_DESCRIBE_OURS,
    REPLY_EXECUTE,
    REPLY_NAME_KNOWN,
    REPLY_OURS,
    REPLY_PARSE,
    REPLY_PARSE_CLASH,
    REPLY_PARSE_KNOWN,
    REPLY_PARSE_LENT,
    REPLY_PARSE_OURS,
    REPLY_PARSE_TRIED,
    REPLY_QUERY,
    REPLY_RESTORE,
    REPLY_SYNC,
    REPLY_SYNC_OURS,
    Reply,
    replies_at,
    replies_copy_in,
    replies_free,
    replies_head,
    replies_pop,
    reply_remember,
)
from doorman.workers.relay.portals cimport put_back
from doorman.workers.relay.prepare cimport doubt_set
from doorman.workers.relay.settle cimport settle, settled
from doorman.workers.relay.sql_names cimport note_deallocated
from doorman.workers.relay.statements cimport Named, Statement
from doorman.workers.relay.upkeep cimport end_restore, forget_undone, restore

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t length, const void *needle, size_t needle_length)

cdef enum:
    MAX_SERVER_MESSAGE = 1_073_741_824
    LARGE = 16_384              # a run of this size is written by itself rather than copied
    FEW = 1024                  # replies owed to one who is read again

cdef enum Look:                 # rule 3: whom a type of message concerns, and what is awaited
    LOOK_ALWAYS = 1             # changes what we know, whatever it answers
    LOOK_EXTENDED = 2           # answers a message of the extended protocol; to a Query it is one message of many
    LOOK_OURS = 4               # every message, while what is answered is a Query of ours

cdef uint8_t[256] LOOKED_AT
for _letter in range(256):
    LOOKED_AT[_letter] = LOOK_OURS
for _letter in tuple(b"ZCESGWA123tnsT"):
    LOOKED_AT[_letter] = LOOK_OURS | LOOK_ALWAYS
LOOKED_AT[73] = LOOK_OURS | LOOK_EXTENDED       # EmptyQueryResponse

# As PostgreSQL says it: drivers know by the routine that they are to prepare again.
cdef bytes STALE = make_message(
    b"E", b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0Fplancache.c\0L0\0RRevalidateCachedQuery\0\0")
cdef object OUR_NAME = re.compile(rb"DOORMAN_[0-9a-f]{32}")
cdef bytes LISTEN_WARNING = notice_response(
    "01000", "LISTEN in transaction mode ends with the transaction: notifications will not arrive",
    hint="Use a pool with pool_mode session for LISTEN.")

cdef const char *PARSE_COMPLETE = b"1\x00\x00\x00\x04"
cdef const char *CLOSE_COMPLETE = b"3\x00\x00\x00\x04"


cdef inline uint32_t read_length(const char *at) noexcept nogil:
    cdef const uint8_t *b = <const uint8_t *>at
    return <uint32_t>b[0] << 24 | <uint32_t>b[1] << 16 | <uint32_t>b[2] << 8 | b[3]


cdef Py_ssize_t feed_answers(Engine engine, Server server, const char *data, Py_ssize_t length) except -2:
    """Take what a server sent to its client. Returns how many bytes are dealt with, or -1 when the server is gone."""
    cdef Client client = server.client
    cdef Outgoing *out = &engine.to_client
    cdef Py_ssize_t at = <Py_ssize_t>min(server.body_left, <uint64_t>length)
    cdef Py_ssize_t start = at if server.keeps_back else 0
    cdef Py_ssize_t total, here
    cdef uint32_t size
    cdef bint is_ours
    cdef int looks
    if server.replies.batch and answer_batch(engine, server, data, length):
        return length
    server.body_left -= at
    if not server.body_left:
        server.keeps_back = False
        if server.streaming:
            end_stream(server, client.counters, False)
        if has_known(server):
            start = cut(server, out, data, start, at)
    looks = looks_for(server)
    while length - at >= 5:
        size = read_length(data + at + 1)
        if not LOOKED_AT[<uint8_t>data[at]] & looks and 4 <= size < <size_t>(length - at):
            at += <Py_ssize_t>size + 1                  # a row, whole: most messages
            continue
        if size < 4 or size > MAX_SERVER_MESSAGE or (data[at] == b"Z" and size != 5):
            give(engine, client, data + start, at - start)
            engine.lose_server(server)
            return -1
        total = <Py_ssize_t>size + 1
        here = min(total, length - at)
        is_ours = False
        if LOOKED_AT[<uint8_t>data[at]] & looks & ~LOOK_OURS:
            if here < total and total <= HOLD:
                break
            if data[at] == b"E" and server.pending.copying and server.pending.swallowed and not server.replies.broken:
                if not settle(engine, server, data + at, here, length - at):
                    break
            is_ours = take_answer(engine, server, data + at, here)
            if server.hopeless:
                give(engine, client, data + start, at - start)
                engine.lose_server(server)
                return -1
            if server.kept is not None and data[at] != b"t":
                start = give_kept(server, out, data, start, at)
            looks = looks_for(server)
        elif server.replies.length and is_query_of_ours(replies_head(&server.replies).kind):
            is_ours = True                              # a notice, or rows
        if is_ours:
            outgoing_add(out, data + start, at - start)
            start = at + here
        server.keeps_back = is_ours and here < total
        server.body_left = total - here
        if here < total and total > HOLD and not is_ours:
            note_stream(server, data[at], total)
        at += here
        if not server.body_left and has_known(server):
            start = cut(server, out, data, start, at)
    if server.holding and not (
        server.replies.synced or server.healing or server.verifying or server.pending.copying
        or (server.announcing and server.replies.length)
    ):
        server.holding = server.announcing = False
        engine.queue(client)
    if server.crowded and may_go_on(server):
        engine.queue(client)
    if server.capture is not None:
        note_check(engine, server, data + start, at - start)
    if at == length and (may_part(server, client) or engine.release_early):
        engine.release(server)
    give(engine, client, data + start, at - start)
    return at


cdef bint may_go_on(Server server) noexcept:
    """So much is owed to the client that it was not read any more. Is it less now? (A COPY needs what the client says.)"""
    if server.replies.length and not server.pending.copy_in and (server.heavy > HEAVY or server.replies.length > FEW):
        return False
    server.crowded = False
    if not server.replies.length:
        server.heavy = 0
        replies_free(&server.replies)
    return True


cdef inline int looks_for(Server server) noexcept:
    """Which messages are looked at next (`Look`)."""
    cdef Reply *head = replies_head(&server.replies)
    if head == NULL or not is_query_of_ours(head.kind):
        return LOOK_ALWAYS if head != NULL and head.kind == REPLY_QUERY else LOOK_ALWAYS | LOOK_EXTENDED
    return LOOK_ALWAYS | LOOK_EXTENDED | LOOK_OURS


cdef int give(Engine engine, Client client, const char *run, Py_ssize_t length) except -1:
    """Write what was put together, and the run behind it."""
    cdef Outgoing *out = &engine.to_client
    if not out.length:
        return engine.answer(client, run, length)
    if length < LARGE:
        outgoing_add(out, run, length)
        length = 0
    engine.answer(client, out.data, out.length)
    outgoing_free(out)
    return engine.answer(client, run, length)


cdef Py_ssize_t cut(Server server, Outgoing *out, const char *data, Py_ssize_t start, Py_ssize_t at) except -1:
    """Rule 2. Returns where the next run begins."""
    outgoing_add(out, data + start, at - start)
    add_known(server, out)
    return at


cdef Py_ssize_t give_kept(Server server, Outgoing *out, const char *data, Py_ssize_t start, Py_ssize_t at) except -1:
    """What was kept back goes out in front of this message, unless the whole answer is asked for anew."""
    outgoing_add(out, data + start, at - start)
    if not server.healing:
        outgoing_add(out, <const char *>server.kept, len(server.kept))
    server.kept = None
    return at


cdef bint has_known(Server server) noexcept:
    """Is the next answer one of ours?"""
    cdef Reply *head = replies_head(&server.replies)
    return head != NULL and not server.replies.broken and (
        head.kind == REPLY_PARSE_KNOWN or head.kind == REPLY_NAME_KNOWN or head.kind == REPLY_CLOSE_KNOWN
    )


cdef int add_known(Server server, Outgoing *out) except -1:
    """Answer what was not sent and is due now."""
    while has_known(server):
        outgoing_add(out, CLOSE_COMPLETE if replies_head(&server.replies).kind == REPLY_CLOSE_KNOWN else PARSE_COMPLETE, 5)
        replies_pop(&server.replies)
    return 0


cdef bint take_answer(Engine engine, Server server, const char *message, Py_ssize_t length) except -1:
    """Follow one message. True: it answers a message of ours."""
    cdef char kind = message[0]
    cdef Reply *head = replies_head(&server.replies)
    cdef uint8_t due = head.kind if head != NULL else 0
    cdef uint64_t planner
    if head != NULL and head.new == <PyObject *>None:   # nothing before it has failed (rule 1 of own_names)
        server.owns_unnamed = True
    if kind == b"1":                                    # ParseComplete
        return expect(
            server, due == REPLY_PARSE or due == REPLY_PARSE_OURS or due == REPLY_PARSE_TRIED or due == REPLY_PARSE_LENT,
            due == REPLY_PARSE_OURS or due == REPLY_PARSE_LENT)
    if kind == b"2":                                    # BindComplete
        server.replaying = False
        return expect(server, due == REPLY_BIND, False)
    if kind == b"3":                                    # CloseComplete
        return expect(server, due == REPLY_CLOSE or due == REPLY_CLOSE_OURS, due == REPLY_CLOSE_OURS)
    if kind == b"T" or kind == b"n":                    # RowDescription, NoData
        if due != REPLY_DESCRIBE_OURS:
            server.description = kind
        if due == REPLY_DESCRIBE or due == REPLY_DESCRIBE_OURS:
            take_description(engine, server, head, message, length)
            return expect(server, True, due == REPLY_DESCRIBE_OURS)
        return is_query_of_ours(due)
    if kind == b"t":                                    # ParameterDescription
        if (due == REPLY_DESCRIBE or due == REPLY_DESCRIBE_OURS) and head.new != NULL:
            note_types(engine, server, <object>head.new, described_by(head), message, length)
        if due == REPLY_DESCRIBE_OURS:
            return True
        if server.replaying and read_length(message + 1) + 1 == length:     # its error, if it is stale, comes behind this
            server.kept = message[:length]
            return True
        return False
    if kind == b"I" or kind == b"s":                    # EmptyQueryResponse, PortalSuspended
        return expect(server, True, False) if due == REPLY_EXECUTE else is_query_of_ours(due)
    if kind == b"Z":                                    # ReadyForQuery
        return take_ready(engine, server, message, length, due)
    if due == REPLY_RESTORE and kind == b"E":           # ErrorResponse
        return take_refusal(engine, server, message, length)
    if is_query_of_ours(due) and kind == b"E":          # likewise
        server.hopeless = not server.begin_fails        # nothing else of ours may fail
        server.begin_fails = False
        return True
    if kind == b"E" and not server.replies.broken:
        if head != NULL and head.kind < FIRST_ANSWERED:
            pending_settle(&server.pending)             # what stood before it is answered
        if due == REPLY_BIND or due == REPLY_DESCRIBE:
            if note_unusable(engine, server, message + 5, length - 5) and start_healing(engine, server):
                return True
        elif due != REPLY_PARSE_CLASH and memmem(message, length, b"\0C42P05\0", 8) != NULL and (
            memmem(message, length, b"DOORMAN_", 8) != NULL
        ):
            doubt_set(engine, server)                   # it has what it should not have
        server.replaying = False
        if server.verifying:
            end_verifying(engine, server)
        if due == REPLY_PARSE_LENT:
            forget_segment(engine, server)
            if server.replies.length and replies_head(&server.replies).kind == REPLY_SYNC_OURS:
                pending_error(&server.pending)          # nobody else's: what speaks of the name comes behind that Sync,
                if server.refused is None and read_length(message + 1) + 1 == length:
                    server.refused = message[:length]   # and finds no such statement, or a failed transaction
                return True
        if server.refused is not None and due == REPLY_QUERY and is_for_lack(message, length):
            server.kept = server.refused
            server.refused = None
            take_note(server, message, length, engine.now)
            return True
        if due == REPLY_BIND_STALE:
            server.kept = STALE
            forget_segment(engine, server)
            take_note(server, message, length, engine.now)
            return True
        if head != NULL and memmem(message, length, b"DOORMAN_", 8) != NULL and read_length(message + 1) + 1 == length:
            server.kept = (server.kept or b"") + with_names_of(server.client, head, message[:length])
            forget_segment(engine, server)
            take_note(server, message, length, engine.now)
            return True
        forget_segment(engine, server)
    elif kind == b"G":                                  # CopyInResponse
        server.owns_unnamed = False                     # nor does it get to what was sent behind it
        server.hopeless = server.on_trial > 0           # our Sync may be lost in that
        if head != NULL and head.kind < FIRST_ANSWERED:
            pending_settle(&server.pending)             # it is the Query that copies
    take_note(server, message, length, engine.now)
    if kind == b"C":                                    # CommandComplete
        note_forgetting(engine, server, head, message + 5, length - 5)
        if server.altered:
            server.altered = False
            doubt_set(engine, server)
        if length == 12 and memcmp(message + 5, b"LISTEN\x00", 7) == 0:
            engine.note_listen(server.client)
            server.kept = LISTEN_WARNING
        return expect(server, True, False) if due == REPLY_EXECUTE else is_query_of_ours(due)
    if kind == b"S":                                    # ParameterStatus
        planner = server.client.planner
        engine.follow_parameter(server.client, message[:length])
        if server.client.planner != planner and not is_query_of_ours(due):
            server.dirt |= DIRT_PLANS
            if server.parses_shared:
                doubt_set(engine, server)               # it may have been set inside of a function: what was parsed under it?
        return due == REPLY_OURS
    if kind == b"G":                                    # CopyInResponse
        replies_copy_in(&server.replies)
        if server.holding and server.pending.copy_in:   # it cannot go on without what is held
            server.holding = server.announcing = False
            engine.queue(server.client)
    return False


cdef bint is_for_lack(const char *error, Py_ssize_t length) noexcept:
    """No such statement, or a failed transaction."""
    return memmem(error, length, b"\0C26000\0", 8) != NULL or memmem(error, length, b"\0C25P02\0", 8) != NULL


cdef inline bint is_query_of_ours(uint8_t due) noexcept:
    return due == REPLY_OURS or due == REPLY_RESTORE


cdef bint expect(Server server, bint fits, bint is_ours) except -1:
    """The head is answered by a message; one that does not fit breaks the queue (rule 5 of replies)."""
    if server.replies.broken:
        return False
    if not fits:
        server.replies.broken = True
        server.pending.doubtful = True
        return False
    replies_pop(&server.replies)
    return is_ours


cdef bint take_ready(Engine engine, Server server, const char *message, Py_ssize_t length, uint8_t due) except -1:
    if server.healing:
        run_again(engine, server)
        return True
    if is_query_of_ours(due) or due == REPLY_SYNC_OURS:
        pending_ready(&server.pending)
        server.status = message[5]
        server.started = engine.now
        replies_pop(&server.replies)
        settled(server)
        return due != REPLY_RESTORE or end_restore(engine, server)
    take_note(server, message, length, engine.now)
    if is_settled(server):
        spread_change(engine, server)
    if 0 < due < FIRST_ANSWERED:
        replies_pop(&server.replies)
        server.refused = None
    elif not server.replies.broken:
        server.replies.broken = True
        server.pending.doubtful = True
    if not server.replies.length:
        server.touchy = False
        server.makes = False
        server.heavy = 0
        server.temporary = 0                            # bound and not run, or untold: what is made later is everybody's
        server.parses_shared = False
        server.explained = 0                            # what failed is not tagged
        if server.went_back and server.failed:
            forget_undone(server)
        server.failed = False
        if server.went_back and not server.client.body_left and (
            server.status == b"T" or (server.client.session_mode and server.status == b"I")
        ):
            return restore(engine, server)
    else:
        server.failed = False                           # of what is answered now
    return False


cdef bint take_refusal(Engine engine, Server server, const char *message, Py_ssize_t length) except -1:
    """What was to be set again is refused (rule 7 of upkeep). A second error is of a value that cannot be told."""
    server.hopeless = server.failed
    if server.failed or (server.status == b"I" and not server.restores_again):
        server.failed = True
        return True
    take_note(server, message, length, engine.now)
    return False


cdef int take_description(Engine engine, Server server, Reply *head, const char *message, Py_ssize_t length) except -1:
    server.replaying = False
    if head.new != NULL:
        note_shape(engine, server, <object>head.new, described_by(head), message, length)
    if head.kind == REPLY_DESCRIBE_OURS:
        end_verifying(engine, server)
    return 0


cdef Statement described_by(Reply *describe):
    """The statement that was described, where `rename_describe` has noted it."""
    return <Statement>describe.old if describe.old != NULL else None


cdef int end_verifying(Engine engine, Server server) except -1:
    """The message that waited for a description can be decided now."""
    server.verifying = False
    server.holding = False
    return engine.queue(server.client)


cdef bytes with_names_of(Client client, Reply *head, bytes error):
    """An ErrorResponse that speaks of statements by our names, with the client's."""
    cdef Named named
    unnamed = client.unnamed.name if client.unnamed is not None else b""
    if head.new != NULL and isinstance(<object>head.new, Named):        # by whatever settings it was parsed
        fields = OUR_NAME.sub(lambda found: (<Named>head.new).name, error[5:])
        return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    elif head.kind == REPLY_BIND and head.new != NULL and isinstance(<object>head.new, Statement):
        fields = OUR_NAME.sub(b"", error[5:])                           # likewise
        return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    else:
        spoken = set(OUR_NAME.findall(error))
        if not spoken:                                                  # it only looks so
            return error
        names = {unnamed: b""}
        for named in (client.names or {}).values():
            if named.statement.name in spoken:
                names[named.statement.name] = named.name
    fields = OUR_NAME.sub(lambda found: names.get(found.group(), found.group()), error[5:])
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


cdef int forget_segment(Engine engine, Server server) except -1:
    """An error came: PostgreSQL skips what follows up to the next Sync. Undo what was done for that in advance."""
    cdef uint32_t n = 0
    cdef uint32_t at, left
    cdef Undo undone
    cdef Reply *head = replies_head(&server.replies)
    if head == NULL or head.kind < FIRST_ANSWERED:
        return 0
    while n < server.replies.length and not is_sync(replies_at(&server.replies, n).kind):
        n += 1
    undone.query_follows = server.replies.queries > 0 and has_query(server, n)
    undone.parsed_again = is_parsed_again(server, n)
    undone.renamed = False
    for at in range(n, 0, -1):
        undo(engine, server, replies_at(&server.replies, at - 1), at == 1, &undone)
    if undone.renamed:
        mend_memory(server, n, undone.before)
    left = server.replies.length - n
    while server.replies.length > left:
        replies_pop(&server.replies)
    return 0


cdef inline bint is_sync(uint8_t kind) noexcept:
    return kind == REPLY_SYNC or kind == REPLY_SYNC_OURS


cdef struct Undo:
    bint query_follows          # a Query stands behind what is skipped: it drops the unnamed statement all the same
    bint parsed_again           # a later batch makes the client's unnamed statement what it is
    bint renamed                # what was undone had made something else the unnamed statement
    PyObject *before            # than this, or NULL (borrowed from the queue)


cdef int undo(Engine engine, Server server, Reply *reply, bint failed, Undo *undone) except -1:
    """One message failed, or was skipped because of one before it."""
    cdef Client client = server.client
    cdef object new = <object>reply.new if reply.new != NULL else None
    if reply.kind == REPLY_PARSE or reply.kind == REPLY_PARSE_OURS:
        if isinstance(new, Named):
            set_remove(engine.table, server.slot, &(<Named>new).statement.digest)
        else:
            set_remove(engine.table, server.slot, &(<Statement>new).digest)
    elif reply.kind == REPLY_CLOSE_OURS:
        if (reply.digest.high or reply.digest.low) and not set_of(engine.table, server.slot).doubtful:
            set_add(engine.table, server.slot, &reply.digest, reply.size)
        if new is not None:
            server.lent = (server.lent or set()) | {new}
        return 0
    if client is None:
        return 0
    if reply.kind == REPLY_EXECUTE:
        return undo_deed(client, <tuple>reply.old) if reply.old != NULL else 0
    if reply.kind == REPLY_BIND:
        return put_back(client, <tuple>reply.old if reply.old != NULL else None)
    if reply.kind == REPLY_QUERY:                       # it was skipped: the unnamed statement is as it was
        if reply.old != NULL:
            undone.renamed = True
            undone.before = reply.old
            if client.unnamed is None and not undone.query_follows:
                client.unnamed = <Statement>reply.old
        return 0
    if new is None or reply.kind == REPLY_PARSE_OURS or reply.kind == REPLY_PARSE_CLASH:
        return 0
    if reply.kind == REPLY_DESCRIBE or reply.kind == REPLY_DESCRIBE_OURS:
        return 0                                        # they name a statement and change nothing
    if reply.kind == REPLY_CLOSE_KNOWN:
        if not isinstance(new, Named):
            undone.renamed = True
            undone.before = reply.new
        return undo_close(client, new, undone.query_follows)
    if isinstance(new, Named):
        return undo_name(client, <Named>new)
    undone.renamed = True
    undone.before = reply.old if not failed else NULL
    if client.unnamed is new and not undone.parsed_again:
        client.unnamed = <Statement>undone.before if undone.before != NULL else None
    return 0


cdef bint changes_unnamed(Reply *reply) noexcept:
    """Does it make something else the unnamed statement, or nothing?"""
    if reply.kind == REPLY_QUERY:
        return reply.old != NULL
    if reply.kind != REPLY_PARSE and reply.kind != REPLY_PARSE_KNOWN and reply.kind != REPLY_PARSE_TRIED and (
        reply.kind != REPLY_CLOSE_KNOWN
    ):
        return False
    return reply.new != NULL and isinstance(<object>reply.new, Statement)


cdef bint has_query(Server server, uint32_t at) noexcept:
    """Does a Query stand behind what is skipped?"""
    for at in range(at, server.replies.length):
        if replies_at(&server.replies, at).kind == REPLY_QUERY:
            return True
    return False


cdef bint is_parsed_again(Server server, uint32_t at) except -1:
    """Does a later batch make the client's unnamed statement what it is?"""
    cdef Reply *reply
    cdef PyObject *unnamed = <PyObject *>server.client.unnamed if server.client is not None else NULL
    for at in range(at, server.replies.length):
        reply = replies_at(&server.replies, at)
        if reply.new == unnamed and reply.kind != REPLY_CLOSE_KNOWN and changes_unnamed(reply):
            return True
    return False


cdef int mend_memory(Server server, uint32_t at, PyObject *before) except -1:
    """What was undone had come to nothing: a later batch that may fail as well is to find what was there before that."""
    cdef Reply *reply
    for at in range(at, server.replies.length):
        reply = replies_at(&server.replies, at)
        if changes_unnamed(reply):
            reply_remember(&reply.new if reply.kind == REPLY_CLOSE_KNOWN else &reply.old, before)
            return 0
    return 0


cdef int undo_deed(Client client, tuple done) except -1:
    """What `execute_deed` has noted did not come to pass: the client has its names, and those that it gave since. The portal
    may be executed later, behind a ROLLBACK TO."""
    portal, deed, target, names = done
    if client.deeds is None:
        client.deeds = {}
    client.deeds.setdefault(portal, deed)
    if target is not None:
        undo_close(client, target, False)
    if names is not None:
        names.update(client.names or {})
        client.names = names
    return 0


cdef int undo_name(Client client, Named named) except -1:
    if client.names is not None and client.names.get(named.name) is named:
        del client.names[named.name]
        if client.last_named is named:
            client.last_named = None
    return 0


cdef int undo_close(Client client, object closed, bint query_follows) except -1:
    """query_follows: PostgreSQL drops the unnamed statement all the same."""
    if not isinstance(closed, Named):
        if client.unnamed is None and not query_follows:
            client.unnamed = <Statement>closed
    elif client.names is None:
        client.names = {(<Named>closed).name: closed}
    elif (<Named>closed).name not in client.names:
        client.names[(<Named>closed).name] = closed
    return 0


cdef int note_forgetting(Engine engine, Server server, Reply *head, const char *tag, Py_ssize_t length) except -1:
    """DEALLOCATE ALL and DISCARD ALL: neither the server nor the client has any statement left. With an Execute the
    client's names went already (`execute_deed`), all or the one that DEALLOCATE names."""
    cdef Client client = server.client
    if tag[0] != b"D" or length < 11:
        return 0
    if memcmp(tag, b"DEALLOCATE\x00", 11) == 0:
        return note_deallocated(engine, server) if head == NULL or head.kind != REPLY_EXECUTE else 0
    if length < 12:
        return 0
    if memcmp(tag, b"DISCARD ALL\x00", 12) == 0 or (length >= 15 and memcmp(tag, b"DEALLOCATE ALL\x00", 15) == 0):
        set_clear(engine.table, server.slot)
        if server.replies.unproven > 0:
            doubt_set(engine, server)
        server.lent = None
        if head == NULL or head.kind != REPLY_EXECUTE:
            client.names = None
            client.last_named = None
    return 0
