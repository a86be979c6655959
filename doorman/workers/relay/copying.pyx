"""COPY IN of clients whose statements are renamed. What PostgreSQL does with a message depends on whether it reads it within
a COPY or behind its failure, which nobody knows before it says so. So such messages wait.

Rules
1. Behind what may begin a COPY nothing is sent before that is announced, or over. A Flush brings it (`begin_copy`).
2. Within it only COPY's own messages, Flush and Sync are sent on. Anything else waits for the failure that the client counts
   on. If none comes it has lost step: PostgreSQL would end its connection for that message, `settle_idle` does.
3. Behind the end of one with Syncs in it, or of one of a Query's, nothing is sent before its outcome is known.
"""

from doorman.workers.relay.engine cimport Engine, Server
from doorman.workers.relay.outgoing cimport outgoing_add
from doorman.workers.relay.pending cimport pending_head_is_query, pending_sent
from doorman.workers.relay.prepare cimport note_start
from doorman.workers.relay.rename cimport STEP_CUT, STEP_PASS, hold

cdef bytes FLUSH = b"H\x00\x00\x00\x04"


cdef bint is_of_copy(char kind) noexcept:
    return kind == b"d" or kind == b"c" or kind == b"f" or kind == b"H" or kind == b"S"


cdef int begin_copy(
    Engine engine, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t here
) except -1:
    """An Execute that may begin one; it has been noted."""
    server.announcing = True
    return wait_for_word(engine, server, run, run_length, message, here)


cdef int pass_copy(
    Engine engine, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t here
) except -1:
    """A message that comes within one."""
    cdef char kind = message[0]
    if not is_of_copy(kind):
        return hold(server)
    note_start(engine, server)
    pending_sent(&server.pending, kind)
    if (kind == b"c" or kind == b"f") and (server.pending.swallowed or pending_head_is_query(&server.pending)):
        return wait_for_word(engine, server, run, run_length, message, here)
    return STEP_PASS


cdef int wait_for_word(
    Engine engine, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t here
) except -1:
    """PostgreSQL keeps its word for the next Sync otherwise."""
    outgoing_add(&engine.to_server, run, run_length)
    outgoing_add(&engine.to_server, message, here)
    outgoing_add(&engine.to_server, FLUSH, len(FLUSH))
    server.holding = True
    return STEP_CUT
