"""What a client's portals run. See portals.pyx."""

from doorman.workers.relay.engine cimport Client, Engine, Server
from doorman.workers.relay.statements cimport Statement

cdef enum:
    NAME_LENGTH = 63                # bytes of a name by which PostgreSQL tells statements and portals

cdef tuple note_bound(Client client, const char *portal, Py_ssize_t length, object bound)
cdef int put_back(Client client, tuple before) except -1
cdef int forget_portal(Client client, bytes name) except -1
cdef int forget_deed(Client client, bytes name) except -1
cdef int describe_portal(Engine engine, Client client, Server server, const char *message, Py_ssize_t here) except -1
cdef tuple note_deed(
    Engine engine, Client client, bytes portal, tuple before, Statement statement, tuple targets, bytes rest
)
cdef int execute_deed(
    Engine engine, Client client, Server server, const char *run, Py_ssize_t run_length, const char *message, Py_ssize_t here
) except -1
