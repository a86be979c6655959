"""What servers send to the client that holds them. See backend.pyx."""

from libc.stdint cimport int64_t

from doorman.shm.layout cimport CounterRow
from doorman.workers.relay.engine cimport Client, Engine, Server

cdef Py_ssize_t feed_server(Engine engine, Server server, const char *data, Py_ssize_t length) except -2
cdef bint is_settled(Server server) noexcept
cdef bint is_quiet(Server server) noexcept
cdef bint is_amid_message(Server server) noexcept
cdef void note_tag(Server server, const char *tag, Py_ssize_t length) noexcept
cdef bint forgets(const char *tag, Py_ssize_t length) noexcept
cdef bint is_at_rest(Server server, Client client) noexcept
cdef void note_stream(Server server, char kind, Py_ssize_t total) noexcept
cdef void end_stream(Server server, CounterRow *counters, bint failed) noexcept
cdef bint may_part(Server server, Client client) noexcept
cdef int take_note(Server server, const char *message, Py_ssize_t length, int64_t now) except -1
cdef int spread_change(Engine engine, Server server) except -1
