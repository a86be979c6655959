"""Messages of clients whose statements are not renamed (`prepared_statements` is off): names are the client's own, and last
for a transaction. Nothing is shared, so what a client left on the server is not to be found by the next: what has a name
goes at check-in (DIRT_STATEMENTS), the unnamed statement before the first message that would run it.

Rules
1. What the server has without a name is its client's (`owns_unnamed`) once a Parse, Query or Close has got to PostgreSQL
   that takes the old one away, even by failing. Where an error before it may make PostgreSQL skip it, that is known when its
   answer is awaited next (`claim`: its reply has None for `new`).
2. Until then a Bind or Describe of it goes out behind that in the same batch only, where it would be skipped as well.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t

from doorman.shm.statements cimport Digest
from doorman.workers.relay.engine cimport DIRT_PLANS, DIRT_SETTINGS, DIRT_STATEMENTS, Engine, Server
from doorman.workers.relay.outgoing cimport outgoing_add
from doorman.workers.relay.pending cimport pending_sent
from doorman.workers.relay.prepare cimport note_start
from doorman.workers.relay.rename cimport STEP_CUT, STEP_HOLD, STEP_PASS, length_of_name, may_lead_back, note, note_led_back
from doorman.workers.relay.replies cimport REPLY_CLOSE_OURS, REPLY_PARSE_TRIED, replies_at, replies_push
from doorman.workers.relay.traces cimport does_change, makes_from_query, text_of_parse, traces_in, traces_of_call
from doorman.workers.relay.upkeep cimport note_way_back

cdef bytes CLOSE_UNNAMED = b"C\x00\x00\x00\x06S\x00"


cdef int pass_on(
    Engine engine, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t here, Py_ssize_t total
) except -1:
    """Deal with one message, as `rename` does."""
    cdef char kind = message[0]
    cdef const char *text
    cdef bint runs
    if kind == b"Q":
        note_traces(server, traces_in(message, here, total))
        note_led_back(server.client, server, message, here, total)
        server.makes |= does_change(message + 5, here - 5)
        runs = runs_for_sure(server)
        note(engine, server, kind)
        claim(server, runs)                             # there is none any more
        return STEP_PASS
    elif kind == b"F":
        note_traces(server, traces_of_call(message, here))
    elif not server.owns_unnamed and names_unnamed(message, here) and not has_claim(server, server.replies.synced):
        if has_claim(server, 0):
            server.holding = True
            return STEP_HOLD
        outgoing_add(&engine.to_server, run, run_length)
        close_unnamed(engine, server)
        note(engine, server, kind)
        outgoing_add(&engine.to_server, message, here)
        return STEP_CUT
    if kind != b"P":
        note(engine, server, kind)
        return STEP_PASS
    text = text_of_parse(message, here)
    runs = runs_for_sure(server)
    if text > message + 6:
        server.dirt |= DIRT_STATEMENTS
    note_traces(server, traces_in(message, here, total))
    server.makes |= makes_from_query(text, message + here - text)
    if server.client.startup is not None and may_lead_back(text, message + here - text):
        note_way_back(server, text, message + here - text)
    note_start(engine, server)
    pending_sent(&server.pending, b"P")
    replies_push(&server.replies, REPLY_PARSE_TRIED, NULL, NULL, NULL)
    if text <= message + 6:
        claim(server, runs)
    return STEP_PASS


cdef int note_traces(Server server, uint32_t traces) noexcept:
    """What it sets may matter to plans that functions keep: that is not looked at here (but see `note_tag`)."""
    server.dirt |= traces | (DIRT_PLANS if traces & DIRT_SETTINGS else 0)
    return 0


cdef inline bint runs_for_sure(Server server) noexcept:
    """Would PostgreSQL look at a message that is sent now, whatever becomes of those before it?"""
    return server.replies.length == server.replies.synced and not server.pending.skipping


cdef int claim(Server server, bint runs) noexcept:
    """Rule 1, of the message that was noted last."""
    if runs:
        server.owns_unnamed = True
    else:
        Py_INCREF(None)
        replies_at(&server.replies, server.replies.length - 1).new = <PyObject *>None
    return 0


cdef bint has_claim(Server server, uint32_t at) noexcept:
    """Is one of these awaited, from the entry `at` of the queue on?"""
    for at in range(at, server.replies.length):
        if replies_at(&server.replies, at).new == <PyObject *>None:
            return True
    return False


cdef bint names_unnamed(const char *message, Py_ssize_t here) noexcept:
    """Is this a Bind or Describe of the unnamed statement?"""
    cdef Py_ssize_t portal
    if message[0] == b"D":
        return here > 6 and message[5] == b"S" and not message[6]
    if message[0] != b"B":
        return False
    portal = length_of_name(message + 5, here - 5)
    return portal >= 0 and here > 6 + portal and not message[6 + portal]


cdef int close_unnamed(Engine engine, Server server) except -1:
    """The server may have one of another client's: this one is to be told that there is none."""
    cdef Digest none
    cdef bint runs
    none.high = none.low = 0
    runs = runs_for_sure(server)
    note_start(engine, server)
    pending_sent(&server.pending, b"C")
    replies_push(&server.replies, REPLY_CLOSE_OURS, NULL, NULL, &none)
    claim(server, runs)
    return outgoing_add(&engine.to_server, CLOSE_UNNAMED, len(CLOSE_UNNAMED))
