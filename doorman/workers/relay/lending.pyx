"""Who gets which server: joins clients and servers, makes a server fit for its client, parts them, gives servers back.

Rules
1. `client.server` and `server.client` always name each other; `bind` and `part` alone set and clear them.
2. Between a client and its first message may stand: the server's socket (`parked`), a probe, the client's settings, the
   end of its login. `prepared` takes the next of these steps; `serve` goes on after each, and `begin` when none is left,
   unless a cancel request came meanwhile: `row.preparing` is for that.
3. Whatever `give_back` decides about a slot is carried out here, in `hand_on`. What a client does with its server may end
   in handing it on: that one's turn comes when the first is done (`grant`), or many logins would be as many calls deep.
4. With two workers a busy server is as likely to come back as not, and an event too many costs less than to stop and to
   start watching: so both watch it by edge, and who does not own it passes its events by (`passed_by`), up to
   `patience` of them. Such an event may have announced what comes after the owner is done: who waits for a server to
   speak, without having sent it anything, begins with `listen_to`; and who gets one whose end was announced (`hung_up`)
   asks first whether it is there: what is sent to a peer that has closed its side alone is answered by nothing at all.
"""

import logging

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport write

from doorman.shm.atomics cimport cas32, lowest_bit, swap32
from doorman.shm.counters cimport count_time
from doorman.shm.layout cimport (
    CLIENT_ACTIVE,
    CLIENT_IDLE,
    CLIENT_WAITING,
    NONE,
    PREPARING_CANCELLED,
    PREPARING_NO,
    PREPARING_YES,
    PoolRow,
)
from doorman.shm.orders cimport replace_servers
from doorman.shm.pools cimport BACK_CLOSE, BACK_IDLE, BACK_REFUSED, Taken, give_back, start_reset, take
from doorman.workers.relay.backend cimport end_stream
from doorman.workers.relay.engine cimport (
    DIRT_CONNECTED,
    DIRT_PLANS,
    DIRT_SETTINGS,
    DIRT_STATEMENTS,
    DIRT_TEMPORARY,
    PHASE_LOGIN,
    STAGE_NONE,
    Client,
    Conn,
    Server,
)
from doorman.workers.relay.sealed cimport is_between, link_server
from doorman.workers.relay.sockets cimport EPOLLIN, is_tcp
from doorman.workers.relay.upkeep cimport start_clean, start_probe, start_sync
from doorman.workers.relay.sockets cimport Sockets

from doorman.shm.rows import get_failure, get_parameters
from doorman.wire import backend as messages
from doorman.wire.frontend import query
from doorman.workers.followed import Followed, parse_reports

log = logging.getLogger("doorman.relay")

cdef uint64_t ONE = 1
cdef enum:
    LISTEN_LOG_US = 10_000_000
    LEAST_PATIENCE_US = 1_000_000   # with a server that was idle for long
    MOST_SETTINGS = 4096            # sets of startup parameters remembered; clients choose them, so they are bounded

cdef bytes RESET_SETTINGS = query("RESET ROLE; RESET ALL")


cdef tuple learnt_for(Client client):
    """Of what servers report for a client's settings: beside what they report anyway, which RECONNECT has asked anew."""
    return client.pool, client.settings_digest, client.pool_row.parameters_epoch


