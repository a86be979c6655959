"""The loop of a worker (and of the keeper, which has no listener): who is ready, whose time is over, who came.

Rules
1. One wake-up drains what is ready and waits for more. uvloop gets its turn once in BURST_US; while it has work of its own
   (`loop_work`: coroutines, timers) once in BURST_WITH_WORK_US, and within a millisecond when nothing else happens; and
   at once after a callback of Python's, but for those that leave it nothing to do (`stays`). What is scheduled on uvloop
   without any of that waits.
2. `asleep` is set before the mailbox is looked at for the last time: who posts mail later takes the flag down and writes
   the eventfd, so one wake-up serves all posts until the sleeper has run.
3. An exception while one connection is handled ends that connection and is logged; the loop goes on.
4. Work that one connection's event makes for another is queued (`to_process`), never done in the middle of the first.
"""

import logging
import os
cimport cython

from collections import deque

from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, timespec
from posix.unistd cimport write

from doorman.shm.atomics cimport store32, swap32
from doorman.shm.layout cimport (
    ATTEND_CONDEMNED,
    ATTEND_POOLS,
    ATTEND_WAITERS,
    NONE,
    POOL_REMOVED,
    SLOT_ACTIVE,
    SLOT_CLOSING,
    SLOT_GRANTED,
    STATEMENT_UNIT,
    WAIT_CANCELLED,
    WAIT_FAILED,
    WAIT_QUEUED,
    PoolRow,
    ProcessCounterRow,
    ProcessRow,
    SlotRow,
)
from doorman.shm.pools cimport accept_grant, leave_queue
from doorman.shm.table cimport Table, now_us
from doorman.shm.waiters cimport expired_waiter
from doorman.workers.relay.buffer cimport buffer_length
from doorman.workers.relay.engine cimport (
    KIND_CLIENT,
    KIND_LISTENER,
    KIND_SERVER,
    PHASE_FAREWELL,
    PHASE_LOGIN,
    PHASE_READY,
    STAGE_NONE,
    Client,
    Conn,
    Server,
    Watcher,
)
from doorman.workers.relay.outgoing cimport outgoing_free
from doorman.workers.relay.statements cimport Named, Statements
from doorman.workers.relay.sockets cimport (
    EPOLLET,
    EPOLLIN,
    Sockets,
    count_unacknowledged,
    epoll_event,
    epoll_wait,
)
from doorman.workers.relay.pending cimport pending_unsynced
from doorman.workers.relay.settle cimport settle_idle
from doorman.workers.relay.accepting cimport ACCEPTS, Accepting
from doorman.workers.relay.upkeep cimport cancel_again

from doorman.shm.lifecycle import REMOVED
from doorman.shm.rows import get_failure

log = logging.getLogger("doorman.relay")

cdef extern from "<malloc.h>" nogil:
    int mallopt(int parameter, int value)
    int M_MMAP_THRESHOLD

cdef extern from "<sys/timerfd.h>" nogil:
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new, itimerspec *old)
    int TFD_NONBLOCK, TFD_CLOEXEC

cdef enum:
    EVENTS = 256                    # taken from epoll at once
    BURST_US = 1_000_000            # rule 1
    BURST_WITH_WORK_US = 2_000
    TICK_NS = 100_000_000
    RECOUNT = 300                   # ticks
    GIVEN_BACK = 1_048_576          # bytes; a buffer of this size or more goes back to the kernel as soon as it is freed
    PATIENCE = 3                    # rule 4 of lending
    FEW_PROCESSES = 3               # two workers and the keeper
    WRITE_PATIENCE_US = 5_000_000

cdef uint64_t ONE = 1


