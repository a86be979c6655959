"""A lock in shared memory whose holder has a name: owner word + POSIX semaphore.

Rules
1. The owner word is the pid of the holder, 0 when free. Who wins the compare-and-swap holds the lock.
2. A section under a lock is short: no call out of the segment, no await, no log, no memory from the heap.
3. A process sleeps on the semaphore only after it lost the word; it wakes at the latest after SLEEP_NS and tries again,
   so a lost post costs a little time and nothing else. `sleepers` is a flag, not a count: every sleeper sets it again
   before each try, so one that was killed asleep leaves one needless post behind and no more.
4. A holder that died is named by the owner word. Only the master takes a dead process's lock over (`seize`), repairs
   what it guarded, and releases it. The master never waits for a lock by `acquire`: its holder may be dead
   (`lock_pool` in repair.pxd).
"""

from libc.stdint cimport uint32_t

from doorman.shm.atomics cimport cas32, load32, store32
from doorman.shm.layout cimport Lock

cdef void lock_init(Lock *lock) noexcept nogil
cdef void acquire_contended(Lock *lock, uint32_t me) noexcept nogil
cdef bint acquire_within(Lock *lock, uint32_t me, int naps) noexcept nogil
cdef void wake_sleeper(Lock *lock) noexcept nogil


cdef inline void acquire(Lock *lock, uint32_t me) noexcept nogil:
    if not cas32(&lock.owner, 0, me):
        acquire_contended(lock, me)


cdef inline void release(Lock *lock) noexcept nogil:
    store32(&lock.owner, 0)
    if load32(&lock.sleepers):
        wake_sleeper(lock)


cdef inline bint seize(Lock *lock, uint32_t dead, uint32_t me) noexcept nogil:
    """Take the lock of a process that is known to be dead; False when that process does not hold it."""
    return cas32(&lock.owner, dead, me)