cdef class Lending(Sockets):
    """Which client has which server."""

    cdef bint attach(self, Client client) except -1:
        """True: the client has a server and may use it now. False: it waits, and goes on through `serve`."""
        client.asked_at = self.now
        return self.attach_on(client)

    cdef bint attach_on(self, Client client) except -1:
        """See `attach`."""
        cdef bint asks = client.phase != PHASE_LOGIN
        if self.attach_now(client):
            return True
        if asks and not client.closed:
            cas32(&client.row.preparing, PREPARING_NO, PREPARING_YES)
        return False

    cdef int attach_again(self, Client client) except -1:
        """Its server was lost before anything of the client's was sent to it: another one will do, if there is time."""
        if client.row.preparing == PREPARING_CANCELLED:
            return self.end_cancelled(client)
        if self.now - client.asked_at >= self.query_wait:
            return self.end_long_wait(client)
        return self.begin(client) if self.attach_on(client) else 0

    cdef int64_t patience_with(self, Client client) noexcept:
        """How long a server that was idle for long may take to answer: its client has been waiting for a while already."""
        return min(self.probe_patience, max(client.asked_at + self.query_wait - self.now, LEAST_PATIENCE_US))

    cdef int end_long_wait(self, Client client) except -1:
        """`query_wait_timeout` is over."""
        cdef PoolRow *pool = client.pool_row
        detail = (
            f'Pool "{pool.user.decode()}@{pool.database.decode()}": pool_size {pool.pool_size}, '
            f"{pool.n_busy} servers in use, {pool.n_opening} being opened, {pool.n_waiting} clients waiting."
        )
        if pool.failed_at:
            detail += f" The last attempt to open a server failed: {get_failure(self.table, client.pool)[1]}"
        return self.end_wait(
            client, "53300", "timed out while waiting for a server connection (query_wait_timeout)", detail)

    cdef bint attach_now(self, Client client) except -1:
        """See `attach`."""
        cdef Taken taken
        cdef int64_t now = self.now
        if client.pool_row.session_mode:                # the pool's mode was changed: from now on it keeps its servers
            client.session_mode = True
        take(self.table, client.pool, client.number, now, &taken)
        if taken.slot == NONE:
            client.row.state = CLIENT_WAITING
            client.row.state_since = now
            client.row.wait_since = client.asked_at     # it may have tried other servers before
            if taken.to_open != NONE:
                self.open(client.pool, taken.to_open)
            return False
        client.counters.waits += 1
        client.counters.wait_histogram[0] += 1
        return self.bind(client, taken.slot) and self.prepared(client)

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
        if server.row.tls:
            self.equip(server)
        client.row.state = CLIENT_ACTIVE
        self.arm(server, EPOLLIN)
        server.row.served = client.row.connection_id
        server.row.served_row = client.number
        return True

    cdef bint prepared(self, Client client) except -1:
        """True: nothing stands between the client and its server any more."""
        cdef Server server = client.server
        if server.hung_up or server.row.to_check:
            if server.hung_up:
                server.hung_up = False
                self.look_again(server)
            start_probe(self, server, self.patience_with(client))
            return False
        if client.settings is not None and client.settings.problem:
            self.refuse(client, "FATAL", "22P05", client.settings.problem)
            return False
        if client.settings_digest != server.row.parameter_digest or self.must_learn_settings(client):
            query = client.settings.query if client.settings is not None else RESET_SETTINGS
            start_sync(self, server, query, self.must_learn_settings(client), self.probe_patience)
            return False
        if client.followed is not None and client.followed.returned:
            self.tell_returned(client)
        if client.phase == PHASE_LOGIN:
            self.finish_login(client)
            return False
        server.dirt |= client.standing_dirt
        return True

    cdef bint must_learn_settings(self, Client client):
        """A login is greeted with the values as PostgreSQL writes them, which only setting them here tells."""
        return (
            client.phase == PHASE_LOGIN and client.settings_digest != 0
            and learnt_for(client) not in self.settings_of
        )

    def knows_parameters(self, int pool) -> bool:
        """Is known what the pool's servers report? While it is paused what they said before a RECONNECT must do."""
        return self.can_greet(&self.table.pools[pool])

    cdef bint can_greet(self, PoolRow *pool) noexcept:
        """See `knows_parameters`."""
        return not self.must_learn_parameters(pool) or (
            pool.paused and pool.parameters_length and pool.parameters_version == pool.version
        )

    cdef bint must_learn_parameters(self, PoolRow *pool) noexcept:
        """What the pool's servers report is not known, or is from before its settings were changed, or a RECONNECT."""
        return (
            not pool.parameters_length or pool.parameters_version != pool.version or pool.parameters_epoch != pool.epoch
        )

    cdef int serve(self, Client client) except -1:
        return self.begin(client) if self.prepared(client) else 0

    cdef int begin(self, Client client) except -1:
        """Its server is ready for what it has sent, unless that was cancelled."""
        if swap32(&client.row.preparing, PREPARING_NO) != PREPARING_CANCELLED:
            return self.queue(client)
        self.release(client.server)
        return self.end_cancelled(client)

    cdef int end_cancelled(self, Client client) except -1:
        return self.end_wait(client, "57014", "canceling statement due to user request", None)

    cdef int send_off(self, Client client, bytes last_words) except -1:
        """Its session ends with these words."""
        raise NotImplementedError

    cdef int end_wait(self, Client client, str sqlstate, str message, detail) except -1:
        """It gets an error instead of a server."""
        raise NotImplementedError

    cdef int synced(self, Server server) except -1:
        cdef Client client = server.client
        if server.failed or server.status != b"I":
            if any(b"\0C57014\0" in message for message in server.reported):       # nor by a time-out of somebody before
                return self.lose_server(server)
            return self.refuse_settings(client, server)
        server.row.parameter_digest = client.settings_digest
        server.row.plans_digest = client.plans_digest
        if client.followed is not None:
            self.correct_parameters(client, server.reported)
        self.learn_settings(client, server.reported)
        server.reported = None
        return self.serve(client)

    cdef int correct_parameters(self, Client client, list reported) except -1:
        """A value that the client was told is no longer its own (it went back to what it asked for at startup). The last
        report of a name counts; they are all in the client's encoding, which may be among them."""
        latest = {name: message for name, message in map(named_report, reported) if name}
        for name in sorted(latest, key="client_encoding".__ne__):
            value = latest[name][5:].split(b"\0")[1]
            if client.followed.hear(name, value.decode("utf-8", "surrogateescape")):
                self.answer(client, latest[name], len(latest[name]))
        client.planner = client.followed.planner(client.startup)
        client.followed.changed = False
        return 0

    cdef int tell_returned(self, Client client) except -1:
        """What a server that had the client's settings already did not report."""
        returned = dict(client.followed.returned)
        for name, value in returned.items():
            client.followed.tell(name, value)
        for name, value in returned.items():
            written = client.followed.write(value)
            if written is not None:
                message = messages.parameter_status(client.followed.spelled[name], written)
                self.answer(client, message, len(message))
        client.planner = client.followed.planner(client.startup)
        client.followed.changed = False
        return 0

    cdef int learn_settings(self, Client client, list reported) except -1:
        """Keep what PostgreSQL reported for logins with the same settings; the last report of a name counts."""
        if not self.must_learn_settings(client):
            return 0
        if len(self.settings_of) >= MOST_SETTINGS:
            del self.settings_of[next(iter(self.settings_of))]
        latest = {name: message for name, message in map(named_report, reported) if name}
        self.settings_of[learnt_for(client)] = b"".join(latest.values())
        return 0

    cdef int refuse_settings(self, Client client, Server server) except -1:
        """PostgreSQL refused what the client asked for at startup: pass on its reason as the end of the session. The server
        is as good as before, but for its settings, if it says that it is ready."""
        cdef bint ready = server.status == b"I" and not server.pending.length
        refusals = [read_refusal(message) for message in server.reported if message[:1] == b"E"]
        server.reported = None
        if not refusals:
            return self.lose_server(server)
        self.part(server)
        start_reset(self.table, server.slot)
        self.send_off(client, refusals[0])
        if not ready:
            return self.lose_server(server)
        server.dirt |= DIRT_SETTINGS
        return start_clean(self, server)

    cdef int grant(self, int slot, Client client) except -1:
        """A waiter of this process got a slot: go on with it, now or when those before it are done (rule 3)."""
        if self.granting:
            client.parked = slot                    # its end gives the slot back
            self.to_grant.append(client)
            return 0
        self.granting = True
        try:
            self.grant_now(slot, client)
            while self.to_grant:
                client = self.to_grant.pop(0)
                slot, client.parked = client.parked, NONE
                if slot != NONE:
                    self.grant_now(slot, client)
        finally:
            self.granting = False
        return 0

    cdef int grant_now(self, int slot, Client client) except -1:
        """An error costs this client alone. A slot that could not even be joined to it is given back with its end."""
        try:
            self.granted(slot, client)
        except Exception:
            if not client.closed and client.server is None and client.parked == NONE and client.row.slot == slot:
                client.parked = slot
            self.fail(client)
        return 0

    cdef int fail(self, Conn conn) except -1:
        """What was done for this connection raised: it ends, and nobody else's."""
        raise NotImplementedError

    cdef int granted(self, int slot, Client client) except -1:
        """See `grant`."""
        cdef int64_t waited = self.now - client.row.wait_since
        client.counters.waits += 1
        client.counters.wait_time += waited
        count_time(client.counters.wait_histogram, waited)
        client.row.wait_total += waited
        if <uint64_t>waited > client.row.wait_max:
            client.row.wait_max = waited
        if self.bind(client, slot):
            self.serve(client)
        return 0

    cdef int note_listen(self, Client client) except -1:
        client.counters.listens += 1
        if self.now - self.listen_logged_at > LISTEN_LOG_US:
            self.listen_logged_at = self.now
            log.warning(
                "LISTEN in transaction mode: notifications will not arrive; use a pool with pool_mode session "
                "(pool %s@%s, client #c%d)",
                client.pool_row.user.decode(), client.pool_row.database.decode(), client.row.connection_id)
        return 0

    cdef int log_parameter(self, Client client, bytes report) except -1:
        """ParameterStatus: a setting of the client's session changed (`log_client_parameter_status_changes`)."""
        settings = self.host.pools[client.pool]
        if settings.log_client_parameter_status_changes:
            name, _, value = report[5:].rstrip(b"\0").partition(b"\0")
            log.info("client [%s@%s #c%d] changed a parameter: %s = %r", settings.user, settings.database,
                     client.row.connection_id, name.decode("utf-8", "replace"), value.decode("utf-8", "replace"))
        return 0

    cdef int follow_parameter(self, Client client, bytes report) except -1:
        """Remember what the client is told; its statements are parsed under that from now on."""
        self.log_parameter(client, report)
        words = report[5:].split(b"\0")
        if len(words) != 3:                         # malformed: it is the client's to complain of
            return 0
        name, value = words[:2]
        if client.followed is None:
            pool = self.host.pools[client.pool]
            defaults = parse_reports(get_parameters(self.table, client.pool))
            if pool.sync_server_parameters:
                defaults["application_name"] = pool.application_name
            client.followed = Followed(
                defaults, defaults | parse_reports(client.learned or b""), follow_name=pool.sync_server_parameters)
        if client.followed.hear(
            name.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape"), client.row.queries
        ):
            client.planner = client.followed.planner(client.startup)
        if b"pg_temp" in value:
            client.server.dirt |= DIRT_TEMPORARY        # whatever is created from now on may be temporary
        return 0

    cdef int keep_parameters(self, Client client) except -1:
        """The transaction is over: what it leaves set is to hold on the client's next server."""
        cdef Server server = client.server
        led_back = ()
        if server.went_back and client.startup is not None:
            led_back = server.way_back.lasting if server.way_back is not None else client.startup.wanted
        client.followed.changed = False
        return self.take_settings(client, client.followed.settings(client.startup, led_back))

    cdef int take_settings(self, Client client, settings) except -1:
        """These are to hold on the client's servers."""
        client.settings = settings
        client.settings_digest = settings.digest if settings is not None else 0
        client.plans_digest = settings.plans if settings is not None else 0
        client.standing_dirt = DIRT_TEMPORARY if settings is not None and settings.creates_temporary else 0
        return 0

    cdef int part(self, Server server) except -1:
        cdef Client client = server.client
        if server.streaming:
            end_stream(server, client.counters, True)
        server.client = None
        server.holding = server.announcing = False
        server.touchy = False
        server.executed = False                         # the Sync that ends the run of an absent client is ours
        server.sets = False
        server.limited = False
        server.parses_shared = False
        server.crowded = False
        server.heavy = 0
        server.owns_unnamed = False
        server.temporary = 0
        server.begin_fails = False
        server.cancels = 0
        server.went_back = False
        server.way_back = None
        server.restores_again = False
        server.restore_due = False
        server.settling = 0
        server.skips = False
        server.on_trial = 0
        server.local_planner = 0
        server.explained = 0
        server.unexplained = False
        server.replaying = False
        server.verifying = False
        server.healing = False
        server.replayed = None
        server.row.running = 0
        client.server = None
        client.last_bound = None
        if (
            server.lent is not None or server.forgetting is not None or server.verified is not None
            or server.kept is not None or server.capture is not None or client.portals is not None
            or client.deeds is not None
        ):
            forget_leftovers(server, client)
        client.row.state = CLIENT_IDLE
        return 0

    cdef int release(self, Server server) except -1:
        cdef Client client = server.client
        if client.followed is not None and (client.followed.changed or (server.went_back and client.startup is not None)):
            self.keep_parameters(client)
        self.part(server)
        if server.condemned:
            return self.close_server(server, True)
        if server.dirt and (
            self.table.pools[server.row.pool].cleanup or server.dirt & (DIRT_STATEMENTS | DIRT_PLANS | DIRT_CONNECTED)
        ):
            start_reset(self.table, server.slot)
            server.cancels = server.row.canceller != NONE       # its client's own, which may come too late
            return start_clean(self, server)
        server.dirt = 0
        return self.ready_again(server)

    cdef int ready_again(self, Server server) except -1:
        """A quiet, clean server goes back. Before it goes to another process this one stops listening to it, unless it
        is likely to get it back soon (rule 4)."""
        cdef PoolRow *pool = &self.table.pools[server.row.pool]
        cdef int head = pool.wait_head
        if server.tls is not None and not is_between(server.tls):
            return self.lose_server(server)         # the rest of a record would be in this process alone
        if head != NONE and self.table.clients[head].worker != self.table.process and not (server.edge and self.patience):
            self.disarm(server)
        if self.hand_on(server.slot) == BACK_IDLE:
            self.listen_to(server)
        return 0

    cdef int listen_to(self, Server server) except -1:
        """Hear all that the server says from now on, and what it said while this process passed it by."""
        if not server.armed:
            return self.arm(server, EPOLLIN)
        if server.passed_by:
            server.passed_by = 0
            return self.look_again(server)
        return 0

    cdef int hand_on(self, int slot) except? -99:
        """Give a slot back and do what follows from it. Returns what `give_back` said."""
        cdef uint64_t wake = 0
        cdef int result = give_back(self.table, slot, self.now, &wake)
        cdef Server server
        self.wake(wake)
        if result >= 0:
            self.grant(slot, <Client>self.clients[result])
        elif result == BACK_CLOSE:
            self.end_outdated(slot)
        elif result == BACK_REFUSED:
            log.error("slot %d was given back in state %d", slot, self.table.slots[slot].state)
            server = self.known(slot)
            if server is not None:
                self.lose_server(server)
        return result

    cdef int retire(self, int pool) except -1:
        cdef uint64_t wake = 0
        replace_servers(self.table, pool, &wake)
        return self.wake(wake)

    cdef int end_outdated(self, int slot) except -1:
        cdef Server server = self.known(slot)
        if server is None:                          # somebody has its socket: the connection counts until it has ended
            return self.adopt_orphan(slot)
        return self.say_goodbye(server, True)

    def wake_processes(self, processes: int) -> None:
        """`wake` for Python: a set of process rows."""
        self.wake(processes)

    cdef int wake(self, uint64_t processes) except -1:
        """Have processes look at their mail. In the middle of a round that waits for its end: one wake-up will do for
        all that the round has for them."""
        self.to_wake |= processes
        if not self.in_round:
            self.wake_now()
        return 0

    cdef int wake_now(self) except -1:
        """Write the eventfd of those that sleep and that nobody has woken yet."""
        cdef int process
        while self.to_wake:
            process = lowest_bit(self.to_wake)
            self.to_wake &= self.to_wake - 1
            if process != self.table.process and swap32(&self.table.processes[process].asleep, 0):
                write(self.wake_fds[process], &ONE, 8)
        return 0

    cdef Server known(self, int slot):
        """This process's handle of the slot's present connection, or None."""
        cdef Server server = self.servers[slot]
        if server is not None and server.generation != self.table.slots[slot].generation:
            self.drop_handle(server)
            return None
        return server

    cdef Server handle(self, int slot, uint32_t generation, int fd):
        cdef Server server = self.servers[slot]
        if server is not None:                      # of an earlier connection, whose end is told late
            self.drop_handle(server)
        server = Server()
        server.slot = slot
        server.generation = generation
        server.row = &self.table.slots[slot]
        server.edge = is_tcp(fd)
        self.enroll(server, fd)
        self.servers[slot] = server
        return server

    cdef int equip(self, Server server) except -1:
        """This process is about to read or write an encrypted server: it needs what its row has."""
        if server.row.tls and server.tls is None:
            server.tls = link_server(self.table, server.slot, None)
        return 0

    cdef int drop_handle(self, Server server) except -1:
        if self.servers[server.slot] is server:
            self.servers[server.slot] = None
        self.shut(server)
        return 0


def named_report(bytes message) -> tuple[str, bytes]:
    """A ParameterStatus by its name; without one, what is none."""
    name, _, rest = message[5:].partition(b"\0")
    return (name.decode("utf-8", "replace") if message[:1] == b"S" and rest.count(b"\0") == 1 else ""), message


def read_refusal(message: bytes) -> bytes:
    """The end of a session for the reason that an ErrorResponse of PostgreSQL's gives."""
    fields = messages.parse_error_fields(message[5:])
    return messages.error_response(fields.get("C", "XX000"), fields.get("M", "invalid parameter"))


cdef int forget_leftovers(Server server, Client client) except -1:
    """What few transactions leave."""
    server.lent = None
    server.refused = None
    server.forgetting = None
    server.verified = None
    server.kept = None
    server.capture = None
    client.portals = None                               # they end with the transaction, the unnamed one as well
    client.deeds = None
    return 0
