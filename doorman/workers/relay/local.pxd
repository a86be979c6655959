"""Queries that are answered without a server. See local.pyx."""

from doorman.workers.relay.engine cimport Client, Engine, Server

cdef bint answer_here(Engine engine, Client client, const char *message, Py_ssize_t length) except -1
cdef int ready(Engine engine, Client client) except -1
cdef int begin_now(Engine engine, Client client, Server server) except -1
cdef int note_check(Engine engine, Server server, const char *answer, Py_ssize_t length) except -1
cdef bytes check_message(str text)
cdef bint is_check(Client client, const char *message, Py_ssize_t length) noexcept
