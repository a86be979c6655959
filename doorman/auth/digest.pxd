"""See digest.pyx."""

from libc.stdint cimport uint8_t

cdef enum:
    DIGEST = 32                     # bytes of SHA-256

cpdef bytes sha256(bytes data)
cpdef bytes hmac_sha256(bytes key, bytes data)
cpdef bytes xor(bytes left, bytes right)
cpdef bytes base64(bytes data)
cpdef bint is_equal(bytes left, bytes right)
cdef bint same_bytes(const uint8_t *a, const uint8_t *b, size_t length) noexcept nogil
