"""See outgoing.pxd."""

from libc.stdlib cimport free, realloc

cdef enum:
    SMALLEST = 65_536
    KEPT = 1_048_576            # a buffer that grew beyond this is given back after use


cdef int outgoing_grow(Outgoing *outgoing, size_t length) except -1:
    """Make room for `length` bytes more."""
    cdef size_t capacity = max(outgoing.capacity, <size_t>SMALLEST)
    cdef char *data
    while capacity < outgoing.length + length:
        capacity *= 2
    data = <char *>realloc(outgoing.data, capacity)
    if data == NULL:
        raise MemoryError(f"no memory for {capacity} bytes to be sent")
    outgoing.data = data
    outgoing.capacity = capacity
    return 0


cdef void outgoing_free(Outgoing *outgoing) noexcept:
    """Empty it; only an ordinary amount of memory is kept."""
    outgoing.length = 0
    if outgoing.capacity > KEPT:
        free(outgoing.data)
        outgoing.data = NULL
        outgoing.capacity = 0
