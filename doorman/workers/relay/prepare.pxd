"""The statements that servers hold. See prepare.pyx."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

from doorman.workers.relay.engine cimport Client, Engine, Server
from doorman.workers.relay.outgoing cimport Outgoing
from doorman.workers.relay.statements cimport Named, Statement

cdef enum Fit:                      # does a statement return the rows that its client expects of it?
    FIT_GOOD = 0
    FIT_UNKNOWN = 1
    FIT_STALE = 2
    FIT_RETYPED = 3                 # its parameters have other types here than the client was told

cdef void note_start(Engine engine, Server server) noexcept
cdef int take_over(Engine engine, Server server, Statement statement) except -1
cdef int doubt_set(Engine engine, Server server) noexcept
cdef int heed_epoch(Engine engine, Server server) except -1
cdef int ensure(Engine engine, Server server, Statement statement, Client client, Py_ssize_t name_length) except -1
cdef int hold_for_description(Engine engine, Server server, Statement statement) except -1
cdef int drop_statement(Engine engine, Server server, Statement statement) except -1
cdef int bind_stale(Engine engine, Server server) except -1
cdef int prepare(Engine engine, Server server, Statement statement, uint8_t kind, PyObject *new, PyObject *old) except -1
cdef int prepare_again(Engine engine, Server server, Statement statement) except -1
cdef int write_parse(Outgoing *out, const char *name, Py_ssize_t name_length, const char *body, Py_ssize_t length) except -1
cdef int send_ours(Engine engine, Server server, bytes query) except -1
cdef Statement prepare_nothing(Engine engine, Server server)
cdef int renew_effect(Engine engine, Server server, Statement statement) except -1
cdef int try_parse(
    Engine engine, Client client, Server server, Statement statement, Named named, bytes name, const char *body,
    Py_ssize_t length,
) except -1
