"""Types for the compiled `ServerLogin` (server_login.py)."""

from doorman.wire.framing cimport Frames


cdef class ServerLogin:
    cdef object _user
    cdef object _database
    cdef object _operator_parameters
    cdef object _credentials
    cdef object _password
    cdef bint _encrypted_or_local
    cdef object _binding
    cdef object _rng
    cdef Frames _frames
    cdef Py_ssize_t _received
    cdef object _scram
    cdef list _statuses
    cdef public object step
    cdef public int minor
    cdef public list notices
    cdef public object pid
    cdef public bytes secret
    cdef public bytes leftover

    cpdef bytes feed(self, data)
    cdef bytes _advance(self, data)
    cdef tuple _take_frame(self)
    cdef _take_statuses(self)
    cdef _expect_settings(self, name)
