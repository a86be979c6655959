"""The mapped segment of this process: typed pointers to its regions. Hot modules cimport this."""

cimport cython

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from doorman.shm.layout cimport (
    CensusRow,
    ClientRow,
    LookUpRow,
    CounterRow,
    Header,
    PoolRow,
    ProcessCounterRow,
    ProcessRow,
    SlotRow,
    SourceRow,
    TlsCounterRow,
    TlsRow,
    UserRow,
    WindowRow,
)


@cython.final
cdef class Table:
    cdef char *base
    cdef readonly size_t total_bytes
    cdef readonly int fd            # of the unlinked segment, kept for the next generation
    cdef uint32_t pid               # of this process: the owner word of its locks
    cdef readonly int process       # row of this process, -1 in the master
    cdef uint32_t n_mail_words
    cdef Header *header
    cdef ProcessRow *processes
    cdef uint64_t *mail
    cdef PoolRow *pools
    cdef SlotRow *slots
    cdef ClientRow *clients
    cdef uint32_t *cancel_pids      # of client rows, packed: a cancel request looks through these
    cdef CounterRow *counters
    cdef TlsRow *slot_tls           # keys of encrypted server connections, by slot
    cdef TlsRow *client_tls         # keys of encrypted client connections, by client row
    cdef TlsCounterRow *tls_counters    # by process
    cdef ProcessCounterRow *process_counters
    cdef WindowRow *windows         # one for each pool
    cdef CensusRow *census
    cdef char *statements           # a set for each slot (statements.pxd)
    cdef size_t statement_set_bytes
    cdef uint32_t statement_buckets # of each set, a power of two
    cdef UserRow *users
    cdef LookUpRow *look_ups
    cdef SourceRow *sources

    cdef size_t lay_out(self, Header *shape)
    cdef void post_mail(self, int process, int slot) noexcept nogil
    cdef bint has_mail(self) noexcept nogil
    cdef int take_mail(self, int32_t *slots, int room) noexcept nogil
    cdef CounterRow *counter_row(self, int pool) noexcept nogil


cdef int64_t now_us() noexcept nogil
cpdef int64_t monotonic_us() noexcept
cdef void copy_text(char *field, int size, bytes text)
cdef str read_text(const char *field, int size)
