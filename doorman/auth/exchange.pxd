"""Types for the compiled form of exchange.py. The module works without it."""

cimport cython

from doorman.auth.randomness cimport draw
from doorman.auth.scram cimport ScramServer
from doorman.wire.backend cimport sasl_continue, sasl_final
from doorman.wire.frontend cimport parse_sasl_initial, parse_sasl_response

cdef bytes _SASL_REQUEST
cdef bytes _SASL_REQUEST_WITH_BINDING
cdef int _INITIAL
cdef int _FIRST
cdef int _FINAL
cdef int _OVER


@cython.final
@cython.freelist(8)
cdef class ScramExchange:
    cdef public bytes _binding
    cdef bint _is_plus
    cdef bint _keeps_key
    cdef object _rng
    cdef ScramServer _scram
    cdef int _step
    cdef public bytes client_key
    cdef public bint done

    @cython.locals(new=ScramExchange)
    cpdef ScramExchange again(self)
    cdef _begin(self, ScramServer scram, bint keeps_key, bytes binding, object rng)
    @cython.locals(step=cython.int)
    cpdef bytes feed(self, bytes body)
    @cython.locals(data=bytes)
    cdef bytes _on_initial(self, bytes body)
    cdef bytes _on_first(self, bytes body)
    cdef bytes _on_final(self, bytes body)
