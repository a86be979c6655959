"""One client's way from accept to its first query. The relay feeds it bytes; it answers through the relay.

Rules
1. Everything a client sends before it is logged in comes here, in whole packets, bounded in size and number.
2. A fault of the client is one ErrorResponse and the end of that connection; nothing of the secret side is told.
3. Nothing here waits: an exchange that must is a task, the client is suspended meanwhile, and either ends the other.
4. Admission is decided by the first HBA rule that fits; then by the password (auth/exchange).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from doorman.admin.login import console_exchange
from doorman.auth.auth_query import Found
from doorman.auth.decoy import resemble
from doorman.auth.exchange import TRUSTED, Answer, ClientExchange, ScramExchange, TrustExchange, Wait
from doorman.auth.look_up_exchange import LookUpExchange
from doorman.auth.methods import Applicant, exchange_for, kind_of
from doorman.auth.randomness import random_bytes
from doorman.auth.scram import wrong_password
from doorman.auth.talos import TalosLogin, is_talos, talos_exchange
from doorman.config.hba import REJECT, Admission
from doorman.errors import ClientFault, PeerFault
from doorman.shm.counters import count_connection
from doorman.shm.lifecycle import REMOVED
from doorman.shm.look_ups import count_look_up
from doorman.shm.orders import is_enabled
from doorman.shm.table import monotonic_us
from doorman.tls.handshake import HandshakeFault
from doorman.wire import backend
from doorman.wire.backend import AUTHENTICATION_OK, READY_IDLE, backend_key_data, parameter_status
from doorman.wire.frontend import auth_message_length
from doorman.wire.packing import joined, part, rest_from
from doorman.wire.startup import (
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupMessage,
    parse_startup_packet,
    startup_length,
)
from doorman.wire.text import encode
from doorman.workers.client_tls import CLIENT_HELLO, ClientTls
from doorman.workers.console import ConsoleSession
from doorman.workers.credentials import learn
from doorman.workers.lookup_client import WAIT_SECONDS, unavailable
from doorman.workers.routes import Route, application_name_of, secret_bytes_of
from doorman.workers.settings import Settings, gather_settings

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from doorman.auth.cert import MapLine
    from doorman.workers.process import Process
    from doorman.workers.relay.engine import Client
    from doorman.workers.relay.relay import Relay

log = logging.getLogger(__name__)

CONSOLES = frozenset({"pgdoorman", "pgbouncer"})
MOST_REQUESTS = 3
"""SSLRequest and GSSENCRequest together before the startup packet."""

AUTH_HEADER = 5
_HELLO = CLIENT_HELLO
_POOL, _CONSOLE, _NOWHERE = 0, 1, 2
"""Where a client goes that has proved who it is."""


class Login:
    """The login of one client."""

    __slots__ = (
        "address",
        "client",
        "destination",
        "exchange",
        "found",
        "generation",
        "heard_at_us",
        "kind",
        "parting",
        "pool",
        "process",
        "relay",
        "requests",
        "route",
        "scram",
        "secret",
        "startup",
        "task",
        "tls",
    )

    def __init__(self, process: Process, client: Client) -> None:
        self.process = process
        self.relay: Relay = self.process.relay
        self.client = client
        self.startup: StartupMessage | None = None
        self.exchange: ClientExchange | None = None
        self.scram: ScramExchange | None = None  # the same, where it is that of a route
        self.destination = _POOL
        self.route: Route | None = None  # what was decided of another client's packet, if that was the same
        self.address: str | None = None  # IP address, None on the Unix socket
        self.kind = "hba"  # what a failure from here on is counted as
        self.pool = -1
        self.found: Found | None = None  # by auth_query
        self.generation = 0
        self.parting = b""  # the last of the exchange, sent together with what follows it
        self.secret = b""
        self.requests = 0
        self.task: asyncio.Task[None] | None = None
        self.heard_at_us = 0  # its last message, on the clock of `monotonic_us`
        self.tls: ClientTls | None = None

    # --- bytes -------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> int:
        """Take whole packets; how many bytes were used."""
        used = 0
        if not data:
            return 0
        if self.tls is not None or self.startup is None:
            if self.is_shaking() or self.is_direct_tls(data):
                return self.shake(data)
            route = self.known_route(data)
            if route is not None:
                self.follow(route)
                return len(data)
        try:
            while not self.client.closed and (length := self.packet_length(rest_from(data, used) if used else data)):
                at, used = used, used + length
                if self.startup is None:
                    self.on_first_packet(part(data, at, used))
                else:
                    self.on_auth_message(part(data, at + AUTH_HEADER, used))
                if self.is_over() or self.task is not None or self.is_shaking():
                    break
            if self.is_shaking() and used < len(data):
                raise ClientFault("08P01", "received unencrypted data after SSL request")
        except PeerFault as fault:
            self.refuse(fault)
        return used

    def known_route(self, data: bytes) -> Route | None:
        """What is remembered of such a packet."""
        if self.tls is not None or self.client.number < 0:
            return None
        return self.process.routes.find(data, self.client.peer)

    def is_over(self) -> bool:
        """The exchange has ended: what follows is for whoever comes next."""
        if self.scram is not None:
            return self.scram.done
        return self.exchange is not None and self.exchange.done

    def packet_length(self, data: bytes) -> int:
        """Bytes of the packet at the front, 0 while it is not whole."""
        if not data or self.is_over() or self.task is not None or self.is_shaking():
            return 0
        length = startup_length(data) if self.startup is None else auth_message_length(data)
        return length if 0 < length <= len(data) else 0

    def refuse(self, fault: PeerFault) -> None:
        """Rule 2."""
        if self.kind == "auth_query" and self.startup is not None and fault.sqlstate == "28P01":
            count_look_up(self.process.table, self.startup.database, "auth_failure")
        self.process.refusals.refuse(self.client, self, fault, self.cause_of(fault))

    def cause_of(self, fault: PeerFault) -> str:
        """One of `shm.refusals.CAUSES`."""
        if self.startup is None:
            return "invalid_startup"
        if fault.sqlstate in ("28000", "28P01") or (fault.sqlstate == "3D000" and self.exchange is not None):
            return self.kind
        return CAUSE_OF_STATE.get(fault.sqlstate, "other")

    # --- startup -----------------------------------------------------------------------------------------------------

    def on_first_packet(self, packet: bytes) -> None:
        """SSLRequest, GSSENCRequest, CancelRequest or StartupMessage."""
        first = parse_startup_packet(packet)
        if isinstance(first, StartupMessage):
            count_connection(self.process.table, _PLAIN if self.tls is None else _ENCRYPTED)
            self.on_startup(first, packet)
        elif isinstance(first, CancelRequest):
            count_connection(self.process.table, _CANCEL)
            self.end_when_done(self.process.cancel(first.pid, first.secret))
        elif isinstance(first, SslRequest) and self.offers_tls:
            self.relay.send(self.client, b"S")
            self.start_handshake(is_direct=False)
        else:
            self.decline_encryption(first)

    def end_when_done(self, cancelling: asyncio.Task[None] | None) -> None:
        """Whoever asks for a cancel takes the end of this connection for the proof that it will hit no later statement
        (as PostgreSQL's clients may: rule 1 of cancel)."""
        if cancelling is None:
            self.relay.end(self.client)
        else:
            self.relay.suspend(self.client)
            cancelling.add_done_callback(lambda _: self.relay.end(self.client))

    def decline_encryption(self, request: SslRequest | GssEncRequest) -> None:
        """Not offered: the client may go on in plain text."""
        self.requests += 1
        if self.requests > MOST_REQUESTS or self.tls is not None:
            raise ClientFault("08P01", "too many encryption requests")
        self.relay.send(self.client, b"N")

    # --- TLS ---------------------------------------------------------------------------------------------------------

    @property
    def offers_tls(self) -> bool:
        """No handshake for clients on the Unix socket, for those that are one too many, and none within another."""
        is_wanted = self.process.encryption.acceptor is not None and self.tls is None
        return is_wanted and not self.client.is_unix and self.client.number >= 0

    @property
    def proof(self) -> tuple[bytes | None, Certificate | None, tuple[MapLine, ...]]:
        """What TLS says of the client: channel binding, its certificate, and how its name is mapped."""
        if self.tls is None:
            return None, None, ()
        return self.tls.binding, self.tls.certificate, self.process.encryption.maps

    def is_shaking(self) -> bool:
        """A handshake is under way."""
        return self.tls is not None and not self.tls.is_done

    def is_direct_tls(self, data: bytes) -> bool:
        """TLS without an SSLRequest before it, as PostgreSQL 17 has it."""
        return data[0] == _HELLO and self.startup is None and not self.requests and self.offers_tls

    def start_handshake(self, *, is_direct: bool) -> None:
        """What comes next is not PostgreSQL's protocol."""
        acceptor = self.process.encryption.acceptor
        assert acceptor is not None
        self.tls = ClientTls(self.process, self.client, acceptor, is_direct=is_direct)

    def shake(self, data: bytes) -> int:
        """Bytes of a handshake."""
        if self.tls is None:
            self.start_handshake(is_direct=True)
        assert self.tls is not None
        if self.tls.must_wait:
            return 0
        try:
            self.tls.feed(data)
        except HandshakeFault as fault:
            self.process.refusals.end_handshake(self.client, fault)
        return len(data)

    def follow(self, route: Route) -> None:
        """What `on_first_packet` comes to, decided already."""
        count_connection(self.process.table, _PLAIN)
        self.startup, self.route = route.startup, route
        self.heard_at_us = monotonic_us()
        self.address = route.address
        try:
            self.check_room()
            if route.pool < 0:
                self.destination = _NOWHERE
            else:
                self.take_pool(route.startup, route.pool, route.generation)
            self.kind = route.kind
            if route.scram is not None:
                self.scram = self.exchange = route.scram.again()
                self.go_on(self.scram.start())
            else:
                self.exchange = TRUSTED
                self.go_on(b"")
        except PeerFault as fault:
            self.refuse(fault)

    def check_room(self) -> None:
        """Is there room for one more?"""
        if self.client.number < 0:
            raise ClientFault("53300", "sorry, too many clients already")
        if self.relay.draining:
            raise ClientFault("57P03", "the connection pooler is shutting down")

    def take_pool(self, startup: StartupMessage, row: int, generation: int) -> None:
        """The pool that the client is to enter."""
        if not is_enabled(self.process.table, row):
            raise disabled(startup.database)
        self.pool, self.generation = row, generation

    def on_startup(self, startup: StartupMessage, packet: bytes) -> None:
        """Decide who this is and how it must prove it."""
        self.startup = startup
        self.heard_at_us = monotonic_us()
        self.check_room()
        if self.process.encryption.is_mandatory and self.tls is None and not self.client.is_unix:
            self.kind = "tls_required"
            raise ClientFault("28000", "Connection without SSL is not allowed by tls_mode.")
        self.address = None if self.client.is_unix else self.process.address_of(self.client)
        admission = self.admission(startup)
        general = self.process.config.general
        applicant = Applicant(startup.user, self.address, general.auth_wait_timeout / 1000, *self.proof)
        if startup.database in CONSOLES:
            self.destination = _CONSOLE
            self.kind = kind_of(admission, None)
            self.exchange = console_exchange(admission, applicant, *self.console_account(startup.user))
        elif is_talos(self.process.config.talos, startup.user, admission):
            self.kind = "talos"
            self.exchange = talos_exchange(self.process.config.talos, self.on_token)
        else:
            self.exchange = self.pool_exchange(startup, admission, applicant)
            self.remember(packet)
        if negotiation := backend.negotiation_answer(startup):
            self.relay.send(self.client, negotiation)
        self.go_on(self.exchange.start())

    def admission(self, startup: StartupMessage) -> Admission:
        """What the HBA rules ask for. Raises 28000 when they do not admit the client."""
        tls = self.tls is not None
        found = self.process.hba.decide(startup.database, startup.user, self.address, tls)
        if found is None or found.method == REJECT:
            raise ClientFault(
                "28000",
                f"connection from {self.address or 'Unix socket'} to {startup.user}@{startup.database} "
                f"(TLS: {str(tls).lower()}) is not permitted by HBA configuration",
                for_log="no pg_hba rule fits" if found is None else f"rejected by line {found.line} of pg_hba",
            )
        return found

    def console_account(self, user: str) -> tuple[str, str]:
        """Name and password of the account that this user of the console must be: the statistics user's or the
        administrator's."""
        general = self.process.config.general
        if general.stats_username and user == general.stats_username != general.admin_username:
            return general.stats_username, general.stats_password or ""
        return general.admin_username, general.admin_password

    def pool_exchange(self, startup: StartupMessage, admission: Admission, applicant: Applicant) -> ClientExchange:
        """How a client of a pool proves who it is; an unknown user goes through the motions."""
        entry = self.process.pools.find(startup.database, startup.user)
        if (entry is None or entry.settings.is_dynamic) and self.has_auth_query(startup.database):
            self.kind = "auth_query"
            return self.look_up_exchange(startup, admission, applicant)
        others = self.process.pools.accounts_of(startup.database)
        if entry is None and (others is None or admission.method == "trust"):
            return self.nowhere_exchange(startup, admission, applicant)
        account = None
        if entry is not None:
            self.take_pool(startup, entry.row, entry.generation)
            account = entry.settings
        self.kind = kind_of(admission, account)
        return exchange_for(admission, applicant, account, others or ())

    def nowhere_exchange(self, startup: StartupMessage, admission: Admission, applicant: Applicant) -> ClientExchange:
        """No pool: who proves to be a user of some other database learns so; it is nobody else's matter. PostgreSQL,
        whose roles are those of all databases, does the same (InitPostgres)."""
        if admission.method == "trust":
            raise no_such_pool(startup.database, startup.user)
        accounts = list(self.process.pools)
        account = next((known for known in accounts if known.user == startup.user), None)
        self.destination = _NOWHERE
        self.kind = kind_of(admission, account)
        return exchange_for(admission, applicant, account, accounts)

    def remember(self, packet: bytes) -> None:
        """For the next client that begins so."""
        assert self.startup is not None
        if self.tls is not None or self.startup.needs_negotiation:
            return
        if isinstance(self.exchange, ScramExchange | TrustExchange):
            has_settings = self.pool >= 0 and self.has_settings(self.startup)
            route = Route(
                self.startup, self.address, self.exchange.again(), self.kind, self.pool, self.generation, has_settings
            )
            self.process.routes.keep(packet, self.client.peer, route)

    def has_auth_query(self, database: str) -> bool:
        """Users whom the configuration does not name are looked up."""
        pool = self.process.config.pools.get(database)
        return pool is not None and pool.auth_query is not None

    def look_up_exchange(self, startup: StartupMessage, admission: Admission, applicant: Applicant) -> ClientExchange:
        """How a user proves itself whom auth_query has to find. A stranger resembles an account or what was found; not
        one that nobody can log in as, like that of a `server_user`."""
        database, user, users = startup.database, startup.user, self.process.users

        def choose(found: Found | None) -> ClientExchange:
            if found is not None and not found.is_decoy:
                return exchange_for(admission, applicant, found)
            known = resemble(user, self.process.pools.accounts_of(database) or ())
            others = [
                other for other in (known, found) if other is not None and (other.password or other.auth_pam_service)
            ]
            return exchange_for(admission, applicant, None, others)

        async def tell_keeper(failed: str) -> None:
            users.report(database, user, failed)

        def report(failed: str) -> None:
            self.process.spawn(tell_keeper(failed))  # a task ends the relay's round: a bare callback waits for the tick

        return LookUpExchange(
            user,
            ask=lambda failed: users.ask(database, user, failed),
            report=report,
            choose=choose,
            enter=self.find_pool,
            seconds=WAIT_SECONDS,
            late=unavailable(user),
        )

    async def find_pool(self, found: Found) -> None:
        """The pool of a user whom auth_query has found: everybody's with `server_user`, else the user's own."""
        assert self.startup is not None
        database, user = self.startup.database, self.startup.user
        query = self.process.config.pools[database].auth_query
        shared = query.server_user if query is not None else None
        entry = self.process.pools.find(database, shared or user)
        if entry is None or (shared is None and not entry.serves(found)):
            if shared is not None:
                raise no_such_pool(database, shared)
            entry = await self.process.obtain_pool(database, user, found)
        self.pool, self.generation, self.found = entry.row, entry.generation, found

    def tell_no_pool(self) -> None:
        """The client is who it says, and has nowhere to go."""
        assert self.startup is not None
        self.kind = "no_pool"
        self.relay.send(self.client, self.parting + backend.AUTHENTICATION_OK)
        raise no_such_pool(self.startup.database, self.startup.user)

    def find_pool_again(self, found: Found) -> None:
        """The pool was collected as nobody used it, just now."""

        async def find() -> bytes:
            await self.find_pool(found)
            return b""

        self.go_on(Wait(find, WAIT_SECONDS, unavailable(self.startup.user if self.startup else "")))

    def on_token(self, found: TalosLogin) -> None:
        """A Talos token says who this is."""
        assert self.startup is not None
        entry = self.process.pools.find(self.startup.database, found.role)
        if entry is None:
            raise no_such_pool(self.startup.database, found.role)
        self.pool, self.generation = entry.row, entry.generation
        parameters = {**self.startup.parameters, "application_name": found.client_id}
        self.startup = msgspec.structs.replace(self.startup, parameters=parameters)

    def on_auth_message(self, body: bytes) -> None:
        """A password message."""
        assert self.exchange is not None
        self.heard_at_us = monotonic_us()
        self.go_on(self.exchange.feed(body) if self.scram is None else self.scram.feed(body))

    def go_on(self, answer: Answer) -> None:
        """Do what the exchange says."""
        assert self.exchange is not None
        if isinstance(answer, Wait):
            self.relay.suspend(self.client)
            self.task = self.process.spawn(self.wait_for(answer))
            return
        if self.is_over():
            self.parting = answer
            self.finish()
        elif answer:
            self.relay.send(self.client, answer)

    def finish(self) -> None:
        """The client is who it says."""
        if self.destination == _POOL:
            self.enter_pool()
        elif self.destination == _CONSOLE:
            self.enter_console()
        else:
            self.tell_no_pool()

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def wait_for(self, wait: Wait) -> None:
        """Rule 3."""
        try:
            async with asyncio.timeout(wait.seconds):
                outcome: Answer | PeerFault = await wait.work()
        except TimeoutError:
            outcome = wait.late
        except PeerFault as fault:
            outcome = fault
        except Exception:
            log.exception("a login failed by a fault of ours")
            outcome = PeerFault("XX000", "internal error during authentication")
        self.task = None
        self.relay.resume(self.client, lambda: self.take(outcome))

    def take(self, outcome: Answer | PeerFault) -> None:
        """What was waited for has come to this."""
        try:
            if isinstance(outcome, PeerFault):
                raise outcome
            self.go_on(outcome)
        except PeerFault as fault:
            self.refuse(fault)

    def stop_waiting(self) -> None:
        """The client is gone, or its time is over."""
        if self.task is not None:
            self.task.cancel()

    @property
    def stage(self) -> str:
        """How far it has come, for the log."""
        if self.is_shaking():
            return "in the TLS handshake"
        if self.startup is None:
            return "before the startup packet was whole"
        return "waiting for an answer about it" if self.task is not None else "before it has proved who it is"

    # --- the end of the login ----------------------------------------------------------------------------------------

    def enter_pool(self) -> None:
        """The client is who it says. The relay greets it through `greet`, at once or when a server is there."""
        assert self.startup is not None
        if self.pool < 0:
            raise wrong_password(self.startup.user)
        assert self.exchange is not None
        client_key = self.exchange.client_key if self.scram is None else self.scram.client_key
        if client_key is not None:
            learn(self.process.table, client_key)
        route = self.route
        self.secret = random_bytes(route.secret_bytes if route is not None else secret_bytes_of(self.startup))
        settings = self.settings(self.startup) if route is None or route.has_settings else None
        name = route.name if route is not None else encode(self.application_name)
        entered = self.relay.log_in(self.client, self.pool, self.generation, settings, self.secret, name)
        if entered and self.found is not None:
            count_look_up(self.process.table, self.startup.database, "auth_success")
        elif not entered and self.found is not None:
            self.find_pool_again(self.found)
        elif not entered:
            raise ClientFault(*REMOVED)

    def settings(self, startup: StartupMessage) -> Settings | None:
        """What the client asked for beyond what the pool's servers have. Most ask for nothing."""
        if self.route is None and not self.has_settings(startup):
            return None
        pool = self.process.pools[self.pool]
        reported = self.process.reported_parameters(self.pool)
        return gather_settings(
            startup.parameters, pool.startup_parameters, reported, follow_name=pool.sync_server_parameters
        )

    def has_settings(self, startup: StartupMessage) -> bool:
        """Does it ask for more than a name?"""
        pool = self.process.pools[self.pool]
        return not startup.parameters.keys() <= (IDENTITY if pool.sync_server_parameters else PLAIN_PARAMETERS)

    @property
    def application_name(self) -> str:
        """As the client gave it; the reference's default otherwise."""
        assert self.startup is not None
        return application_name_of(self.startup)

    def greet(self, parameters: bytes, pid: int) -> None:
        """Everything that PostgreSQL sends after a successful login, in one write."""
        if self.process.logs_logins:
            self.process.note_login(self.client)
        route = self.route
        name = route.report if route is not None else parameter_status("application_name", self.application_name)
        key = backend_key_data(pid, self.secret)
        before = joined(self.parting, AUTHENTICATION_OK, parameters)
        self.relay.send(self.client, joined(before, name, key, READY_IDLE))

    def enter_console(self) -> None:
        """The client is the administrator."""
        assert self.startup is not None
        general = self.process.config.general
        session = ConsoleSession(self.process, self.client, is_admin=self.startup.user == general.admin_username)
        parameters = session.console.greeting_parameters(self.application_name)
        greeting = [backend.parameter_status(name, value) for name, value in parameters]
        self.relay.send(
            self.client,
            self.parting
            + backend.AUTHENTICATION_OK
            + b"".join(greeting)
            + backend.backend_key_data(0, random_bytes(4))
            + backend.READY_IDLE,
        )
        self.relay.enter_console(
            self.client,
            session,
            database=self.startup.database.encode(),
            user=encode(self.startup.user),
            application_name=encode(self.application_name),
        )


_PLAIN, _ENCRYPTED, _CANCEL = 1, 2, 3  # shm.counters.CONNECTION_KINDS

IDENTITY = frozenset({"user", "database"})
PLAIN_PARAMETERS = IDENTITY | {"application_name"}


CAUSE_OF_STATE = {"08P01": "protocol_error", "3D000": "no_pool", "53300": "too_many_clients"}


def no_such_pool(database: str, user: str) -> ClientFault:
    """Nobody is served under these names."""
    return ClientFault(
        "3D000",
        f"No connection pool configured for database: {database}, user: {user}",
        hint="Check pools.<database>.users in the configuration of pg_doorman.",
    )


def disabled(database: str) -> ClientFault:
    """As PostgreSQL says it of a database that allows no connections."""
    return ClientFault(
        "55000",
        f'database "{database}" is not currently accepting connections',
        hint="ENABLE on the console of pg_doorman takes new clients again.",
    )
