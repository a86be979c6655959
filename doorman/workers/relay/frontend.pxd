"""What clients send. See frontend.pyx."""

from doorman.workers.relay.engine cimport Client, Engine

cdef void end_gathering(Engine engine, Client client) noexcept
cdef Py_ssize_t feed_client(Engine engine, Client client, const char *data, Py_ssize_t length) except -2
