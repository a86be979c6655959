"""SHA-256, HMAC-SHA-256 and base64 of short messages, as every login by SCRAM needs several of.

`hmac`, `hashlib` and `binascii` are the reference. Each call of the first two makes, looks up and frees objects of
OpenSSL's, which takes far longer than the digest of a hundred bytes. So the functions of libcrypto that do nothing else
are looked for when this module is loaded.

Rules
1. They are used only if `agrees` has found that they do exactly what the reference does; else that is used.
2. Nothing of a key stays behind on the stack.
3. Secrets are compared by `is_equal`, or in compiled code `same_bytes`: the time depends on the lengths alone.
"""

import hashlib
import hmac
import logging
from binascii import b2a_base64

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *name, int flags)
    void *dlsym(void *library, const char *name)
    int RTLD_NOW, RTLD_LOCAL

cdef extern from "<string.h>" nogil:
    void explicit_bzero(void *at, size_t length)

# OpenSSL (openssl/sha.h, openssl/evp.h). A SHA256_CTX has 112 bytes. An encoded block is followed by a NUL.
ctypedef int (*Init)(void *) noexcept nogil
ctypedef int (*Update)(void *, const void *, size_t) noexcept nogil
ctypedef int (*Final)(uint8_t *, void *) noexcept nogil
ctypedef int (*Encode)(uint8_t *, const uint8_t *, int) noexcept nogil

cdef enum:
    BLOCK = 64
    STATE_WORDS = 32                # of 8 bytes: twice what is needed
    MOST_ENCODED = 3072             # bytes

LIBRARIES = (b"libcrypto.so.3", b"libcrypto.so.4", b"libcrypto.so.1.1")
log = logging.getLogger("doorman.auth")

cdef Init INIT = NULL
cdef Update UPDATE = NULL
cdef Final FINAL = NULL
cdef Encode ENCODE = NULL
cdef bint IS_USED = False


cpdef bytes sha256(bytes data):
    """SHA-256."""
    cdef uint64_t[STATE_WORDS] state
    cdef uint8_t[DIGEST] digest
    if not IS_USED:
        return hashlib.sha256(data).digest()
    INIT(state)
    UPDATE(state, <const char *>data, len(data))
    FINAL(digest, state)
    found = (<char *>digest)[:DIGEST]
    explicit_bzero(state, sizeof(state))
    explicit_bzero(digest, sizeof(digest))
    return found


cpdef bytes hmac_sha256(bytes key, bytes data):
    """HMAC-SHA-256 (RFC 2104)."""
    cdef uint64_t[STATE_WORDS] state
    cdef uint8_t[BLOCK] pad
    cdef uint8_t[DIGEST] digest
    cdef Py_ssize_t i
    if not IS_USED or len(key) > BLOCK:
        return hmac.digest(key, data, "sha256")
    memset(pad, 0, BLOCK)
    memcpy(pad, <const char *>key, len(key))
    for i in range(BLOCK):
        pad[i] ^= 0x36
    INIT(state)
    UPDATE(state, pad, BLOCK)
    UPDATE(state, <const char *>data, len(data))
    FINAL(digest, state)
    for i in range(BLOCK):
        pad[i] ^= 0x36 ^ 0x5C
    INIT(state)
    UPDATE(state, pad, BLOCK)
    UPDATE(state, digest, DIGEST)
    FINAL(digest, state)
    found = (<char *>digest)[:DIGEST]
    explicit_bzero(state, sizeof(state))
    explicit_bzero(pad, sizeof(pad))
    explicit_bzero(digest, sizeof(digest))
    return found


cpdef bytes xor(bytes left, bytes right):
    """Of two digests."""
    cdef uint8_t[DIGEST] mixed
    cdef const uint8_t *a = <const uint8_t *><const char *>left
    cdef const uint8_t *b = <const uint8_t *><const char *>right
    cdef int i
    if len(left) != DIGEST or len(right) != DIGEST:
        raise ValueError(f"a digest has {DIGEST} bytes")
    for i in range(DIGEST):
        mixed[i] = a[i] ^ b[i]
    return (<char *>mixed)[:DIGEST]


cpdef bytes base64(bytes data):
    """Without line breaks (RFC 4648 section 4)."""
    cdef Py_ssize_t size = len(data)
    cdef bytes encoded
    if not IS_USED or size > MOST_ENCODED:
        return b2a_base64(data, newline=False)
    encoded = PyBytes_FromStringAndSize(NULL, (size + 2) // 3 * 4)     # and a NUL, as all bytes objects have
    if size:
        ENCODE(<uint8_t *>PyBytes_AS_STRING(encoded), <const uint8_t *>PyBytes_AS_STRING(data), <int>size)
    return encoded


cpdef bint is_equal(bytes left, bytes right):
    """Rule 3."""
    if len(left) != len(right):
        return False
    return same_bytes(<const uint8_t *><const char *>left, <const uint8_t *><const char *>right, len(left))


cdef bint same_bytes(const uint8_t *a, const uint8_t *b, size_t length) noexcept nogil:
    """Rule 3. `volatile`: a compiler that sees the result decided may leave the loop early."""
    cdef volatile uint8_t differing = 0
    cdef size_t i
    for i in range(length):
        differing |= a[i] ^ b[i]
    return differing == 0


def use_libcrypto(wanted: bool) -> bool:
    """Whether digests are libcrypto's from now on: for tests, and once when this module is loaded."""
    global IS_USED
    IS_USED = False
    if not wanted or not (ENCODE != NULL or find_library()):
        return False
    IS_USED = True
    IS_USED = agrees()
    if not IS_USED:
        log.warning("libcrypto was found but does not do what is expected of it; digests go through hashlib")
    return IS_USED


cdef bint find_library():
    global INIT, UPDATE, FINAL, ENCODE
    cdef void *library
    for name in LIBRARIES:
        library = dlopen(<const char *><bytes>name, RTLD_NOW | RTLD_LOCAL)
        if library == NULL:
            continue
        INIT = <Init>dlsym(library, b"SHA256_Init")
        UPDATE = <Update>dlsym(library, b"SHA256_Update")
        FINAL = <Final>dlsym(library, b"SHA256_Final")
        ENCODE = <Encode>dlsym(library, b"EVP_EncodeBlock")
        if INIT != NULL and UPDATE != NULL and FINAL != NULL and ENCODE != NULL:
            return True
    ENCODE = NULL
    return False


cdef bint agrees():
    """Rule 1: lengths on both sides of a block's."""
    cdef bytes data, key
    for length in (0, 1, 31, 32, 55, 56, 63, 64, 65, 119, 120, 200, 1000):
        data, key = bytes(i * 7 & 255 for i in range(length)), bytes(range(length % 65))
        if sha256(data) != hashlib.sha256(data).digest() or hmac_sha256(key, data) != hmac.digest(key, data, "sha256"):
            return False
        if base64(data) != b2a_base64(data, newline=False):
            return False
    return True


use_libcrypto(True)
