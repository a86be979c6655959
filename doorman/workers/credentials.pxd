"""Types for the compiled form of credentials.py. The module works without it."""

cimport cython

from doorman.auth.digest cimport sha256
from doorman.auth.server_login cimport Credentials
from doorman.auth.verifier cimport ScramVerifier
from doorman.shm.table cimport Table
from doorman.shm.users cimport find_key, keep_key

cdef str _KEY_LACKS

@cython.locals(key=bytes)
cpdef Credentials passed_through(pool, ScramVerifier verifier, Table table)
cpdef learn(Table table, bytes client_key)
