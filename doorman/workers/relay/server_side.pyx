"""Server connections of this process: reading, opening, losing, closing, adopting them, and cancelling what they run.

Rules
1. The slot row says whose a connection is; a `Server` is only this process's handle of it, good for one generation.
2. A connection counts until PostgreSQL has ended its side (CLOSING) or its stream has ended.
3. Nobody reads an idle server but its home, and only after taking it out of the pool.
"""

import logging

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.unistd cimport close

from doorman.auth.digest cimport same_bytes
from doorman.shm.layout cimport (
    NONE,
    SECRET_BYTES,
    SLOT_ACTIVE,
    SLOT_CLOSING,
    SLOT_IDLE,
    SLOT_OPENING,
    SLOT_RESETTING,
    ClientRow,
    SlotRow,
)
from doorman.shm.pools cimport (
    begin_cancel,
    claim_idle,
    end_cancel,
    finish_close,
    mark_canceller,
    open_failed,
    reserve,
    reserve_minimum,
    start_close,
    take,
)
from doorman.shm.slots cimport read_cancel_key
from doorman.shm.table cimport now_us
from doorman.tls.record cimport RecordLayer
from doorman.workers.relay.backend cimport feed_server, is_amid_message
from doorman.workers.relay.buffer cimport buffer_append, buffer_free, buffer_length
from doorman.workers.relay.engine cimport (
    PHASE_FAREWELL,
    SCRATCH,
    STAGE_CLOSING,
    STAGE_LISTEN,
    STAGE_NONE,
    STAGE_PROBE,
    STAGE_SYNC,
    Client,
    Server,
    Watcher,
)
from doorman.workers.relay.pending cimport pending_clear
from doorman.workers.relay.sealed cimport is_between, link_server, say_farewell
from doorman.workers.relay.sockets cimport EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from doorman.workers.relay.upkeep cimport feed_quiet
from doorman.workers.relay.lending cimport Lending

from doorman.shm.rows import TooManyParameters, set_parameters

log = logging.getLogger("doorman.relay")

cdef extern from "<sys/socket.h>" nogil:
    int shutdown(int fd, int how)
    int SHUT_WR, SHUT_RDWR

cdef enum:
    READS = 8                       # reads of one server in a row
    CLOSE_PATIENCE_US = 2_000_000   # for PostgreSQL to end a connection that we left

cdef bytes TERMINATE = b"X\x00\x00\x00\x04"


