"""A COPY that failed with Syncs in it. See settle.pyx."""

from doorman.workers.relay.engine cimport Engine, Server

cdef bint settle(Engine engine, Server server, const char *behind, Py_ssize_t length) except -1
cdef void settled(Server server) noexcept
