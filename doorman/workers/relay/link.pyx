"""See link.pxd."""

from doorman.workers.relay.buffer cimport buffer_free


cdef class Link:
    """Belongs to one `Conn`, and goes with it."""

    def __dealloc__(self):
        buffer_free(&self.raw)
