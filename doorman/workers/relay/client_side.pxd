"""Fields and methods of `ClientSide`. See client_side.pyx."""

from libc.stdint cimport uint32_t

from doorman.workers.relay.engine cimport Client, Server
from doorman.workers.relay.server_side cimport ServerSide


cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr_storage:
        unsigned short ss_family


cdef class ClientSide(ServerSide):
    cdef dict logins                # client -> when it came; the oldest first, those that are known or gone are not in it
    cdef object farewells           # deque of (client, deadline)
    cdef public bint tells_ends     # the host is told of every client that ends, not only of those with a session

    cdef Client welcome(self, int fd, sockaddr_storage *address)
    cdef int hear(self, Client client) except -1
    cdef int client_event(self, Client client, uint32_t events) except -1
    cdef bint is_held_up(self, Client client) noexcept
    cdef int read_client(self, Client client) except -1
    cdef int take_kept(self, Client client) except -1
    cdef int gather(self, Client client) except -1
    cdef bytes check_of(self, int pool)
    cdef int take_input(self, Client client, char *data, Py_ssize_t length, bint from_scratch) except -1
    cdef int part_if_over(self, Client client) except -1
    cdef int hurry(self, Server server) except -1
    cdef Py_ssize_t feed_session(self, Client client, const char *data, Py_ssize_t length) except -2
    cdef int read_ahead(self, Client client) except -1
    cdef int discard_input(self, Client client) except -1
    cdef int process(self, Client client) except -1
    cdef int written(self, Client client) except -1
    cdef int stop_waiting(self, Client client) except -1
    cdef int abandon(self, Server server) except -1
    cdef int hang_up(self, Client client) except -1
    cdef bint needs_server_to_greet(self, Client client)
    cpdef send(self, Client client, bytes data)
    cpdef end(self, Client client)
    cpdef suspend(self, Client client)
    cpdef bint log_in(self, Client client, int pool, uint32_t generation, object settings, bytes cancel_secret,
                      bytes application_name) except -1
