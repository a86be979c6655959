"""What worker and keeper have in common: the relay's Python side and the channel to the master.

Rules
1. Nothing here runs for a message of a running query: logins, openings, cancels and messages of the master only.
2. The master gone (channel at its end, another parent) means that this process ends at once. Any other trouble with the
   channel is this process's own, as for want of memory: it is tried again, and nobody else has to pay for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import uvloop

from doorman.admin.orders import Order, OrderResult
from doorman.auth.auth_query import Found, mark_of
from doorman.auth.blocking import THREADS, THREADS_OF_PROCESS
from doorman.config.hba import RememberedRules
from doorman.config.resolve import PoolSettings
from doorman.config.schema import Config
from doorman.errors import ServerFault
from doorman.log import repeats, set_filter
from doorman.shm.rows import client_address, client_row, get_parameters, process_rows
from doorman.shm.table import Table, monotonic_us
from doorman.workers.cancel import cancel_again, cancel_statement
from doorman.workers.channel import (
    Answered,
    Ask,
    Channel,
    Collect,
    Configure,
    Configured,
    Deposited,
    Drain,
    Forget,
    Leave,
    LookedUp,
    Message,
    Obtain,
    Obtained,
    PoolAdded,
    PoolRemoved,
    Publish,
    Ready,
    SetLogLevel,
    Want,
    close_all,
)
from doorman.workers.console import ConsoleSession
from doorman.workers.destination import Destinations
from doorman.workers.encryption import Encryption, Materials
from doorman.workers.host import Host
from doorman.workers.login import Login
from doorman.workers.lookup_client import LookUpClient
from doorman.workers.opening import NO_DESCRIPTOR, Opening
from doorman.workers.refusals import Refusals
from doorman.workers.relay.relay import Relay
from doorman.workers.roster import PoolEntry, Roster
from doorman.workers.routes import Routes
from doorman.workers.socket_options import SocketOptions

if TYPE_CHECKING:
    from doorman.workers.relay.engine import Client

log = logging.getLogger(__name__)

LEAVE_SECONDS = 0.3  # less than the master's FAREWELL_SECONDS
FAILURE_LOG_SECONDS = 1.0
REPUBLISH_SECONDS = 0.5
CHANNEL_REST_SECONDS = 0.1
DEPOSIT_SECONDS = 1.0


class Inheritance:
    """What a process is born with; everything else of the master's is closed right after the fork."""

    def __init__(
        self,
        config: Config,
        pools: Roster,
        materials: Materials,
        table: Table,
        row: int,
        channel: Channel,
        wake_fds: list[int],
        vault: Mapping[tuple[int, int], int],
        remove_socket: Callable[[], None],
        web_socket: socket.socket | None = None,
    ) -> None:
        self.config = config
        self.pools = pools
        self.materials = materials
        self.table = table
        self.row = row
        self.channel = channel
        self.wake_fds = wake_fds
        self.vault = vault
        self.remove_socket = remove_socket
        self.web_socket = web_socket


