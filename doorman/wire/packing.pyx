"""Messages put together and taken apart, without `struct` and slices: a login in the cold pays for each line of code.

Rules
1. Bytes are never read or written outside their object: who asks for what is not there gets ValueError, and `len` is
   asked, not PyBytes_GET_SIZE: None gets TypeError.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp, memcpy, memmove

DEF HEADER = 5
DEF COMMA = 44


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


cpdef bytes number(uint32_t value):
    """An int32."""
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, 4)
    put32(PyBytes_AS_STRING(whole), value)
    return whole


cpdef long long number_at(bytes data, Py_ssize_t at) except -1:
    """The int32 that begins at this byte, without a sign."""
    if at < 0 or at > len(data) - 4:
        raise ValueError("no number is there")
    return get32(PyBytes_AS_STRING(data) + at)


cpdef bytes joined(bytes a, bytes b, bytes c=b"", bytes d=b"", bytes e=b""):
    """One after the other."""
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, len(a) + len(b) + len(c) + len(d) + len(e))
    cdef char *at = PyBytes_AS_STRING(whole)
    at = put(at, a)
    at = put(at, b)
    at = put(at, c)
    at = put(at, d)
    put(at, e)
    return whole


cpdef bytes part(bytes data, Py_ssize_t start, Py_ssize_t end):
    """`data[start:end]`, of which nothing may be missing."""
    if not 0 <= start <= end <= len(data):
        raise ValueError("no such part is there")
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, end - start)


cpdef bytes rest_from(bytes data, Py_ssize_t start):
    """`data[start:]`, likewise."""
    return part(data, start, len(data))


cpdef bytes part_of_buffer(bytearray buffer, Py_ssize_t start, Py_ssize_t end):
    """`bytes(buffer[start:end])`, likewise."""
    if not 0 <= start <= end <= len(buffer):
        raise ValueError("no such part is there")
    return PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer) + start, end - start)


cpdef refill(bytearray buffer, Py_ssize_t taken, bytes data):
    """Forget so many bytes at the front, add `data` at the end."""
    cdef Py_ssize_t left = len(buffer) - taken, size = len(data)
    if taken < 0 or left < 0:
        raise ValueError("so many bytes are not there")
    if taken and left:
        memmove(PyByteArray_AS_STRING(buffer), PyByteArray_AS_STRING(buffer) + taken, left)
    PyByteArray_Resize(buffer, left + size)
    memcpy(PyByteArray_AS_STRING(buffer) + left, PyBytes_AS_STRING(data), size)


cpdef Py_ssize_t place_of(bytes data, unsigned char byte, Py_ssize_t start=0) except -2:
    """Where a byte is first found from `start` on, -1 if nowhere."""
    cdef const char *begin = PyBytes_AS_STRING(data)
    cdef const char *found
    if not 0 <= start <= len(data):
        raise ValueError("no such part is there")
    found = <const char *>memchr(begin + start, byte, len(data) - start)
    return -1 if found == NULL else found - begin


cpdef bint is_nonce(bytes data) except -1:
    """Has it only what a nonce of SCRAM may have (RFC 5802: printable ASCII without the comma)?"""
    cdef Py_ssize_t i
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(data)
    for i in range(len(data)):
        if not 0x21 <= at[i] <= 0x7E or at[i] == COMMA:
            return False
    return True


cpdef bytes statuses_without(bytes messages, bytes hidden):
    """Whole ParameterStatus messages, without those of one parameter (its name and NUL). None when one is malformed."""
    cdef const char *data = PyBytes_AS_STRING(messages)
    cdef Py_ssize_t there = len(messages), name = len(hidden), at = 0, kept = 0, end
    cdef const char *body
    cdef const char *value
    cdef bytes result = PyBytes_FromStringAndSize(NULL, there)
    while at < there:
        if there - at < HEADER:
            return None
        end = at + 1 + get32(data + at + 1)
        body = data + at + HEADER
        if end < at + HEADER or end > there:
            return None
        value = <const char *>memchr(body, 0, data + end - body)
        if value == NULL or value == body:
            return None
        value += 1
        if memchr(value, 0, data + end - value) != data + end - 1:
            return None
        if value - body != name or memcmp(body, PyBytes_AS_STRING(hidden), name) != 0:
            memcpy(PyBytes_AS_STRING(result) + kept, data + at, end - at)
            kept += end - at
        at = end
    return result if kept == there else part(result, 0, kept)


cdef inline char *put(char *at, bytes data) noexcept:
    """The bytes, and where the next ones go."""
    memcpy(at, PyBytes_AS_STRING(data), len(data))
    return at + len(data)


cdef bytes begin(bytes letter, Py_ssize_t size):
    """Letter and length, and room for a body of so many bytes."""
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, 5 + size)
    cdef char *at = PyBytes_AS_STRING(whole)
    if len(letter) != 1:
        raise ValueError("a message has a letter of one byte")
    at[0] = PyBytes_AS_STRING(letter)[0]
    put32(at + 1, <uint32_t>(4 + size))
    return whole


cdef inline Py_ssize_t get32(const char *at) noexcept nogil:
    cdef uint32_t number
    memcpy(&number, at, 4)
    return ntohl(number)


cdef inline void put32(char *at, uint32_t number) noexcept nogil:
    number = htonl(number)
    memcpy(at, &number, 4)