cdef class ServerSide(Lending):
    """What happens to servers."""

    cdef int forward(self, Server server, const char *data, size_t length) except -1:
        """To a server; while it does not take everything its client is not read."""
        cdef Py_ssize_t left = self.transmit(server, data, length)
        server.row.bytes_sent += length
        if server.client is not None:
            server.client.counters.bytes_sent += length
        if left > 0:
            self.arm(server, EPOLLIN | EPOLLOUT)
            if server.client is not None:
                self.rest(server.client, EPOLLERR)
        return 0

    cdef int server_event(self, Server server, uint32_t events) except -1:
        if server.client is None and server.stage == STAGE_NONE:
            if not self.idle_server_speaks(server, events):
                return 0
        else:
            if events & EPOLLOUT and self.flush(server):
                self.arm(server, EPOLLIN)
                if server.client is not None:
                    self.queue(server.client)
            if events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                self.read_server(server)
        if not server.closed and (not server.drained or events & EPOLLRDHUP):
            self.look_again(server)
        return 0

    cdef int read_server(self, Server server) except -1:
        cdef Py_ssize_t length, used
        cdef int reads
        server.passed_by = 0
        for reads in range(READS):
            length = self.read(server)
            if length < 0:
                return self.heard_nothing(server) if server.stage == STAGE_LISTEN else 0
            if length == 0:
                return self.lose(server, True)
            if server.stage == STAGE_CLOSING:
                continue
            server.row.bytes_received += length
            if server.client is not None and server.stage == STAGE_NONE:
                server.client.counters.bytes_received += length
                used = feed_server(self, server, self.scratch, length)
            else:
                used = self.feed_stage(server, length)
            if used < 0 or server.closed:
                return 0
            if used < length:
                buffer_append(&server.inb, self.scratch + used, length - used)
            if server.drained or (server.client is None and server.stage == STAGE_NONE):
                return 0
            if server.client is not None and buffer_length(&server.client.outb):
                return 0
        return 0

    cdef Py_ssize_t feed_stage(self, Server server, Py_ssize_t length) except -2:
        """Take what a server said in a stage. What stands behind the end of RESTORE is its client's."""
        cdef Py_ssize_t more, used = feed_quiet(self, server, self.scratch, length)
        if 0 <= used < length and server.stage == STAGE_NONE and server.client is not None and not server.closed:
            more = feed_server(self, server, self.scratch + used, length - used)
            used = used + more if more >= 0 else -1
        return used

    cdef int heard_nothing(self, Server server) except -1:
        """What an idle server said was for the record layer alone (a session ticket, a new key)."""
        if server.tls is None or not is_between(server.tls):
            return 0
        server.stage = STAGE_NONE
        return self.ready_again(server)

    cdef bint idle_server_speaks(self, Server server, uint32_t events) except -1:
        """Only its home reads an idle server, and only after taking it out of the pool. True: it was read."""
        cdef SlotRow *row = server.row
        if row.generation != server.generation:
            self.drop_handle(server)
            return False
        if row.owner == self.table.process and row.state != SLOT_IDLE:
            if row.held:                            # for a cancel request: whose that is will listen to it (`cancel_done`)
                self.disarm(server)
            self.look_again(server)                 # just granted to us: its mail is on the way
            return False
        if row.home != self.table.process or not claim_idle(self.table, server.slot, server.generation, SLOT_RESETTING):
            self.pass_by(server, events)
            return False
        server.stage = STAGE_LISTEN
        self.equip(server)
        self.note_deadline(server, now_us() + CLOSE_PATIENCE_US)
        self.read_server(server)
        return True

    cdef int pass_by(self, Server server, uint32_t events) except -1:
        """It speaks to another process (rule 4 of lending)."""
        server.passed_by += 1
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            server.hung_up = True
        if not server.edge or server.passed_by > self.patience:
            server.passed_by = 0
            self.disarm(server)
        return 0

    cdef int lose_server(self, Server server) except -1:
        """The stream cannot be trusted any more."""
        return self.lose(server, False)

    cdef int lose(self, Server server, bint has_ended) except -1:
        """Nobody uses this connection again. It counts until its stream has ended (rule 2)."""
        cdef Client client = server.client
        cdef int stage = server.stage
        cdef bint told = server.said_fatal or is_amid_message(server)   # then no word of ours can be said
        if server.closed:
            return 0
        if client is not None:
            self.part(server)
        if stage != STAGE_CLOSING:
            start_close(self.table, server.slot)
        if has_ended or stage == STAGE_CLOSING:
            self.finish_server(server)
        else:
            self.say_goodbye(server, False)
        if client is None or client.closed or client.phase == PHASE_FAREWELL:
            return 0
        if stage == STAGE_PROBE or stage == STAGE_SYNC:
            return self.attach_again(client)
        client.lingers = True                       # in COPY IN, or with more of a pipeline on its way
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
            self.equip(server)
            self.transmit(server, TERMINATE, len(TERMINATE))
            if server.tls is not None:
                say_farewell(server)
            buffer_free(&server.outb)
        shutdown(server.fd, SHUT_WR)
        self.listen_to(server)
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
        cdef int slot
        if self.known_versions[pool] != self.table.pools[pool].version:
            return 0
        slot = reserve(self.table, pool, now_us())
        if slot != NONE:
            self.open(pool, slot)
        return 0

    cdef int open(self, int pool, int slot) except -1:
        """Fill a reserved slot. By settings that hold no longer nobody may: whoever knows the new ones will."""
        if self.known_versions[pool] != self.table.pools[pool].version:
            start_close(self.table, slot)
            finish_close(self.table, slot)
            return 0
        self.to_open.append((pool, slot, self.table.slots[slot].generation))
        if not self.in_round:
            self.wake(<uint64_t>1 << self.table.process)
        return 0

    def learn_pool(self, pool: int, version: int) -> None:
        """This process knows by which settings servers of the row are opened (lifecycle.pxd, rule 4)."""
        self.known_versions[pool] = version
        self.checks = {key: known for key, known in self.checks.items() if key[0] != pool}
        self.check_messages.pop(pool, None)
        self.settings_of = {key: told for key, told in self.settings_of.items() if key[0] != pool}
        self.open_if_needed(pool)

    def open_minimum(self, pool: int) -> None:
        """Open one server if the pool has fewer than its `min_pool_size`, or waiters nobody opens one for. The minimum
        is nobody's wish any more when the pooler waits for its clients to go."""
        cdef int slot
        self.open_if_needed(pool)
        if self.known_versions[pool] != self.table.pools[pool].version or self.table.phase == "draining":
            return
        slot = reserve_minimum(self.table, pool, now_us())
        if slot != NONE:
            self.open(pool, slot)

    cpdef opened(self, int slot, int fd, uint32_t pid, bytes secret, bytes parameters, int64_t lifetime_us,
                 int64_t idle_timeout_us, RecordLayer layer=None, bytes peer=b"", Watcher watcher=None):
        """A server that this process opened is logged in; the socket is the relay's now. layer: it is encrypted. peer: the
        address (4 or 16 bytes) that its host name was found to have. watcher: by whom the socket was watched, which it is
        no more."""
        cdef SlotRow *row = &self.table.slots[slot]
        cdef Server server
        try:
            server = self.handle(slot, row.generation, fd)
        except BaseException:
            if watcher is not None:
                self.unwatch(watcher, True)
            raise
        if watcher is not None:
            self.replace(watcher, server)
        self.now = now_us()
        row.backend_pid = pid
        row.secret_length = min(<int>len(secret), <int>SECRET_BYTES)
        memcpy(row.secret, <const char *>secret, row.secret_length)
        row.peer_length = min(<int>len(peer), 16)
        memcpy(row.peer, <const char *>peer, row.peer_length)
        row.lifetime = lifetime_us
        row.idle_timeout = idle_timeout_us
        row.home = self.table.process
        try:
            if layer is not None:
                server.tls = link_server(self.table, slot, layer)
            if self.must_learn_parameters(&self.table.pools[row.pool]):
                set_parameters(self.table, row.pool, parameters, row.epoch)
            self.arm(server, EPOLLIN)
        except TooManyParameters as fault:
            self.undo_opening(server, "54000", str(fault))
            return
        except Exception:
            log.exception("a new server could not be taken over")
            self.undo_opening(server, "XX000", "internal error while a server connection was opened")
            return
        self.table.counter_row(row.pool).servers_opened += 1
        self.ready_again(server)
        self.open_if_needed(row.pool)

    cdef int undo_opening(self, Server server, str sqlstate, str message) except -1:
        """A new server cannot be used here: nobody else would end it, or give its place to another."""
        shutdown(server.fd, SHUT_RDWR)
        self.drop_handle(server)
        self.host.forget(server.slot, server.generation)
        self.failed_to_open(server.slot, sqlstate, message)
        return 0

    def failed_to_open(self, slot: int, sqlstate: str, message: str) -> None:
        """This process could not open the server that it had reserved the slot for."""
        cdef uint64_t wake = 0
        cdef int pool = self.table.slots[slot].pool
        open_failed(self.table, slot, now_us(), sqlstate.encode(), message.encode("utf-8", "replace"), &wake)
        self.wake(wake)
        self.look_at_waiters()

    def adopt(self, slot: int, generation: int, fd: int) -> None:
        """A server's socket came from the master. The fd is the relay's now."""
        cdef SlotRow *row = &self.table.slots[slot]
        cdef Server server = self.known(slot)
        cdef Client client
        if server is not None or row.generation != <uint32_t>generation:
            close(fd)
            return
        server = self.handle(slot, generation, fd)
        self.now = now_us()
        if row.owner != self.table.process:
            return
        if row.state == SLOT_ACTIVE and row.client != NONE:
            client = self.clients[row.client]
            if client is not None and client.parked == slot:
                self.use_late(client, slot)
        elif row.state == SLOT_CLOSING:
            self.adopt_orphan(slot)

    cdef int use_late(self, Client client, int slot) except -1:
        """The socket has come that the client waited for. An error costs this client alone, but must not leave it waiting."""
        try:
            if self.bind(client, slot):
                self.serve(client)
        except Exception:
            self.fail(client)
        return 0

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
        elif server is None and row.owner == self.table.process and row.generation == <uint32_t>generation:
            if row.state == SLOT_CLOSING:
                self.finish(slot, generation)
            elif row.state == SLOT_ACTIVE and row.client != NONE:
                self.give_up_parking(slot, generation)

    cdef int give_up_parking(self, int slot, uint32_t generation) except -1:
        """Nobody has a socket of the server that a client of ours waits for: its opener died. Another server will do."""
        cdef Client client = self.clients[self.table.slots[slot].client]
        if client is None or client.parked != slot:
            return 0
        client.parked = NONE
        start_close(self.table, slot)
        self.finish(slot, generation)
        return self.attach_again(client)

    def republish(self, slot: int, generation: int) -> bool:
        """The master has no socket of a server that this process opened: send it again. False: it is opening it."""
        cdef Server server = self.known(slot)
        cdef SlotRow *row = &self.table.slots[slot]
        if server is not None and server.generation == <uint32_t>generation:
            self.host.publish(slot, generation, server.fd)
        return server is not None or row.state != SLOT_OPENING or row.generation != <uint32_t>generation

    def adopt_orphans(self) -> None:
        """Keeper: end the servers that a dead process left to this row."""
        for slot in range(<int>self.table.header.n_slots):
            if self.table.slots[slot].state == SLOT_CLOSING and self.table.slots[slot].owner == self.table.process:
                self.adopt_orphan(slot)

    cdef int adopt_orphan(self, int slot) except -1:
        """Whoever served this connection died: cancel what may be running and end it."""
        cdef Server server = self.known(slot)
        cdef bint running = self.table.slots[slot].running
        if server is None:                          # it comes, or `drop` says that none is left
            self.orphans.add((slot, self.table.slots[slot].generation))
            self.host.want(slot, self.table.slots[slot].generation)
            return 0
        if server.stage == STAGE_CLOSING:
            return 0
        pending_clear(&server.pending)
        if running:
            self.request_cancel(server)
        return self.say_goodbye(server, False)

    def close_idle(self, slot: int, generation: int) -> bool:
        """Keeper: end a server if it is still idle; False when it is not."""
        cdef Server server = self.known(slot)
        if not claim_idle(self.table, slot, generation, SLOT_CLOSING):
            return False
        if server is None:
            self.adopt_orphan(slot)
        else:
            self.say_goodbye(server, True)
        return True

    cdef int request_cancel(self, Server server) except -1:
        """Ask PostgreSQL to stop what a server runs for nobody. Until that is dealt with it is lent to nobody."""
        if mark_canceller(self.table, server.slot):
            self.yield_now = True
            self.host.cancel_server(server.slot, server.generation)
        return 0

    def cancel_client(self, pid: int, bytes secret) -> tuple[int, int, bool] | None:
        """A cancel request came: the (slot, generation, True) to cancel, None when there is nothing to cancel (any more). False: an
        earlier request for it is on its way, so that this one cannot begin yet."""
        cdef bint begun
        cdef int client, slot = NONE
        cdef uint64_t connection_id, wake = 0
        cdef ClientRow *row
        for client in range(<int>self.table.header.clients_high):
            if self.table.cancel_pids[client] != <uint32_t>pid:
                continue
            row = &self.table.clients[client]
            connection_id = row.connection_id
            if row.cancel_length != <uint32_t>len(secret):
                continue
            if not same_bytes(row.cancel_secret, <const uint8_t *><const char *>secret, row.cancel_length):
                continue
            begun = begin_cancel(self.table, client, connection_id, &slot, &wake)
            if slot != NONE:
                return slot, self.table.slots[slot].generation, begun
            self.wake(wake)
            self.look_at_waiters()
            return None
        return None

    def cancel_key(self, slot: int, generation: int) -> tuple[int, bytes, int, bool] | None:
        """Backend pid, secret and pool of a server that this process is cancelling, and whether it is encrypted; None when
        it is gone."""
        cdef uint32_t pid
        cdef uint8_t[SECRET_BYTES] secret
        cdef int pool = self.table.slots[slot].pool
        cdef bint encrypted = self.table.slots[slot].tls
        cdef int length = read_cancel_key(self.table, slot, generation, &pid, secret)
        if length == NONE:
            return None
        return pid, secret[:length], pool, encrypted

    def server_fd(self, slot: int, generation: int) -> int:
        """The socket of a server connection here, -1 if this process has none."""
        cdef Server server = self.known(slot)
        return server.fd if server is not None and server.generation == <uint32_t>generation else -1

    def cancel_done(self, slot: int, generation: int, *, doubtful: bool) -> None:
        """PostgreSQL has dealt with a cancel request. doubtful: it may still come to act on it."""
        cdef Server server
        self.now = now_us()
        if not end_cancel(self.table, slot, generation, doubtful):
            return
        server = self.known(slot)
        if server is not None:                          # its home may have stopped listening while it was held
            server.row.home = self.table.process
            self.listen_to(server)
        self.hand_on(slot)

    cdef int note_deadline(self, Server server, int64_t deadline) except -1:
        if not server.deadline:
            self.timed.append(server)
        server.deadline = deadline
        return 0
