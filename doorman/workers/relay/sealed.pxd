"""Reading and writing where a connection is encrypted; see sealed.pyx."""

from libc.stdint cimport uint64_t

from doorman.shm.table cimport Table
from doorman.tls.record cimport RecordLayer
from doorman.workers.relay.engine cimport Client, Conn, Server
from doorman.workers.relay.link cimport Link

cdef Py_ssize_t receive_sealed(Conn conn, char *into, size_t room) noexcept
cdef Py_ssize_t transmit_sealed(Conn conn, const char *data, size_t length) except -2
cdef void cut_off(Conn conn, int error) noexcept
cdef int take_rest(Conn conn, bytes rest) except -1
cdef int say_farewell(Conn conn) noexcept
cdef bint is_between(Link link) noexcept
cdef Link link_server(Table table, int slot, RecordLayer layer)
cdef Link link_client(Table table, int client, object session)
