"""Types for the compiled form of backend.py. The module works without it."""

cimport cython

from doorman.wire.packing cimport counted, message, number_at, numbered, rest_from, statuses_without
from doorman.wire.text cimport cstring, decode, encode

cdef int _SASL_CONTINUE
cdef int _SASL_FINAL
cdef dict _READY

cpdef bytes sasl_continue(bytes data)
cpdef bytes sasl_final(bytes data)
cpdef bytes parameter_status(name, value)
cpdef bytes backend_key_data(long long pid, bytes secret)
cpdef tuple parse_authentication(bytes body)
cpdef list parse_sasl_mechanisms(bytes data)
@cython.locals(kept=bytes)
cpdef bytes checked_parameter_statuses(bytes messages, bytes hidden)
cpdef tuple parse_backend_key_data(bytes body)
cpdef str parse_ready_for_query(bytes body)
