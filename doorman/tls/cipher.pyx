"""AEADs for the record layer: one direction's key, and the two libraries that can use it.

`cryptography` is what there always is, and the reference. Its calls take 0.6 µs and more whatever the length, most of
it Python's buffers and a new OpenSSL context for each. OpenSSL's libcrypto itself takes 0.25 µs with a context that is
kept, but is not linked: a machine that builds this package need not have it. So it is looked for when this module is
loaded (the interpreter's own `ssl` has loaded it as a rule), and short records go through it; long ones through
`cryptography`, whose OpenSSL is newer and faster for each byte.

Rules
1. libcrypto is used only if `agrees` has found it to do exactly what `cryptography` does.
2. A context belongs to one direction, one key and one process. Freeing it clears the key (EVP_CIPHER_CTX_free).
3. `open` says whether the tag was right. If it was not, the caller clears what has been written.
4. PG_DOORMAN_AEAD=cryptography in the environment: libcrypto is left alone.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memset

from doorman.shm.layout cimport TlsDirection

import logging
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from doorman.tls.suites import BY_NUMBER

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *name, int flags)
    void *dlsym(void *library, const char *name)
    int RTLD_NOW, RTLD_LOCAL

# OpenSSL 3 (openssl/evp.h); pointers to its structures are opaque here
ctypedef void *(*FetchCipher)(void *, const char *, const char *) noexcept nogil
ctypedef void *(*NewContext)() noexcept nogil
ctypedef void (*FreeContext)(void *) noexcept nogil
ctypedef int (*Init)(void *, const void *, const uint8_t *, const uint8_t *, const void *) noexcept nogil
ctypedef int (*Update)(void *, uint8_t *, int *, const uint8_t *, int) noexcept nogil
ctypedef int (*Final)(void *, uint8_t *, int *) noexcept nogil
ctypedef int (*Control)(void *, int, int, void *) noexcept nogil
ctypedef void (*ClearError)() noexcept nogil

cdef enum:
    GET_TAG = 0x10                  # EVP_CTRL_AEAD_GET_TAG
    SET_TAG = 0x11
    SHORT = 4096                    # bytes of content up to which libcrypto is the faster one

LIBRARIES = (b"libcrypto.so.3", b"libcrypto.so.4")
log = logging.getLogger("doorman.tls")


cdef struct Libcrypto:
    FetchCipher fetch
    NewContext make
    FreeContext free
    Init encrypt_init
    Update encrypt_update
    Final encrypt_final
    Init decrypt_init
    Update decrypt_update
    Final decrypt_final
    Control control
    ClearError clear_error
    void *aes_128
    void *aes_256
    void *chacha

cdef Libcrypto LIB
memset(&LIB, 0, sizeof(LIB))
cdef bint IS_USED = False


@cython.final
cdef class Window:
    """Memory of ours as a buffer that `cryptography` reads from or writes to; points elsewhere for each call."""

    cdef char *data
    cdef Py_ssize_t length
    cdef bint readonly

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.length, self.readonly, flags)


cdef Window WITH_NONCE = Window()
cdef Window WITH_AAD = Window()
cdef Window SOURCE = Window()
cdef Window TARGET = Window()
WITH_NONCE.readonly = WITH_AAD.readonly = SOURCE.readonly = True


@cython.final
cdef class Cipher:
    """What seals, or what opens, the records of one direction."""

    def __dealloc__(self):
        if self.context != NULL:
            LIB.free(self.context)

    cdef int seal(self, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
                  const char *source, size_t length, char *target) except -1:
        """Encrypt so many bytes; `target` has room for them and the tag, and does not overlap them."""
        if self.context != NULL and length <= SHORT:
            if not seal_short(self.context, nonce, aad, aad_length, <const uint8_t *>source, length, <uint8_t *>target):
                raise RuntimeError("libcrypto could not seal a record")
            return 0
        if self.call is None:
            self.call = aead_of(self.way, self.suite).encrypt_into
        point(nonce, aad, aad_length, source, length, target, length + TAG)
        self.call(WITH_NONCE, SOURCE, WITH_AAD, TARGET)
        return 0

    cdef bint open(self, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
                   const char *source, size_t length, char *target) except -1:
        """Decrypt so many bytes, behind which the tag stands. False: it is another one (rule 3)."""
        if self.context != NULL and length <= SHORT:
            return open_short(self.context, nonce, aad, aad_length, <const uint8_t *>source, length, <uint8_t *>target)
        if self.call is None:
            self.call = aead_of(self.way, self.suite).decrypt_into
        point(nonce, aad, aad_length, source, length + TAG, target, length)
        try:
            self.call(WITH_NONCE, SOURCE, WITH_AAD, TARGET)
        except InvalidTag:
            return False
        return True


cdef Cipher cipher_of(TlsDirection *way, int suite, bint seals):
    """For the key that stands in `way` now; `way` outlives it."""
    cdef Cipher cipher = Cipher()
    cipher.way = way
    cipher.suite = suite
    cipher.seals = seals
    if IS_USED:
        cipher.context = new_context(kind_of(suite), way.key, seals)
    return cipher


cdef object aead_of(TlsDirection *way, int suite):
    kind = BY_NUMBER[suite]
    return (ChaCha20Poly1305 if kind.is_chacha else AESGCM)(way.key[:kind.key_bytes])


cdef int point(const uint8_t *nonce, const uint8_t *aad, size_t aad_length, const char *source, size_t source_length,
               char *target, size_t target_length) noexcept:
    """The windows for one call."""
    WITH_NONCE.data = <char *>nonce
    WITH_NONCE.length = NONCE
    WITH_AAD.data = <char *>aad
    WITH_AAD.length = aad_length
    SOURCE.data = <char *>source
    SOURCE.length = source_length
    TARGET.data = target
    TARGET.length = target_length
    return 0


# --- libcrypto -------------------------------------------------------------------------------------------------------

cdef inline bint seal_short(void *context, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
                            const uint8_t *source, size_t length, uint8_t *target) noexcept nogil:
    cdef int n = 0
    return (
        LIB.encrypt_init(context, NULL, NULL, nonce, NULL) > 0
        and LIB.encrypt_update(context, NULL, &n, aad, <int>aad_length) > 0
        and (not length or LIB.encrypt_update(context, target, &n, source, <int>length) > 0)
        and LIB.encrypt_final(context, target + length, &n) > 0
        and LIB.control(context, GET_TAG, TAG, target + length) > 0
    )


cdef inline bint open_short(void *context, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
                            const uint8_t *source, size_t length, uint8_t *target) noexcept nogil:
    cdef int n = 0
    if (
        LIB.decrypt_init(context, NULL, NULL, nonce, NULL) > 0
        and LIB.control(context, SET_TAG, TAG, <void *>(source + length)) > 0
        and LIB.decrypt_update(context, NULL, &n, aad, <int>aad_length) > 0
        and (not length or LIB.decrypt_update(context, target, &n, source, <int>length) > 0)
        and LIB.decrypt_final(context, target + length, &n) > 0
    ):
        return True
    LIB.clear_error()
    return False


cdef void *kind_of(int suite):
    """OpenSSL's algorithm for a suite."""
    kind = BY_NUMBER[suite]
    if kind.is_chacha:
        return LIB.chacha
    return LIB.aes_256 if kind.key_bytes == 32 else LIB.aes_128


