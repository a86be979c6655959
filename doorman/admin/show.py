"""The SHOW commands: what each one's columns are and how its rows come from the shared table.

`SHOWS` is the registry; `find_show` turns the words of a statement into an entry of it, or says why not. A row is made
when it is asked for, from what the table holds at that instant; no worker is asked. Rows are sorted.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from doorman.admin.result import Row, numeric, text
from doorman.admin.statements import Words
from doorman.config.resolve import PoolSettings
from doorman.config.startup import DEFAULT_APPLICATION_NAME
from doorman.errors import ClientFault
from doorman.shm.rows import (
    ClientView,
    PoolView,
    SlotView,
    client_rows,
    longest_wait_us,
    pool_counters,
    pool_rows,
    slot_rows,
)
from doorman.shm.table import Table, monotonic_us
from doorman.wire.backend import Column
from doorman.wire.codes import SqlState

_SECOND_US: Final = 1_000_000


class Sources(msgspec.Struct, frozen=True):
    """Where rows come from. `pools` are the settings of the table's pools, by row number."""

    table: Table
    pools: Sequence[PoolSettings]
    version: str


class Show(msgspec.Struct, frozen=True):
    """One SHOW command: its columns, and its rows now."""

    columns: tuple[Column, ...]
    rows: Callable[[Sources], list[Row]]


def find_show(words: Words) -> Show:
    """The command that a statement names, in any case; surplus words are ignored. Raises `ClientFault` 58000."""
    if words[0].upper() != "SHOW":
        raise _unsupported("unsupported query against the admin database")
    if len(words) == 1:
        raise _unsupported("unsupported query against the admin database: SHOW needs to be told what")
    show = SHOWS.get(words[1].upper())
    if show is None:
        raise _unsupported("unsupported SHOW query against the admin database")
    return show


def _unsupported(message: str) -> ClientFault:
    hint = "SHOW HELP lists the commands. There are no transactions here: turn autocommit on."
    return ClientFault(SqlState.SYSTEM_ERROR, message, hint=hint)


# SHOW HELP and SHOW VERSION


def _help_rows(sources: Sources) -> list[Row]:
    return [("SHOW " + "|".join(SHOWS),)]


def _version_rows(sources: Sources) -> list[Row]:
    return [(f"PgDoorman {sources.version}",)]


# SHOW POOLS

_POOL_COLUMNS: Final = (
    text("database"),
    text("user"),
    text("pool_mode"),
    numeric("cl_idle"),
    numeric("cl_active"),
    numeric("cl_waiting"),
    numeric("cl_cancel_req"),
    numeric("sv_active"),
    numeric("sv_idle"),
    numeric("sv_used"),
    numeric("sv_login"),
    numeric("pool_size"),
    numeric("maxwait"),
    numeric("maxwait_us"),
    numeric("avg_xact_time"),
    text("paused"),
    text("fallback_active"),
    numeric("oldest_active_age_ms"),
)


def _pools_rows(sources: Sources) -> list[Row]:
    table = sources.table
    clients = Counter((client.pool, _CLIENT_STATES.get(client.state)) for client in client_rows(table))
    ages = _oldest_checkouts_ms(table)
    pools = sorted(pool_rows(table), key=lambda pool: (pool.database, pool.user))
    return [_pool_row(table, pool, clients, ages.get(pool.number, 0)) for pool in pools]


def _pool_row(table: Table, pool: PoolView, clients: Counter[tuple[int, str | None]], oldest_ms: int) -> Row:
    return (
        pool.database,
        pool.user,
        pool.pool_mode,
        clients[pool.number, "idle"] + clients[pool.number, None],  # None: its login is not over yet
        clients[pool.number, "active"],
        clients[pool.number, "waiting"],
        0,
        pool.busy,
        pool.idle,
        0,
        pool.opening,
        pool.pool_size,
        *divmod(longest_wait_us(table, pool.number), _SECOND_US),
        _mean_transaction_us(table, pool.number),
        "1" if pool.paused else "0",
        "0",
        oldest_ms,
    )


def _mean_transaction_us(table: Table, pool: int) -> int:
    """Over the whole life of the pool: there are no statistics windows yet."""
    counters = pool_counters(table, pool)
    return counters.transaction_time // counters.transactions if counters.transactions else 0


