"""Answers to clients whose statements are renamed. See answers.pyx."""

from doorman.workers.relay.engine cimport Client, Engine, Server
from doorman.workers.relay.outgoing cimport Outgoing

cdef Py_ssize_t feed_answers(Engine engine, Server server, const char *data, Py_ssize_t length) except -2
cdef int add_known(Server server, Outgoing *out) except -1
cdef bint has_known(Server server) noexcept
cdef int forget_segment(Engine engine, Server server) except -1
cdef int give(Engine engine, Client client, const char *run, Py_ssize_t length) except -1