cdef void *new_context(void *kind, const uint8_t *key, bint seals) except NULL:
    cdef void *context = LIB.make()
    if context == NULL:
        raise MemoryError("no memory for a cipher's context")
    if (LIB.encrypt_init if seals else LIB.decrypt_init)(context, kind, key, NULL, NULL) <= 0:
        LIB.free(context)
        raise RuntimeError("libcrypto did not take a key")
    return context


cdef bint find_library():
    """Fill LIB from the first library that has all that is needed."""
    cdef void *library
    for name in LIBRARIES:
        library = dlopen(<const char *><bytes>name, RTLD_NOW | RTLD_LOCAL)
        if library != NULL and take_symbols(library):
            return True
    return False


cdef bint take_symbols(void *library):
    LIB.fetch = <FetchCipher>dlsym(library, b"EVP_CIPHER_fetch")
    LIB.make = <NewContext>dlsym(library, b"EVP_CIPHER_CTX_new")
    LIB.free = <FreeContext>dlsym(library, b"EVP_CIPHER_CTX_free")
    LIB.encrypt_init = <Init>dlsym(library, b"EVP_EncryptInit_ex2")
    LIB.encrypt_update = <Update>dlsym(library, b"EVP_EncryptUpdate")
    LIB.encrypt_final = <Final>dlsym(library, b"EVP_EncryptFinal_ex")
    LIB.decrypt_init = <Init>dlsym(library, b"EVP_DecryptInit_ex2")
    LIB.decrypt_update = <Update>dlsym(library, b"EVP_DecryptUpdate")
    LIB.decrypt_final = <Final>dlsym(library, b"EVP_DecryptFinal_ex")
    LIB.control = <Control>dlsym(library, b"EVP_CIPHER_CTX_ctrl")
    LIB.clear_error = <ClearError>dlsym(library, b"ERR_clear_error")
    if (LIB.fetch == NULL or LIB.make == NULL or LIB.free == NULL or LIB.encrypt_init == NULL
            or LIB.encrypt_update == NULL or LIB.encrypt_final == NULL or LIB.decrypt_init == NULL
            or LIB.decrypt_update == NULL or LIB.decrypt_final == NULL or LIB.control == NULL
            or LIB.clear_error == NULL):
        return False
    LIB.aes_128 = LIB.fetch(NULL, b"AES-128-GCM", NULL)
    LIB.aes_256 = LIB.fetch(NULL, b"AES-256-GCM", NULL)
    LIB.chacha = LIB.fetch(NULL, b"ChaCha20-Poly1305", NULL)
    return LIB.aes_128 != NULL and LIB.aes_256 != NULL and LIB.chacha != NULL


