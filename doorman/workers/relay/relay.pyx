"""The loop of a worker (and of the keeper, which has no listener): who is readable, who gets which server, who ends.

Rules
1. One wake-up drains what is ready, for at most BURST_US; then uvloop gets its turn for timers and coroutines.
2. `asleep` is set before the mailbox is looked at for the last time: who posts mail later sees it and writes the eventfd.
3. An exception while one connection is handled ends that connection and is logged; the loop goes on.
4. Work that one connection's event makes for another is queued (`to_process`), never done in the middle of the first.
5. `client.server` and `server.client` always name each other; `attach` and `part` alone set and clear them.
"""

import logging
import os
from collections import deque

from libc.errno cimport EAGAIN, EINTR, EMFILE, ENFILE, errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.unistd cimport close, write

from doorman.shm.atomics cimport load32, lowest_bit, store32, swap32
from doorman.shm.clients cimport admit_client, dismiss_client
from doorman.shm.layout cimport (
    ATTEND_POOLS,
    ATTEND_WAITERS,
    CLIENT_ACTIVE,
    CLIENT_IDLE,
    CLIENT_LOGIN,
    CLIENT_WAITING,
    CLIENT_SECRET_BYTES,
    NAME_BYTES,
    NONE,
    SECRET_BYTES,
    SLOT_ACTIVE,
    SLOT_CLOSING,
    SLOT_GRANTED,
    SLOT_IDLE,
    SLOT_RESETTING,
    WAIT_CANCELLED,
    WAIT_FAILED,
    WAIT_NO,
    WAIT_QUEUED,
    ClientRow,
    PoolRow,
    ProcessRow,
    SlotRow,
)
from doorman.shm.pools cimport (
    BACK_CLOSE,
    BACK_IDLE,
    BACK_REFUSED,
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
    start_close,
    start_reset,
    take,
)
from doorman.shm.table cimport Table, copy_text, now_us
from doorman.workers.relay.backend cimport count_time, feed_server, is_quiet, may_part
from doorman.workers.relay.buffer cimport buffer_append, buffer_consume, buffer_free, buffer_length
from doorman.workers.relay.engine cimport (
    DIRT_EVERYTHING,
    HOLD,
    KIND_CLIENT,
    KIND_LISTENER,
    KIND_SERVER,
    PHASE_CONSOLE,
    PHASE_FAREWELL,
    PHASE_LOGIN,
    PHASE_READY,
    SCRATCH,
    STAGE_CLOSING,
    STAGE_LISTEN,
    STAGE_NONE,
    STAGE_PROBE,
    STAGE_SYNC,
    Client,
    Conn,
    Server,
    Watcher,
)
from doorman.workers.relay.frontend cimport feed_client
from doorman.workers.relay.pending cimport pending_clear
from doorman.workers.relay.sockets cimport (
    EPOLLERR,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    Sockets,
    epoll_event,
    epoll_wait,
)
from doorman.workers.relay.upkeep cimport feed_quiet, start_clean, start_drain, start_probe, start_sync

from doorman.shm.rows import get_failure, get_parameters, set_parameters
from doorman.wire import backend as messages

log = logging.getLogger("doorman.relay")

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    struct sockaddr_storage:
        unsigned short ss_family
    int accept4(int fd, sockaddr *address, unsigned int *length, int flags)
    int shutdown(int fd, int how)
    int SOCK_NONBLOCK, SOCK_CLOEXEC, SHUT_WR, SHUT_RDWR, AF_INET, AF_INET6

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct in6_addr:
        pass
    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr
    unsigned short ntohs(unsigned short port)

cdef enum:
    EVENTS = 256                    # taken from epoll at once
    BURST_US = 5_000                # rule 1
    LINGER_MS = 20                  # a near timer would cost more than the sleep: the clock is reprogrammed for it
    ACCEPTS = 32                    # connections accepted in a row
    READS = 8                       # reads of one server in a row
    CLOSE_PATIENCE_US = 2_000_000   # for PostgreSQL to end a connection that we left
    LOGIN_PATIENCE_US = 60_000_000  # PostgreSQL's authentication_timeout
    FAREWELL_US = 5_000_000         # for a client to take its last error

cdef bytes TERMINATE = b"X\x00\x00\x00\x04"
cdef bytes READY_IDLE = b"Z\x00\x00\x00\x05I"
cdef uint64_t ONE = 1