def _oldest_checkouts_ms(table: Table) -> dict[int, int]:
    """For each pool with servers at work: how long the oldest checkout has been going on."""
    ages: dict[int, int] = {}
    now = monotonic_us()
    for slot in slot_rows(table):
        if slot.state == "active":
            ages[slot.pool] = max(ages.get(slot.pool, 0), (now - slot.active_since) // 1000)
    return ages


# SHOW CLIENTS

_CLIENT_COLUMNS: Final = (
    text("client_id"),
    text("database"),
    text("user"),
    text("application_name"),
    text("addr"),
    text("tls"),
    text("state"),
    text("wait"),
    numeric("transaction_count"),
    numeric("query_count"),
    numeric("error_count"),
    numeric("age_seconds"),
)
_CLIENT_STATES: Final = {"idle": "idle", "active": "active", "waiting": "waiting"}
"""States of the table that are a logged-in client's, as they are shown."""
_CLIENT_WAITS: Final = {"idle": "read", "active": "idle", "waiting": "idle"}


def _clients_rows(sources: Sources) -> list[Row]:
    now = monotonic_us()
    clients = sorted(client_rows(sources.table), key=lambda client: client.connection_id)
    return [_client_row(client, now) for client in clients if client.state in _CLIENT_STATES]


def _client_row(client: ClientView, now: int) -> Row:
    return (
        f"#c{client.connection_id}",
        client.database,
        client.user,
        client.application_name or DEFAULT_APPLICATION_NAME,
        format_address(client.family, client.address, client.port),
        _truth(client.tls),
        _CLIENT_STATES[client.state],
        _CLIENT_WAITS[client.state],
        client.transactions,
        client.queries,
        client.errors,
        _age_seconds(client.connected_at, now),
    )


def format_address(family: int, address: bytes, port: int) -> str:
    """`1.2.3.4:5`, `[::1]:5`, or `127.0.0.1:0` for a Unix socket. `family` is 4, 6 or 0."""
    if family == 4:
        return f"{socket.inet_ntop(socket.AF_INET, address[:4])}:{port}"
    if family == 6:
        return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"
    return "127.0.0.1:0"


# SHOW SERVERS

_SERVER_COLUMNS: Final = (
    text("server_id"),
    text("server_process_id"),
    text("database_name"),
    text("user"),
    text("application_name"),
    text("tls"),
    text("state"),
    text("wait"),
    numeric("transaction_count"),
    numeric("query_count"),
    numeric("bytes_sent"),
    numeric("bytes_received"),
    numeric("age_seconds"),
    numeric("prepare_cache_hit"),
    numeric("prepare_cache_miss"),
    numeric("prepare_cache_size"),
)
_SERVER_STATES: Final = {
    "opening": "login",
    "idle": "idle",
    "active": "active",
    "granted": "active",
    "resetting": "active",
    "closing": "closing",
}
_SERVER_WAITS: Final = {"login": "read", "active": "read", "idle": "idle", "closing": "idle"}


def _servers_rows(sources: Sources) -> list[Row]:
    now = monotonic_us()
    pools = {pool.number: pool for pool in pool_rows(sources.table)}
    found = [(pools[slot.pool], slot) for slot in slot_rows(sources.table) if slot.pool in pools]
    found.sort(key=lambda pair: (pair[0].database, pair[0].user, pair[1].number))
    return [_server_row(pool, slot, now) for pool, slot in found if slot.state in _SERVER_STATES]


def _server_row(pool: PoolView, slot: SlotView, now: int) -> Row:
    state = _SERVER_STATES[slot.state]
    return (
        format_server_id(slot.number, slot.generation),
        str(slot.backend_pid),
        pool.database,
        pool.user,
        slot.application_name or "Undefined",
        "false",
        state,
        _SERVER_WAITS[state],
        slot.transactions,
        slot.queries,
        slot.bytes_sent,
        slot.bytes_received,
        _age_seconds(slot.opened_at, now),
        0,
        0,
        0,
    )


def format_server_id(slot: int, generation: int) -> str:
    """`0x` and eight digits: four for the slot (there are at most 65,536), four for the connection that it holds."""
    return f"0x{slot & 0xFFFF:04X}{generation & 0xFFFF:04X}"


def _truth(flag: bool) -> str:
    return "true" if flag else "false"


def _age_seconds(since: int, now: int) -> int:
    return max(0, now - since) // _SECOND_US


SHOWS: Final[dict[str, Show]] = {
    "HELP": Show((text("item"),), _help_rows),
    "POOLS": Show(_POOL_COLUMNS, _pools_rows),
    "CLIENTS": Show(_CLIENT_COLUMNS, _clients_rows),
    "SERVERS": Show(_SERVER_COLUMNS, _servers_rows),
    "VERSION": Show((text("version"),), _version_rows),
}
"""By name, in the order of SHOW HELP."""
