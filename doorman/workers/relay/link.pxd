"""What an encrypted connection of the relay has besides a plain one."""

from libc.stdint cimport uint64_t

from doorman.tls.record cimport RecordLayer
from doorman.workers.relay.buffer cimport Buffer


cdef class Link:
    cdef RecordLayer layer
    cdef Buffer raw                 # an incomplete record
    cdef uint64_t *faults           # counters of this process for this side, by kind (doorman.tls.faults)
    cdef bint said_farewell
