"""SQL that speaks of prepared statements by name. See sql_names.pyx."""

from doorman.workers.relay.engine cimport Client, Engine, Server
from doorman.workers.relay.statements cimport Statement

cdef bint speaks_of_names(const char *text) noexcept nogil
cdef int lend_names(Engine engine, Client client, Server server, bytes text, bint alone) except -1
cdef bytes lend_to(Engine engine, Client client, Server server, Statement statement)
cdef int take_back(Engine engine, Server server, bytes name) except -1
cdef tuple targets_of(Engine engine, Client client, Server server, Statement statement)
cdef int note_deallocated(Engine engine, Server server) except -1
