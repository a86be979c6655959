"""Opens one server connection: resolve, connect, log in, hand the socket to the relay. Runs in workers and keeper.

Rules
1. An attempt ends exactly once: with `relay.opened` or with `relay.failed_to_open`; nothing is left behind either way.
2. The whole attempt has one deadline, `connect_timeout`.
3. The socket is published before the first byte of the login: should this process die, the keeper ends the connection
   and waits for its end, so that PostgreSQL never has more of them than the pool's size.
4. What a client may see of a failure names the step and the address, never a secret.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import random
import select
import socket
from typing import TYPE_CHECKING

from doorman.auth.server_login import Credentials, ServerLogin
from doorman.config.resolve import PoolSettings
from doorman.errors import ServerFault
from doorman.shm.counters import count_opening, count_phase
from doorman.shm.table import monotonic_us
from doorman.wire.backend import parameter_status
from doorman.wire.codes import LATEST_MINOR
from doorman.workers.credentials import credentials_for, note_refusal

if TYPE_CHECKING:
    from doorman.workers.process import Process
    from doorman.workers.relay.engine import Watcher

log = logging.getLogger(__name__)

JITTER = 0.2
CONNECT, AUTHENTICATION, STARTUP = 0, 2, 3  # shm.counters.PHASES
NO_DESCRIPTOR = "connection pooler local resource exhausted: no file descriptor is left"
NOT_FOR_CLIENTS = frozenset({"application_name"})


class Opening:
    """One attempt to fill a slot that this process reserved."""

    def __init__(self, process: Process, pool: PoolSettings, slot: int, generation: int) -> None:
        self.process = process
        self.pool = pool
        self.slot = slot
        self.generation = generation
        self.is_published = False
        self.socket: socket.socket | None = None
        self.watcher: Watcher | None = None
        self.credentials = credentials_for(pool, process.table)
        self.login = make_login(pool, self.credentials, minor=self.newest_minor)
        self.phase_began = monotonic_us()
        count_opening(process.table, slot)
        self.deadline = process.loop.call_later((pool.connect_timeout_ms or 3000) / 1000, self.time_out)
        self.ended = False

    @property
    def newest_minor(self) -> int:
        """The protocol version to ask for: with 3.2 PostgreSQL gives longer cancel keys."""
        return 0 if (self.pool.server_host, self.pool.server_port) in self.process.old_servers else LATEST_MINOR

    def start(self) -> None:
        """Begin; the end is announced to the relay."""
        try:
            family, address = literal_address(self.pool.server_host, self.pool.server_port)
        except ValueError:
            self.process.spawn(self.resolve())
            return
        self.attempt(family, address)

    async def resolve(self) -> None:
        """Look the server's name up, without holding anything else up."""
        try:
            found = await self.process.loop.getaddrinfo(
                self.pool.server_host, self.pool.server_port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            self.fail(
                ServerFault("08006", f"server host name {self.pool.server_host!r} was not found: {error.strerror}")
            )
            return
        if not self.ended:
            self.attempt(found[0][0], found[0][4])

    def attempt(self, family: int, address: object) -> None:
        """Start to connect."""
        self.phase_began = monotonic_us()
        try:
            self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            self.process.socket_options.apply(self.socket)
            code = self.socket.connect_ex(address)  # type: ignore[arg-type]
        except OSError as error:
            self.fail(self.connect_fault(error.errno or errno.EIO))
            return
        if code not in (0, errno.EINPROGRESS):
            self.fail(self.connect_fault(code))
            return
        self.watcher = self.process.relay.watch(self.socket.fileno(), select.EPOLLOUT, self.on_connected)

    def on_connected(self, events: int) -> None:
        """The connection stands or was refused."""
        assert self.socket is not None
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.fail(self.connect_fault(code))
            return
        self.process.publish(self.slot, self.generation, self.socket.fileno())
        self.is_published = True
        self.end_phase(CONNECT)
        self.guard(lambda: self.say(self.login.start()))
        if not self.ended:
            assert self.watcher is not None
            self.watcher.callback = self.on_readable
            self.process.relay.rewatch(self.watcher, select.EPOLLIN)

    def on_readable(self, events: int) -> None:
        """The server goes on with the login."""
        self.guard(self.read)

    def read(self) -> None:
        """Take what came; the login says what to answer."""
        assert self.socket is not None
        try:
            data = self.socket.recv(16384)
        except BlockingIOError:
            return
        if not data:
            raise self.login.connection_lost()
        was_authenticated = self.login.is_authenticated
        answer = self.login.feed(data)
        if self.login.is_authenticated and not was_authenticated:
            self.end_phase(AUTHENTICATION)
        if answer:
            self.say(answer)
        if self.login.done:
            self.end_phase(STARTUP)
            self.succeed()

    def end_phase(self, phase: int) -> None:
        """Count how long it took; the next begins."""
        now = monotonic_us()
        count_phase(self.process.table, phase, now - self.phase_began)
        self.phase_began = now

    def say(self, data: bytes) -> None:
        """Login messages are small: they fit the socket's buffer."""
        assert self.socket is not None
        if self.socket.send(data) != len(data):
            raise ServerFault("08006", "the server does not read its login messages")

    def guard(self, step: object) -> None:
        """Whatever a step raises is how the attempt ends."""
        try:
            step()  # type: ignore[operator]
        except ServerFault as fault:
            self.fail(fault)
        except OSError as error:
            self.fail(self.connect_fault(error.errno or errno.EIO))
        except Exception:
            log.exception("opening a server for %s@%s failed by a fault of ours", self.pool.user, self.pool.database)
            self.fail(ServerFault("XX000", "internal error while a server connection was opened"))

    def succeed(self) -> None:
        """The server is ready: from now on the relay owns the socket."""
        assert self.socket is not None and self.watcher is not None
        self.end()
        self.process.relay.unwatch(self.watcher, keep=True)
        log.debug(
            "opened server pid=%d pool=%s@%s slot=%d", self.login.pid, self.pool.user, self.pool.database, self.slot
        )
        self.process.relay.opened(
            self.slot,
            self.socket.detach(),
            self.login.pid,
            self.login.secret,
            status_messages(self.login.parameters),
            lifetime_us=jitter(self.pool.server_lifetime_ms) * 1000,
            idle_timeout_us=jitter(self.pool.idle_timeout_ms) * 1000,
        )

    def time_out(self) -> None:
        """Rule 2."""
        seconds = self.pool.connect_timeout_ms / 1000
        self.fail(ServerFault("08006", f"{self.where()} did not answer within connect_timeout ({seconds:g} s)"))

    def fail(self, fault: ServerFault) -> None:
        """The attempt is over without a server."""
        if self.ended:
            return
        if self.login.minor and is_about_protocol(fault):
            self.start_again_with_3_0()
            return
        self.end()
        if self.watcher is not None:
            assert self.socket is not None
            self.process.relay.unwatch(self.watcher, keep=True)
        if self.socket is not None:
            self.close(self.socket)
        note_refusal(self.process.table, self.credentials, fault)
        self.process.note_open_failure(self.pool, fault)
        self.process.relay.failed_to_open(
            self.slot, fault.sqlstate, f"could not open a server connection: {fault.message}"
        )

    def start_again_with_3_0(self) -> None:
        """An old server, or a pooler before it, does not know NegotiateProtocolVersion."""
        assert self.socket is not None and self.watcher is not None
        self.process.old_servers.add((self.pool.server_host, self.pool.server_port))
        self.process.relay.unwatch(self.watcher, keep=True)
        self.close(self.socket)
        self.socket, self.watcher, self.is_published = None, None, False
        self.login = make_login(self.pool, self.credentials, minor=0)
        self.start()

    def close(self, sock: socket.socket) -> None:
        """Others may have duplicates: the connection must end in spite of them."""
        if self.is_published:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            self.process.forget(self.slot, self.generation)
        sock.close()

    def end(self) -> None:
        """Rule 1."""
        self.ended = True
        self.deadline.cancel()

    def connect_fault(self, code: int) -> ServerFault:
        """What an errno of connect means to a client."""
        if code in (errno.EMFILE, errno.ENFILE):
            return ServerFault("53000", NO_DESCRIPTOR)
        return ServerFault("08006", f"connection to {self.where()} failed: {os.strerror(code)}")

    def where(self) -> str:
        """The server's address for people."""
        return f"server {self.pool.server_host}:{self.pool.server_port}"


def is_about_protocol(fault: ServerFault) -> bool:
    """Did the server refuse the version of the protocol?"""
    return fault.sqlstate in ("0A000", "08P01") and "protocol" in fault.message.lower()


def make_login(pool: PoolSettings, credentials: Credentials, *, minor: int) -> ServerLogin:
    """The exchange for a server of this pool."""
    return ServerLogin(
        pool.server_user,
        credentials,
        pool.server_database,
        {**pool.startup_parameters, "application_name": pool.application_name},
        minor=minor,
        encrypted_or_local=pool.server_host.startswith("/") or is_loopback(pool.server_host),
    )


def is_loopback(host: str) -> bool:
    """Is this a literal address of this machine?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def literal_address(host: str, port: int) -> tuple[int, object]:
    """Family and address where no name must be looked up; ValueError where it must."""
    if host.startswith("/"):
        return socket.AF_UNIX, f"{host}/.s.PGSQL.{port}"
    address = ipaddress.ip_address(host)
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), (host, port)


def status_messages(parameters: dict[str, str]) -> bytes:
    """The server's ParameterStatus messages as clients get them at login; the name is the client's own matter."""
    return b"".join(parameter_status(name, value) for name, value in parameters.items() if name not in NOT_FOR_CLIENTS)


def jitter(milliseconds: int) -> int:
    """Spread lifetimes by 20 % so that servers opened together do not end together; 0 stays 0 (off)."""
    if not milliseconds:
        return 0
    return max(1, int(milliseconds * random.uniform(1 - JITTER, 1 + JITTER)))
