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

cdef _check_message(bytes data)
cdef tuple _split_client_first(bytes data)
cdef bytes _client_nonce(bytes bare)
cdef bytes _base64(bytes raw)
cdef bytes _announcement(object verifier)
