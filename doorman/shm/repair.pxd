"""What the master does to the table when a process has died.

Rules
1. Runs in the master only, after `waitpid`, after the dead process's channel was read to its end and before another
   process gets its row.
2. A lock that the dead process held is seized first and what it guards is rebuilt from the state words.
3. Then everything that the dead process owned is taken from it: its clients leave their queues and grants to them are
   passed on, its servers, busy or just being opened, go to the keeper as CLOSING, its client rows are
   given up last, when no slot names them any more.
4. Other processes go on working meanwhile, and may die too. So the master never waits for a lock whose holder is dead
   (`lock_pool` takes it over), and looks again under the lock at whatever it saw without it.
5. Every other process is woken in the end: the dead one may have posted mail and died before it woke the receiver.
6. Every step may be repeated: the master itself is never killed and survived, but a repair may meet half a repair.
"""

from libc.stdint cimport uint64_t

from doorman.shm.table cimport Table

cdef int lock_pool(Table table, int pool, uint64_t *wake) except -1
cdef int find_keeper(Table table) noexcept nogil
cdef void leave_to(Table table, int slot, int keeper) noexcept nogil
cdef void rebuild_pool(Table table, int pool, uint64_t *wake) noexcept nogil
