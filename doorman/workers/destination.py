"""Where a pool's servers are and what they are told first: decided once, not for each opening.

Rules
1. A destination is made anew after each change of the roster, and of the configuration that socket options come from.
2. What may change meanwhile is asked each time: the key that clients have proved, the address of a host's name.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Sequence
from functools import lru_cache

from doorman.auth.server_login import Credentials
from doorman.config.resolve import PoolSettings
from doorman.shm.table import Table
from doorman.workers.credentials import credentials_for, passed_through, verifier_of
from doorman.workers.roster import Roster
from doorman.workers.socket_options import SocketOptions

DEFAULT_CONNECT_TIMEOUT_MS = 3000
UNREACHABLE_SECONDS = 60
LONGEST_MS = 1 << 50  # 35,000 years; as microseconds, and with a jitter, still a number of 64 bits

Address = tuple[str, int] | tuple[str, int, int, int] | str
"""Of a socket, as Python's `socket` has it; a path is a Unix socket's."""


class Destination:
    """One pool's. `family` is -1 where a name must be looked up; `parameters` go into the StartupMessage, `first_words`
    are those messages by minor version. `host_and_port` are the server's; times as in the configuration (ms)."""

    __slots__ = (
        "address",
        "connect_timeout_ms",
        "database",
        "family",
        "first_words",
        "fixed",
        "host_and_port",
        "idle_timeout_ms",
        "is_local",
        "lifetime_ms",
        "mode",
        "options",
        "parameters",
        "pool",
        "unreachable",
        "user",
        "verifier",
    )

    def __init__(self, pool: PoolSettings, table: Table, options: SocketOptions) -> None:
        self.pool = pool
        self.user, self.database = pool.server_user, pool.server_database
        self.host_and_port = pool.server_host, pool.server_port
        self.mode: str = "disable" if pool.server_host.startswith("/") else pool.server_tls_mode
        self.lifetime_ms = min(pool.server_lifetime_ms, LONGEST_MS)
        self.idle_timeout_ms = min(pool.idle_timeout_ms, LONGEST_MS)
        self.connect_timeout_ms = min(pool.connect_timeout_ms or DEFAULT_CONNECT_TIMEOUT_MS, LONGEST_MS)
        self.is_local = pool.server_host.startswith("/") or is_loopback(pool.server_host)
        self.parameters = {**pool.startup_parameters, "application_name": pool.application_name}
        self.first_words: dict[int, bytes] = {}
        self.verifier = verifier_of(pool)
        self.fixed = credentials_for(pool, table) if self.verifier is None else None
        self.unreachable: dict[bytes, float] = {}  # addresses of the name, and until when others come first
        self.family, self.address = -1, b""
        self.options: tuple[tuple[int, int, int], ...] = ()
        try:
            family, address = literal_address(pool.server_host, pool.server_port)
        except ValueError:
            return
        self.family, self.address = family, packed_address(family, address)
        self.options = options.of_family(family)

    def in_order(self, found: Sequence[tuple[int, Address]]) -> list[tuple[int, Address]]:
        """What the name stands for, as the resolver has it, but for what could not be reached a moment ago."""
        now = time.monotonic()
        self.unreachable = {peer: until for peer, until in self.unreachable.items() if until > now}
        return sorted(dict.fromkeys(found), key=lambda entry: packed_host(*entry) in self.unreachable)

    def note_unreachable(self, peer: bytes) -> None:
        """peer: the host's address, packed."""
        self.unreachable[peer] = time.monotonic() + UNREACHABLE_SECONDS

    def credentials(self, table: Table) -> Credentials:
        """What there is to log in with at this moment."""
        if self.verifier is None:
            assert self.fixed is not None
            return self.fixed
        return passed_through(self.pool, self.verifier, table)


class Destinations:
    """The destinations of one process under one configuration, by the pool's row."""

    __slots__ = ("_changes", "_known", "_roster", "_table", "options")

    def __init__(self, table: Table, roster: Roster, options: SocketOptions) -> None:
        self.options = options
        self._table = table
        self._roster = roster
        self._changes = -1
        self._known: dict[int, Destination] = {}

    def find(self, row: int) -> Destination:
        """Of the pool that has this row, or had it last. Raises KeyError for a row that never had one."""
        if self._changes != self._roster.changes:
            self._known.clear()
            self._changes = self._roster.changes
        known = self._known.get(row)
        if known is None:
            known = self._known[row] = Destination(self._roster[row], self._table, self.options)
        return known


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Is this a literal address of this machine?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def literal_address(host: str, port: int) -> tuple[int, Address]:
    """Family and address where no name must be looked up; ValueError where it must."""
    if host.startswith("/"):
        return socket.AF_UNIX, f"{host}/.s.PGSQL.{port}"
    address = ipaddress.ip_address(host)
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), (host, port)


def packed_host(family: int, address: Address) -> bytes:
    """The host of an internet address, in network order."""
    return socket.inet_pton(family, str(address[0]).partition("%")[0])


def packed_address(family: int, address: Address) -> bytes:
    """The address as connect(2) takes it (struct sockaddr_in, sockaddr_in6, sockaddr_un)."""
    if isinstance(address, str):
        return struct.pack("=H", family) + os.fsencode(address) + b"\0"
    host, port, *more = address
    packed = socket.inet_pton(family, host.partition("%")[0])
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack("!H", port) + packed + bytes(8)
    flow, scope = more or (0, 0)
    return struct.pack("=H", family) + struct.pack("!HI", port, flow) + packed + struct.pack("=I", scope)
