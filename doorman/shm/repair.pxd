"""What the master does to the table when a process has died.

Rules
1. Runs in the master only, after `waitpid` and after the dead process's channel was read to its end.
2. A lock that the dead process held is seized first and what it guards is rebuilt from the state words.
3. Then everything that the dead process owned is taken from it: its clients leave, their queue entries go, grants to
   them are passed on, its half-open servers are free again, its busy servers go to the keeper as CLOSING.
4. Every step may be repeated: the master itself is never killed and survived, but a repair may meet half a repair.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from doorman.shm.table cimport Table

cdef void rebuild_pool(Table table, int pool) noexcept nogil
