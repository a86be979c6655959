"""Types for the compiled form of frontend.py. The module works without it."""

cimport cython

from doorman.wire.packing cimport counted, joined, message, number_at, part, place_of, rest_from
from doorman.wire.text cimport cstring, decode, encode

cdef int _PASSWORD
cdef str _USUAL_MECHANISM
cdef bytes _USUAL_NAME, _NO_BYTES
cdef long long _NOTHING

@cython.locals(name=bytes)
cpdef bytes sasl_initial(str mechanism, bytes data)
cpdef bytes sasl_response(bytes data)
@cython.locals(length=cython.longlong)
cpdef Py_ssize_t auth_message_length(bytes buf) except -1
@cython.locals(length=cython.longlong, name_end=Py_ssize_t, data=bytes, name=str)
cpdef tuple parse_sasl_initial(bytes body)
cpdef bytes parse_sasl_response(bytes body)
cdef _check_size(bytes body)
