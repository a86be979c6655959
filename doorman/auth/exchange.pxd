"""Types for the compiled form of exchange.py. The module works without it."""

from doorman.auth.scram cimport ScramServer


cdef class ScramExchange:
    cdef public bytes _binding
    cdef bint _is_plus
    cdef bint _keeps_key
    cdef object _rng
    cdef ScramServer _scram
    cdef object _step
    cdef public bytes client_key
    cdef public bint done
