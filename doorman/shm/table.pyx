"""Creates and maps the shared segment, and gives compiled code typed pointers into it (rows.pyx: Python code).

The master creates it before the first fork; every process uses the mapping it inherited. The segment's name is
unlinked as soon as it is mapped, so nothing is left behind however the processes end.
"""

import os
import secrets

import posix_ipc

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from doorman.shm.atomics cimport add64, load32, load64, lowest_bit, or32, or64, store32, swap32, swap64
from doorman.shm.layout cimport (
    CLIENT_FREE,
    LAYOUT_VERSION,
    LOOK_UP_ROWS,
    MAIL_SUMMARY_WORDS,
    NONE,
    SOURCE_ROWS,
    CensusRow,
    ClientRow,
    CounterRow,
    LookUpRow,
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
from doorman.shm.lock cimport lock_init
from doorman.shm.statements cimport buckets_for, set_bytes
from doorman.shm.users cimport users_for


cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t most)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MADV_DONTDUMP
    void *MAP_FAILED

PHASES = ("starting", "open", "draining")

cdef uint64_t MAGIC = 0x4E414D524F4F4450     # "PDOORMAN"
cdef size_t PAGE = 4096


cdef int64_t now_us() noexcept nogil:
    """Microseconds of the monotonic clock, the time base of the whole table."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000 + now.tv_nsec // 1000


cdef int64_t wall_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1_000_000 + now.tv_nsec // 1000


cpdef int64_t monotonic_us() noexcept:
    """Microseconds of CLOCK_MONOTONIC, comparable with every time in the table."""
    return now_us()


cdef void copy_text(char *field, int size, bytes text):
    """Copy at most size - 1 bytes and end with NUL; the rest of the field is left as it is."""
    cdef int length = min(<int>len(text), size - 1)
    memcpy(field, <const char *>text, length)
    field[length] = 0


cdef str read_text(const char *field, int size):
    return field[:strnlen(field, size)].decode("utf-8", "replace")


SHM = "/dev/shm"


def open_segment(size: int) -> int:
    """A descriptor of `size` bytes that are zero, and nobody else can open. Raises OSError.

    Pages of it are taken as they are used. Where /dev/shm is full then, the kernel ends the process with SIGBUS: so if there is
    not much room (64 MB in most containers, shared with PostgreSQL), memory is taken that has no file system's limit.
    """
    try:
        shm = os.statvfs(SHM)
        is_roomy = shm.f_bavail * shm.f_frsize >= 2 * size
    except OSError:
        is_roomy = False
    if not is_roomy:
        fd = os.memfd_create("pg_doorman")
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, size)
        return fd
    name = f"/pg_doorman-{os.getpid()}-{secrets.token_hex(4)}"
    memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=size)
    posix_ipc.unlink_shared_memory(name)
    os.set_inheritable(memory.fd, False)
    return memory.fd


cdef class Table:
    """The shared table as this process sees it. Sizes are row counts, fixed for the life of the segment."""

    def __cinit__(self):
        self.base = NULL
        self.fd = -1
        self.process = -1

    @staticmethod
    def create(
        *, processes: int, pools: int, slots: int, clients: int, max_connections: int, statements: int = 0,
        users: int = 64,
    ) -> Table:
        """A new segment, private to this process and its children. Raises OSError when there is no memory for it."""
        cdef Table table = Table()
        cdef Header shape
        memset(&shape, 0, sizeof(Header))
        if slots > MAIL_SUMMARY_WORDS * 64 * 64:
            raise ValueError(f"{slots} server connections are too many: the table holds {MAIL_SUMMARY_WORDS * 64 * 64}")
        if processes > 64:
            raise ValueError(f"{processes} processes are too many: a set of processes to wake is one word of 64 bits")
        shape.n_processes = processes
        shape.n_pools = pools
        shape.n_slots = slots
        shape.n_clients = clients
        shape.statement_capacity = statements
        shape.n_users = users_for(users)
        shape.total_bytes = table.lay_out(&shape)
        table.fd = open_segment(shape.total_bytes)
        table.map(shape.total_bytes)
        memcpy(table.base, &shape, sizeof(Header))
        table.lay_out(&shape)
        table.fill(max_connections)
        return table

    cdef size_t lay_out(self, Header *shape):
        """Set the region pointers for these row counts; return the bytes of the whole segment."""
        cdef size_t at = 0
        self.n_mail_words = (shape.n_slots + 63) // 64
        self.header = <Header *>(self.base + at)
        at = room(at, sizeof(Header))
        self.processes = <ProcessRow *>(self.base + at)
        at = room(at, shape.n_processes * sizeof(ProcessRow))
        self.mail = <uint64_t *>(self.base + at)
        at = room(at, shape.n_processes * self.n_mail_words * sizeof(uint64_t))
        self.pools = <PoolRow *>(self.base + at)
        at = room(at, shape.n_pools * sizeof(PoolRow))
        self.slots = <SlotRow *>(self.base + at)
        at = room(at, shape.n_slots * sizeof(SlotRow))
        self.clients = <ClientRow *>(self.base + at)
        at = room(at, shape.n_clients * sizeof(ClientRow))
        self.cancel_pids = <uint32_t *>(self.base + at)
        at = room(at, shape.n_clients * sizeof(uint32_t))
        self.users = <UserRow *>(self.base + at)
        at = room(at, shape.n_users * sizeof(UserRow))
        self.look_ups = <LookUpRow *>(self.base + at)
        at = room(at, LOOK_UP_ROWS * sizeof(LookUpRow))
        self.sources = <SourceRow *>(self.base + at)
        at = room(at, SOURCE_ROWS * sizeof(SourceRow))
        self.counters = <CounterRow *>(self.base + at)
        at = room(at, <size_t>shape.n_pools * shape.n_processes * sizeof(CounterRow))
        self.slot_tls = <TlsRow *>(self.base + at)
        at = room(at, shape.n_slots * sizeof(TlsRow))
        self.client_tls = <TlsRow *>(self.base + at)
        at = room(at, shape.n_clients * sizeof(TlsRow))
        self.tls_counters = <TlsCounterRow *>(self.base + at)
        at = room(at, shape.n_processes * sizeof(TlsCounterRow))
        self.process_counters = <ProcessCounterRow *>(self.base + at)
        at = room(at, shape.n_processes * sizeof(ProcessCounterRow))
        self.windows = <WindowRow *>(self.base + at)
        at = room(at, shape.n_pools * sizeof(WindowRow))
        self.census = <CensusRow *>(self.base + at)
        at = room(at, sizeof(CensusRow))
        self.statements = self.base + at
        self.statement_buckets = buckets_for(shape.statement_capacity)
        self.statement_set_bytes = set_bytes(shape.statement_capacity)
        return room(at, shape.n_slots * self.statement_set_bytes)

    def map(self, size_t total_bytes):
        cdef void *address = mmap(NULL, total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if address == MAP_FAILED:
            raise OSError("the shared table could not be mapped")
        madvise(address, total_bytes, MADV_DONTDUMP)
        self.base = <char *>address
        self.total_bytes = total_bytes

    def fill(self, max_connections: int) -> None:
        """Write what is not zero in a new segment; the kernel gave us zeros."""
        cdef Header *header = self.header
        header.magic = MAGIC
        header.layout_version = LAYOUT_VERSION
        header.master_pid = os.getpid()
        header.next_connection_id = 1
        header.started_at = now_us()
        header.started_wall_us = wall_us()
        header.max_connections = max_connections
        header.clients_free = NONE
        lock_init(&header.clients_lock)
        lock_init(&header.users_lock)
        header.users_writing = NONE
        self.pid = os.getpid()

    def close(self) -> None:
        """Unmap the segment in this process (tests make many); the table cannot be used after that."""
        munmap(self.base, self.total_bytes)
        os.close(self.fd)
        self.base = NULL

    def enter(self, process: int, role: int) -> None:
        """Called in a child right after the fork: from here on this process owns row `process`."""
        cdef ProcessRow *row = &self.processes[process]
        self.process = process
        self.pid = os.getpid()
        row.role = role
        row.generation += 1
        row.heartbeat = now_us()
        store32(&row.asleep, 1)
        store32(&row.pid, self.pid)

    @property
    def max_clients(self) -> int:
        """Client rows of the table."""
        return self.header.n_clients

    def set_max_connections(self, limit: int) -> None:
        """How many clients are admitted from now on; the table has room for `max_clients`."""
        store32(&self.header.max_connections, min(limit, self.max_clients))

    @property
    def slot_count(self) -> int:
        """Slot rows of the table."""
        return self.header.n_slots

    @property
    def pool_count(self) -> int:
        """Pool rows of the table."""
        return self.header.n_pools

    @property
    def statement_capacity(self) -> int:
        """Prepared statements that the set of one server has room for."""
        return self.header.statement_capacity

    @property
    def pools_high(self) -> int:
        """Pool rows that were ever used."""
        return self.header.pools_high

    @property
    def phase(self) -> str:
        """`starting`, `open` or `draining`; only the master sets it."""
        return PHASES[load32(&self.header.phase)]

    @phase.setter
    def phase(self, phase: str) -> None:
        store32(&self.header.phase, PHASES.index(phase))

    @property
    def started_wall_us(self) -> int:
        """When the pooler started, microseconds since 1970."""
        return self.header.started_wall_us

    @property
    def master_pid(self) -> int:
        """The process that made the table."""
        return self.header.master_pid

    @property
    def process_count(self) -> int:
        """Process rows of the table."""
        return self.header.n_processes

    def next_connection_id(self) -> int:
        """A number that no other connection of any process has."""
        return add64(&self.header.next_connection_id, 1)

    def beat(self) -> None:
        """Say that this process is alive."""
        self.processes[self.process].heartbeat = now_us()

    def take_attention(self) -> int:
        """The `Attention` bits of this process, which are thereby cleared."""
        return swap32(&self.processes[self.process].attention, 0)

    cdef void post_mail(self, int process, int slot) noexcept nogil:
        """Tell a process to look at a slot. Setting bits twice does no harm, so repair may do it again."""
        cdef int word = slot >> 6
        or64(&self.mail[process * self.n_mail_words + word], <uint64_t>1 << (slot & 63))
        or64(&self.processes[process].mail_summary[word >> 6], <uint64_t>1 << (word & 63))

    cdef bint has_mail(self) noexcept nogil:
        cdef ProcessRow *me = &self.processes[self.process]
        cdef uint32_t s
        if load32(&me.attention):
            return True
        for s in range((self.n_mail_words + 63) >> 6):
            if load64(&me.mail_summary[s]):
                return True
        return False

    cdef int take_mail(self, int32_t *slots, int room) noexcept nogil:
        """Take up to `room` (a multiple of 64) slot numbers out of the mailbox of this process."""
        cdef ProcessRow *me = &self.processes[self.process]
        cdef uint64_t *mail = &self.mail[self.process * self.n_mail_words]
        cdef uint64_t words, bits
        cdef uint32_t s
        cdef int w, n = 0
        for s in range((self.n_mail_words + 63) >> 6):
            if not load64(&me.mail_summary[s]):
                continue
            words = swap64(&me.mail_summary[s], 0)
            while words:
                w = lowest_bit(words)
                if n + 64 > room:
                    or64(&me.mail_summary[s], words)
                    return n
                words &= words - 1
                bits = swap64(&mail[s * 64 + w], 0)
                while bits:
                    slots[n] = (s * 64 + w) * 64 + lowest_bit(bits)
                    bits &= bits - 1
                    n += 1
        return n

    cdef CounterRow *counter_row(self, int pool) noexcept nogil:
        """The counters of this process for a pool."""
        return &self.counters[pool * self.header.n_processes + self.process]


cdef size_t room(size_t at, size_t size) noexcept:
    """Where the next region begins: regions start on pages, so that untouched ones cost nothing."""
    return (at + size + PAGE - 1) // PAGE * PAGE


def row_sizes() -> dict[str, int]:
    """Bytes of each kind of row; all of them whole cache lines."""
    return {
        "process": sizeof(ProcessRow),
        "pool": sizeof(PoolRow),
        "slot": sizeof(SlotRow),
        "client": sizeof(ClientRow),
        "counter": sizeof(CounterRow),
        "user": sizeof(UserRow),
        "look-up": sizeof(LookUpRow),
        "source": sizeof(SourceRow),
        "tls": sizeof(TlsRow),
        "tls counter": sizeof(TlsCounterRow),
        "process counter": sizeof(ProcessCounterRow),
        "window": sizeof(WindowRow),
        "census": sizeof(CensusRow),
    }
