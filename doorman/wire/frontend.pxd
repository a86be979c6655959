"""Types for the compiled form of frontend.py. The module works without it."""

cimport cython

from doorman.wire.packing cimport counted, message, number_at, part, place_of, rest_from
from doorman.wire.text cimport cstring, decode, encode

cdef int _PASSWORD
cdef long long _NOTHING

cpdef bytes sasl_initial(mechanism, data)
cpdef bytes sasl_response(bytes data)
@cython.locals(length=cython.longlong)
cpdef Py_ssize_t auth_message_length(bytes buf) except -1
@cython.locals(length=cython.longlong, name_end=Py_ssize_t, data=bytes)
cpdef tuple parse_sasl_initial(bytes body)
cpdef bytes parse_sasl_response(bytes body)
cdef _check_size(bytes body)
