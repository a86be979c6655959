"""The key of one direction of a connection, ready for use in this process. See cipher.pyx."""

from libc.stdint cimport uint8_t

from doorman.shm.layout cimport TlsDirection

cdef enum:
    TAG = 16                        # bytes of every AEAD's tag
    NONCE = 12


cdef class Cipher:
    cdef TlsDirection *way
    cdef int suite
    cdef bint seals
    cdef void *context              # EVP_CIPHER_CTX of libcrypto with the key in it; NULL: there is no libcrypto
    cdef object call                # encrypt_into or decrypt_into of `cryptography`; None until it is needed

    cdef int seal(self, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
                  const char *source, size_t length, char *target) except -1
    cdef bint open(self, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
                   const char *source, size_t length, char *target) except -1


cdef Cipher cipher_of(TlsDirection *way, int suite, bint seals)
