"""Types for the compiled form of verifier.py. The module works without it."""

cimport cython

from doorman.auth.digest cimport hmac_sha256, is_equal, sha256
from doorman.wire.text cimport encode


@cython.final
cdef class ScramVerifier:
    cdef readonly int iterations
    cdef readonly str salt
    cdef readonly bytes stored_key
    cdef readonly bytes server_key
    cdef readonly bytes announcement

cpdef bytes decode_base64(text)
