"""SQL that speaks of prepared statements by name. See sql_names.pyx."""

from doorman.workers.relay.engine cimport Client, Engine, Server
from doorman.workers.relay.statements cimport Statement

cdef bint speaks_of_names(const char *text) noexcept nogil
cdef dict lend_names(Engine engine, Client client, Server server, bytes text)
cdef int note_executed(Engine engine, Client client, Server server, dict names, bint of_query) except -1
cdef int lend_to(Engine engine, Client client, Server server, Statement statement) except -1
cdef int take_back(Engine engine, Server server, bytes name) except -1
cdef tuple targets_of(Engine engine, Client client, Server server, Statement statement)
cdef int note_bound_names(Engine engine, Client client, Server server, Statement statement) except -1
cdef int note_deallocated(Engine engine, Server server) except -1
