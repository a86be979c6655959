"""See dial.pyx."""

cpdef int dial(int family, bytes address, tuple options) except? -1
cpdef int outcome(int fd) except? -1
cpdef bytes receive(int fd)
cpdef bint send_whole(int fd, bytes data) except -1
cpdef int send_descriptor(int channel, bytes packet, int fd) noexcept
