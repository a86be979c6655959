"""What passthrough learned: SCRAM ClientKeys, so that any process can open a server for a user who logged in anywhere.

Rules
1. A key is found by its StoredKey (its SHA-256), which the verifier of the user holds: so a key never outlives the
   verifier that it belongs to, and all pools whose users share a verifier share the key.
2. Rows stand in buckets of WAYS; the StoredKey, random as it is, chooses the bucket. A full bucket gives up the key
   that was used the longest time ago.
3. A row that is free is all zeros. Dropping a key overwrites it at once.
4. `users_writing` names the row that is being changed before anything of it is: a writer that was killed half-way
   leaves a row that repair wipes. A key lost is learnt again at the user's next login.
5. Keys leave this module only for `find_key`'s caller, who logs in to a server with it. Never in logs, never in SHOW.
"""

from libc.stdint cimport uint32_t

from doorman.shm.table cimport Table

cpdef bint keep_key(Table table, bytes stored_key, bytes client_key) except -1
cpdef bytes find_key(Table table, bytes stored_key)
cdef uint32_t users_for(uint32_t wanted) noexcept nogil
cdef void wipe_half_written(Table table) noexcept nogil
