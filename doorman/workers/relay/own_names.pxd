"""Messages of clients whose statements are not renamed. See own_names.pyx."""

from doorman.workers.relay.engine cimport Engine, Server

cdef int pass_on(
    Engine engine, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t here, Py_ssize_t total
) except -1