class Process(Host):
    """A process with a relay. `Worker` and `Keeper` say what else they do."""

    role: int

    def __init__(self, born: Inheritance) -> None:
        general = born.config.general
        self.config = born.config
        self.pools = born.pools
        self.table = born.table
        self.row = born.row
        self.channel = born.channel
        self.master = os.getppid()
        self.remove_socket = born.remove_socket
        self.hba = RememberedRules(general.hba_rules())
        self.routes = Routes(self.pools)
        self.encryption = Encryption(born.config, born.materials)
        self.destinations = Destinations(self.table, self.pools, SocketOptions.of(general))
        self.logs_logins = general.log_client_connections
        self.dismissing: set[int] = set()  # rows of removed pools that have clients here
        self.requests = itertools.count()
        self.answers: dict[int, asyncio.Future[Obtained | Answered]] = {}
        self.failure_logged_at = 0.0
        self.openings = set()
        self.deposited_at = 0.0  # the oldest that the master may not have collected yet; 0 = none
        self.fetching: dict[tuple[int, int], asyncio.Future[None]] = {}
        self.over: list[tuple[int, int]] = []  # servers that the master has not been told to forget yet
        self.old_servers = set()
        self.refusals = Refusals(self)
        self.users = LookUpClient(self.table, self.tell)
        THREADS_OF_PROCESS.most = general.max_blocking_threads or THREADS
        self.tasks: set[asyncio.Task[None]] = set()
        self.is_ending = False
        self.cancels: set[asyncio.Task[None]] = set()  # those of them that send a cancel request
        self.cancel_turns: dict[tuple[int, bytes], asyncio.Task[None]] = {}  # by key: who waits for an earlier one
        self.timers = 0  # of `later`
        self.others_at_work = 0  # 1: uvloop has more to serve than `tasks` and `timers` show
        self.is_draining = False
        self.waiting_consoles: set[ConsoleSession] = set()
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.relay = Relay(
            born.table,
            self,
            born.wake_fds,
            **self.relay_limits(),
        )
        self.relay.tells_ends = general.log_client_disconnections
        for entry in self.pools.entries():
            self.relay.learn_pool(entry.row, entry.version)
        self.adopt_vault(born.vault)
        self.channel_watcher = self.relay.watch(self.channel.fileno(), select.EPOLLIN, self.on_channel)
        self.loop.add_reader(self.relay.epoll, self.relay.run)

    def relay_limits(self) -> dict[str, int]:
        """What the configuration says about the relay as a whole."""
        general = self.config.general
        return {
            "query_wait_us": general.query_wait_timeout * 1000,
            "probe_patience_us": (general.connect_timeout or 3000) * 1000,
            "statements": max((pool.prepared_statements_cache_size for pool in self.pools), default=0),
            "gather_limit": general.max_memory_usage,
            "stream_patience_us": general.proxy_copy_data_timeout * 1000,
            "login_patience_us": general.client_login_timeout * 1000,
        }

    def adopt_vault(self, vault: Mapping[tuple[int, int], int]) -> None:
        """The servers that live already came with the fork."""
        for (slot, generation), fd in vault.items():
            self.relay.adopt(slot, generation, fd)
        self.relay.take_home()

    # --- life --------------------------------------------------------------------------------------------------------

    def run(self) -> NoReturn:
        """Serve until the master goes or says so; never returns."""
        try:
            self.loop.call_soon(self.begin)
            self.loop.run_forever()
        except BaseException:
            log.exception("%s ended by an error", type(self).__name__)
            os._exit(1)
        os._exit(0)

    def begin(self) -> None:
        """First thing in the loop."""
        self.relay.start_clock(self.tick)
        self.tell(Ready())

    def tick(self, events: int) -> None:
        """Ten times a second: everything that has a deadline."""
        try:
            self.relay.tick()
            if self.refusals.delayed:
                self.refusals.tick()
            if self.users.waiting:
                self.users.look_at_keeper()
            if self.over or self.deposited_at:
                self.tell_what_is_over()
            if self.openings:
                self.time_out_openings()
            if self.dismissing:
                self.dismiss_clients()
            if self.waiting_consoles:
                self.look_at_consoles()
            if self.is_draining:
                self.drain()
            self.upkeep()
            repeats.flush(time.monotonic())
        except Exception:
            log.exception("upkeep failed")

    def look_at_consoles(self) -> None:
        """Whether what they wait for has come about."""
        for console in tuple(self.waiting_consoles):
            console.look()

    def upkeep(self) -> None:
        """What a kind of process does besides, ten times a second."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine that reports its end itself."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        self.note_work()
        task.add_done_callback(self.reap)
        return task

    def later(self, seconds: float, callback: Callable[..., object], *args: object) -> None:
        """Call once, when so much time has passed."""
        self.timers += 1
        self.note_work()
        self.loop.call_later(seconds, self.on_time, callback, args)

    def on_time(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        """So much time has passed."""
        self.timers -= 1
        self.note_work()
        callback(*args)

    def note_work(self) -> None:
        """The relay gives uvloop its turn often while there is something to do for it."""
        self.relay.loop_work = len(self.tasks) + self.timers + self.others_at_work

    def reap(self, task: asyncio.Task[None]) -> None:
        """Log what a coroutine did not handle."""
        self.tasks.discard(task)
        self.note_work()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task failed", exc_info=error)

    # --- the master --------------------------------------------------------------------------------------------------

    def on_channel(self, events: int) -> None:
        """Messages of the master, or its end."""
        try:
            self.channel.flush()
            while (received := self.channel.receive()) is not None:
                self.take_message(*received)
            self.watch_channel()
        except (EOFError, ConnectionError):
            self.on_master_gone()
        except (OSError, MemoryError) as error:
            if os.getppid() != self.master:
                self.on_master_gone()
            self.rest_from_channel(error)

    def rest_from_channel(self, error: OSError | MemoryError) -> None:
        """Rule 2. What the master has sent stays where it is."""
        log.warning("the channel to the master could not be used, which is tried again: %s", error)
        with contextlib.suppress(OSError):
            self.relay.rewatch(self.channel_watcher, select.EPOLLERR)
        self.later(CHANNEL_REST_SECONDS, self.watch_channel_again)

    def watch_channel_again(self) -> None:
        """After a rest; if there are messages, they are announced at once."""
        try:
            self.watch_channel()
        except OSError as error:
            self.rest_from_channel(error)

    def take_message(self, message: Message, descriptors: list[int]) -> None:
        """`on_message`; a fault of ours there must not cost us the channel."""
        try:
            self.on_message(message, descriptors)
        except Exception:
            log.exception("a message of the master was not understood")

    def watch_channel(self) -> None:
        """Also for writing while messages are queued."""
        wanted = select.EPOLLIN | (select.EPOLLOUT if self.channel.has_queue else 0)
        self.relay.rewatch(self.channel_watcher, wanted)

    def on_message(self, message: Message, descriptors: list[int]) -> None:
        """One message of the master."""
        if isinstance(message, Publish) and descriptors:
            self.relay.adopt(message.slot, message.generation, descriptors[0])
            close_all(descriptors[1:])
            self.end_fetching(message.slot, message.generation)
            return
        close_all(descriptors)
        if isinstance(message, Publish):
            self.end_fetching(message.slot, message.generation)
            self.relay.do_without(message.slot, message.generation, "53000", NO_DESCRIPTOR)  # who needs it asks again
        elif isinstance(message, Forget):
            for slot, generation in message.servers:
                self.relay.drop(slot, generation)
                self.end_fetching(slot, generation)
        elif isinstance(message, Want):
            self.republish_later(message.slot, message.generation)
        elif isinstance(message, Drain):
            self.is_draining = True
            self.drain()
        elif isinstance(message, Leave):
            self.leave()
        elif isinstance(message, Configure):
            self.configure(message)
        elif isinstance(message, PoolAdded):
            self.learn_pool(message.pool)
        elif isinstance(message, PoolRemoved):
            self.lose_pool(self.pools.entry(message.row))
        elif isinstance(message, Obtained | Answered):
            self.take_answer(message)
        elif isinstance(message, SetLogLevel):
            set_filter(message.wanted)
        elif isinstance(message, LookedUp):
            self.users.take(message)

    def on_master_gone(self) -> NoReturn:
        """Rule 2. Whoever notices first removes the socket's file, then ends those that do not notice: a kernel's
        SIGKILL at the master's death (PR_SET_PDEATHSIG) would leave the file, and spare nobody to remove it."""
        self.remove_socket()
        siblings = {row.pid: state_of(row.pid) for row in process_rows(self.table) if row.pid not in (0, os.getpid())}
        for pid in sorted(siblings, key=lambda pid: siblings[pid] != "T"):  # stopped ones first: others end them and us
            if siblings[pid]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def tell(self, message: Message, *descriptors: int) -> None:
        """Send to the master; its absence is noticed where messages are read."""
        try:
            self.channel.send(message, descriptors)
        except ConnectionError:
            return
        except OSError as error:
            log.error("a message to the master (%s) could not be sent: %s", type(message).__name__, error)
            if isinstance(message, Publish):  # else the next who wants that server would hear that it is over
                self.republish_later(message.slot, message.generation)
        if self.channel.has_queue:
            self.watch_channel_again()

    def deposit(self, message: Message) -> None:
        """Leave the master what it need not know at once."""
        try:
            if self.channel.deposit(message):
                self.note_deposit()
            else:
                self.have_collected()
                self.tell(message)
        except OSError:  # `on_channel` sees to it
            return

    def note_deposit(self) -> None:
        """The master is told in a while that something lies there."""
        if not self.deposited_at:
            self.deposited_at = time.monotonic()

    def leave(self) -> None:
        """The pooler stops. Clients are told; what PostgreSQL runs for them is not to run on for nobody."""
        self.relay.dismiss_all()
        self.end()

    def end(self) -> None:
        """No client is left: go as soon as the cancel requests under way have got through."""
        if not self.cancels:
            os._exit(0)
        if not self.is_ending:
            self.is_ending = True
            self.spawn(self.end_after(set(self.cancels)))

    async def end_after(self, cancels: set[asyncio.Task[None]]) -> None:
        """They have not long."""
        await asyncio.wait(cancels, timeout=LEAVE_SECONDS)
        os._exit(0)

    def drain(self) -> None:
        """Let clients end their transactions, then leave. Looked at ten times a second."""
        self.relay.stop_accepting()
        if self.relay.drain() == 0:
            self.end()

    # --- pools and configuration -------------------------------------------------------------------------------------

    def configure(self, message: Configure) -> None:
        """A new configuration holds. It was checked by the master; nothing here may fail."""
        self.config = message.config
        self.hba = RememberedRules(message.config.general.hba_rules())
        self.routes = Routes(self.pools)
        self.encryption = Encryption(message.config, message.materials)
        self.destinations = Destinations(self.table, self.pools, SocketOptions.of(message.config.general))
        self.logs_logins = message.config.general.log_client_connections
        self.relay.tells_ends = message.config.general.log_client_disconnections
        live = {(entry.row, entry.generation) for entry in message.pools}
        for entry in self.pools.entries():
            if (entry.row, entry.generation) not in live:
                self.lose_pool(entry)
        for entry in message.pools:
            self.learn_pool(entry)
        self.relay.configure(**self.relay_limits())
        self.reconfigured()
        self.tell(Configured(message.number))

    def reconfigured(self) -> None:
        """What a kind of process does besides."""

    def learn_pool(self, entry: PoolEntry) -> None:
        """There is such a pool now, or it has changed."""
        if self.pools.has(entry):
            return
        self.pools.put(entry)
        self.dismissing.discard(entry.row)
        self.relay.learn_pool(entry.row, entry.version)

    def lose_pool(self, entry: PoolEntry) -> None:
        """A pool takes no more clients: send those away that are in it."""
        self.pools.remove(entry)
        self.dismissing.add(entry.row)
        self.dismiss_clients()

    def dismiss_clients(self) -> None:
        """Clients of removed pools go as soon as they are idle."""
        for row in [row for row in self.dismissing if self.relay.dismiss_pool(row) == 0]:
            self.dismissing.discard(row)

    async def obtain_pool(self, database: str, user: str, found: Found) -> PoolEntry:
        """The pool on demand of a user that auth_query found; made now if need be (see allocation.py).

        A pool that has another password or other startup parameters changes. Raises ServerFault (53300) when there is
        no room for it, or no auth_query any more.
        """
        request = next(self.requests)
        answer = await self.ask(request, Obtain(request, database, user, found))
        assert isinstance(answer, Obtained)
        if answer.row < 0:
            raise ServerFault("53300", answer.problem)
        return self.pools.entry(answer.row)

    async def order(self, order: Order) -> OrderResult:
        """Have the master carry out what the administrator ordered."""
        request = next(self.requests)
        answer = await self.ask(request, Ask(request, order))
        assert isinstance(answer, Answered)
        return answer.result

    def ask(self, request: int, message: Message) -> asyncio.Future[Obtained | Answered]:
        """Send the master what it will answer under this number."""
        self.answers[request] = self.loop.create_future()
        self.tell(message)
        return self.answers[request]

    def take_answer(self, message: Obtained | Answered) -> None:
        """The master has answered; perhaps nobody waits for it any more."""
        answer = self.answers.pop(message.request)
        if not answer.done():
            answer.set_result(message)

    def collect_pool(self, entry: PoolEntry) -> None:
        """Nobody seems to use this pool on demand: the master removes it if that is so."""
        self.tell(Collect(entry.row, entry.generation))

    # --- called by the relay -----------------------------------------------------------------------------------------

    def start_login(self, client: Client) -> Login:
        """Who takes the bytes of a new client."""
        return Login(self, client)

    def open_server(self, pool: int, slot: int, generation: int) -> None:
        """Open a server for a slot that the relay reserved."""
        Opening(self, pool, slot, generation).start()

    def publish(self, slot: int, generation: int, fd: int) -> None:
        """A connection to a server stands: others may need its socket, if only to end it."""
        try:
            if self.channel.deposit_server(slot, generation, fd):
                self.note_deposit()
            else:
                self.have_collected()
                self.tell(Publish(slot, generation), fd)
        except OSError:  # `on_channel` sees to it
            return

    def republish_later(self, slot: int, generation: int) -> None:
        """The master had no descriptor left for it: not at once, or both would spin."""

        def republish() -> None:
            if not self.relay.republish(slot, generation):
                self.republish_later(slot, generation)

        self.later(REPUBLISH_SECONDS, republish)

    def forget(self, slot: int, generation: int) -> None:
        """A server connection is over: only duplicates are left of it, which `tick` has closed."""
        self.over.append((slot, generation))

    def time_out_openings(self) -> None:
        """Servers that could not be opened within `connect_timeout`."""
        now = monotonic_us()
        for opening in [opening for opening in self.openings if opening.deadline_us <= now]:
            opening.time_out()

    def tell_what_is_over(self) -> None:
        """Many at once: each message wakes the master, and there is no hurry."""
        if self.over:
            self.deposit(Forget(self.over))
            self.over = []
        if self.deposited_at and time.monotonic() - self.deposited_at >= DEPOSIT_SECONDS:
            self.have_collected()

    def have_collected(self) -> None:
        """Also when there is no room for more, before anything waits in the queue: what is to be collected may be why
        no descriptor can be sent any more, for the kernel bounds how many of a user's are on their way (RLIMIT_NOFILE).
        """
        if self.deposited_at:
            self.deposited_at = 0.0
            self.tell(Deposited())

    def want(self, slot: int, generation: int) -> None:
        """A server is ours to use but its socket has not come."""
        self.tell(Want(slot, generation))

    async def fetch_server(self, slot: int, generation: int) -> int:
        """The socket of a server, asked for if it is not here; -1 when there is none."""
        if (fd := self.relay.server_fd(slot, generation)) >= 0:
            return fd
        waiting = self.fetching.setdefault((slot, generation), self.loop.create_future())
        self.want(slot, generation)
        await asyncio.shield(waiting)
        return self.relay.server_fd(slot, generation)

    def end_fetching(self, slot: int, generation: int) -> None:
        """The master has answered."""
        if waiting := self.fetching.pop((slot, generation), None):
            waiting.set_result(None)

    def look_at_pools(self) -> None:
        """Some pool may need a server; see Keeper."""

    def cancel_server(self, slot: int, generation: int) -> asyncio.Task[None]:
        """Cancel what a server runs, for a client that is gone or that asks. Done when it can hit nothing later."""
        task = self.spawn(cancel_statement(self, slot, generation))
        self.cancels.add(task)
        task.add_done_callback(self.cancels.discard)
        return task

    def login_expired(self, client: Client) -> None:
        """A client has not logged in within `client_login_timeout`."""
        if isinstance(client.session, Login):
            self.refusals.end_late(client, client.session)

    def client_ended(self, client: Client, session: Login | ConsoleSession | None) -> None:
        """A client is about to be closed that has a session, or whose end is logged."""
        if session is not None:
            session.stop_waiting()
        if self.config.general.log_client_disconnections and client.number >= 0:
            self.log_session(client)

    def log_session(self, client: Client) -> None:
        """One line about a whole session; those that never logged in are `Refusals`' matter."""
        view = client_row(self.table, client.number)
        if view.pool < 0 and not view.admin:
            return
        log.info(
            "client %s disconnected: session=%.3fs transactions=%d queries=%d errors=%d wait=%.3fs longest_wait=%.3fs",
            self.name_of(client),
            (monotonic_us() - view.connected_at) / 1e6,
            view.transactions,
            view.queries,
            view.errors,
            view.wait_total / 1e6,
            view.wait_max / 1e6,
        )

    # --- called by logins --------------------------------------------------------------------------------------------

    def cancel(self, pid: int, secret: bytes) -> asyncio.Task[None] | None:
        """A cancel request arrived here for a client of whatever worker. None: it is dealt with already."""
        found = self.relay.cancel_client(pid, secret)
        if found is None:
            return None
        slot, generation, begun = found
        if begun:
            return self.cancel_server(slot, generation)
        key = pid, secret
        if key not in self.cancel_turns:
            self.cancel_turns[key] = self.spawn(cancel_again(self, pid, secret))
        return self.cancel_turns[key]

    def reported_parameters(self, pool: int) -> dict[str, str]:
        """What servers of a pool report at login, names folded; empty before the first one."""
        if not self.relay.knows_parameters(pool):
            return {}
        return parse_status_messages(get_parameters(self.table, pool))

    def address_of(self, client: Client) -> str:
        """The client's IP address."""
        return address_text(client_address(self.table, client.number))

    def name_of(self, client: Client, login: str | None = None) -> str:
        """`[user@database #c7] from 10.0.0.1:5000` for log lines. login: USER@DATABASE of one that is not logged in."""
        if client.number < 0:
            return f"[{login or 'unknown'} #c-]"
        view = client_row(self.table, client.number)
        where = "unix" if not view.family else f"{self.address_of(client)}:{view.port}"
        return f"[{login or f'{view.user}@{view.database}'} #c{view.connection_id}] from {where}"

    def note_login(self, client: Client) -> None:
        """Log a login."""
        log.info("client %s logged in", self.name_of(client))

    def note_open_failure(self, pool: PoolSettings, fault: ServerFault) -> None:
        """Log a failed attempt to open a server, at most once a second. A password found by auth_query that PostgreSQL
        refuses has been changed: the user's next login is to know."""
        if pool.is_dynamic and pool.server_password is None and fault.sqlstate == "28P01":
            self.users.report(pool.database, pool.user, mark_of(pool.password))
        now = time.monotonic()
        if now - self.failure_logged_at >= FAILURE_LOG_SECONDS:
            self.failure_logged_at = now
            log.error("no server for %s@%s: %s %s", pool.user, pool.database, fault.sqlstate, fault.message)


@lru_cache(maxsize=1024)
def address_text(address: bytes) -> str:
    """An address of 4 or 16 bytes as people write it; an IPv4 address mapped into IPv6 is an IPv4 address."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    mapped = ipaddress.IPv6Address(address)
    return str(mapped.ipv4_mapped or mapped)


def state_of(pid: int) -> str:
    """The letter for what a sibling does (T: it is stopped); empty if it is none: a process of ours with this one's
    parent. (A master's orphans all go to the same reaper.)"""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    except OSError:
        return ""
    state, parent, *_ = rest.split()
    return state if "(doorman " in name and parent == str(os.getppid()) else ""


def parse_status_messages(messages: bytes) -> dict[str, str]:
    """ParameterStatus messages as a dict with folded names."""
    values = {}
    at = 0
    while at < len(messages):
        end = at + 1 + int.from_bytes(messages[at + 1 : at + 5], "big")
        name, value = messages[at + 5 : end - 1].split(b"\0", 1)
        values[name.decode().lower()] = value.decode("utf-8", "surrogateescape")
        at = end
    return values


def set_up_signals() -> None:
    """A child takes no orders but SIGTERM; Ctrl-C in a terminal is the master's matter."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
