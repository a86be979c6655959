"""Bytes put together for one write, where what came in cannot go out as it is. One for each direction and worker; empty
between two rounds, so it belongs to no connection."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

cdef struct Outgoing:
    char *data
    size_t length
    size_t capacity

cdef int outgoing_grow(Outgoing *outgoing, size_t length) except -1
cdef void outgoing_free(Outgoing *outgoing) noexcept


cdef inline char *outgoing_room(Outgoing *outgoing, size_t length) except NULL:
    """Where `length` more bytes go; they count at once."""
    if outgoing.length + length > outgoing.capacity:
        outgoing_grow(outgoing, length)
    outgoing.length += length
    return outgoing.data + outgoing.length - length


cdef inline int outgoing_add(Outgoing *outgoing, const char *bytes, size_t length) except -1:
    """Copy bytes to the end."""
    if length:
        memcpy(outgoing_room(outgoing, length), bytes, length)
    return 0


cdef inline void write_length(char *into, uint32_t value) noexcept nogil:
    """A message's length field: big-endian."""
    into[0] = <char>(value >> 24)
    into[1] = <char>(value >> 16)
    into[2] = <char>(value >> 8)
    into[3] = <char>value
