"""The slow path of the shared lock: spin a little, then sleep. Runs in every process; see lock.pxd for the rules."""

from libc.stdint cimport uint32_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from doorman.shm.atomics cimport add32, cas32, spin_pause, sub32
from doorman.shm.layout cimport Lock, sem_init, sem_t


cdef extern from "<semaphore.h>" nogil:
    int sem_timedwait(sem_t *sem, const timespec *until)

cdef enum:
    SPINS = 200
    SLEEP_NS = 2_000_000


cdef void lock_init(Lock *lock) noexcept nogil:
    lock.owner = 0
    lock.sleepers = 0
    sem_init(&lock.semaphore, 1, 0)


cdef void acquire_contended(Lock *lock, uint32_t me) noexcept nogil:
    cdef int spins
    cdef timespec until
    for spins in range(SPINS):
        spin_pause()
        if cas32(&lock.owner, 0, me):
            return
    add32(&lock.sleepers, 1)
    while not cas32(&lock.owner, 0, me):
        clock_gettime(CLOCK_REALTIME, &until)
        until.tv_nsec += SLEEP_NS
        if until.tv_nsec >= 1_000_000_000:
            until.tv_nsec -= 1_000_000_000
            until.tv_sec += 1
        sem_timedwait(&lock.semaphore, &until)
    sub32(&lock.sleepers, 1)
