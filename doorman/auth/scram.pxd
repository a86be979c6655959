"""Types for the compiled form of scram.py: fields instead of dictionaries. The module works without it."""

cimport cython


cdef class ScramServer:
    cdef public str _user
    cdef object _verifier
    cdef bint _is_doomed
    cdef public bytes _binding
    cdef str _password
    cdef public bytes _gs2_header
    cdef public bytes _client_first_bare
    cdef public bytes _server_first
    cdef public bytes _nonce
    cdef public bytes client_key

    cpdef ScramServer again(self)
    @cython.locals(client_nonce=bytes, flag=bytes, authzid=bytes, bare=bytes)
    cpdef bytes first(self, bytes data, bint is_plus, object rng=*)
    @cython.locals(without_proof=bytes, proof_text=bytes, proof=bytes, fields=list, message=bytes)
    cpdef bytes final(self, bytes data)
    cdef _check_binding_flag(self, bytes flag, bint is_plus)
    cdef _check_binding(self, bytes field)
    cdef _check_proof(self, bytes message, bytes proof)


cdef class ScramClient:
    cdef str _password
    cdef bytes _client_key
    cdef object _verifier
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
    @cython.locals(nonce=bytes, announcement=bytes)
    cdef bytes _expected_nonce(self, bytes server_first)
    @cython.locals(expected=bytes)
    cpdef finish(self, bytes server_final)
    cdef _keys(self, bytes salt, iterations)
    cdef _check_verifier(self, bytes salt, iterations)

cdef _check_message(bytes data)
cdef tuple _split_client_first(bytes data)
cdef bytes _client_nonce(bytes bare)
cdef bytes _base64(bytes raw)
