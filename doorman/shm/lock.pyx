"""The slow path of the shared lock: spin a little, then sleep. Runs in every process; see lock.pxd for the rules."""

from libc.stdint cimport uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from doorman.shm.atomics cimport cas32, spin_pause, store32
from doorman.shm.layout cimport Lock, sem_init, sem_post, sem_t


# sem_clockwait: glibc 2.30. Python's headers define _GNU_SOURCE, which it needs.
cdef extern from "<semaphore.h>" nogil:
    int sem_clockwait(sem_t *sem, int clock, const timespec *until)
    int sem_getvalue(sem_t *sem, int *value)

cdef enum:
    SPINS = 200
    SLEEP_NS = 2_000_000
    NAPS = 1000


cdef void lock_init(Lock *lock) noexcept nogil:
    lock.owner = 0
    lock.sleepers = 0
    sem_init(&lock.semaphore, 1, 0)


cdef void acquire_contended(Lock *lock, uint32_t me) noexcept nogil:
    while not acquire_within(lock, me, NAPS):
        pass


cdef bint acquire_within(Lock *lock, uint32_t me, int naps) noexcept nogil:
    """Spin, then sleep at most `naps` times SLEEP_NS; False when somebody else holds the lock still."""
    cdef int i
    for i in range(SPINS):
        if cas32(&lock.owner, 0, me):
            return True
        spin_pause()
    for i in range(naps):
        store32(&lock.sleepers, 1)
        if cas32(&lock.owner, 0, me):
            return True
        nap(lock)
    return cas32(&lock.owner, 0, me)


cdef void nap(Lock *lock) noexcept nogil:
    """By the clock that nobody sets: sem_timedwait goes by the wall clock, and would last until that has caught up."""
    cdef timespec until
    clock_gettime(CLOCK_MONOTONIC, &until)
    until.tv_nsec += SLEEP_NS
    if until.tv_nsec >= 1_000_000_000:
        until.tv_nsec -= 1_000_000_000
        until.tv_sec += 1
    sem_clockwait(&lock.semaphore, CLOCK_MONOTONIC, &until)


cdef void wake_sleeper(Lock *lock) noexcept nogil:
    """Post once. A post that nobody has taken yet is enough: posts must not pile up, or sleeping would become spinning."""
    cdef int posted = 0
    store32(&lock.sleepers, 0)
    sem_getvalue(&lock.semaphore, &posted)
    if posted <= 0:
        sem_post(&lock.semaphore)