cdef class Relay(Sockets):
    """All client and server sockets of this process.

    `host` is the Python side (`workers.process.Process`): it logs clients in, opens servers, talks to the master.
    """

    cdef object host
    cdef ProcessRow *me
    cdef list clients               # by client row: Client or None
    cdef list servers               # by slot: Server or None
    cdef int *wake_fds              # by process row
    cdef object waiting             # deque of (client, since), oldest first
    cdef object logins              # deque of (client, deadline)
    cdef list to_process
    cdef list parked                # (client, slot, generation) that wait for a server's socket
    cdef list timed                 # servers whose stage has a deadline
    cdef list listeners
    cdef dict settings_of           # (pool, digest) -> ParameterStatus messages
    cdef int64_t query_wait
    cdef int64_t probe_patience
    cdef bint yield_now
    cdef public int loop_work       # coroutines under way: uvloop must be served often
    cdef bint stop_listening
    cdef readonly bint draining
    cdef int64_t complained_at

    def __init__(self, Table table, host, wake_fds, *, query_wait_us: int, probe_patience_us: int):
        cdef int i
        self.table = table
        self.host = host
        self.me = &table.processes[table.process]
        self.clients = []
        self.servers = [None] * table.header.n_slots
        self.wake_fds = <int *>calloc(len(wake_fds), sizeof(int))
        for i, fd in enumerate(wake_fds):
            self.wake_fds[i] = fd
        self.waiting = deque()
        self.logins = deque()
        self.to_process = []
        self.parked = []
        self.timed = []
        self.listeners = []
        self.settings_of = {}
        self.query_wait = query_wait_us
        self.probe_patience = probe_patience_us
        self.release_early = bool(os.environ.get("PG_DOORMAN_TEST_RELEASE_EARLY"))
        self.watch(wake_fds[table.process], EPOLLIN | EPOLLET, None)

    def __dealloc__(self):
        free(self.wake_fds)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Called by uvloop when the epoll set is readable: handle what is ready, linger a moment for more (rule 1)."""
        cdef epoll_event[256] events
        cdef int n, i, timeout = 0
        cdef int64_t until = now_us() + BURST_US
        self.yield_now = False
        while True:
            if timeout:
                store32(&self.me.asleep, 1)
                if self.table.has_mail():
                    timeout = 0
            with nogil:
                n = epoll_wait(self.epoll, events, EVENTS, timeout)
            store32(&self.me.asleep, 0)
            for i in range(n):
                self.dispatch(<uint32_t>events[i].data.u64, <uint32_t>(events[i].data.u64 >> 32), events[i].events)
            if self.table.has_mail():
                self.read_mail()
            while self.to_process:
                self.process_queued()
            if self.yield_now or (n <= 0 and timeout) or now_us() > until:
                break
            timeout = 1 if self.loop_work else LINGER_MS
        store32(&self.me.asleep, 1)
        if self.table.has_mail():
            write(self.wake_fds[self.table.process], &ONE, 8)

    cdef int dispatch(self, int fd, uint32_t serial, uint32_t events) except -1:
        cdef Conn conn = <Conn>self.conns[fd] if fd < len(self.conns) else None
        if conn is None or conn.serial != serial:
            return 0
        try:
            if conn.kind == KIND_CLIENT:
                self.client_event(<Client>conn, events)
            elif conn.kind == KIND_SERVER:
                self.server_event(<Server>conn, events)
            elif conn.kind == KIND_LISTENER:
                self.accept(<Watcher>conn)
            elif (<Watcher>conn).callback is not None:
                self.yield_now = True
                (<Watcher>conn).callback(events)
        except Exception:
            self.fail(conn)
        return 0

    cdef int fail(self, Conn conn) except -1:
        """Rule 3."""
        log.exception("a connection was ended by an internal error")
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

    cdef int queue(self, Client client) except -1:
        if not client.to_process:
            client.to_process = True
            self.to_process.append(client)
        return 0

    # --- Python's sockets --------------------------------------------------------------------------------------------

    def watch(self, fd: int, events: int, callback) -> Watcher:
        """Call `callback(events)` when the fd is ready. The relay owns and closes the fd (`unwatch`)."""
        cdef Watcher watcher = Watcher()
        watcher.callback = callback
        self.enroll(watcher, fd)
        self.arm(watcher, events)
        return watcher

    def rewatch(self, Watcher watcher, events: int) -> None:
        """Watch for other events."""
        self.arm(watcher, events)

    def unwatch(self, Watcher watcher, *, keep: bool = False) -> None:
        """Stop watching, and close the fd unless it is to be kept."""
        self.disarm(watcher)
        if keep:
            self.conns[watcher.fd] = None
            watcher.fd = -1
        else:
            self.shut(watcher)
        watcher.callback = None

    # --- clients come ------------------------------------------------------------------------------------------------

    def listen(self, fd: int, *, shared: bool) -> None:
        """Accept clients here. shared: other processes accept from the same socket."""
        cdef Watcher listener = Watcher()
        listener.kind = KIND_LISTENER
        self.enroll(listener, fd)
        self.arm(listener, EPOLLIN | EPOLLEXCLUSIVE if shared else EPOLLIN)
        self.listeners.append((listener, shared))

    def stop_accepting(self) -> None:
        """No more clients; the sockets are the master's to close."""
        for listener, _ in self.listeners:
            self.disarm(listener)
        self.listeners = []

    cdef int accept(self, Watcher listener) except -1:
        cdef sockaddr_storage address
        cdef unsigned int length
        cdef int fd, i
        for i in range(ACCEPTS):
            length = sizeof(address)
            fd = accept4(listener.fd, <sockaddr *>&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.welcome(fd, &address)
            elif errno == EMFILE or errno == ENFILE:
                return self.rest_from_accepting()
            elif errno != EINTR:
                return 0
        return 0

    cdef int rest_from_accepting(self) except -1:
        """Out of file descriptors: accepting again at once would spin. The next tick resumes."""
        cdef int64_t now = now_us()
        for listener, _ in self.listeners:
            self.disarm(listener)
        self.stop_listening = True
        if now - self.complained_at > 5_000_000:
            self.complained_at = now
            log.error("no file descriptor is left for a new client; accepting again in a moment (raise LimitNOFILE)")
        return 0

    cdef int resume_accepting(self) except -1:
        self.stop_listening = False
        for listener, shared in self.listeners:
            self.arm(listener, EPOLLIN | EPOLLEXCLUSIVE if shared else EPOLLIN)
        return 0

    cdef int welcome(self, int fd, sockaddr_storage *address) except -1:
        cdef Client client = Client()
        cdef int number
        self.enroll(client, fd)
        client.is_unix = address.ss_family != AF_INET and address.ss_family != AF_INET6
        number = admit_client(self.table, now_us())
        if number != NONE:
            client.number = number
            client.row = &self.table.clients[number]
            note_address(client.row, address)
            while len(self.clients) <= number:
                self.clients.append(None)
            self.clients[number] = client
        client.phase = PHASE_LOGIN
        client.session = self.host.start_login(client)
        self.logins.append((client, now_us() + LOGIN_PATIENCE_US))
        self.arm(client, EPOLLIN)
        return 0

    # --- what clients send -------------------------------------------------------------------------------------------

    cdef int client_event(self, Client client, uint32_t events) except -1:
        if events & (EPOLLERR | EPOLLHUP):
            return self.end_client(client)
        if events & EPOLLOUT and self.flush(client):
            self.written(client)
        if client.closed:
            return 0
        if events & EPOLLRDHUP:
            return self.end_client(client)
        if events & EPOLLIN:
            self.read_client(client)
        return 0

    cdef bint is_held_up(self, Client client) noexcept:
        """Its next message cannot be dealt with yet."""
        return (
            client.parked != NONE
            or (client.number != NONE and client.row.wait_state != WAIT_NO)
            or (client.server is not None and (client.server.stage != STAGE_NONE or buffer_length(&client.server.outb)))
            or buffer_length(&client.outb) > 0
        )

    cdef int read_client(self, Client client) except -1:
        cdef Py_ssize_t length
        if client.phase == PHASE_FAREWELL:
            return self.discard_input(client)
        if self.is_held_up(client):
            return self.read_ahead(client)
        length = self.read(client)
        if length == 0:
            return self.end_client(client)
        if length > 0:
            self.take_input(client, self.scratch, length, True)
        return 0

    cdef Py_ssize_t read(self, Conn conn) except -2:
        """Read behind what is left of an earlier read. Bytes now in scratch; 0 = end of stream, -1 = nothing came."""
        cdef size_t left = buffer_length(&conn.inb)
        cdef Py_ssize_t n
        if left:
            memcpy(self.scratch, conn.inb.data + conn.inb.start, left)
        n = self.receive(conn, self.scratch + left, SCRATCH - left)
        if n <= 0:
            return n
        buffer_free(&conn.inb)
        return <Py_ssize_t>left + n

    cdef int take_input(self, Client client, char *data, Py_ssize_t length, bint from_scratch) except -1:
        """Deal with bytes of a client; what cannot be dealt with yet stays in (or goes to) its `inb`."""
        cdef Py_ssize_t used
        if client.phase == PHASE_READY:
            used = feed_client(self, client, data, length)
        else:
            used = self.feed_session(client, data, length)
        if used < 0 or client.closed:
            return 0
        if from_scratch:
            if used < length:
                buffer_append(&client.inb, data + used, length - used)
        elif used:
            buffer_consume(&client.inb, used)
        return self.part_if_over(client)

    cdef int part_if_over(self, Client client) except -1:
        """The last bytes of a message that the server had answered already may have been all that kept it."""
        cdef Server server = client.server
        if server is None or client.session_mode or client.phase != PHASE_READY or server.stage != STAGE_NONE:
            return 0
        return self.release(server) if may_part(server, client) else 0

    cdef Py_ssize_t feed_session(self, Client client, const char *data, Py_ssize_t length) except -2:
        """Login and console take whole messages as Python bytes."""
        used = client.session.feed(data[:length])
        return -1 if client.closed else used

    cdef int read_ahead(self, Client client) except -1:
        """It waits for a server (or for the last answer to be taken) and sends on: keep a little, then stop reading."""
        cdef Py_ssize_t n
        if buffer_length(&client.inb) > HOLD:
            self.arm(client, EPOLLRDHUP if client.row.wait_state == WAIT_QUEUED else EPOLLERR)
            return 0
        n = self.receive(client, self.scratch, HOLD // 4)
        if n == 0:
            return self.end_client(client)
        if n > 0:
            buffer_append(&client.inb, self.scratch, n)
        return 0

    cdef int discard_input(self, Client client) except -1:
        if self.receive(client, self.scratch, SCRATCH) == 0:
            self.end_client(client)
        return 0

    cdef int process(self, Client client) except -1:
        """Go on with what it has sent already."""
        if client.closed or client.phase == PHASE_FAREWELL or self.is_held_up(client):
            return 0
        self.arm(client, EPOLLIN)
        if buffer_length(&client.inb):
            self.take_input(client, client.inb.data + client.inb.start, buffer_length(&client.inb), False)
        return 0

    # --- writing -----------------------------------------------------------------------------------------------------

    cdef int forward(self, Server server, const char *data, size_t length) except -1:
        """To a server; while it does not take everything its client is not read."""
        cdef Py_ssize_t left = self.transmit(server, data, length)
        server.row.bytes_sent += length
        if server.client is not None:
            server.client.counters.bytes_sent += length
        if left > 0:
            self.arm(server, EPOLLIN | EPOLLOUT)
            if server.client is not None:
                self.arm(server.client, EPOLLERR)
        return 0

    cdef int answer(self, Client client, const char *data, size_t length) except -1:
        """To a client; while it does not take everything its server is not read. A lost peer is noticed by epoll."""
        if not length or client.closed:
            return 0
        if self.transmit(client, data, length) > 0:
            self.arm(client, EPOLLOUT)
            if client.server is not None:
                self.disarm(client.server)
        return 0

    cdef int written(self, Client client) except -1:
        """It took everything: its server may be read again, and so may it."""
        if client.phase == PHASE_FAREWELL:
            return self.end_client(client)
        self.arm(client, EPOLLIN)
        if client.server is not None:
            self.arm(client.server, EPOLLIN | (EPOLLOUT if buffer_length(&client.server.outb) else 0))
        return self.queue(client)

    def send(self, Client client, bytes data) -> None:
        """Write to a client from Python."""
        self.answer(client, data, len(data))

    # --- a client needs a server -------------------------------------------------------------------------------------

    cdef bint attach(self, Client client) except -1:
        """True: the client has a server and may use it now. False: it waits, and goes on through `serve`."""
        cdef Taken taken
        cdef int64_t now = now_us()
        take(self.table, client.pool, client.number, now, &taken)
        if taken.slot == NONE:
            client.row.state = CLIENT_WAITING
            client.row.state_since = now
            self.waiting.append((client, client.row.wait_since))
            if taken.to_open != NONE:
                self.open(client.pool, taken.to_open)
            return False
        client.counters.waits += 1
        client.counters.wait_histogram[0] += 1
        if not self.bind(client, taken.slot):
            return False
        if taken.check:
            start_probe(self, client.server, self.probe_patience)
            return False
        return self.prepared(client)

    cdef bint bind(self, Client client, int slot) except -1:
        """The slot is the client's: join them. False: its socket has not arrived here yet; `adopt` goes on."""
        cdef Server server = self.known(slot)
        if server is None:
            client.parked = slot
            self.parked.append((client, slot, self.table.slots[slot].generation))
            self.host.want(slot, self.table.slots[slot].generation)
            return False
        client.parked = NONE
        client.server = server
        server.client = client
        server.stage = STAGE_NONE
        server.row.home = self.table.process
        client.row.state = CLIENT_ACTIVE
        self.arm(server, EPOLLIN)
        memcpy(server.row.application_name, client.row.application_name, NAME_BYTES)
        return True

    cdef bint prepared(self, Client client) except -1:
        """True: nothing stands between the client and its server any more."""
        cdef Server server = client.server
        if client.settings_digest != server.row.parameter_digest or self.must_learn_settings(client):
            query = client.settings.query if client.settings is not None else RESET_SETTINGS
            start_sync(self, server, query, self.probe_patience)
            return False
        if client.phase == PHASE_LOGIN:
            self.finish_login(client)
            return False
        return True

    cdef bint must_learn_settings(self, Client client):
        """A login is greeted with the values as PostgreSQL writes them, which only setting them here tells."""
        return (
            client.phase == PHASE_LOGIN and client.settings_digest != 0
            and (client.pool, client.settings_digest) not in self.settings_of
        )

    cdef int serve(self, Client client) except -1:
        if self.prepared(client):
            self.queue(client)
        return 0

    cdef int synced(self, Server server) except -1:
        cdef Client client = server.client
        if server.failed or server.status != b"I":
            self.answer_settings_error(client, server.reported)
            return self.lose_server(server)
        server.row.parameter_digest = client.settings_digest
        if client.settings_digest:
            self.settings_of[(client.pool, client.settings_digest)] = b"".join(server.reported)
        server.reported = None
        return self.serve(client)

    cdef int answer_settings_error(self, Client client, reported) except -1:
        """PostgreSQL refused what the client asked for at startup: pass on its reason as the end of the session."""
        cdef Server server = client.server
        for message in reported:
            if message[:1] == b"E":
                server.said_fatal = True
                fields = messages.parse_error_fields(message[5:])
                refusal = messages.error_response(fields.get("C", "XX000"), fields.get("M", "invalid parameter"))
                self.answer(client, refusal, len(refusal))
                self.farewell(client)
        return 0

    cdef Server known(self, int slot):
        """This process's handle of the slot's present connection, or None."""
        cdef Server server = self.servers[slot]
        if server is not None and server.generation != self.table.slots[slot].generation:
            self.drop_handle(server)
            return None
        return server

    cdef int drop_handle(self, Server server) except -1:
        if self.servers[server.slot] is server:
            self.servers[server.slot] = None
        self.shut(server)
        return 0

    cdef int granted(self, int slot, Client client) except -1:
        """A waiter of this process got a slot."""
        cdef int64_t waited = now_us() - client.row.wait_since
        client.counters.waits += 1
        client.counters.wait_time += waited
        count_time(client.counters.wait_histogram, waited)
        client.row.wait_total += waited
        if <uint64_t>waited > client.row.wait_max:
            client.row.wait_max = waited
        if self.bind(client, slot):
            self.serve(client)
        return 0

    # --- and gives it back -------------------------------------------------------------------------------------------

    cdef int part(self, Server server) except -1:
        cdef Client client = server.client
        server.client = None
        server.row.running = 0
        client.server = None
        client.row.state = CLIENT_IDLE
        return 0

    cdef int release(self, Server server) except -1:
        self.part(server)
        if server.dirt and self.table.pools[server.row.pool].cleanup:
            start_reset(self.table, server.slot)
            return start_clean(self, server)
        server.dirt = 0
        return self.ready_again(server)

    cdef int ready_again(self, Server server) except -1:
        """A quiet, clean server goes back. Before it goes to another process this one stops listening to it."""
        cdef PoolRow *pool = &self.table.pools[server.row.pool]
        cdef int head = pool.wait_head
        if head != NONE and self.table.clients[head].worker != self.table.process:
            self.disarm(server)
        if self.hand_on(server.slot) == BACK_IDLE and not server.armed:
            self.arm(server, EPOLLIN)
        return 0

    cdef int hand_on(self, int slot) except? -99:
        """Give a slot back and do what follows from it. Returns what `give_back` said."""
        cdef uint64_t wake = 0
        cdef int result = give_back(self.table, slot, now_us(), &wake)
        cdef Server server
        self.wake(wake)
        if result >= 0:
            self.granted(slot, <Client>self.clients[result])
        elif result == BACK_CLOSE:
            self.end_outdated(slot)
        elif result == BACK_REFUSED:
            log.error("slot %d was given back in state %d", slot, self.table.slots[slot].state)
            server = self.known(slot)
            if server is not None:
                self.lose_server(server)
        return result

    cdef int end_outdated(self, int slot) except -1:
        cdef Server server = self.known(slot)
        if server is None:
            self.finish(slot, self.table.slots[slot].generation)
            return 0
        return self.say_goodbye(server, True)

    cdef int wake(self, uint64_t processes) except -1:
        cdef int process
        while processes:
            process = lowest_bit(processes)
            processes &= processes - 1
            if process != self.table.process and load32(&self.table.processes[process].asleep):
                write(self.wake_fds[process], &ONE, 8)
        return 0

    # --- mail --------------------------------------------------------------------------------------------------------

    cdef int read_mail(self) except -1:
        cdef int32_t[256] slots
        cdef int i, n
        cdef uint32_t attention
        while True:
            n = self.table.take_mail(slots, 256)
            for i in range(n):
                self.look_at_slot(slots[i])
            if n == 0:
                break
        attention = swap32(&self.me.attention, 0)
        if attention & ATTEND_WAITERS:
            self.look_at_waiters()
        if attention & ATTEND_POOLS:
            self.yield_now = True
            self.host.look_at_pools()
        return 0

    cdef int look_at_slot(self, int slot) except -1:
        cdef SlotRow *row = &self.table.slots[slot]
        cdef Client client
        if row.owner != self.table.process:
            return 0
        if row.state == SLOT_GRANTED and row.client != NONE:
            client = self.clients[row.client] if row.client < len(self.clients) else None
            if client is not None and accept_grant(self.table, slot, client.number, now_us()):
                self.granted(slot, client)
        elif row.state == SLOT_CLOSING:
            self.adopt_orphan(slot)
        return 0

    cdef int look_at_waiters(self) except -1:
        """Some waiter of ours was failed or cancelled."""
        for client, _ in list(self.waiting):
            state = (<Client>client).row.wait_state if not (<Client>client).closed else WAIT_NO
            if state == WAIT_FAILED:
                sqlstate, message = get_failure(self.table, (<Client>client).pool)
                self.end_wait(client, sqlstate, message, None)
            elif state == WAIT_CANCELLED:
                self.end_wait(client, "57014", "canceling statement due to user request", None)
        return 0

    cdef int end_wait(self, Client client, str sqlstate, str message, detail) except -1:
        """A waiter gets an error instead of a server; nothing of its batch reaches one."""
        client.row.wait_state = WAIT_NO
        client.row.state = CLIENT_IDLE
        client.row.errors += 1
        client.counters.errors += 1
        if client.phase == PHASE_LOGIN:
            return self.send_off(client, messages.error_response(sqlstate, message, detail=detail))
        refusal = messages.error_response(sqlstate, message, severity="ERROR", detail=detail)
        if client.extended:
            client.skip_to_sync = True
        else:
            refusal += READY_IDLE
            drop_message(client)
        self.answer(client, refusal, len(refusal))
        return self.queue(client)

    # --- clients go --------------------------------------------------------------------------------------------------

    cdef int end_client(self, Client client) except -1:
        """Close the connection and free what it holds, whatever state it is in."""
        cdef int slot
        if client.closed:
            return 0
        session, client.session = client.session, None
        self.host.client_ended(client, session)
        self.shut(client)
        if client.number == NONE:
            return 0
        if client.row.wait_state != WAIT_NO:
            slot = leave_queue(self.table, client.number)
            if slot != NONE:
                self.hand_on(slot)
        if client.parked != NONE:
            slot, client.parked = client.parked, NONE
            self.hand_on(slot)
        if client.server is not None:
            self.abandon(client.server)
        self.clients[client.number] = None
        dismiss_client(self.table, client.number)
        return 0

    cdef int abandon(self, Server server) except -1:
        """Its client is gone. What is half said cannot be taken back: such a server ends; others are drained."""
        cdef Client client = server.client
        cdef bint half_said = client.body_left > 0 or buffer_length(&server.outb) > 0
        cdef int stage = server.stage
        self.part(server)
        start_reset(self.table, server.slot)
        if half_said or server.pending.doubtful or server.said_fatal or stage != STAGE_NONE:
            if server.pending.length and stage == STAGE_NONE:
                self.request_cancel(server)
            return self.close_server(server, False)
        if client.session_mode:
            server.dirt = DIRT_EVERYTHING
        elif not client.pool_row.cleanup:
            server.dirt = 0
        if not server.armed:
            self.arm(server, EPOLLIN)
        return start_drain(self, server)

    cdef int refuse(self, Client client, str severity, str sqlstate, str message) except -1:
        return self.send_off(client, messages.error_response(sqlstate, message, severity=severity))

    cdef int send_off(self, Client client, bytes last_words) except -1:
        self.answer(client, last_words, len(last_words))
        return self.farewell(client)

    cdef int farewell(self, Client client) except -1:
        """Close as soon as the client has taken what is written to it."""
        if client.closed:
            return 0
        if not buffer_length(&client.outb):
            return self.end_client(client)
        client.phase = PHASE_FAREWELL
        self.logins.append((client, now_us() + FAREWELL_US))
        if client.server is not None:
            self.abandon(client.server)
        self.arm(client, EPOLLOUT)
        return 0

    def dismiss(self, Client client, bytes last_words) -> None:
        """Python's way to end a client: an ErrorResponse, then the end."""
        self.send_off(client, last_words)

    def end(self, Client client) -> None:
        """Close a client without a word (it asked for it, or is not there any more)."""
        self.end_client(client)

    # --- servers -----------------------------------------------------------------------------------------------------

    cdef int server_event(self, Server server, uint32_t events) except -1:
        if server.client is None and server.stage == STAGE_NONE:
            return self.idle_server_speaks(server)
        if events & EPOLLOUT and self.flush(server):
            self.arm(server, EPOLLIN)
            if server.client is not None:
                self.queue(server.client)
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR):
            self.read_server(server)
        return 0

    cdef int read_server(self, Server server) except -1:
        cdef Py_ssize_t length, used
        cdef int reads
        for reads in range(READS):
            length = self.read(server)
            if length < 0:
                return 0
            if length == 0:
                return self.lose_server(server)
            if server.stage == STAGE_CLOSING:
                continue
            server.row.bytes_received += length
            if server.client is not None and server.stage == STAGE_NONE:
                server.client.counters.bytes_received += length
                used = feed_server(self, server, self.scratch, length)
            else:
                used = feed_quiet(self, server, self.scratch, length)
            if used < 0 or server.closed:
                return 0
            if used < length:
                buffer_append(&server.inb, self.scratch + used, length - used)
            if length < SCRATCH or (server.client is None and server.stage == STAGE_NONE):
                return 0
            if server.client is not None and buffer_length(&server.client.outb):
                return 0
        return 0

    cdef int idle_server_speaks(self, Server server) except -1:
        """Only its home reads an idle server, and only after taking it out of the pool."""
        cdef SlotRow *row = server.row
        if row.generation != server.generation:
            return self.drop_handle(server)
        if row.owner == self.table.process and row.state != SLOT_IDLE:
            return 0                                # just granted to us: its mail is on the way
        if row.home != self.table.process or not claim_idle(self.table, server.slot, server.generation, SLOT_RESETTING):
            return self.disarm(server)
        server.stage = STAGE_LISTEN
        self.note_deadline(server, now_us() + CLOSE_PATIENCE_US)
        return self.read_server(server)

    cdef int lose_server(self, Server server) except -1:
        """The stream ended, or cannot be trusted any more: nobody uses this connection again."""
        cdef Client client = server.client
        cdef int stage = server.stage
        cdef bint told = server.said_fatal
        if server.closed:
            return 0
        if client is not None:
            self.part(server)
        if stage != STAGE_CLOSING:
            start_close(self.table, server.slot)
        self.finish_server(server)
        if client is None or client.closed or client.phase == PHASE_FAREWELL:
            return 0
        if stage == STAGE_PROBE or stage == STAGE_SYNC:
            if self.attach(client):                 # nothing of the client's was sent: another server will do
                self.queue(client)
            return 0
        if told:
            return self.farewell(client)
        return self.refuse(client, "FATAL", "08006", "server closed the connection unexpectedly")

    cdef int close_server(self, Server server, bint polite) except -1:
        if not start_close(self.table, server.slot):
            log.error("slot %d could not be closed in state %d", server.slot, server.row.state)
        return self.say_goodbye(server, polite)

    cdef int say_goodbye(self, Server server, bint polite) except -1:
        """The slot is CLOSING. It stays so until PostgreSQL has ended its side: until then the connection counts."""
        server.stage = STAGE_CLOSING
        buffer_free(&server.inb)
        buffer_free(&server.outb)
        if polite:
            self.transmit(server, TERMINATE, len(TERMINATE))
            buffer_free(&server.outb)
        shutdown(server.fd, SHUT_WR)
        self.arm(server, EPOLLIN)
        return self.note_deadline(server, now_us() + CLOSE_PATIENCE_US)

    cdef int finish_server(self, Server server) except -1:
        shutdown(server.fd, SHUT_RDWR)
        self.servers[server.slot] = None
        self.shut(server)
        return self.finish(server.slot, server.generation)

    cdef int finish(self, int slot, uint32_t generation) except -1:
        """The connection is over everywhere; its room may be used."""
        cdef int pool = self.table.slots[slot].pool
        self.table.counter_row(pool).servers_closed += 1
        self.host.forget(slot, generation)
        finish_close(self.table, slot)
        return self.open_if_needed(pool)

    cdef int open_if_needed(self, int pool) except -1:
        cdef int slot = reserve(self.table, pool, now_us())
        if slot != NONE:
            self.open(pool, slot)
        return 0

    cdef int open(self, int pool, int slot) except -1:
        self.yield_now = True
        self.host.open_server(pool, slot, self.table.slots[slot].generation)
        return 0

    def open_minimum(self, pool: int) -> None:
        """Open one server if the pool has fewer than its `min_pool_size`, or waiters nobody opens one for."""
        cdef int slot
        self.open_if_needed(pool)
        slot = reserve_minimum(self.table, pool, now_us())
        if slot != NONE:
            self.open(pool, slot)

    def opened(self, slot: int, fd: int, pid: int, bytes secret, bytes parameters, *,
               lifetime_us: int, idle_timeout_us: int) -> None:
        """A server that this process opened is logged in; the socket is the relay's now."""
        cdef Server server = self.handle(slot, self.table.slots[slot].generation, fd)
        cdef SlotRow *row = server.row
        row.backend_pid = pid
        row.secret_length = min(<int>len(secret), <int>SECRET_BYTES)
        memcpy(row.secret, <const char *>secret, row.secret_length)
        row.lifetime = lifetime_us
        row.idle_timeout = idle_timeout_us
        row.home = self.table.process
        self.table.counter_row(row.pool).servers_opened += 1
        if not self.table.pools[row.pool].parameters_length:
            set_parameters(self.table, row.pool, parameters)
        self.table.pools[row.pool].failed_at = 0
        self.host.publish(slot, server.generation, fd)
        self.arm(server, EPOLLIN)
        self.ready_again(server)
        self.open_if_needed(row.pool)

    def failed_to_open(self, slot: int, sqlstate: str, message: str) -> None:
        """This process could not open the server that it had reserved the slot for."""
        cdef uint64_t wake = 0
        cdef int pool = self.table.slots[slot].pool
        open_failed(self.table, slot, now_us(), sqlstate.encode(), message.encode("utf-8", "replace"), &wake)
        self.wake(wake)
        self.look_at_waiters()

    cdef Server handle(self, int slot, uint32_t generation, int fd):
        cdef Server server = Server()
        server.slot = slot
        server.generation = generation
        server.row = &self.table.slots[slot]
        self.enroll(server, fd)
        self.servers[slot] = server
        return server

    def adopt(self, slot: int, generation: int, fd: int) -> None:
        """A server's socket came from the master. The fd is the relay's now."""
        cdef SlotRow *row = &self.table.slots[slot]
        cdef Server server = self.known(slot)
        cdef Client client
        if server is not None or row.generation != <uint32_t>generation:
            close(fd)
            return
        server = self.handle(slot, generation, fd)
        if row.owner != self.table.process:
            return
        if row.state == SLOT_ACTIVE and row.client != NONE:
            client = self.clients[row.client]
            if client is not None and client.parked == slot and self.bind(client, slot):
                self.serve(client)
        elif row.state == SLOT_CLOSING:
            self.adopt_orphan(slot)

    def take_home(self) -> None:
        """Listen to the idle servers whose home was this row's former process."""
        for server in self.servers:
            if server is not None and (<Server>server).row.home == self.table.process:
                self.arm(server, EPOLLIN)

    def drop(self, slot: int, generation: int) -> None:
        """The connection ended in another process, or nobody has a socket of it: close the duplicate."""
        cdef Server server = self.servers[slot]
        cdef SlotRow *row = &self.table.slots[slot]
        if server is not None and server.generation == <uint32_t>generation and server.client is None:
            self.drop_handle(server)
        elif server is None and row.state == SLOT_CLOSING and row.owner == self.table.process \
                and row.generation == <uint32_t>generation:
            self.finish(slot, generation)

    def republish(self, slot: int, generation: int) -> None:
        """The master has no socket of a server that this process opened: send it again."""
        cdef Server server = self.known(slot)
        if server is not None and server.generation == <uint32_t>generation:
            self.host.publish(slot, generation, server.fd)

    def adopt_orphans(self) -> None:
        """Keeper: end the servers that a dead process left to this row."""
        for slot in range(<int>self.table.header.n_slots):
            if self.table.slots[slot].state == SLOT_CLOSING and self.table.slots[slot].owner == self.table.process:
                self.adopt_orphan(slot)

    cdef int adopt_orphan(self, int slot) except -1:
        """Whoever served this connection died: cancel what may be running and end it."""
        cdef Server server = self.known(slot)
        cdef bint running = self.table.slots[slot].running
        if server is None:
            self.host.want(slot, self.table.slots[slot].generation)     # it comes, or `drop` says that none is left
            return 0
        if server.stage == STAGE_CLOSING:
            return 0
        pending_clear(&server.pending)
        if running:
            self.request_cancel(server)
        return self.say_goodbye(server, False)

    def close_idle(self, slot: int, generation: int) -> bool:
        """Keeper: end a server if it is still idle."""
        cdef Server server = self.known(slot)
        if server is None or not claim_idle(self.table, slot, generation, SLOT_CLOSING):
            return False
        self.say_goodbye(server, True)
        return True

    # --- cancel requests ---------------------------------------------------------------------------------------------

    cdef int request_cancel(self, Server server) except -1:
        """Ask PostgreSQL to stop what a server runs for nobody. Until that is dealt with it is lent to nobody."""
        if mark_canceller(self.table, server.slot):
            self.yield_now = True
            self.host.cancel_server(server.slot, server.generation)
        return 0

    def cancel_client(self, pid: int, bytes secret) -> tuple[int, int] | None:
        """A cancel request came: the (slot, generation) to cancel, None when there is nothing to cancel (any more)."""
        cdef int client, slot = NONE
        cdef uint64_t wake = 0
        cdef ClientRow *row
        for client in range(<int>self.table.header.clients_high):
            if self.table.cancel_pids[client] != <uint32_t>pid:
                continue
            row = &self.table.clients[client]
            if row.cancel_length != <uint32_t>len(secret) or not same_bytes(row.cancel_secret, secret, row.cancel_length):
                continue
            if begin_cancel(self.table, client, &slot, &wake):
                return slot, self.table.slots[slot].generation
            self.wake(wake)
            self.look_at_waiters()
            return None
        return None

    def cancel_key(self, slot: int) -> tuple[int, bytes, int]:
        """Backend pid, secret and pool of a slot."""
        cdef SlotRow *row = &self.table.slots[slot]
        return row.backend_pid, row.secret[:row.secret_length], row.pool

    def cancel_done(self, slot: int, generation: int, *, doubtful: bool) -> None:
        """PostgreSQL has dealt with a cancel request. doubtful: it may still come to act on it."""
        if end_cancel(self.table, slot, generation, doubtful):
            self.hand_on(slot)

    # --- login -------------------------------------------------------------------------------------------------------

    def log_in(self, Client client, pool: int, *, settings, cancel_secret: bytes, application_name: bytes) -> None:
        """The client is who it says: greet it, at once or when a server has told us what to greet it with."""
        cdef ClientRow *row = client.row
        client.pool = pool
        client.pool_row = &self.table.pools[pool]
        client.counters = self.table.counter_row(pool)
        client.session_mode = client.pool_row.session_mode
        client.settings = settings
        client.settings_digest = settings.digest if settings is not None else 0
        client.counters.logins += 1
        row.pool = pool
        copy_text(row.application_name, NAME_BYTES, application_name)
        row.cancel_length = min(<int>len(cancel_secret), <int>CLIENT_SECRET_BYTES)
        memcpy(row.cancel_secret, <const char *>cancel_secret, row.cancel_length)
        row.cancel_pid = <uint32_t>(row.connection_id & 0x7FFFFFFF)
        self.table.cancel_pids[client.number] = row.cancel_pid
        if self.needs_server_to_greet(client):
            client.extended = False
            if self.attach(client):
                self.finish_login(client)
        else:
            self.finish_login(client)

    cdef bint needs_server_to_greet(self, Client client):
        return client.session_mode or not client.pool_row.parameters_length or self.must_learn_settings(client)

    cdef int finish_login(self, Client client) except -1:
        cdef ClientRow *row = client.row
        parameters = get_parameters(self.table, client.pool)
        if client.settings_digest:
            parameters += self.settings_of[(client.pool, client.settings_digest)]
        if client.session_mode:
            row.cancel_pid = client.server.row.backend_pid
            self.table.cancel_pids[client.number] = row.cancel_pid
        session, client.session = client.session, None
        client.phase = PHASE_READY
        row.state = CLIENT_ACTIVE if client.server is not None else CLIENT_IDLE
        session.greet(parameters, row.cancel_pid)
        if client.server is not None and not client.session_mode:
            self.release(client.server)
        return self.queue(client)

    def enter_console(self, Client client, session, *, database: bytes, user: bytes, application_name: bytes) -> None:
        """The client is logged in to the console; its messages go to `session.feed`."""
        client.session = session
        client.phase = PHASE_CONSOLE
        client.row.admin = 1
        client.row.state = CLIENT_IDLE
        copy_text(client.row.database, NAME_BYTES, database)
        copy_text(client.row.user, NAME_BYTES, user)
        copy_text(client.row.application_name, NAME_BYTES, application_name)
        self.queue(client)

    # --- deadlines ---------------------------------------------------------------------------------------------------

    cdef int note_deadline(self, Server server, int64_t deadline) except -1:
        if not server.deadline:
            self.timed.append(server)
        server.deadline = deadline
        return 0

    def tick(self) -> None:
        """Every 100 ms: waiters, logins and stages whose time is over."""
        cdef int64_t now = now_us()
        self.me.heartbeat = now
        if self.stop_listening:
            self.resume_accepting()
        self.time_out_waiters(now)
        self.time_out_logins(now)
        self.time_out_stages(now)
        self.want_again()
        while self.to_process:
            self.process_queued()

    cdef int time_out_waiters(self, int64_t now) except -1:
        cdef Client client
        pools = set()
        while self.waiting:
            client, since = self.waiting[0]
            if not client.closed and client.row.wait_state == WAIT_QUEUED and client.row.wait_since == since:
                if now - since < self.query_wait:
                    break
                self.time_out_waiter(client)
            self.waiting.popleft()
        for client, _ in self.waiting:
            pools.add(client.pool)
        for pool in pools:
            self.open_if_needed(pool)
        return 0

    cdef int want_again(self) except -1:
        """Sockets that some client still waits for: the answer may have been lost for want of a descriptor."""
        self.parked = [entry for entry in self.parked if (<Client>entry[0]).parked == entry[1]]
        for _, slot, generation in self.parked:
            self.host.want(slot, generation)
        return 0

    cdef int time_out_waiter(self, Client client) except -1:
        cdef int slot = leave_queue(self.table, client.number)
        cdef PoolRow *pool = client.pool_row
        if slot != NONE:
            self.hand_on(slot)
        detail = (
            f'Pool "{pool.user.decode()}@{pool.database.decode()}": pool_size {pool.pool_size}, '
            f"{pool.n_busy} servers in use, {pool.n_opening} being opened, {pool.n_waiting} clients waiting."
        )
        if pool.failed_at:
            detail += f" The last attempt to open a server failed: {get_failure(self.table, client.pool)[1]}"
        return self.end_wait(
            client, "53300", "timed out while waiting for a server connection (query_wait_timeout)", detail)

    cdef int time_out_logins(self, int64_t now) except -1:
        cdef Client client
        while self.logins and self.logins[0][1] <= now:
            client, _ = self.logins.popleft()
            if client.closed:
                continue
            if client.phase == PHASE_FAREWELL:
                self.end_client(client)
            elif client.phase == PHASE_LOGIN:
                self.refuse(client, "FATAL", "08006", "canceling authentication due to timeout")
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
            self.lose_server(server)
        return 0

    def drain(self, int64_t now_or_never) -> int:
        """Graceful end: idle clients are told to go, the others when their transaction is over. How many are left."""
        cdef Client client
        self.draining = True
        left = 0
        for client in list(self.clients):
            if client is None or client.closed:
                continue
            if client.server is None and client.row.wait_state == WAIT_NO and not buffer_length(&client.inb):
                self.refuse(client, "FATAL", "57P01", "terminating connection due to administrator command")
            else:
                left += 1
        return left


RESET_SETTINGS = b"Q\x00\x00\x00\x0eRESET ALL\x00"


cdef void note_address(ClientRow *row, sockaddr_storage *address) noexcept:
    cdef sockaddr_in *v4 = <sockaddr_in *>address
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>address
    if address.ss_family == AF_INET:
        row.family = 4
        row.port = ntohs(v4.sin_port)
        memcpy(row.address, &v4.sin_addr, 4)
    elif address.ss_family == AF_INET6:
        row.family = 6
        row.port = ntohs(v6.sin6_port)
        memcpy(row.address, &v6.sin6_addr, 16)


cdef bint same_bytes(const unsigned char *a, const unsigned char *b, size_t length) noexcept:
    """Compare in constant time."""
    cdef unsigned char difference = 0
    cdef size_t i
    for i in range(length):
        difference |= a[i] ^ b[i]
    return difference == 0


cdef void drop_message(Client client) noexcept:
    """Drop the first message of `inb`; what of it has not come yet is dropped when it comes."""
    cdef size_t have = buffer_length(&client.inb)
    cdef unsigned char *at = <unsigned char *>(client.inb.data + client.inb.start)
    cdef uint64_t total
    if have < 5:
        return
    total = 1 + (<uint64_t>at[1] << 24 | <uint64_t>at[2] << 16 | <uint64_t>at[3] << 8 | at[4])
    if total > have:
        client.body_left = total - have
        client.dropping = True
        total = have
    buffer_consume(&client.inb, total)
