"""Opens one server connection: resolve, connect, log in, hand the socket to the relay. Runs in workers and keeper.

Rules
1. An attempt ends exactly once: with `relay.opened` or with `relay.failed_to_open`; nothing is left behind either way.
2. The whole attempt has one deadline, `connect_timeout`, which `Process.tick` looks at.
3. The socket is published before the first byte of the login: should this process die, the keeper ends the connection
   and waits for its end, so that PostgreSQL never has more of them than the pool's size.
4. What a client may see of a failure names the step and the address, never a secret.
5. A host's name may stand for several addresses: those that cannot be connected to, say nothing, or say that PostgreSQL
   is starting or stopping, are passed over, each within its share of the time that is left, and for a while others come
   first (`Destination.in_order`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import select
import socket
from collections.abc import Iterable
from random import random
from typing import TYPE_CHECKING, Final

from doorman import log as log_setup
from doorman.auth.server_login import ServerLogin, ServerRefusal
from doorman.errors import ServerFault
from doorman.shm.counters import count_opening, count_parameter_error, count_phase
from doorman.shm.look_ups import count_look_up
from doorman.shm.rows import renew_generation
from doorman.shm.table import monotonic_us
from doorman.shm.tls import count_server_fault, count_server_handshake
from doorman.tls.faults import Fault, fault_label
from doorman.tls.record import RecordLayer, clear_slot, slot_layer
from doorman.wire.codes import LATEST_MINOR
from doorman.workers.credentials import note_refusal
from doorman.workers.destination import Address, packed_address, packed_host
from doorman.workers.dial import dial, outcome, receive, send_whole
from doorman.workers.host_names import addresses_of
from doorman.workers.server_tls import FIRST_REQUESTS, ServerTls, TlsFault

if TYPE_CHECKING:
    from doorman.workers.process import Process
    from doorman.workers.relay.engine import Watcher

log = logging.getLogger(__name__)

JITTER = 0.2
_LEAST, _RANGE = 1 - JITTER, 2 * JITTER
_CONNECT, _ENCRYPTION, _AUTHENTICATION, _STARTUP = 0, 1, 2, 3  # shm.counters.PHASES
_READABLE, _WRITABLE = select.EPOLLIN, select.EPOLLOUT
_NEWEST: Final = LATEST_MINOR
_DEBUG: Final = logging.DEBUG
CANNOT_CONNECT_NOW = "57P03"
NO_DESCRIPTOR = "connection pooler local resource exhausted: no file descriptor is left"


class Opening:
    """One attempt to fill a slot that this process reserved."""

    __slots__ = (
        "credentials",
        "deadline_us",
        "destination",
        "ended",
        "ends_us",
        "fd",
        "first_words",
        "generation",
        "layer",
        "login",
        "minor",
        "mode",
        "others",
        "peer",
        "phase_began",
        "pool",
        "process",
        "refused_plain",
        "row",
        "slot",
        "tls",
        "watcher",
    )

    def __init__(self, process: Process, row: int, slot: int, generation: int) -> None:
        self.process = process
        self.destination = self.process.destinations.find(row)
        self.pool = self.destination.pool
        self.slot = slot
        self.generation = generation
        self.fd = -1  # published as soon as it is there
        self.first_words = b""  # until the connection stands
        self.peer = b""  # what the host's name was found to be
        self.watcher: Watcher | None = None
        self.credentials = self.destination.credentials(self.process.table)
        self.mode = self.destination.mode
        self.refused_plain: ServerFault | None = None  # `allow`: why the login in plain text did not succeed
        self.tls: ServerTls | None = None  # while it is being agreed on
        self.layer: RecordLayer | None = None  # from then on
        self.row = row
        old = self.process.old_servers
        is_old = len(old) > 0 and self.destination.host_and_port in old
        self.minor = 0 if is_old else _NEWEST  # 3.2 has longer cancel keys
        self.login: ServerLogin | None = None
        self.phase_began = monotonic_us()
        count_opening(self.process.table, slot)
        self.ends_us = self.phase_began + self.destination.connect_timeout_ms * 1000
        self.deadline_us = self.ends_us  # of the address that is tried now
        self.others: list[tuple[int, Address]] = []  # families and addresses that may be tried yet
        self.ended = False
        self.process.openings.add(self)

    def start(self) -> None:
        """Begin; the end is announced to the relay."""
        if self.destination.family < 0:
            self.process.spawn(self.resolve())
        else:
            self.attempt(self.destination.family, self.destination.address, self.destination.options)

    async def resolve(self) -> None:
        """Look the server's name up, without holding anything else up."""
        try:
            found = await addresses_of(self.pool.server_host, self.pool.server_port)
        except OSError as error:
            self.fail(
                ServerFault("08006", f"server host name {self.pool.server_host!r} was not found: {error.strerror}")
            )
            return
        if not self.ended:
            self.others = self.destination.in_order([(entry[0], entry[4]) for entry in found])
            self.try_next()

    def try_next(self) -> None:
        """Connect to the next address of the name (rule 5)."""
        family, address = self.others.pop(0)
        now = monotonic_us()
        self.deadline_us = now + (self.ends_us - now) // (len(self.others) + 1)
        self.peer = packed_host(family, address)
        self.attempt(family, packed_address(family, address), self.process.destinations.options.of_family(family))

    def attempt(self, family: int, address: bytes, options: tuple[tuple[int, int, int], ...]) -> None:
        """Start to connect. A connection within the machine may stand at once: then the first words are sent too."""
        self.phase_began = monotonic_us()
        fd = dial(family, address, options)
        if fd < 0:
            self.pass_over(-fd)
            return
        self.fd = fd
        self.process.publish(self.slot, self.generation, fd)
        try:
            self.say_first()
        except Exception as error:
            self.break_off(error)

    def pass_over(self, code: int) -> None:
        """The address cannot be connected to (errno): what about the others?"""
        fault = self.connect_fault(code)
        if not self.others or fault.sqlstate == "53000":
            self.fail(fault)
            return
        self.destination.note_unreachable(self.peer)
        self.leave_socket()
        self.try_next()

    def say_first(self) -> None:
        """Or wait until that can be said."""
        words = self.tls_request() if self.mode in FIRST_REQUESTS else self.startup(None)
        try:
            stands = send_whole(self.fd, words)
        except OSError as error:
            self.pass_over(error.errno or errno.EIO)
            return
        if stands:
            self.end_phase(_CONNECT)
            self.watcher = self.process.relay.watch(self.fd, _READABLE, self.on_readable, True)
        else:
            self.first_words = words
            self.watcher = self.process.relay.watch(self.fd, _WRITABLE, self.on_connected, True)

    def on_connected(self, events: int) -> None:
        """The connection stands or was refused."""
        code = outcome(self.fd)
        if code:
            self.pass_over(code)
            return
        self.end_phase(_CONNECT)
        try:
            self.say_late()
        except Exception as error:
            self.break_off(error)

    def say_late(self) -> None:
        """The first words of who had to wait."""
        assert self.watcher is not None
        self.say(self.first_words)
        self.watcher.callback = self.on_readable
        self.process.relay.rewatch(self.watcher, _READABLE)

    def tls_request(self) -> bytes:
        """Ask for TLS first."""
        self.tls = ServerTls(self.process.encryption.connector(self.pool, self.mode), self.pool.server_host, self.mode)
        return self.tls.start()

    def start_login(self, binding: bytes | None) -> None:
        """In whatever the connection is by now."""
        self.say(self.startup(binding))

    def startup(self, binding: bytes | None) -> bytes:
        """Say who we are. binding: see `ServerLogin`."""
        destination = self.destination
        self.login = ServerLogin(
            destination.user,
            self.credentials,
            destination.database,
            destination.parameters,
            destination.is_local or self.layer is not None,
            self.minor,
            binding,
        )
        words = destination.first_words.get(self.minor)
        if words is None:
            words = destination.first_words[self.minor] = self.login.start()
        return words

    def on_readable(self, events: int) -> None:
        """The server goes on with the login."""
        try:
            self.read()
        except Exception as error:
            self.break_off(error)

    def read(self) -> None:
        """Take what came; the login says what to answer."""
        data = receive(self.fd)
        if data is None:
            return
        self.deadline_us = self.ends_us  # somebody is there
        if self.tls is not None:
            self.shake(data)
            return
        if data and self.layer is not None:
            data = self.open(data)
            if not data:
                return
        assert self.login is not None
        if not data:
            raise self.login.connection_lost()
        login = self.login
        was_authenticated = login.is_authenticated
        answer = login.feed(data)
        if login.is_authenticated and not was_authenticated:
            self.end_phase(_AUTHENTICATION)
        if answer:
            self.say(answer)
        if login.done:
            self.end_phase(_STARTUP)
            self.succeed()

    def end_phase(self, phase: int) -> None:
        """Count how long it took; the next begins."""
        now = monotonic_us()
        count_phase(self.process.table, phase, now - self.phase_began)
        self.phase_began = now

    def shake(self, data: bytes) -> None:
        """The server goes on with the handshake."""
        tls = self.tls
        assert tls is not None
        if not data:
            raise TlsFault(Fault.PEER_GONE, "server closed the connection unexpectedly during the TLS handshake")
        answer = tls.feed(data)
        if answer:
            self.say(answer)
        if tls.session is not None:
            self.end_phase(_ENCRYPTION)
            count_server_handshake(self.process.table, self.row, tls.session.version, tls.took_us)
            self.tls = None
            self.layer = slot_layer(self.process.table, self.slot, tls.session)
            self.start_login(tls.binding)
            if tls.rest and self.open(tls.rest):
                raise ServerFault("08P01", "the server spoke before it was spoken to")
        elif tls.is_declined:
            self.tls = None
            self.start_login(None)

    def open(self, records: bytes) -> bytes:
        """What the server's records carry; empty while nothing is whole."""
        assert self.layer is not None
        data = self.layer.open_bytes(records)
        if not data and self.layer.fault:
            reason = f"alert {self.layer.alert}" if self.layer.alert else fault_label(self.layer.fault)
            raise TlsFault(Fault(self.layer.fault), f"TLS connection with the server failed: {reason}")
        if not data and self.layer.ended:
            assert self.login is not None
            raise self.login.connection_lost()
        return data

    def say(self, data: bytes) -> None:
        """Login messages are small: they fit the socket's buffer."""
        if self.layer is not None:
            data = self.layer.seal_bytes(data)
        if not send_whole(self.fd, data):
            raise ServerFault("08006", "the server does not read its login messages")

    def break_off(self, error: Exception) -> None:
        """Whatever a step raises is how the attempt ends."""
        if isinstance(error, ServerFault):
            self.fail(error)
        elif isinstance(error, OSError):
            self.fail(self.connect_fault(error.errno or errno.EIO))
        else:
            who = f"{self.pool.user}@{self.pool.database}"
            log.error("opening a server for %s failed by a fault of ours", who, exc_info=error)
            self.fail(ServerFault("XX000", "internal error while a server connection was opened"))

    def succeed(self) -> None:
        """The server is ready: from now on the relay owns the socket."""
        assert self.watcher is not None and self.login is not None
        self.end()
        if log_setup.lowest_level <= _DEBUG:
            where = f"{self.pool.user}@{self.pool.database}"
            log.debug("opened server pid=%d pool=%s slot=%d", self.login.pid, where, self.slot)
        self.process.relay.opened(
            self.slot,
            self.fd,
            self.login.pid,
            self.login.secret,
            self.login.status_messages,
            jitter(self.destination.lifetime_ms) * 1000,
            jitter(self.destination.idle_timeout_ms) * 1000,
            self.layer,
            self.peer,
            self.watcher,
        )

    def time_out(self) -> None:
        """Rule 2, or an address has had its share (rule 5)."""
        if self.deadline_us < self.ends_us:
            self.pass_over(errno.ETIMEDOUT)
            return
        seconds = self.pool.connect_timeout_ms / 1000
        text = f"{self.where()} did not answer within connect_timeout ({seconds:g} s)"
        self.mode = "disable"  # no time is left for another attempt
        self.fail(TlsFault(Fault.TIMEOUT, text) if self.tls is not None else ServerFault("08006", text))

    def fail(self, fault: ServerFault) -> None:
        """The attempt is over without a server."""
        if self.ended:
            return
        if isinstance(fault, TlsFault):
            self.note_tls_fault(fault)
        if self.others and fault.sqlstate == CANNOT_CONNECT_NOW:
            self.destination.note_unreachable(self.peer)
            self.leave_socket()
            self.try_next()
            return
        if self.login is not None and self.login.minor and is_about_protocol(fault):
            self.process.old_servers.add(self.destination.host_and_port)
            self.minor = 0
            self.start_again()
            return
        if self.mode == "allow" and self.login is not None and not is_final(fault):
            self.mode, self.refused_plain = "require", fault
            self.start_again()
            return
        if self.refused_plain is not None and isinstance(fault, TlsFault) and fault.fault == Fault.NOT_OFFERED:
            fault = self.refused_plain
        self.end()
        self.close()
        if fault.sqlstate == "53400" and not isinstance(fault, ServerRefusal):
            count_look_up(self.process.table, self.pool.database, "packet_cap_exceeded")
        note_refusal(self.process.table, self.credentials, fault)
        if names_one_of(self.pool.startup_parameters, fault):
            count_parameter_error(self.process.table, self.row, fault.sqlstate)
        self.process.note_open_failure(self.pool, fault)
        self.process.relay.failed_to_open(
            self.slot, fault.sqlstate, f"could not open a server connection: {fault.message}"
        )

    def note_tls_fault(self, fault: TlsFault) -> None:
        """Count it, and tell the server what OpenSSL has to say of it."""
        if self.tls is not None:
            self.tls.handshake.give_up()
        if not (self.refused_plain is not None and fault.fault == Fault.NOT_OFFERED):
            count_server_fault(self.process.table, self.row, fault.fault)
        if fault.alert and self.fd >= 0:
            with contextlib.suppress(OSError):
                send_whole(self.fd, fault.alert)

    def start_again(self) -> None:
        """By another socket: an old server, or a pooler before it, does not know NegotiateProtocolVersion; under
        `allow` a server that refuses a login in plain text is asked for TLS. The one before may be known to others
        already, as to a process that was born meanwhile: the new one goes by another name (slots.pxd, rule 6)."""
        self.leave_socket()
        self.start()

    def leave_socket(self) -> None:
        """As it was before there was one."""
        self.close()
        self.generation = renew_generation(self.process.table, self.slot)
        self.login, self.tls, self.layer = None, None, None
        self.phase_began = monotonic_us()
        clear_slot(self.process.table, self.slot)

    def close(self) -> None:
        """Others may have duplicates: the connection must end in spite of them."""
        if self.watcher is not None:
            self.process.relay.unwatch(self.watcher, True)
            self.watcher = None
        if self.fd < 0:
            return
        sock = socket.socket(fileno=self.fd)
        self.fd = -1
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        self.process.forget(self.slot, self.generation)

    def end(self) -> None:
        """Rule 1."""
        self.ended = True
        self.process.openings.discard(self)

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


def names_one_of(parameters: Iterable[str], fault: ServerFault) -> bool:
    """Does PostgreSQL say that one of these is at fault? How it quotes the name depends on its language."""
    return any(re.search(rf"\b{re.escape(name)}\b", fault.message, re.IGNORECASE) for name in parameters)


def is_final(fault: ServerFault) -> bool:
    """Would TLS change nothing about this failure of a login in plain text (spec/tls.md section 2)?"""
    return fault.sqlstate.startswith(("57P", "53")) or fault.sqlstate in ("42704", "22023")


def jitter(milliseconds: int) -> int:
    """Spread lifetimes by 20 % so that servers opened together do not end together; 0 stays 0 (off)."""
    if not milliseconds:
        return 0
    chance = random()
    spread = int(milliseconds * (_LEAST + _RANGE * chance))
    return spread if spread > 0 else 1
