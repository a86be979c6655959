"""Lets Python drive the pool's doors as any process: for the simulations, the unit tests and scripts/bench-pool.

Never used by the running pooler. A `Trial` is one process's view of a table: `Trial(table)` acts as the process that
`table.enter` made of this one; `Trial(table, process=2)` acts as process row 2 with a pid that nobody has, so that one
test process can play several. Times are whatever the caller says; NONE is -1.
"""

from libc.signal cimport raise_ as stop_myself
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from doorman.shm.atomics cimport store32
from doorman.shm.clients cimport admit_client, dismiss_client
from doorman.shm.counters cimport count_error, count_time
from doorman.shm.layout cimport (
    CLIENT_IDLE,
    NONE,
    SECRET_BYTES,
    WAIT_NO,
    ClientRow,
    CounterRow,
    PoolRow,
    SlotRow,
)
from doorman.shm.lifecycle cimport enter_pool
from doorman.shm.lock cimport acquire, release
from doorman.shm.orders cimport condemn, outdate_servers
from doorman.shm.pools cimport (
    Taken,
    accept_grant,
    begin_cancel,
    claim_idle,
    end_cancel,
    finish_close,
    give_back,
    leave_queue,
    mark_canceller,
    open_failed,
    reserve,
    reserve_minimum,
    set_paused,
    start_close,
    start_reset,
    take,
)
from doorman.shm.slots cimport move_slot, read_cancel_key
from doorman.shm.statements cimport (
    Digest,
    StatementNode,
    StatementSet,
    set_add,
    set_clear,
    set_evict,
    set_has,
    set_of,
    set_remove,
)
from doorman.shm.table cimport Table, now_us

from doorman.shm.users import drop_key, keep_key

cdef extern from "<signal.h>" nogil:
    int SIGSTOP

NOBODY = 1 << 23    # pids of played processes start here: above the kernel's largest pid


