"""The one place that allocates and moves bytes of the relay; see buffer.pxd."""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

cdef enum:
    SMALLEST = 512
    SPARES = 64                 # blocks of SMALLEST bytes kept: a message that waits for a server needs one for a moment

cdef char *spares[SPARES]
cdef int n_spares = 0


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
    if buffer.data == NULL and length <= SMALLEST and take_spare(buffer):
        return buffer.data
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


cdef bint take_spare(Buffer *buffer) noexcept:
    global n_spares
    if not n_spares:
        return False
    n_spares -= 1
    buffer.data = spares[n_spares]
    buffer.capacity = SMALLEST
    return True


cdef void buffer_free(Buffer *buffer) noexcept:
    global n_spares
    if buffer.capacity == SMALLEST and n_spares < SPARES:
        spares[n_spares] = buffer.data
        n_spares += 1
    else:
        free(buffer.data)
    buffer.data = NULL
    buffer.start = 0
    buffer.end = 0
    buffer.capacity = 0
