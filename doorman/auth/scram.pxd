"""Types for the compiled form of scram.py: fields instead of dictionaries. The module works without it."""

cimport cython

from doorman.auth.digest cimport base64, hmac_sha256, is_equal, sha256, xor
from doorman.auth.randomness cimport draw
from doorman.auth.verifier cimport ScramVerifier, decode_base64
from doorman.wire.packing cimport is_nonce, joined, part, place_of, rest_from
from doorman.wire.text cimport encode

cdef bytes _END_POINT
cdef bytes _USUAL_GS2, _USUAL_FIRST, _USUAL_BINDING
cdef int _USUAL_HEADER, _USUAL_START, _COMMA, _PROOF_CHARS


@cython.final
@cython.freelist(8)
cdef class ScramServer:
    cdef public str _user
    cdef ScramVerifier _verifier
    cdef bint _is_doomed
    cdef public bytes _binding
    cdef str _password
    cdef public bytes _gs2_header
    cdef public bytes _client_first_bare
    cdef public bytes _server_first
    cdef public bytes _nonce
    cdef public bytes client_key

    cpdef ScramServer again(self)
    @cython.locals(is_usual=cython.bint, client_nonce=bytes, bare=bytes)
    cpdef bytes first(self, bytes data, bint is_plus, object rng=*)
    @cython.locals(flag=bytes, authzid=bytes, bare=bytes)
    cdef bytes _read_first(self, bytes data, bint is_plus)
    @cython.locals(at=Py_ssize_t, is_usual=cython.bint, without_proof=bytes, proof=bytes, message=bytes)
    cpdef bytes final(self, bytes data)
    @cython.locals(without_proof=bytes, proof_text=bytes, proof=bytes, fields=list)
    cdef tuple _read_final(self, bytes data)
    cdef _check_binding_flag(self, bytes flag, bint is_plus)
    @cython.locals(expected=bytes)
    cdef _check_binding(self, bytes field)
    @cython.locals(client_key=bytes, is_right=cython.bint)
    cdef _check_proof(self, bytes message, bytes proof)


@cython.final
@cython.freelist(8)
cdef class ScramClient:
    cdef str _password
    cdef bytes _client_key
    cdef ScramVerifier _verifier
    cdef bytes _server_key
    cdef bytes _binding
    cdef public str mechanism
    cdef public bytes _gs2_header
    cdef public bytes _nonce
    cdef public bytes _first_bare
    cdef bytes _message
    cdef public bint is_finished

    cpdef bytes first(self, object rng=*)
    @cython.locals(nonce=bytes, client_key=bytes, stored_key=bytes, without_proof=bytes)
    cpdef bytes final(self, bytes server_first)
    @cython.locals(known=ScramVerifier, nonce=bytes, end=Py_ssize_t)
    cdef bytes _expected_nonce(self, bytes server_first)
    @cython.locals(expected=bytes)
    cpdef finish(self, bytes server_final)
    cdef _keys(self, bytes salt, iterations)
    cdef _check_verifier(self, bytes salt, iterations)

cdef _check_message(bytes data)
@cython.locals(flag=bytes, comma=bytes, rest=bytes, authzid=bytes, second_comma=bytes, bare=bytes)
cdef tuple _split_client_first(bytes data)
@cython.locals(fields=list, nonce=bytes)
cdef bytes _client_nonce(bytes bare)
cdef _check_nonce(bytes nonce)
