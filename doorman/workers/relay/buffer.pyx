"""The one place that allocates and moves bytes of the relay; see buffer.pxd."""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

cdef enum:
    SMALLEST = 512


cdef int buffer_append(Buffer *buffer, const char *bytes, size_t length) except -1:
    """Copy bytes to the end."""
    memcpy(buffer_room(buffer, length), bytes, length)
    buffer.end += length
    return 0


cdef char *buffer_room(Buffer *buffer, size_t length) except NULL:
    """Make room for `length` bytes behind `end` and return where they go; the caller then moves `end`."""
    cdef size_t used = buffer.end - buffer.start
    cdef size_t capacity
    cdef char *data
    if buffer.start and buffer.end + length > buffer.capacity:
        memmove(buffer.data, buffer.data + buffer.start, used)
        buffer.start = 0
        buffer.end = used
    if used + length > buffer.capacity:
        capacity = max(buffer.capacity, <size_t>SMALLEST)
        while capacity < used + length:
            capacity *= 2
        data = <char *>realloc(buffer.data, capacity)
        if data == NULL:
            raise MemoryError(f"no memory for {capacity} bytes of a connection's buffer")
        buffer.data = data
        buffer.capacity = capacity
    return buffer.data + buffer.end


cdef void buffer_consume(Buffer *buffer, size_t length) noexcept:
    """Drop bytes from the front; the memory goes with the last one."""
    buffer.start += length
    if buffer.start >= buffer.end:
        buffer_free(buffer)


cdef void buffer_free(Buffer *buffer) noexcept:
    free(buffer.data)
    buffer.data = NULL
    buffer.start = 0
    buffer.end = 0
    buffer.capacity = 0
