"""What a statement of the console is once it is understood: columns, a tag, and what makes its rows.

`Sources` is where rows come from and orders go; `Host` is what the console may ask of the process that it runs in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from doorman.admin.orders import Order
from doorman.admin.result import Row, Value
from doorman.config.resolve import PoolSettings
from doorman.config.schema import Config
from doorman.errors import ClientFault
from doorman.shm.rows import PoolView, pool_rows
from doorman.shm.table import Table
from doorman.wire.backend import Column
from doorman.wire.codes import SqlState

Rows = list[Row]


class Pending(msgspec.Struct, frozen=True):
    """A command that waits for something: `look` gives its rows when it is there, None before; it may raise a fault."""

    look: Callable[[], Rows | None]


class Host(Protocol):
    """The process of the session. What concerns all processes goes through the table, or through the master."""

    def config(self) -> Config:
        """The configuration in force."""

    def wake(self, processes: int) -> None:
        """Have processes (a set of rows) look at what the table has for them."""

    def known_statements(self) -> list[tuple[int, bytes]]:
        """Digest and text of the prepared statements that this process remembers."""

    def forget_statements(self) -> None:
        """Forget these texts."""

    def log_level(self) -> str:
        """The log filter in force."""

    def server_addresses(self) -> dict[tuple[str, int], set[str]]:
        """For each host name of a server (and port): the addresses that its connections go to now."""


class PoolsByRow(Protocol):
    """Settings of pools by the number of their row in the table. Live ones are found by iterating."""

    def __getitem__(self, row: int, /) -> PoolSettings: ...

    def __iter__(self) -> Iterator[PoolSettings]: ...


class Sources(msgspec.Struct, frozen=True):
    """Where rows come from."""

    table: Table
    pools: PoolsByRow
    version: str
    host: Host | None = None


class Command(msgspec.Struct, frozen=True):
    """One statement. Without columns it returns no rows. `changes`: not for who may only look.

    `run` gives its rows, or what to wait for, or an order that the master is to carry out first.
    """

    columns: tuple[Column, ...]
    run: Callable[[Sources], Rows | Pending | Order]
    tag: str = "SHOW"
    changes: bool = False


def host_of(sources: Sources) -> Host:
    """The process; a console without one (nothing but a table) can only look."""
    if sources.host is None:
        raise ClientFault(SqlState.FEATURE_NOT_SUPPORTED, "this console has no process to give orders to")
    return sources.host


def config_of(sources: Sources) -> Config | None:
    """The configuration in force, where there is a process that knows it."""
    return sources.host.config() if sources.host is not None else None


def sorted_pools(table: Table) -> list[PoolView]:
    """All pools in the order in which they are shown."""
    return sorted(pool_rows(table), key=lambda pool: (pool.database, pool.user))


def settings_of(sources: Sources, pool: PoolView) -> PoolSettings | None:
    """What the configuration says about a pool; None for one that this process has not heard of yet."""
    try:
        return sources.pools[pool.number]
    except (IndexError, KeyError):
        return None


def one_row(*values: Value) -> Rows:
    """A result of one row."""
    return [tuple(values)]
