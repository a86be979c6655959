"""Types for the compiled form of login.py. The module works without it."""

cimport cython

from doorman.workers.relay.client_side cimport ClientSide
from doorman.workers.relay.engine cimport Client
from doorman.workers.routes cimport Route


cdef class Login:
    cdef public str address
    cdef public Client client
    cdef public int destination
    cdef public object exchange
    cdef public object found
    cdef public object generation
    cdef public double heard_at
    cdef public str kind
    cdef public bytes parting
    cdef public int pool
    cdef public object process
    cdef public ClientSide relay
    cdef public int requests
    cdef public Route route
    cdef public bytes secret
    cdef public object startup
    cdef public object task
    cdef public object tls

    cdef Py_ssize_t packet_length(self, bytes data) except -1
    cdef Route known_route(self, bytes data)
    cdef follow(self, Route route)
    cdef check_room(self)
    cdef take_pool(self, object startup, int row, object generation)
    cdef on_first_packet(self, bytes packet)
    cdef on_startup(self, object startup, bytes packet)
    cdef on_auth_message(self, bytes body)
    cdef go_on(self, answer)
    cdef finish(self)
    cdef enter_pool(self)
