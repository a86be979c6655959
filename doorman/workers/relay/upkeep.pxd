"""Servers that serve no client at the moment, or not yet. See upkeep.pyx."""

from libc.stdint cimport int64_t

from doorman.workers.relay.engine cimport Engine, Server

cdef Py_ssize_t feed_quiet(Engine engine, Server server, const char *data, Py_ssize_t length) except -2
cdef int start_probe(Engine engine, Server server, int64_t patience) except -1
cdef int start_sync(Engine engine, Server server, bytes query, bint anew, int64_t patience) except -1
cdef bint note_way_back(Server server, const char *text, Py_ssize_t length) except -1
cdef int forget_undone(Server server) except -1
cdef bint must_restore(Server server) except -1
cdef bint restore(Engine engine, Server server) except -1
cdef bint end_restore(Engine engine, Server server) except -1
cdef int start_restore(Engine engine, Server server) except -1
cdef int start_drain(Engine engine, Server server, bint complete) except -1
cdef bint cancel_again(Engine engine, Server server) except -1
cdef int start_clean(Engine engine, Server server) except -1
cdef int cancel(Engine engine, Server server) except -1
