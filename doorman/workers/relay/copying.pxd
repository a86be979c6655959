"""COPY of clients whose statements are renamed. See copying.pyx."""

from doorman.workers.relay.engine cimport Engine, Server

cdef bint is_of_copy(char kind) noexcept
cdef int pass_copy(
    Engine engine, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t here
) except -1
cdef int begin_copy(
    Engine engine, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t here
) except -1
