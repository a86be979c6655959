"""Types for the compiled form of login.py. The module works without it."""

cdef class Login:
    cdef public object address
    cdef public object client
    cdef public object exchange
    cdef public object finish
    cdef public object found
    cdef public object generation
    cdef public object kind
    cdef public object parting
    cdef public int pool
    cdef public object process
    cdef public int requests
    cdef public bytes secret
    cdef public object startup
    cdef public object task
    cdef public object tls

    cdef Py_ssize_t packet_length(self, bytes data) except -1
    cdef on_first_packet(self, bytes packet)
    cdef on_auth_message(self, bytes body)
    cdef go_on(self, answer)
