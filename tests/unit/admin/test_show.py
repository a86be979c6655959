"""Columns and rows of the SHOW commands, asked for through the console.

Pools are rows of a real table. Servers and clients in every state are given as the views that `doorman.shm.rows`
makes of its rows, because only the relay can bring a row there.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from doorman.admin import command, show, show_connections, show_pools
from doorman.admin.show_connections import format_address, format_server_id
from doorman.shm.counters import Averages
from doorman.shm.presence import Presence
from doorman.shm.rows import ClientView, SlotView, pool_rows
from doorman.shm.table import Table, monotonic_us
from tests.unit.admin.client import Session

SECOND = 1_000_000
BOOKS, SHOP_APP, SHOP_WRITER = 2, 1, 0

Put = Callable[..., None]


def make_client(number: int, **changes: Any) -> ClientView:
    fields: dict[str, Any] = dict.fromkeys(ClientView.__struct_fields__, 0)
    defaults = {
        "number": number,
        "connection_id": number + 100,
        "pool": BOOKS,
        "slot": -1,
        "state": "idle",
        "family": 4,
        "address": bytes([10, 0, 0, 7]) + bytes(12),
        "port": 50_000,
        "tls": False,
        "connected_at": monotonic_us(),
        "admin": False,
        "application_name": "",
        "database": "books",
        "user": "app",
    }
    return ClientView(**{**fields, **defaults, **changes})


def make_slot(number: int, **changes: Any) -> SlotView:
    fields: dict[str, Any] = dict.fromkeys(SlotView.__struct_fields__, 0)
    defaults = {
        "number": number,
        "pool": BOOKS,
        "state": "idle",
        "client": -1,
        "generation": 1,
        "backend_pid": 4000 + number,
        "opened_at": monotonic_us(),
        "application_name": "psql",
    }
    return SlotView(**{**fields, **defaults, **changes})


NEED_A_PROCESS = {"LOG_LEVEL", "PREPARED_STATEMENTS", "DNS_HOSTS"}


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """`put("client_rows", rows)`: what the table's reader of that name gives from now on."""

    def put(name: str, rows: Any) -> None:
        for module in (command, show_pools, show_connections):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_: rows)

    return put


def test_show_help_lists_what_there_is(session: Session) -> None:
    first, *others = session.rows("SHOW HELP")
    names = (first["item"] or "").removeprefix("SHOW ").split("|")
    assert names == list(show.SHOWS)
    assert [row["item"] for row in others[: len(names)]] == [f"SHOW {name}" for name in names]
    assert all(row["about"] for row in others)
    words = {(row["item"] or "").split()[0] for row in others}
    assert {"PAUSE", "RESUME", "RECONNECT", "KILL", "DISABLE", "ENABLE", "WAIT_CLOSE", "RELOAD", "SHUTDOWN"} <= words


@pytest.mark.parametrize("name", sorted({*show.SHOWS, "POOL_MEMORY"} - NEED_A_PROCESS))
def test_every_listed_command_works(session: Session, name: str) -> None:
    session.rows(f"SHOW {name}")


def test_show_version(session: Session) -> None:
    assert session.rows("SHOW VERSION") == [{"version": "PgDoorman 9.8.7"}]


# SHOW POOLS

EMPTY_POOL = {
    "database": "books",
    "user": "app",
    "pool_mode": "session",
    "cl_idle": "0",
    "cl_active": "0",
    "cl_waiting": "0",
    "cl_cancel_req": "0",
    "sv_active": "0",
    "sv_idle": "0",
    "sv_used": "0",
    "sv_login": "0",
    "pool_size": "12",
    "maxwait": "0",
    "maxwait_us": "0",
    "avg_xact_time": "0",
    "paused": "0",
    "fallback_active": "0",
    "oldest_active_age_ms": "0",
}


def test_show_pools_has_a_row_for_each_pool_sorted(session: Session) -> None:
    books, app, writer = session.rows("SHOW POOLS")
    assert list(books) == list(EMPTY_POOL) and books == EMPTY_POOL
    assert app == {**EMPTY_POOL, "database": "shop", "pool_mode": "transaction", "pool_size": "11"}
    assert writer == {**app, "user": "writer", "pool_size": "10"}


def test_show_pools_counts_clients_by_their_state(session: Session, put: Put) -> None:
    put("presence", [Presence(), Presence(idle=1), Presence(login=1, idle=1, active=3, waiting=2)])
    counted = [(row["cl_idle"], row["cl_active"], row["cl_waiting"]) for row in session.rows("SHOW POOLS")]
    assert counted == [("2", "3", "2"), ("1", "0", "0"), ("0", "0", "0")]


def test_show_pools_counts_servers_as_the_pool_does(session: Session, table: Table, put: Put) -> None:
    pools = pool_rows(table)
    (books,) = [pool for pool in pools if pool.number == BOOKS]
    crowded = {field: getattr(books, field) for field in books.__struct_fields__} | {
        "idle": 3,
        "busy": 4,
        "opening": 5,
        "closing": 6,
        "paused": True,
    }
    put("pool_rows", [*pools[:BOOKS], type(books)(**crowded)])
    assert session.rows("SHOW POOLS")[0] == {
        **EMPTY_POOL,
        "sv_idle": "3",
        "sv_active": "4",
        "sv_login": "5",
        "paused": "1",
    }


def test_show_pools_says_how_long_the_oldest_waiter_waits_now(session: Session, put: Put) -> None:
    put("longest_wait_us", 3 * SECOND + 7)
    row = session.rows("SHOW POOLS")[0]
    assert (row["maxwait"], row["maxwait_us"]) == ("3", "7")


