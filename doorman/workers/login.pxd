"""Types for the compiled form of login.py. The module works without it."""

cimport cython

from doorman.auth.exchange cimport ScramExchange
from doorman.auth.randomness cimport random_bytes
from doorman.shm.counters cimport count_connection
from doorman.shm.orders cimport is_enabled
from doorman.shm.table cimport monotonic_us
from doorman.wire.backend cimport backend_key_data, parameter_status
from doorman.wire.frontend cimport auth_message_length
from doorman.wire.packing cimport joined, part, rest_from
from doorman.wire.text cimport encode
from doorman.workers.credentials cimport learn
from doorman.workers.host cimport Host
from doorman.workers.relay.client_side cimport ClientSide
from doorman.workers.relay.engine cimport Client
from doorman.workers.routes cimport Route

cdef int _HELLO
cdef int _POOL, _CONSOLE, _NOWHERE
cdef int _PLAIN, _ENCRYPTED, _CANCEL


@cython.final
@cython.freelist(8)
cdef class Login:
    cdef public str address
    cdef public Client client
    cdef public int destination
    cdef public object exchange
    cdef public object found
    cdef public object generation
    cdef public long long heard_at_us
    cdef public str kind
    cdef public bytes parting
    cdef public int pool
    cdef public Host process
    cdef public ClientSide relay
    cdef public int requests
    cdef public Route route
    cdef public ScramExchange scram
    cdef public bytes secret
    cdef public object startup
    cdef public object task
    cdef public object tls

    @cython.locals(used=Py_ssize_t, at=Py_ssize_t, length=Py_ssize_t, route=Route)
    cpdef Py_ssize_t feed(self, bytes data) except -1
    cpdef bint is_over(self) except -1
    cpdef bint is_shaking(self) except -1
    cdef bint is_direct_tls(self, bytes data) except -1
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
    @cython.locals(client_key=bytes, route=Route, name=bytes)
    cdef enter_pool(self)
    @cython.locals(route=Route, name=bytes, key=bytes, before=bytes)
    cpdef greet(self, bytes parameters, pid)
    cpdef stop_waiting(self)
