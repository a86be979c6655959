"""What the console orders pools and clients to do: doors of the table, for whichever process the administrator talks to.

Rules
1. An order takes effect in the table, under the pool's lock; who must act on it is named in `wake`, a set of processes
   (bit = process row) that the caller wakes.
2. A pool that is paused lends nothing; one that is disabled takes no new clients. Both say so in their row, and only
   the console changes that.
3. RECONNECT outdates all servers: idle ones are CLOSING, and the keeper's to end, before the lock is released, so none
   of them is lent any more; others end when they are given back (pools).
4. A condemned client is named by its connection_id in its own row: a row that has another client by then is not meant.
   Its worker sends it away between two messages (Relay).
"""

from libc.stdint cimport uint32_t, uint64_t

from doorman.shm.table cimport Table

cpdef bint is_enabled(Table table, int pool)
cdef void outdate_servers(Table table, int pool, uint64_t *wake) noexcept nogil
cdef void replace_servers(Table table, int pool, uint64_t *wake) noexcept nogil
cdef bint condemn(Table table, int client, uint64_t connection_id, uint64_t *wake) noexcept nogil