@cython.final
cdef class Relay(Accepting):
    """All client and server sockets of this process.

    `host` is the Python side (`workers.process.Process`): it logs clients in, opens servers, talks to the master.
    """

    cdef ProcessRow *me
    cdef list to_process
    cdef int64_t stream_patience    # 0 = endless
    cdef int64_t login_patience     # 0 = endless
    cdef int handled                # events of this round that were taken up
    cdef public int loop_work       # coroutines and timers: uvloop must be served often (rule 1)
    cdef uint64_t ticks

    def __init__(self, Table table, host, wake_fds, *, query_wait_us: int, probe_patience_us: int,
                 statements: int = 0, gather_limit: int = 1 << 28, stream_patience_us: int = 0, login_patience_us: int = 0):
        cdef int i
        self.table = table
        self.host = host
        self.me = &table.processes[table.process]
        self.clients = []
        self.servers = [None] * table.header.n_slots
        self.wake_fds = <int *>calloc(len(wake_fds), sizeof(int))
        for i, fd in enumerate(wake_fds):
            self.wake_fds[i] = fd
        self.logins = {}
        mallopt(M_MMAP_THRESHOLD, GIVEN_BACK)       # else glibc keeps more and more of what large messages leave
        self.farewells = deque()
        self.to_process = []
        self.to_open = []
        self.parked = []
        self.orphans = set()
        self.to_grant = []
        self.timed = []
        self.listeners = []
        self.handing = []
        self.known_versions = <uint32_t *>calloc(table.header.n_pools, sizeof(uint32_t))
        self.settings_of = {}
        self.checks = {}
        self.check_messages = {}
        self.statements = Statements(statements)
        self.gather_limit = gather_limit
        table.process_counters[table.process].gathered = 0      # a predecessor may have been killed amid it
        table.process_counters[table.process].clients = 0
        table.process_counters[table.process].resting = 0
        self.query_wait = query_wait_us
        self.stream_patience = stream_patience_us
        self.login_patience = login_patience_us
        self.probe_patience = probe_patience_us
        self.patience = PATIENCE if len(wake_fds) <= FEW_PROCESSES else 0
        self.release_early = bool(os.environ.get("PG_DOORMAN_TEST_RELEASE_EARLY"))
        self.watch(wake_fds[table.process], EPOLLIN | EPOLLET, None)

    def configure(self, *, query_wait_us: int, probe_patience_us: int, statements: int, gather_limit: int,
                  stream_patience_us: int, login_patience_us: int) -> None:
        """Limits that hold from now on; of statements `statements` texts are remembered. The check query may be another."""
        cdef Client client
        self.query_wait = query_wait_us
        self.login_patience = login_patience_us
        self.stream_patience = stream_patience_us
        self.probe_patience = probe_patience_us
        self.gather_limit = gather_limit
        if statements != self.statements.limit:
            self.statements = Statements(statements)
        for client in self.clients:
            if client is not None and client.pool != NONE:
                client.check = self.check_of(client.pool)

    def __dealloc__(self):
        free(self.wake_fds)
        free(self.known_versions)

    def run(self) -> None:
        """Called by uvloop when the epoll set is readable. However a round ends: who is to be woken is woken (rule 2)."""
        try:
            self.do_round()
        finally:
            self.in_round = False
            self.wake_now()
            store32(&self.me.asleep, 1)
            if self.table.has_mail():
                write(self.wake_fds[self.table.process], &ONE, 8)

    cdef int do_round(self) except -1:
        """Handle what is ready, linger a moment for more (rule 1)."""
        cdef epoll_event[256] events
        cdef int n, timeout = 0
        cdef int64_t until = now_us() + (BURST_WITH_WORK_US if self.loop_work else BURST_US)
        cdef int work = self.loop_work
        self.yield_now = False
        self.in_round = True
        while True:
            self.wake_now()
            if timeout:
                store32(&self.me.asleep, 1)
                if self.table.has_mail():
                    timeout = 0
            if self.loop_work:                      # a coroutine may use threads, and those need the interpreter
                with nogil:
                    n = epoll_wait(self.epoll, events, EVENTS, timeout)
            else:
                n = epoll_wait(self.epoll, events, EVENTS, timeout)
            store32(&self.me.asleep, 0)
            self.handled = 0
            while self.handled < n:
                try:
                    self.dispatch_rest(events, n)
                except Exception:
                    self.fail(<Conn>self.conns[<uint32_t>events[self.handled - 1].data.u64])
            if self.table.has_mail():
                self.read_mail()
            while self.to_process:
                self.process_queued()
            if self.to_open:
                self.open_queued()
            if self.yield_now or self.loop_work > work or (n <= 0 and timeout) or self.now > until:
                break
            timeout = 1 if self.loop_work else -1       # the clock's timerfd ends it: a timer for each sleep costs
        return 0

    cdef int open_queued(self) except -1:
        """Servers to be opened: not amid a client's message."""
        batch, self.to_open = self.to_open, []
        for pool, slot, generation in batch:
            try:
                self.host.open_server(pool, slot, generation)
            except Exception:
                log.exception("a server could not be opened")
                self.failed_to_open(slot, "XX000", "internal error while a server connection was opened")
        return 0

    def start_clock(self, callback) -> None:
        """Call `callback(events)` ten times a second."""
        cdef itimerspec every
        cdef int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if fd < 0:
            raise OSError(errno, "no timer")
        every.it_interval.tv_sec = 0
        every.it_interval.tv_nsec = TICK_NS
        every.it_value = every.it_interval
        timerfd_settime(fd, 0, &every, NULL)

        def on_tick(events):
            os.read(fd, 8)                          # only that starts the next period
            callback(events)

        self.watch(fd, EPOLLIN, on_tick, True)

    cdef int dispatch_rest(self, epoll_event *events, int n) except -1:
        """Handle events from `handled` on; one that raises is the last one counted."""
        cdef epoll_event *event
        cdef Conn conn
        while self.handled < n:
            if not self.handled & 15:
                self.now = now_us()
            event = &events[self.handled]
            self.handled += 1
            conn = <Conn>self.conns[<uint32_t>event.data.u64]
            if conn is None or conn.serial != <uint32_t>(event.data.u64 >> 32):
                continue                            # that one is gone
            if conn.kind == KIND_CLIENT:
                self.client_event(<Client>conn, event.events)
            elif conn.kind == KIND_SERVER:
                self.server_event(<Server>conn, event.events)
            elif conn.kind == KIND_LISTENER:
                self.accept(<Watcher>conn, 1 if n == 1 else ACCEPTS)
            elif (<Watcher>conn).callback is not None:
                if not (<Watcher>conn).stays:
                    self.yield_now = True
                (<Watcher>conn).callback(event.events)
        return 0

    cdef int fail(self, Conn conn) except -1:
        """Rule 3."""
        log.exception("a connection was ended by an internal error")
        outgoing_free(&self.to_server)              # half put together, perhaps, and nobody else's
        outgoing_free(&self.to_client)
        if conn is None or conn.closed:
            return 0
        try:
            if conn.kind == KIND_CLIENT:
                self.end_client(<Client>conn)
            elif conn.kind == KIND_SERVER:
                self.lose_server(<Server>conn)
            elif conn.kind != KIND_LISTENER:
                self.shut(conn)
        except Exception:
            log.exception("and could not be ended in order")
            self.shut(conn)
        return 0

    cdef int process_queued(self) except -1:
        cdef list batch = self.to_process
        cdef Client client
        self.to_process = []
        for client in batch:
            client.to_process = False
            try:
                self.process(client)
            except Exception:
                self.fail(client)
        return 0

    def resume(self, Client client, step) -> None:
        """What a suspended client waited for has come: call `step()`, then go on with what the client has sent.

        For callbacks of uvloop only: nothing else is being handled meanwhile.
        """
        client.suspended = False
        if client.closed or client.phase == PHASE_FAREWELL:
            return
        self.now = now_us()
        try:
            step()
            self.queue(client)
            while self.to_process:
                self.process_queued()
            if self.table.has_mail():
                self.read_mail()
        except Exception:
            self.fail(client)
        self.wake_now()

    cdef int queue(self, Client client) except -1:
        if not client.to_process:
            client.to_process = True
            self.to_process.append(client)
        return 0

    def known_statements(self) -> list[tuple[int, bytes]]:
        """Digest and text of the statements that this process remembers."""
        return self.statements.known()

    def forget_statements(self) -> None:
        """Forget these texts; clients keep what they have names for."""
        self.statements.clear()

    cdef int read_mail(self) except -1:
        """Each entry is somebody else's: one that raises costs its own client or server (rule 3), and the rest is read."""
        cdef int32_t[256] slots
        cdef int i, n
        cdef uint32_t attention
        self.now = now_us()
        while True:
            n = self.table.take_mail(slots, 256)
            for i in range(n):
                self.look_at_slot(slots[i])
            if n == 0:
                break
        attention = swap32(&self.me.attention, 0)
        if attention & ATTEND_WAITERS:
            self.look_at_waiters()
        if attention & ATTEND_CONDEMNED:
            self.look_at_condemned()
        if attention & ATTEND_POOLS:
            self.yield_now = True
            try:
                self.host.look_at_pools()
            except Exception:
                log.exception("the pools could not be looked at")
        return 0

    cdef int look_at_slot(self, int slot) except -1:
        cdef SlotRow *row = &self.table.slots[slot]
        cdef Client client
        if row.owner != self.table.process:
            return 0
        if row.state == SLOT_GRANTED and row.client != NONE:
            client = self.clients[row.client] if row.client < len(self.clients) else None
            if client is not None and accept_grant(self.table, slot, client.number, self.now):
                self.grant(slot, client)
        elif row.state == SLOT_CLOSING:
            try:
                self.adopt_orphan(slot)
            except Exception:
                self.fail(self.servers[slot])
        return 0

    cdef int look_at_waiters(self) except -1:
        """Some waiter of ours was failed or cancelled. That is rare: look through all clients."""
        cdef Client client
        for client in list(self.clients):
            if client is None or client.closed or client.row.wait_state not in (WAIT_FAILED, WAIT_CANCELLED):
                continue
            try:
                self.end_vain_wait(client)
            except Exception:
                self.fail(client)
        return 0

    cdef int end_vain_wait(self, Client client) except -1:
        if client.row.wait_state == WAIT_CANCELLED:
            return self.end_cancelled(client)
        if client.pool_row.state == POOL_REMOVED:
            return self.send_away(client, REMOVED)
        sqlstate, message = get_failure(self.table, client.pool)
        return self.end_wait(client, sqlstate, message, None)

    def tick(self) -> None:
        """Every 100 ms: waiters, logins and stages whose time is over."""
        cdef int64_t now = now_us()
        self.now = now
        self.note_delay(now)
        self.me.heartbeat = now
        if self.stop_listening:
            self.resume_accepting()
        self.accept_forgotten()
        self.time_out_waiters(now)
        self.time_out_logins(now)
        self.time_out_stages(now)
        self.want_again()
        while self.to_process:
            self.process_queued()

    cdef int note_delay(self, int64_t now) except -1:
        """How late this tick is; once a second also what statements there are."""
        cdef ProcessCounterRow *counters = &self.table.process_counters[self.table.process]
        cdef int64_t late = now - self.me.heartbeat - TICK_NS // 1000 if self.ticks else 0
        counters.loop_delay = max(late, 0)
        counters.loop_delay_high = max(counters.loop_delay, counters.loop_delay_high * 15 // 16)
        self.ticks += 1
        if self.ticks % 10 == 0:
            self.count_statements(counters)
            self.look_at_servers()
            if self.stream_patience:
                self.look_at_streams(now)
            self.look_at_writes(now)
        return 0

    cdef int look_at_servers(self) except -1:
        """Servers whose answers cannot be told are kept for their clients, but not for ever. Sockets of connections that
        others have given up are not kept at all, should we never be told to forget them: PostgreSQL would keep its end."""
        cdef Server server
        for server in list(self.servers):
            if server is None:
                continue
            if server.client is None:
                if server.generation != server.row.generation:
                    self.drop_handle(server)
            elif (
                (server.pending.doubtful or (server.holding and server.pending.copy_in)) and server.stage == STAGE_NONE
                and server.client.follows and server.client.phase == PHASE_READY
            ):
                settle_idle(self, server)
        return 0

    cdef int look_at_streams(self, int64_t now) except -1:
        """A client that takes nothing of a row, or of a function's result, that is too large to be held keeps its server
        from everybody else. In the middle of a message it cannot be told why it ends. COPY may take its time.

        What the kernel has not got rid of counts too: it asks for more only when a third of its buffer (4 MiB) is free,
        which takes a slow client longer than our patience."""
        cdef Client client
        cdef Server server
        cdef uint64_t left
        for client in list(self.clients):
            server = client.server if client is not None and not client.closed else None
            if server is None or server.streaming not in (1, 3):
                continue
            left = server.body_left + buffer_length(&client.outb) + count_unacknowledged(client.fd)
            if not server.stream_moved or left != server.stream_left or not buffer_length(&client.outb):
                server.stream_left = left
                server.stream_moved = now
            elif now - server.stream_moved >= self.stream_patience:
                log.warning("client %s took nothing of a large message for proxy_copy_data_timeout: it was ended",
                            self.host.name_of(client))
                self.end_client(client)
        return 0

    cdef int look_at_writes(self, int64_t now) except -1:
        """A server that takes nothing of the only message under way is frozen. With others before that it may be busy."""
        cdef Server server
        cdef uint64_t left
        for server in list(self.servers):
            if server is None:
                continue
            if not is_taking(server):
                server.write_moved = 0
                continue
            left = server.client.body_left + buffer_length(&server.outb) + count_unacknowledged(server.fd)
            if not server.write_moved or left != server.write_left:
                server.write_left = left
                server.write_moved = now
            elif now - server.write_moved >= WRITE_PATIENCE_US:
                log.error("server with pid %d takes nothing that client %s sends: both connections were ended",
                          server.row.backend_pid, self.host.name_of(server.client))
                self.refuse(server.client, "FATAL", "58006", "the server does not take what is sent to it")
        return 0

    cdef int count_statements(self, ProcessCounterRow *counters) except -1:
        cdef Client client
        counters.texts = self.statements.count
        counters.texts_forgotten += self.statements.forgotten
        self.statements.forgotten = 0
        counters.text_bytes = self.statements.bytes
        for client in self.clients:
            if client is not None and client.row != NULL:
                self.count_statements_of(client)
        return 0

    cdef int count_statements_of(self, Client client) except -1:
        """The bytes of all its names only when there are others than before, as far as their number tells, or now and then.
        A text counts for each client that has a name for it."""
        cdef Named named
        cdef uint64_t bytes_used
        cdef uint32_t count = <uint32_t>len(client.names) if client.names is not None else 0
        if count != client.row.named_statements or (count and self.ticks % RECOUNT == 0):
            client.named_bytes = 0
            if count:
                for named in client.names.values():
                    client.named_bytes += len(named.name) + len(named.statement.body)
        client.row.named_statements = count
        client.row.has_unnamed = client.unnamed is not None
        bytes_used = client.named_bytes + (len(client.unnamed.body) if client.unnamed is not None else 0)
        client.row.statement_units = <uint32_t>((bytes_used + STATEMENT_UNIT - 1) // STATEMENT_UNIT)
        return 0

    cdef int time_out_waiters(self, int64_t now) except -1:
        """Those whose time is over get an error; for the others a server is opened where that had to wait."""
        cdef int pool, client
        for pool in range(<int>self.table.header.pools_high):
            if not self.table.pools[pool].n_waiting:
                continue
            while True:
                client = expired_waiter(self.table, pool, now - self.query_wait)
                if client == NONE:
                    break
                try:
                    self.time_out_waiter(<Client>self.clients[client])
                except Exception:
                    self.fail(<Conn>self.clients[client])
            self.open_if_needed(pool)
        return 0

    cdef int want_again(self) except -1:
        """Sockets that some client still waits for, or that are needed to end a connection: the answer may have been lost
        for want of a descriptor, here or in the master."""
        self.parked = [entry for entry in self.parked if (<Client>entry[0]).parked == entry[1]]
        for _, slot, generation in self.parked:
            self.host.want(slot, generation)
        if self.orphans and self.ticks % 10 == 0:       # nobody waits for these
            self.orphans = {orphan for orphan in self.orphans if self.is_orphan(orphan[0], orphan[1])}
            for slot, generation in self.orphans:
                self.host.want(slot, generation)
        return 0

    cdef bint is_orphan(self, int slot, uint32_t generation) except -1:
        """Has this process still to end a connection whose socket it has not got?"""
        cdef SlotRow *row = &self.table.slots[slot]
        return (
            row.generation == generation and row.state == SLOT_CLOSING and row.owner == self.table.process
            and self.servers[slot] is None
        )

    def do_without(self, slot: int, generation: int, sqlstate: str, message: str) -> None:
        """A server's socket could not be received here: a client of ours that has taken that server is told so."""
        cdef SlotRow *row = &self.table.slots[slot]
        cdef Client client
        if row.owner != self.table.process or row.state != SLOT_ACTIVE or row.generation != <uint32_t>generation:
            return
        client = self.clients[row.client] if row.client != NONE else None
        if client is not None and client.parked == slot:
            client.parked = NONE
            self.hand_on(slot)
            self.end_wait(client, sqlstate, message, None)

    cdef int time_out_waiter(self, Client client) except -1:
        cdef int slot = leave_queue(self.table, client.number)
        if slot != NONE:
            self.hand_on(slot)
        return self.end_long_wait(client)

    cdef int time_out_logins(self, int64_t now) except -1:
        cdef Client client
        while self.logins and self.login_patience:
            client, came_at = next(iter(self.logins.items()))
            if came_at + self.login_patience > now:
                break
            del self.logins[client]
            if client.phase == PHASE_LOGIN:
                try:
                    self.host.login_expired(client)
                except Exception:
                    self.fail(client)
        while self.farewells and self.farewells[0][1] <= now:
            client, _ = self.farewells.popleft()
            self.end_client(client)
        return 0

    cdef int time_out_stages(self, int64_t now) except -1:
        cdef Server server
        cdef list still = []
        cdef list over = []
        for server in self.timed:
            if server.closed or server.stage == STAGE_NONE:
                server.deadline = 0
            elif server.deadline <= now:
                server.deadline = 0
                over.append(server)
            else:
                still.append(server)
        self.timed = still
        for server in over:
            try:
                if not cancel_again(self, server):
                    self.lose(server, True)     # PostgreSQL has been silent for long enough: its place is needed
            except Exception:
                self.fail(server)               # the others have no deadline any more: this is their only time
        return 0


cdef bint is_taking(Server server) noexcept:
    """Can nothing but reading what its client sends be this server's business?"""
    cdef Client client = server.client
    if client is None or server.stage != STAGE_NONE or server.pending.length != 1 or not buffer_length(&server.outb):
        return False
    if client.sending == b"d" or server.pending.copying or server.pending.copy_in:      # rows may wait for locks
        return False
    if client.follows:
        return server.replies.length == 1
    return not pending_unsynced(&server.pending)
