"""Server-connection slots: the states and the one door between them.

Rules (all under the lock of the slot's pool, except the claim of a FREE row)
1. FREE -> OPENING -> IDLE <-> ACTIVE -> (RESETTING ->) IDLE; IDLE -> RESETTING (it spoke while idle);
   {OPENING, IDLE, ACTIVE, RESETTING, GRANTED} -> GRANTED -> {ACTIVE, IDLE}; anything but FREE -> CLOSING -> FREE. Nothing else.
2. `move_slot` alone assigns `state`, keeps the pool's counts and the idle list. It refuses what rule 1 does not allow.
3. Fields that say whom a slot belongs to are written before the state that makes them valid.
4. Only `owner` touches the socket, and only in ACTIVE, RESETTING, OPENING and CLOSING. An IDLE slot has no owner;
   its home merely listens.
5. A FREE row is taken by compare-and-swap of `claim`; a claim by a dead process is void.
6. `generation` counts up when a row becomes FREE, and when its opener tries again by another socket
   (`rows.renew_generation`): (slot, generation) names one server connection for ever.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from doorman.shm.table cimport Table

cdef bint move_slot(Table table, int slot, uint32_t to) noexcept nogil
cdef int claim_free_slot(Table table, int pool, int64_t now) noexcept nogil
cdef int read_cancel_key(Table table, int slot, uint32_t generation, uint32_t *pid, uint8_t *secret) noexcept nogil
cdef void relink_idle(Table table, int slot) noexcept nogil
