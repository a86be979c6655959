"""A private byte buffer of a connection: exists only for an incomplete message or an unfinished write.

`data + start` is the first byte not yet used, `end` is behind the last one; an empty buffer owns no memory.
"""

cdef struct Buffer:
    char *data
    size_t start
    size_t end
    size_t capacity

cdef int buffer_append(Buffer *buffer, const char *bytes, size_t length) except -1
cdef char *buffer_room(Buffer *buffer, size_t length) except NULL
cdef void buffer_consume(Buffer *buffer, size_t length) noexcept
cdef void buffer_free(Buffer *buffer) noexcept


cdef inline size_t buffer_length(Buffer *buffer) noexcept nogil:
    return buffer.end - buffer.start
