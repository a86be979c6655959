"""Where a pool's servers are and what they are told first: decided once, not for each opening.

Rules
1. What the configuration says of a pool does not change in the life of its `PoolSettings`; a destination has no longer
   life than they, nor than the configuration that the socket options come from.
2. What may change meanwhile is asked each time: the key that clients have proved, the address of a host's name.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from functools import lru_cache

from doorman.auth.server_login import Credentials
from doorman.config.resolve import PoolSettings
from doorman.shm.table import Table
from doorman.workers.credentials import credentials_for, passed_through, verifier_of
from doorman.workers.socket_options import SocketOptions

Address = tuple[str, int] | tuple[str, int, int, int] | str
"""Of a socket, as Python's `socket` has it; a path is a Unix socket's."""


class Destination:
    """One pool's. `family` is -1 where a name must be looked up; `parameters` go into the StartupMessage, `first_words`
    are those messages by minor version."""

    __slots__ = ("address", "family", "first_words", "fixed", "is_local", "options", "parameters", "pool", "verifier")

    def __init__(self, pool: PoolSettings, table: Table, options: SocketOptions) -> None:
        self.pool = pool
        self.options = options
        self.is_local = pool.server_host.startswith("/") or is_loopback(pool.server_host)
        self.parameters = {**pool.startup_parameters, "application_name": pool.application_name}
        self.first_words: dict[int, bytes] = {}
        self.verifier = verifier_of(pool)
        self.fixed = credentials_for(pool, table) if self.verifier is None else None
        self.family, self.address = -1, b""
        try:
            self.family, address = literal_address(pool.server_host, pool.server_port)
        except ValueError:
            return
        self.address = packed_address(self.family, address)

    def credentials(self, table: Table) -> Credentials:
        """What there is to log in with at this moment."""
        if self.verifier is None:
            assert self.fixed is not None
            return self.fixed
        return passed_through(self.pool, self.verifier, table)


class Destinations:
    """The destinations of one process under one configuration, by the pool's row."""

    def __init__(self, table: Table, options: SocketOptions) -> None:
        self._table = table
        self._options = options
        self._known: dict[int, Destination] = {}

    def find(self, row: int, pool: PoolSettings) -> Destination:
        """Of the pool that has this row."""
        known = self._known.get(row)
        if known is None or known.pool is not pool:
            known = self._known[row] = Destination(pool, self._table, self._options)
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
