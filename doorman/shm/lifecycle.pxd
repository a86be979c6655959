"""How a pool row comes into use, changes while it is in use, and comes out of use.

Rules
1. UNUSED -> LIVE (`set_up_pool`) -> REMOVED (`remove_pool`, `collect_pool`) -> UNUSED (`free_pool`). The master alone
   moves a row, under the pool's lock but for the first step, when nobody can know the row yet.
2. A row is REMOVED until no slot and no client names it. Whoever wants to be its client says so under the lock
   (`enter_pool`) and names the generation that it means: a row that has another pool by now takes nobody in for it.
3. `generation` counts up when a row becomes UNUSED: (row, generation) names one pool for ever.
4. `version` says with what settings (address, credentials, startup parameters) servers are opened. It is a number that the
   master gives only once. A process reserves a slot only for a version that it knows (relay), so nobody opens a
   server by settings that hold no longer, and no epoch has servers of two versions.
5. Whatever outdates a pool's servers takes the idle ones out of the list under the same lock: none of them is lent
   any more. They go to the keeper as CLOSING, as after a death (repair).
"""

from libc.stdint cimport uint32_t

from doorman.shm.table cimport Table

cdef bint enter_pool(Table table, int client, int pool, uint32_t generation) noexcept nogil
