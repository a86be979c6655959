"""Client connections of this process: reading, writing, waiting, logging in, leaving.

Rules
1. A client is read only while nothing holds it up: no waiting, no unfinished write in either direction (`is_held_up`).
2. Whatever state a client is in, `end_client` frees all that it holds, exactly once.
3. Every end that the client did not ask for is preceded by an ErrorResponse (`send_off`), but where the client has got
   half a message of its server's: whatever came behind that would be taken for a part of it.
4. The kernel answers what a client sends to a closed connection with a reset, which many clients notice before they read
   their last error. So one that may be sending yet (`lingers`) is read on until it hangs up, for FAREWELL_US at most.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from doorman.shm.clients cimport admit_client, dismiss_client
from doorman.shm.counters cimport count_error
from doorman.shm.layout cimport (
    CLIENT_ACTIVE,
    CLIENT_IDLE,
    CLIENT_SECRET_BYTES,
    NAME_BYTES,
    NONE,
    PREPARING_NO,
    WAIT_NO,
    WAIT_QUEUED,
    ClientRow,
)
from doorman.shm.lifecycle cimport enter_pool
from doorman.shm.pools cimport leave_queue, start_reset, take
from doorman.shm.statements cimport set_of
from doorman.shm.table cimport copy_text, now_us
from doorman.workers.relay.backend cimport is_amid_message, may_part
from doorman.workers.relay.answers cimport add_known
from doorman.workers.relay.buffer cimport buffer_append, buffer_consume, buffer_length, buffer_room
from doorman.workers.relay.engine cimport (
    DIRT_CONNECTED,
    DIRT_EVERYTHING,
    DIRT_PLANS,
    DIRT_STATEMENTS,
    HEAVY,
    HOLD,
    PHASE_CONSOLE,
    PHASE_FAREWELL,
    PHASE_LOGIN,
    PHASE_READY,
    SCRATCH,
    STAGE_NONE,
    Client,
    Server,
)
from doorman.workers.relay.frontend cimport end_gathering, feed_client
from doorman.workers.relay.local cimport check_message, ready
from doorman.workers.relay.outgoing cimport Outgoing, outgoing_add, outgoing_free
from doorman.workers.relay.replies cimport replies_clear
from doorman.workers.relay.pending cimport pending_mixed
from doorman.workers.relay.sealed cimport link_client, take_rest
from doorman.workers.relay.sockets cimport EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, has_unread
from doorman.workers.relay.upkeep cimport cancel, start_drain, start_restore
from doorman.workers.relay.lending cimport learnt_for
from doorman.workers.relay.server_side cimport ServerSide

from doorman.shm.rows import get_parameters
from doorman.wire import backend as messages

cdef extern from "<sys/socket.h>" nogil:
    int AF_INET, AF_INET6, SHUT_WR
    int shutdown(int fd, int how)

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
    FAREWELL_US = 5_000_000     # for a client to take its last error
    MANY_REPLIES = 4096         # owed to one client

cdef bytes FLUSH = b"H\x00\x00\x00\x04"
cdef const char *TERMINATE = b"X\x00\x00\x00\x04"

cdef class ClientSide(ServerSide):
    """What happens to clients."""

    cdef Client welcome(self, int fd, sockaddr_storage *address):
        """A new client, which `hear` goes on with."""
        cdef Client client = Client()
        cdef int number
        cdef int64_t now = now_us()
        self.enroll(client, fd)
        self.table.process_counters[self.table.process].connections += 1
        self.table.process_counters[self.table.process].clients += 1
        client.counted = True
        client.is_unix = address.ss_family != AF_INET and address.ss_family != AF_INET6
        client.edge = not client.is_unix
        number = admit_client(self.table, now)
        if number != NONE:
            client.number = number
            client.row = &self.table.clients[number]
            note_address(client.row, address)
            while len(self.clients) <= number:
                self.clients.append(None)
            self.clients[number] = client
        client.phase = PHASE_LOGIN
        client.session = self.host.start_login(client)
        self.logins[client] = now
        return client

    cdef int hear(self, Client client) except -1:
        """What a new client says. By TCP it has spoken before it is accepted (see listener.py), and is watched only after that."""
        if not client.is_unix:
            self.read_client(client)
        return 0 if client.closed or client.armed else self.arm(client, EPOLLIN)

    cdef int client_event(self, Client client, uint32_t events) except -1:
        if events & (EPOLLERR | EPOLLHUP):
            return self.end_client(client)
        if events & EPOLLOUT and self.flush(client):
            self.written(client)
        if client.closed:
            return 0
        if events & EPOLLRDHUP and client.armed == EPOLLRDHUP:
            return self.end_client(client)
        if events & EPOLLIN:
            self.read_client(client)
            if not client.closed and (not client.drained or events & EPOLLRDHUP):
                self.look_again(client)
        return 0

    cdef bint is_held_up(self, Client client) noexcept:
        """Its next message cannot be dealt with yet."""
        return (
            client.parked != NONE
            or client.suspended
            or (client.number != NONE and client.row.wait_state != WAIT_NO)
            or (client.server is not None and (
                client.server.stage != STAGE_NONE or client.server.holding or client.server.crowded or buffer_length(&client.server.outb)))
            or buffer_length(&client.outb) > 0
        )

    cdef int read_client(self, Client client) except -1:
        cdef Py_ssize_t length
        if client.phase == PHASE_FAREWELL:
            return self.discard_input(client)
        if self.is_held_up(client):
            return self.read_ahead(client)
        if client.gathering:
            return self.gather(client)
        if client.phase == PHASE_READY and buffer_length(&client.inb) > HOLD:
            return self.take_kept(client)
        length = self.read(client)
        if length == 0:
            return self.end_client(client)
        if length > 0:
            self.take_input(client, self.scratch, length, True)
        return 0

    cdef int take_kept(self, Client client) except -1:
        """It was held up with more than an incomplete message in `inb`, which `process` has not come to yet: that first, as
        it may not fit `scratch`."""
        client.drained = False
        return self.take_input(client, client.inb.data + client.inb.start, buffer_length(&client.inb), False)

    cdef int gather(self, Client client) except -1:
        """Read more of a message that is to be whole, into the client's own buffer."""
        cdef size_t have = buffer_length(&client.inb)
        cdef Py_ssize_t n
        client.drained = False
        if have < client.gathering:
            n = self.receive(client, buffer_room(&client.inb, SCRATCH), SCRATCH)
            if n == 0:
                return self.end_client(client)
            if n < 0:
                return 0
            client.inb.end += n
        if buffer_length(&client.inb) < client.gathering:
            return 0
        return self.take_input(client, client.inb.data + client.inb.start, buffer_length(&client.inb), False)

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
        if not server.pending.length and may_part(server, client):
            return self.release(server)
        return self.hurry(server) if server.replies.length > MANY_REPLIES or server.heavy > HEAVY else 0

    cdef int hurry(self, Server server) except -1:
        """A client sends on and on: PostgreSQL would have answered what fills its buffer, and what is owed takes memory."""
        self.give_known(server)
        if not server.replies.length:
            server.heavy = 0
        if (server.replies.length > MANY_REPLIES or server.heavy > HEAVY) and not server.client.body_left:
            self.forward(server, <const char *>FLUSH, len(FLUSH))
            server.crowded = not server.pending.copy_in
        return 0

    cdef Py_ssize_t feed_session(self, Client client, const char *data, Py_ssize_t length) except -2:
        """Login and console take whole messages as Python bytes."""
        used = client.session.feed(data[:length])
        return -1 if client.closed else used

    cdef int read_ahead(self, Client client) except -1:
        """It waits for a server (or for the last answer to be taken) and sends on: keep a little, then stop reading."""
        cdef Py_ssize_t n
        if buffer_length(&client.inb) > HOLD:
            return self.rest(client, EPOLLRDHUP if client.suspended or client.row.wait_state == WAIT_QUEUED else EPOLLERR)
        n = self.receive(client, self.scratch, HOLD // 2)
        if n == 0:
            if not has_said_goodbye(client):
                return self.end_client(client)
            self.farewells.append((client, now_us() + FAREWELL_US))     # but not for ever
            return self.rest(client, EPOLLERR)
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
        if buffer_length(&client.inb) and buffer_length(&client.inb) >= client.gathering:
            self.take_input(client, client.inb.data + client.inb.start, buffer_length(&client.inb), False)
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

    cdef int give_known(self, Server server) except -1:
        if server.body_left:                        # amid a message (a notice): `feed_answers` gives them behind it
            return 0
        add_known(server, &self.to_client)
        if self.to_client.length:
            self.answer(server.client, self.to_client.data, self.to_client.length)
            outgoing_free(&self.to_client)
        return 0

    cdef int written(self, Client client) except -1:
        """It took everything: its server may be read again, and so may it."""
        if client.phase == PHASE_FAREWELL:
            return self.hang_up(client)
        self.arm(client, EPOLLIN)
        if client.server is not None:
            self.arm(client.server, EPOLLIN | (EPOLLOUT if buffer_length(&client.server.outb) else 0))
            if client.server.restore_due:
                start_restore(self, client.server)
        return self.queue(client)

    def start_tls(self, Client client, session, rest: bytes) -> None:
        """The handshake with a client is over: from here on everything goes through the record layer.

        rest: what came behind the handshake's last record.
        """
        client.tls = link_client(self.table, client.number, session)
        if rest:
            take_rest(client, rest)
            self.queue(client)

    cpdef send(self, Client client, bytes data):
        """Write to a client from Python."""
        self.answer(client, data, len(data))

    cdef int end_wait(self, Client client, str sqlstate, str message, detail) except -1:
        """A waiter gets an error instead of a server; nothing of its batch reaches one."""
        cdef bytes sqlstate_bytes = sqlstate.encode().ljust(5)
        client.row.wait_state = WAIT_NO
        client.row.preparing = PREPARING_NO
        client.row.state = CLIENT_IDLE
        client.row.errors += 1
        count_error(client.counters, <const char *>sqlstate_bytes)
        if client.phase == PHASE_LOGIN:
            return self.send_off(client, messages.error_response(sqlstate, message, detail=detail))
        refusal = messages.error_response(sqlstate, message, severity="ERROR", detail=detail)
        client.begin_failed = client.begin is not None
        self.answer(client, refusal, len(refusal))
        if client.extended:
            client.skip_to_sync = True
        else:
            ready(self, client)
            drop_message(client)
        return self.queue(client)

    cdef int end_client(self, Client client) except -1:
        """Close the connection and free what it holds, whatever state it is in."""
        if client.closed:
            return 0
        if client.counted:
            client.counted = False
            self.table.process_counters[self.table.process].clients -= 1
        session, client.session = client.session, None
        self.logins.pop(client, None)
        if session is not None or self.tells_ends:
            self.host.client_ended(client, session)
        self.shut(client)
        end_gathering(self, client)
        if client.number == NONE:
            return 0
        self.stop_waiting(client)
        if client.server is not None:
            self.abandon(client.server)
        self.clients[client.number] = None
        dismiss_client(self.table, client.number)
        return 0

    cdef int stop_waiting(self, Client client) except -1:
        """It needs no server any more: out of the queue, and back with one that has been granted or lent to it already."""
        cdef int slot
        if client.row.wait_state != WAIT_NO:
            slot = leave_queue(self.table, client.number)
            if slot != NONE:
                self.hand_on(slot)
        if client.parked != NONE:
            slot, client.parked = client.parked, NONE
            self.hand_on(slot)
        return 0

    cdef int abandon(self, Server server) except -1:
        """Its client is gone. What is half said cannot be taken back: such a server ends; others are drained."""
        cdef Client client = server.client
        cdef bint half_said = client.body_left > 0 or buffer_length(&server.outb) > 0
        cdef int stage = server.stage
        self.part(server)
        start_reset(self.table, server.slot)
        if server.replies.unproven:
            server.dirt |= DIRT_STATEMENTS          # whether it has them will not be known
            set_of(self.table, server.slot).doubtful = 1
        if server.pending.length:
            server.dirt |= DIRT_EVERYTHING          # what the answers that come now would show is not looked at
        replies_clear(&server.replies)
        if (
            half_said or server.pending.doubtful or server.condemned or server.said_fatal or stage != STAGE_NONE
            or pending_mixed(&server.pending)
        ):
            self.close_server(server, False)
            return cancel(self, server) if server.pending.length and stage == STAGE_NONE else 0
        if client.session_mode:
            server.dirt = DIRT_EVERYTHING | server.dirt & DIRT_CONNECTED
        elif not client.pool_row.cleanup:
            server.dirt &= DIRT_CONNECTED | (DIRT_STATEMENTS | DIRT_PLANS if client.renames else 0)
        if not server.armed:
            self.arm(server, EPOLLIN)
        return start_drain(self, server, client.took_leave)

    cdef int refuse(self, Client client, str severity, str sqlstate, str message) except -1:
        if client.phase == PHASE_LOGIN and client.session.is_shaking():
            return self.end_client(client)          # it would take no words in clear now
        return self.send_off(client, messages.error_response(sqlstate, message, severity=severity))

    cdef int send_off(self, Client client, bytes last_words) except -1:
        if client.server is None or not is_amid_message(client.server):
            self.answer(client, last_words, len(last_words))
        return self.farewell(client)

    cdef int farewell(self, Client client) except -1:
        """Close as soon as the client has taken what is written to it (rule 4)."""
        if client.closed:
            return 0
        client.lingers |= has_unread(client.fd)
        if not buffer_length(&client.outb) and not client.lingers:
            return self.end_client(client)
        client.phase = PHASE_FAREWELL
        self.farewells.append((client, now_us() + FAREWELL_US))
        if client.number != NONE:
            self.stop_waiting(client)
        if client.server is not None:
            self.abandon(client.server)
        if not buffer_length(&client.outb):
            return self.hang_up(client)
        self.arm(client, EPOLLOUT)
        return 0

    cdef int hang_up(self, Client client) except -1:
        """Everything is written: close, or wait until the client has closed (rule 4)."""
        if not client.lingers:
            return self.end_client(client)
        shutdown(client.fd, SHUT_WR)
        return self.arm(client, EPOLLIN)

    def dismiss(self, Client client, bytes last_words) -> None:
        """Python's way to end a client: an ErrorResponse, then the end."""
        self.send_off(client, last_words)

    cpdef end(self, Client client):
        """Close a client without a word (it asked for it, or is not there any more)."""
        self.end_client(client)

    cpdef suspend(self, Client client):
        """Its session waits for something: keep a little of what it sends, notice when it goes."""
        client.suspended = True

    cpdef bint log_in(self, Client client, int pool, uint32_t generation, object settings, bytes cancel_secret,
                      bytes application_name) except -1:
        """The client is who it says: greet it, at once or when a server has told us what to greet it with.

        False, and nothing done: that pool (row and generation) was removed meanwhile.
        """
        cdef ClientRow *row = client.row
        if not enter_pool(self.table, client.number, pool, generation):
            return False
        self.logins.pop(client, None)               # from here on it waits for a server: query_wait_timeout
        client.pool = pool
        client.pool_row = &self.table.pools[pool]
        client.counters = self.table.counter_row(pool)
        client.session_mode = client.pool_row.session_mode
        client.follows = not client.session_mode
        client.renames = client.follows and client.pool_row.statements
        client.planner = settings.planner if settings is not None else 0
        client.check = self.check_of(pool)
        client.startup = settings
        self.take_settings(client, settings)
        client.counters.logins += 1
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
        return True

    cdef bint needs_server_to_greet(self, Client client):
        return (
            client.session_mode or not self.can_greet(client.pool_row) or self.must_learn_settings(client)
        )

    cdef bytes check_of(self, int pool):
        """The check query of a pool as a message; empty: there is none."""
        cdef bytes message = self.check_messages.get(pool)
        if message is None:
            message = self.check_messages[pool] = check_message(self.host.pools[pool].pooler_check_query)
        return message

    cdef int finish_login(self, Client client) except -1:
        cdef ClientRow *row = client.row
        parameters = get_parameters(self.table, client.pool)
        if client.settings_digest:
            client.learned = self.settings_of.get(learnt_for(client), b"")
            parameters += client.learned
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
        self.logins.pop(client, None)
        client.phase = PHASE_CONSOLE
        client.row.admin = 1
        client.row.state = CLIENT_IDLE
        copy_text(client.row.database, NAME_BYTES, database)
        copy_text(client.row.user, NAME_BYTES, user)
        copy_text(client.row.application_name, NAME_BYTES, application_name)
        self.queue(client)


cdef bint has_said_goodbye(Client client) noexcept:
    """Nothing more comes from it, and Terminate is the last: what stands before that is to be run when its server is ready for
    it. Who waits in the queue is to leave that (decisions)."""
    return (
        client.number != NONE and client.row.wait_state == WAIT_NO and (client.server is not None or client.parked != NONE)
        and buffer_length(&client.inb) >= 5
        and memcmp(client.inb.data + client.inb.end - 5, TERMINATE, 5) == 0
    )


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
