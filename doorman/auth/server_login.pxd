"""Types for the compiled form of server_login.py. The module works without it."""

cimport cython

from doorman.auth.scram cimport ScramClient
from doorman.auth.verifier cimport ScramVerifier
from doorman.wire.backend cimport (
    checked_parameter_statuses,
    parse_authentication,
    parse_backend_key_data,
    parse_ready_for_query,
    parse_sasl_mechanisms,
)
from doorman.wire.framing cimport Frames
from doorman.wire.frontend cimport sasl_initial, sasl_response
from doorman.wire.packing cimport joined

cdef object _AUTHENTICATION, _SCRAM_FIRST, _SCRAM_FINAL, _AUTHENTICATED, _SETTINGS, _READY, _FAILED
cdef int _R, _V, _S, _K, _Z, _N, _E
cdef bytes _IDLE, _USUAL_MECHANISMS
cdef list _USUAL_OFFER
cdef int _OK, _CLEARTEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL


@cython.final
@cython.freelist(8)
cdef class Credentials:
    cdef readonly str password
    cdef readonly str md5_hash
    cdef readonly bytes client_key
    cdef readonly ScramVerifier verifier
    cdef readonly str token_key
    cdef readonly str lacking


@cython.final
@cython.freelist(8)
cdef class ServerLogin:
    cdef str _user
    cdef str _database
    cdef object _operator_parameters
    cdef Credentials _credentials
    cdef bint _encrypted_or_local
    cdef bytes _binding
    cdef object _rng
    cdef Frames _frames
    cdef Py_ssize_t _received
    cdef ScramClient _scram
    cdef public bint is_authenticated
    cdef public bint done
    cdef public bytes status_messages
    cdef public object step
    cdef public int minor
    cdef public list notices
    cdef public object pid
    cdef public bytes secret
    cdef public bytes leftover

    cpdef bytes feed(self, bytes data)
    @cython.locals(answer=bytes, frame=tuple)
    cdef bytes _advance(self, bytes data)
    cdef bytes _handle(self, int letter, bytes body)
    cdef tuple _take_frame(self)
    cdef _take_statuses(self)
    cdef _check_leftover(self)
    @cython.locals(code=cython.longlong, data=bytes)
    cdef bytes _on_authentication(self, bytes body)
    @cython.locals(can_bind=cython.bint, has_password=cython.bint, known=Credentials, offered=list)
    cdef bytes _on_sasl(self, bytes data)
    cdef bytes _on_sasl_continue(self, bytes data)
    cdef bytes _on_sasl_final(self, bytes data)
    cdef bytes _on_md5(self, bytes salt)
    cdef bytes _on_cleartext(self)
    cdef bytes _on_negotiate_protocol_version(self, bytes body)
    cdef bytes _on_backend_key_data(self, bytes body)
    cdef bytes _on_ready_for_query(self, bytes body)
    cdef _expect_settings(self, str name)
