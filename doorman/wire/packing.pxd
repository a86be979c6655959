"""See packing.pyx."""

from libc.stdint cimport uint32_t

cpdef bytes message(bytes letter, bytes body)
cpdef bytes numbered(bytes letter, uint32_t number, bytes rest)
cpdef bytes counted(bytes data)
cpdef long long number_at(bytes data, Py_ssize_t at) except -1
