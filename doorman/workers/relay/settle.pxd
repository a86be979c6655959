"""A COPY that failed with Syncs in it. See settle.pyx."""

from doorman.workers.relay.engine cimport Engine, Server

cdef bint settle(Engine engine, Server server, const char *error, Py_ssize_t here, Py_ssize_t length) except -1
cdef int settle_idle(Engine engine, Server server) except -1
cdef void settled(Server server) noexcept
