"""See packing.pyx."""

from libc.stdint cimport uint32_t

cpdef bytes message(bytes letter, bytes body)
cpdef bytes numbered(bytes letter, uint32_t number, bytes rest)
cpdef bytes counted(bytes data)
cpdef bytes number(uint32_t value)
cpdef long long number_at(bytes data, Py_ssize_t at) except -1
cpdef bytes joined(bytes a, bytes b, bytes c=*, bytes d=*, bytes e=*)
cpdef bytes part(bytes data, Py_ssize_t start, Py_ssize_t end)
cpdef bytes rest_from(bytes data, Py_ssize_t start)
cpdef bytes part_of_buffer(bytearray buffer, Py_ssize_t start, Py_ssize_t end)
cpdef refill(bytearray buffer, Py_ssize_t taken, bytes data)
cpdef Py_ssize_t place_of(bytes data, unsigned char byte, Py_ssize_t start=*) except -2
cpdef bint is_nonce(bytes data) except -1
cpdef bytes statuses_without(bytes messages, bytes hidden)
