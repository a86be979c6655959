"""Messages of clients whose statements are renamed. See rename.pyx."""

from libc.stdint cimport uint64_t

from doorman.workers.relay.engine cimport Client, Engine, Server
from doorman.workers.relay.outgoing cimport Outgoing
from doorman.workers.relay.statements cimport Named, Statement

cdef enum Step:
    STEP_PASS = 0               # goes out as it is
    STEP_CUT = 1                # does not, or was written anew to `engine.to_server`
    STEP_HOLD = 2               # cannot be decided yet: offer it again when the server has answered
    STEP_HOLD_CUT = 3           # likewise, and the bytes before it were put together

cdef int rename(
    Engine engine, Client client, Server server, const char *run, Py_ssize_t run_length,
    const char *message, Py_ssize_t here, Py_ssize_t total,
) except -1
cdef int hold(Server server) noexcept
cdef uint64_t mix_text(uint64_t planner, bytes text)
cdef int note_told(Client client, object bound) except -1
cdef int forget_named(Client client, Named named) except -1
cdef int note(Engine engine, Server server, char kind) except -1
cdef Py_ssize_t length_of_name(const char *name, Py_ssize_t room) noexcept
cdef int note_led_back(Client client, Server server, const char *message, Py_ssize_t here, Py_ssize_t total) except -1
cdef bint may_lead_back(const char *text, Py_ssize_t length) except -1
cdef Statement as_of_now(Engine engine, Client client, Server server, Statement statement)
cdef Named find_named(Client client, const char *name, Py_ssize_t length)
cdef char *write_renamed(
    Outgoing *out, const char *message, Py_ssize_t prefix, Statement statement, Py_ssize_t name_length, Py_ssize_t total
) except NULL
