"""A whole batch of the shape that drivers send most. See batch.pyx."""

from doorman.workers.relay.engine cimport Client, Engine, Server

cdef Py_ssize_t take_batch(Engine engine, Client client, Server server, const char *data, Py_ssize_t length) except -1
cdef bint answer_batch(Engine engine, Server server, const char *data, Py_ssize_t length) except -1