# --- rule 1 ----------------------------------------------------------------------------------------------------------

cdef bint agrees():
    """Every algorithm, several lengths one after the other with one context: the same bytes, forgeries refused."""
    cdef bint is_same = True
    for maker, bits in ((AESGCM, 128), (AESGCM, 256), (ChaCha20Poly1305, 256)):
        is_same = is_same and does_the_same(maker, bytes(range(bits // 8)), bits)
    return is_same


cdef bint does_the_same(object maker, bytes key, int bits) except *:
    cdef void *kind = LIB.chacha if maker is ChaCha20Poly1305 else LIB.aes_256 if bits == 256 else LIB.aes_128
    cdef void *sealing = new_context(kind, <const uint8_t *><const char *>key, True)
    cdef void *opening = new_context(kind, <const uint8_t *><const char *>key, False)
    cdef bint is_same = True
    try:
        reference = maker(key)
        for length in (0, 1, 16, 63, 1000, SHORT):
            is_same = is_same and one_record(sealing, opening, reference, length)
        return is_same
    finally:
        LIB.free(sealing)
        LIB.free(opening)


cdef bint one_record(void *sealing, void *opening, object reference, int length) except *:
    cdef bytes nonce = bytes((length & 255,)) * NONCE, aad = b"\x17\x03\x03\x00\x40" + bytes(length % 9)
    cdef bytes data = bytes(i * 7 & 255 for i in range(length)), expected = reference.encrypt(nonce, data, aad)
    cdef bytes forged = expected[:-1] + bytes((expected[-1] ^ 1,))
    cdef uint8_t[SHORT + TAG] room
    cdef const uint8_t *number = <const uint8_t *><const char *>nonce
    cdef const uint8_t *head = <const uint8_t *><const char *>aad
    if not seal_short(sealing, number, head, len(aad), <const uint8_t *><const char *>data, length, room):
        return False
    if room[:length + TAG] != expected:
        return False
    if open_short(opening, number, head, len(aad), <const uint8_t *><const char *>forged, length, room):
        return False
    if not open_short(opening, number, head, len(aad), <const uint8_t *><const char *>expected, length, room):
        return False
    return not length or memcmp(room, <const char *>data, length) == 0


def use_libcrypto(wanted: bool) -> bool:
    """Whether keys that are loaded from now on use libcrypto: for tests, and once when this module is loaded."""
    global IS_USED
    IS_USED = False
    if not wanted or not (LIB.chacha != NULL or find_library()):
        return False
    try:
        IS_USED = agrees()
    except (RuntimeError, MemoryError):
        IS_USED = False
    if not IS_USED:
        log.warning("libcrypto was found but does not do what is expected of it; records go through cryptography")
    return IS_USED


use_libcrypto(os.environ.get("PG_DOORMAN_AEAD") != "cryptography")
