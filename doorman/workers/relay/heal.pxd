"""Statements whose plan DDL has made stale. See heal.pyx."""

from libc.stdint cimport uint32_t

from doorman.workers.relay.engine cimport Engine, Server
from doorman.workers.relay.statements cimport Statement

cdef int watch_for_stale(Engine engine, Server server, Statement statement) except -1
cdef int remember_sent(Server server, const char *data, size_t length) except -1
cdef int seal(Engine engine, Server server) except -1
cdef bint note_unusable(Engine engine, Server server, const char *fields, Py_ssize_t length) except -1
cdef bint start_healing(Engine engine, Server server) except -1
cdef uint32_t shape_of(const char *description, Py_ssize_t length) noexcept
cdef int note_types(
    Engine engine, Server server, object whose, Statement statement, const char *message, Py_ssize_t length
) except -1
cdef int note_shape(
    Engine engine, Server server, object whose, Statement statement, const char *message, Py_ssize_t length
) except -1
cdef int run_again(Engine engine, Server server) except -1
