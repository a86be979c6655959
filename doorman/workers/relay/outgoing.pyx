"""See outgoing.pxd."""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef enum:
    SMALLEST = 65_536
    KEPT = 1_048_576            # a buffer that grew beyond this is given back after use


cdef char *outgoing_room(Outgoing *outgoing, size_t length) except NULL:
    """Where `length` more bytes go; they count at once."""
    cdef size_t capacity
    cdef char *data
    if outgoing.length + length > outgoing.capacity:
        capacity = max(outgoing.capacity, <size_t>SMALLEST)
        while capacity < outgoing.length + length:
            capacity *= 2
        data = <char *>realloc(outgoing.data, capacity)
        if data == NULL:
            raise MemoryError(f"no memory for {capacity} bytes to be sent")
        outgoing.data = data
        outgoing.capacity = capacity
    outgoing.length += length
    return outgoing.data + outgoing.length - length


cdef int outgoing_add(Outgoing *outgoing, const char *bytes, size_t length) except -1:
    """Copy bytes to the end."""
    if length:
        memcpy(outgoing_room(outgoing, length), bytes, length)
    return 0


cdef void outgoing_free(Outgoing *outgoing) noexcept:
    """Empty it; only an ordinary amount of memory is kept."""
    outgoing.length = 0
    if outgoing.capacity > KEPT:
        free(outgoing.data)
        outgoing.data = NULL
        outgoing.capacity = 0