cdef class Trial:
    cdef readonly Table table
    cdef public unsigned long woken         # set of process rows that this one would have woken
    cdef public bint traced                 # stop before and after every door, for whoever steps through it

    def __init__(self, Table table, process: int | None = None, role: int = 1) -> None:
        if process is None:
            self.table = table
            return
        self.table = Table()
        self.table.base = table.base
        self.table.total_bytes = table.total_bytes
        self.table.lay_out(table.header)
        self.table.process = process
        self.table.pid = NOBODY + process
        self.table.processes[process].role = role
        self.table.processes[process].pid = self.table.pid

    @property
    def process(self) -> int:
        return self.table.process

    @property
    def pid(self) -> int:
        return self.table.pid

    cdef void mark(self) noexcept nogil:
        if self.traced:
            stop_myself(SIGSTOP)

    # --- clients -----------------------------------------------------------------------------------------------------

    def admit(self, now: int) -> int:
        cdef int64_t at = now
        cdef int client
        self.mark()
        client = admit_client(self.table, at)
        self.mark()
        return client

    def log_in(self, int client, int pool, unsigned int cancel_pid=0) -> None:
        self.table.clients[client].pool = pool
        self.table.clients[client].state = CLIENT_IDLE
        self.table.cancel_pids[client] = cancel_pid

    def enter(self, int client, int pool, unsigned int generation) -> bool:
        """`log_in` as a worker does it: False when that pool is not there any more."""
        self.mark()
        entered = enter_pool(self.table, client, pool, generation)
        self.mark()
        if entered:
            self.table.clients[client].state = CLIENT_IDLE
        return entered

    def dismiss(self, int client) -> None:
        self.mark()
        dismiss_client(self.table, client)
        self.mark()

    # --- the doors ---------------------------------------------------------------------------------------------------

    def take(self, int pool, int client, int64_t now) -> tuple[int, int]:
        """The slot taken and the slot to open, each perhaps NONE."""
        cdef Taken taken
        self.mark()
        take(self.table, pool, client, now, &taken)
        self.mark()
        return taken.slot, taken.to_open

    def accept_grant(self, int slot, int client, int64_t now) -> bool:
        self.mark()
        granted = accept_grant(self.table, slot, client, now)
        self.mark()
        return granted

    def give_back(self, int slot, int64_t now) -> int:
        self.mark()
        result = give_back(self.table, slot, now, <uint64_t *>&self.woken)
        self.mark()
        return result

    def leave_queue(self, int client) -> int:
        self.mark()
        slot = leave_queue(self.table, client)
        self.mark()
        return slot

    def end_wait(self, int client) -> None:
        """What a worker does when it has told a client that it waits no longer."""
        store32(&self.table.clients[client].wait_state, WAIT_NO)

    def reserve(self, int pool, int64_t now) -> int:
        self.mark()
        slot = reserve(self.table, pool, now)
        self.mark()
        return slot

    def reserve_minimum(self, int pool, int64_t now) -> int:
        return reserve_minimum(self.table, pool, now)

    def open_failed(self, int slot, int64_t now) -> None:
        self.mark()
        open_failed(self.table, slot, now, b"08006", b"no route to host", <uint64_t *>&self.woken)
        self.mark()

    def start_reset(self, int slot) -> bool:
        self.mark()
        moved = start_reset(self.table, slot)
        self.mark()
        return moved

    def start_close(self, int slot) -> bool:
        self.mark()
        moved = start_close(self.table, slot)
        self.mark()
        return moved

    def finish_close(self, int slot) -> None:
        self.mark()
        finish_close(self.table, slot)
        self.mark()

    def claim_idle(self, int slot, unsigned int generation, unsigned int to) -> bool:
        self.mark()
        claimed = claim_idle(self.table, slot, generation, to)
        self.mark()
        return claimed

    def set_running(self, int slot, bint running) -> None:
        self.table.slots[slot].running = running

    def set_home(self, int slot) -> None:
        self.table.slots[slot].home = self.table.process

    def begin_cancel(self, int client, unsigned long connection_id=0) -> int:
        """The slot that a cancel request must be sent to, or NONE."""
        cdef int slot
        self.mark()
        begun = begin_cancel(self.table, client, connection_id or self.table.clients[client].connection_id, &slot,
                             <uint64_t *>&self.woken)
        self.mark()
        return slot if begun else NONE

    def has_cancel_key(self, int slot, unsigned int generation) -> bool:
        cdef uint32_t pid
        cdef uint8_t[SECRET_BYTES] secret
        return read_cancel_key(self.table, slot, generation, &pid, secret) != NONE

    def mark_canceller(self, int slot) -> bool:
        return mark_canceller(self.table, slot)

    def end_cancel(self, int slot, unsigned int generation, bint doubtful) -> bool:
        self.mark()
        held = end_cancel(self.table, slot, generation, doubtful)
        self.mark()
        return held

    def set_paused(self, int pool, bint paused) -> None:
        self.mark()
        set_paused(self.table, pool, paused, <uint64_t *>&self.woken)
        self.mark()

    def reconnect(self, int pool) -> None:
        """Outdate every server of a pool."""
        self.mark()
        outdate_servers(self.table, pool, <uint64_t *>&self.woken)
        self.mark()

    def condemn(self, int client, unsigned long connection_id=0) -> bool:
        self.mark()
        found = condemn(self.table, client, connection_id or self.table.clients[client].connection_id,
                        <uint64_t *>&self.woken)
        self.mark()
        return found

    # --- counters ----------------------------------------------------------------------------------------------------

    def count_query(self, int pool, int64_t elapsed) -> None:
        """A query of a client of this process took so many microseconds."""
        cdef CounterRow *row = self.table.counter_row(pool)
        row.queries += 1
        row.query_time += elapsed
        count_time(row.query_histogram, elapsed)

    def count_error(self, int pool, bytes sqlstate) -> None:
        count_error(self.table.counter_row(pool), <const char *>sqlstate)

    # --- mail --------------------------------------------------------------------------------------------------------

    def post_mail(self, int process, int slot) -> None:
        self.table.post_mail(process, slot)

    def has_mail(self) -> bool:
        return self.table.has_mail()

    def take_mail(self) -> list[int]:
        cdef int32_t[256] slots
        cdef int n, i
        mail = []
        while True:
            n = self.table.take_mail(slots, 256)
            if n == 0:
                return mail
            for i in range(n):
                mail.append(slots[i])

    # --- prepared statements of a slot -------------------------------------------------------------------------------

    def has_statement(self, int slot, uint64_t high, uint64_t low) -> bool:
        cdef Digest digest = Digest(high, low)
        return set_has(self.table, slot, &digest)

    def add_statement(self, int slot, uint64_t high, uint64_t low, unsigned int size = 0) -> bool:
        cdef Digest digest = Digest(high, low)
        return set_add(self.table, slot, &digest, size)

    def evict_statement(self, int slot, unsigned int most) -> tuple[int, int] | None:
        cdef StatementNode victim
        return (victim.digest.high, victim.digest.low) if set_evict(self.table, slot, most, &victim) else None

    def remove_statement(self, int slot, uint64_t high, uint64_t low) -> bool:
        cdef Digest digest = Digest(high, low)
        return set_remove(self.table, slot, &digest)

    def clear_statements(self, int slot) -> None:
        set_clear(self.table, slot)

    def statement_set(self, int slot) -> dict[str, int]:
        cdef StatementSet *head = set_of(self.table, slot)
        return {
            "count": head.count, "touched": head.touched, "doubtful": head.doubtful, "evicted": head.evicted,
            "bytes": head.bytes,
        }

    # --- below the doors: what only tests do -------------------------------------------------------------------------

    def lock_pool(self, int pool) -> None:
        acquire(&self.table.pools[pool].lock, self.table.pid)

    def unlock_pool(self, int pool) -> None:
        release(&self.table.pools[pool].lock)

    def lock_clients(self) -> None:
        acquire(&self.table.header.clients_lock, self.table.pid)

    def claim(self, int slot) -> None:
        """Half of taking a FREE row."""
        self.table.slots[slot].claim = self.table.pid

    def move(self, int slot, unsigned int to) -> bool:
        return move_slot(self.table, slot, to)

    def force_state(self, int slot, int pool, unsigned int state) -> None:
        """Begin a test in a state, whatever came before. Lists and counts are not kept."""
        self.table.slots[slot].pool = pool
        self.table.slots[slot].state = state

    def count_under_lock(self, int pool, int rounds) -> None:
        """Add 1 to a plain word so often, each time under the pool's lock."""
        cdef volatile uint64_t *word = <volatile uint64_t *>&self.table.counters[0].spare[0]
        cdef int i
        for i in range(rounds):
            acquire(&self.table.pools[pool].lock, self.table.pid)
            word[0] = word[0] + 1
            release(&self.table.pools[pool].lock)

    def counted(self) -> int:
        return self.table.counters[0].spare[0]

    def time_take_give(self, int pool, int client, int rounds) -> float:
        """Nanoseconds of one take and one give_back; waits in turn when somebody else has the only server."""
        cdef Taken taken
        cdef uint64_t wake = 0
        cdef int64_t began
        cdef int i, slot
        with nogil:
            began = now_us()
            for i in range(rounds):
                take(self.table, pool, client, began, &taken)
                slot = taken.slot
                if slot != NONE:
                    give_back(self.table, slot, began, &wake)
                else:
                    slot = leave_queue(self.table, client)
                    if slot != NONE:
                        give_back(self.table, slot, began, &wake)
        return (now_us() - began) * 1000.0 / rounds

    # --- keys --------------------------------------------------------------------------------------------------------

    def keep_key(self, bytes stored_key, bytes client_key) -> bool:
        self.mark()
        kept = keep_key(self.table, stored_key, client_key)
        self.mark()
        return kept

    def drop_key(self, bytes stored_key) -> bool:
        self.mark()
        dropped = drop_key(self.table, stored_key)
        self.mark()
        return dropped

    # --- bytes of the segment: everything before the counters --------------------------------------------------------

    @property
    def state_bytes(self) -> int:
        return <char *>self.table.counters - self.table.base

    def has_changed(self, bytes snapshot) -> bool:
        return memcmp(self.table.base, <const char *>snapshot, len(snapshot)) != 0

    def snapshot(self) -> bytes:
        return self.table.base[:self.state_bytes]

    def restore(self, bytes snapshot) -> None:
        memcpy(self.table.base, <const char *>snapshot, len(snapshot))

    # --- rows, unguarded ---------------------------------------------------------------------------------------------

    def slot_row(self, int slot) -> dict[str, int]:
        cdef SlotRow *row = &self.table.slots[slot]
        return {
            "state": row.state, "pool": row.pool, "owner": row.owner, "client": row.client, "home": row.home,
            "generation": row.generation, "epoch": row.epoch, "next": row.next, "previous": row.previous,
            "canceller": row.canceller, "held": row.held, "claim": row.claim, "used_at": row.used_at,
        }

    def client_row(self, int client) -> dict[str, int]:
        cdef ClientRow *row = &self.table.clients[client]
        return {
            "state": row.state, "worker": row.worker, "pool": row.pool, "slot": row.slot,
            "wait_state": row.wait_state, "wait_next": row.wait_next, "wait_previous": row.wait_previous,
            "wait_ticket": row.wait_ticket, "wait_since": row.wait_since, "connection_id": row.connection_id,
            "next_free": row.next_free, "condemned": row.condemned, "cancel_pid": self.table.cancel_pids[client],
        }

    def pool_row(self, int pool) -> dict[str, int]:
        cdef PoolRow *row = &self.table.pools[pool]
        return {
            "owner": row.lock.owner, "sleepers": row.lock.sleepers, "state": row.state, "paused": row.paused,
            "epoch": row.epoch, "pool_size": row.pool_size, "max_opening": row.max_opening,
            "idle_head": row.idle_head, "idle_tail": row.idle_tail, "n_idle": row.n_idle, "n_busy": row.n_busy,
            "n_opening": row.n_opening, "n_closing": row.n_closing, "wait_head": row.wait_head,
            "wait_tail": row.wait_tail, "n_waiting": row.n_waiting, "failed_at": row.failed_at,
            "generation": row.generation, "version": row.version,
        }

    def header_row(self) -> dict[str, int]:
        return {
            "clients_owner": self.table.header.clients_lock.owner, "clients_used": self.table.header.clients_used,
            "clients_high": self.table.header.clients_high, "clients_free": self.table.header.clients_free,
        }

    def mail_of(self, int process) -> set[int]:
        """The slots in a process's mailbox that it will find there, not taken out."""
        cdef uint64_t *mail = &self.table.mail[process * self.table.n_mail_words]
        cdef uint32_t word, bit
        found = set()
        for word in range(self.table.n_mail_words):
            if not (self.table.processes[process].mail_summary[word >> 6] >> (word & 63)) & 1:
                continue
            for bit in range(64):
                if (mail[word] >> bit) & 1:
                    found.add(word * 64 + bit)
        return found

    def attention_of(self, int process) -> int:
        return self.table.processes[process].attention