def test_show_pools_gives_the_mean_time_of_transactions(session: Session, put: Put) -> None:
    put("pool_averages", Averages(transaction_us=333))
    assert session.rows("SHOW POOLS")[0]["avg_xact_time"] == "333"


def test_show_pools_gives_the_age_of_the_oldest_checkout(session: Session, put: Put) -> None:
    put("presence", [Presence(), Presence(oldest_active=1_999_999), Presence(oldest_active=5 * SECOND)])
    assert [row["oldest_active_age_ms"] for row in session.rows("SHOW POOLS")] == ["5000", "1999", "0"]


# SHOW CLIENTS


def test_show_clients(session: Session, put: Put) -> None:
    client = make_client(
        7,
        state="active",
        tls=True,
        connected_at=monotonic_us() - 61 * SECOND,
        transactions=5,
        queries=6,
        errors=1,
        application_name="tést",
    )
    put("client_rows", [client])
    (row,) = session.rows("SHOW CLIENTS")
    expected = {
        "client_id": "#c107",
        "database": "books",
        "user": "app",
        "application_name": "tést",
        "addr": "10.0.0.7:50000",
        "tls": "true",
        "state": "active",
        "wait": "idle",
        "transaction_count": "5",
        "query_count": "6",
        "error_count": "1",
        "age_seconds": "61",
    }
    assert row == expected and list(row) == list(expected)


def test_show_clients_lists_who_is_logged_in_by_age(session: Session, put: Put) -> None:
    clients = [
        make_client(0, connection_id=9, state="waiting"),
        make_client(1, connection_id=8, state="login"),
        make_client(2, connection_id=7, admin=True, pool=-1, database="pgbouncer", user="admin", family=0, port=0),
    ]
    put("client_rows", clients)
    rows = session.rows("SHOW CLIENTS")
    assert [(row["client_id"], row["state"], row["wait"]) for row in rows] == [
        ("#c7", "idle", "read"),
        ("#c9", "waiting", "idle"),
    ]
    assert rows[0]["database"] == "pgbouncer" and rows[0]["user"] == "admin"
    assert rows[0]["addr"] == "127.0.0.1:0" and rows[0]["application_name"] == "pg_doorman"


def test_nobody_is_there(session: Session) -> None:
    assert session.rows("SHOW CLIENTS") == [] == session.rows("SHOW SERVERS")


@pytest.mark.parametrize(
    ("family", "address", "shown"),
    [
        (4, "10.1.2.3", "10.1.2.3:5"),
        (6, "::1", "[::1]:5"),
        (6, "2001:db8::a:0:0:1", "[2001:db8::a:0:0:1]:5"),
        (6, "::ffff:10.1.2.3", "[::ffff:10.1.2.3]:5"),
    ],
)
def test_addresses(family: int, address: str, shown: str) -> None:
    raw = socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, address)
    assert format_address(family, raw.ljust(16, b"\0"), 5) == shown


def test_a_unix_socket_has_no_address() -> None:
    assert format_address(0, bytes(16), 0) == "127.0.0.1:0"


# SHOW SERVERS


def test_show_servers(session: Session, put: Put) -> None:
    slot = make_slot(
        3,
        state="active",
        generation=0x1A2B,
        opened_at=monotonic_us() - 5 * SECOND,
        transactions=1,
        queries=2,
        bytes_sent=3,
        bytes_received=4,
    )
    put("slot_rows", [slot])
    (row,) = session.rows("SHOW SERVERS")
    expected = {
        "server_id": "0x00031A2B",
        "server_process_id": "4003",
        "database_name": "books",
        "user": "app",
        "application_name": "psql",
        "tls": "false",
        "state": "active",
        "wait": "read",
        "transaction_count": "1",
        "query_count": "2",
        "bytes_sent": "3",
        "bytes_received": "4",
        "age_seconds": "5",
        "prepare_cache_hit": "0",
        "prepare_cache_miss": "0",
        "prepare_cache_size": "0",
    }
    assert row == expected and list(row) == list(expected)


def test_show_servers_shows_every_state_sorted_by_pool(session: Session, put: Put) -> None:
    states = ["opening", "idle", "active", "granted", "resetting", "closing"]
    slots = [make_slot(number, state=state) for number, state in enumerate(states)]
    slots[0] = make_slot(0, state="opening", pool=SHOP_APP, backend_pid=0, application_name="")
    put("slot_rows", [*reversed(slots), make_slot(9, pool=7)])  # 9: its pool is gone
    rows = session.rows("SHOW SERVERS")
    assert [(row["server_process_id"], row["state"]) for row in rows] == [
        ("4001", "idle"),
        ("4002", "active"),
        ("4003", "active"),
        ("4004", "active"),
        ("4005", "closing"),
        ("0", "login"),
    ]
    assert rows[-1]["application_name"] == "Undefined" and rows[-1]["database_name"] == "shop"


def test_server_ids_differ_between_slots_and_their_connections() -> None:
    assert format_server_id(65_535, 0) == "0xFFFF0000"
    assert format_server_id(10, 65_537) == "0x000A0001"


def test_a_show_of_ten_thousand_clients_comes_whole(session: Session, put: Put) -> None:
    put("client_rows", [make_client(number) for number in range(10_000)])
    rows = session.rows("SHOW CLIENTS")
    assert len(rows) == 10_000 and rows[-1]["client_id"] == "#c10099"
