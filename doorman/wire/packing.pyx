"""Messages put together and numbers read out of them, without `struct`: a login in the cold pays for each line of code.

Rules
1. Bytes are never read or written outside their object: who asks for a number that is not there gets ValueError, and
   `len` is asked, not PyBytes_GET_SIZE: None gets TypeError.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memcpy


cdef extern from "<arpa/inet.h>" nogil:
    uint32_t htonl(uint32_t number)
    uint32_t ntohl(uint32_t number)


cpdef bytes message(bytes letter, bytes body):
    """A whole message around `body`: letter, length, body."""
    cdef Py_ssize_t size = len(body)
    cdef bytes whole = begin(letter, size)
    memcpy(PyBytes_AS_STRING(whole) + 5, PyBytes_AS_STRING(body), size)
    return whole


cpdef bytes numbered(bytes letter, uint32_t number, bytes rest):
    """A message whose body is an int32 and what follows it: Authentication, BackendKeyData."""
    cdef Py_ssize_t size = len(rest)
    cdef bytes whole = begin(letter, 4 + size)
    put32(PyBytes_AS_STRING(whole) + 5, number)
    memcpy(PyBytes_AS_STRING(whole) + 9, PyBytes_AS_STRING(rest), size)
    return whole


cpdef bytes counted(bytes data):
    """Its length as an int32, and the bytes."""
    cdef Py_ssize_t size = len(data)
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, 4 + size)
    cdef char *at = PyBytes_AS_STRING(whole)
    put32(at, <uint32_t>size)
    memcpy(at + 4, PyBytes_AS_STRING(data), size)
    return whole


cpdef long long number_at(bytes data, Py_ssize_t at) except -1:
    """The int32 that begins at this byte, without a sign."""
    cdef uint32_t number
    if at < 0 or at > len(data) - 4:
        raise ValueError("no number is there")
    memcpy(&number, PyBytes_AS_STRING(data) + at, 4)
    return ntohl(number)


cdef bytes begin(bytes letter, Py_ssize_t size):
    """Letter and length, and room for a body of so many bytes."""
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, 5 + size)
    cdef char *at = PyBytes_AS_STRING(whole)
    if len(letter) != 1:
        raise ValueError("a message has a letter of one byte")
    at[0] = PyBytes_AS_STRING(letter)[0]
    put32(at + 1, <uint32_t>(4 + size))
    return whole


cdef inline void put32(char *at, uint32_t number) noexcept nogil:
    number = htonl(number)
    memcpy(at, &number, 4)
