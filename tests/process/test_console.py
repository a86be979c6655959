"""The console over the wire, with two workers: orders reach clients and servers of either, figures are everybody's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import ADMIN_PASSWORD, ADMIN_USER, CONSOLE, pool_of, user_of
from tests.process.session import Session, SqlError

POOL_SIZE = 4


@pytest.fixture
def doorman(postgres: Postgres, make_doorman: Any) -> Doorman:
    pools = {
        "postgres": pool_of(postgres, users=[user_of("app", POOL_SIZE)]),
        "session": pool_of(postgres, users=[user_of("app", POOL_SIZE)], pool_mode="session"),
    }
    general = {"stats_username": "watcher", "stats_password": "w", "pg_hba": {"content": HBA}}
    made: Doorman = make_doorman(postgres, pools=pools, general=general)
    return made


HBA = "host pgdoorman watcher 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"


@contextlib.contextmanager
def console(
    doorman: Doorman, user: str = ADMIN_USER, password: str = ADMIN_PASSWORD
) -> Iterator[psycopg.Connection[Any]]:
    """An open console; psycopg 3 speaks the extended protocol here."""
    dsn = doorman.dsn(user=user, password=password, dbname=CONSOLE)
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
        yield connection


async def sessions_of_both_workers(doorman: Doorman, count: int, dbname: str = "postgres") -> list[Session]:
    """Clients, some on each worker."""
    found: list[Session] = []
    for _ in range(40):
        found += [await Session.open(doorman, dbname=dbname) for _ in range(count)]
        if len(workers_of(doorman, dbname)) == 2:
            return found
    raise AssertionError("all clients came to one worker")


def workers_of(doorman: Doorman, dbname: str) -> set[int]:
    """Pids of the workers that have clients of a database."""
    rows = doorman.console("SHOW WORKERS")
    return {row["pid"] for row in rows if row["role"] == "worker" and row["clients"] > (dbname == CONSOLE)}


async def order(doorman: Doorman, sql: str) -> list[dict[str, Any]]:
    return await asyncio.to_thread(doorman.console, sql)


async def test_pause_holds_clients_of_both_workers_until_resume(doorman: Doorman) -> None:
    clients = await sessions_of_both_workers(doorman, 6)
    busy = clients[0]
    await busy.query("BEGIN")
    await busy.query("SELECT 1")
    pause = asyncio.create_task(order(doorman, "PAUSE postgres"))
    await asyncio.sleep(0.4)
    assert not pause.done(), "a server is still lent"
    assert await order(doorman, "SHOW VERSION"), "a console that waits holds no other up"
    queries = [asyncio.create_task(client.query("SELECT 2")) for client in clients[1:]]
    await asyncio.sleep(0.2)
    assert not any(query.done() for query in queries)
    await busy.query("COMMIT")
    await asyncio.wait_for(pause, 5)
    row = await asyncio.to_thread(doorman.pool_row)
    assert (row["paused"], row["sv_active"], row["cl_waiting"]) == ("1", 0, len(queries))
    await order(doorman, "RESUME postgres")
    assert await asyncio.gather(*queries) == [["2"]] * len(queries)


async def test_reconnect_replaces_every_server_and_wait_close_sees_it(doorman: Doorman, postgres: Postgres) -> None:
    clients = await sessions_of_both_workers(doorman, 6)
    await asyncio.gather(*[client.query("SELECT pg_sleep(0.1)") for client in clients])
    before = {row["pid"] for row in postgres.activity(usename="app", application_name="pg_doorman")}
    busy = clients[0]
    await busy.query("BEGIN")
    old = (await busy.query("SELECT pg_backend_pid()"))[0]
    await order(doorman, "RECONNECT")
    pids = {(await client.query("SELECT pg_backend_pid()"))[0] for client in clients[1:]}
    assert old is not None and int(old) in before and not {int(pid or 0) for pid in pids} & before
    closing = asyncio.create_task(order(doorman, "WAIT_CLOSE"))
    await asyncio.sleep(0.3)
    assert not closing.done()
    await busy.query("COMMIT")
    await asyncio.wait_for(closing, 5)
    now = {row["pid"] for row in postgres.activity(usename="app", application_name="pg_doorman")}
    assert now and not now & before


async def test_kill_client_of_another_worker(doorman: Doorman) -> None:
    clients = await sessions_of_both_workers(doorman, 4)
    shown = {int(row["addr"].rpartition(":")[2]): row["client_id"] for row in await order(doorman, "SHOW CLIENTS")}
    idle, running, waiting = clients[:3]
    await idle.query("SELECT 1")
    await running.send(b"Q\0\0\0\x18SELECT pg_sleep(30)\0"[:1] + (24).to_bytes(4, "big") + b"SELECT pg_sleep(30)\0")
    await order(doorman, f"KILL CLIENT {shown[idle.port]}")
    await order(doorman, f"KILL CLIENT {shown[running.port]}")
    for client in (idle, running):
        with pytest.raises(SqlError) as caught:
            await client.answer()
        assert caught.value.sqlstate == "57P01" and caught.value.is_fatal
        assert await client.is_ended()
    await order(doorman, "PAUSE postgres")
    queued = asyncio.create_task(waiting.query("SELECT 1"))
    await asyncio.sleep(0.2)
    await order(doorman, f"KILL CLIENT {shown[waiting.port]}")
    with pytest.raises(SqlError) as caught:
        await queued
    assert caught.value.sqlstate == "57P01"
    await order(doorman, "RESUME postgres")
    assert await clients[3].query("SELECT 5") == ["5"]
    await asyncio.to_thread(doorman.wait_pool, sv_active=0, cl_waiting=0, cl_active=0)


async def test_kill_database_leaves_others_alone(doorman: Doorman, postgres: Postgres) -> None:
    meant = await sessions_of_both_workers(doorman, 4)
    other = await Session.open(doorman, dbname="session")
    await other.query("SELECT 1")
    await order(doorman, "KILL postgres")
    for client in meant:
        with pytest.raises(SqlError) as caught:
            await client.answer()
        assert caught.value.sqlstate == "57P01"
    assert await other.query("SELECT 2") == ["2"]
    row = await asyncio.to_thread(doorman.pool_row)
    assert row["paused"] == "1" and row["sv_idle"] + row["sv_active"] == 0
    await order(doorman, "RESUME postgres")
    assert await (await Session.open(doorman)).query("SELECT 3") == ["3"]


async def test_disable_refuses_new_clients_only(doorman: Doorman) -> None:
    client = await Session.open(doorman)
    await order(doorman, "DISABLE postgres")
    for _ in range(6):  # whichever worker it is
        with pytest.raises(SqlError) as caught:
            await Session.open(doorman)
        assert caught.value.sqlstate == "55000" and '"postgres" is not currently accepting' in caught.value.message
    assert await client.query("SELECT 1") == ["1"]
    await order(doorman, "ENABLE postgres")
    assert await (await Session.open(doorman)).query("SELECT 1") == ["1"]


async def test_a_console_that_waits_may_go(doorman: Doorman) -> None:
    client = await Session.open(doorman)
    await client.query("BEGIN")
    await client.query("SELECT 1")
    consoles = [await Session.open(doorman, user=ADMIN_USER, dbname=CONSOLE) for _ in range(4)]
    for waiter in consoles:
        await waiter.send(b"Q\0\0\0\x0aPAUSE\0")
    await asyncio.sleep(0.2)
    for waiter in consoles:
        waiter.wire.transport.abort()
    await client.query("COMMIT")
    await asyncio.sleep(0.3)
    await order(doorman, "RESUME")
    assert await client.query("SELECT 1") == ["1"]


def test_statistics_users_may_only_look(doorman: Doorman) -> None:
    with console(doorman, "watcher", "w") as watcher:
        assert watcher.execute("SHOW POOLS").fetchall() and watcher.execute("SHOW STATS").fetchall()
        for forbidden in (
            "PAUSE",
            "RELOAD",
            "KILL CLIENT #c1",
            "SHUTDOWN",
            "SET log_level = debug",
            "DISABLE postgres",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                watcher.execute(forbidden.encode())
    with (
        pytest.raises(psycopg.OperationalError, match="password authentication failed"),
        console(doorman, "watcher", "x"),
    ):
        pass
    assert doorman.pool_row()["paused"] == "0"


async def test_commands_through_drivers(doorman: Doorman) -> None:
    connection = await asyncpg.connect(
        host=doorman.host, port=doorman.port, user=ADMIN_USER, password=ADMIN_PASSWORD, database=CONSOLE
    )
    assert await connection.execute("PAUSE") == "PAUSE"
    statement = await connection.prepare("RESUME postgres")
    assert await statement.fetch() == []
    assert (await connection.fetch("SHOW DATABASES"))[0]["pool_size"] == POOL_SIZE
    await connection.close()
    with console(doorman) as admin, admin.pipeline():
        first = admin.execute("PAUSE session")
        second = admin.execute("SHOW POOLS")
        third = admin.execute("RESUME")
        assert {row[15] for row in second.fetchall()} == {"0", "1"}
    assert first.statusmessage == "PAUSE" and third.statusmessage == "RESUME"


def test_every_show_over_the_wire(doorman: Doorman) -> None:
    with console(doorman) as admin, console(doorman) as binary:
        names = [row[0] for row in admin.execute("SHOW HELP") if str(row[0]).startswith("SHOW ")][1:]
        assert len(names) == 24
        for name in names:
            plain = admin.execute(name)
            described = [(column.name, column.type_code) for column in plain.description or ()]
            in_binary = binary.cursor(binary=True).execute(name)
            assert [(column.name, column.type_code) for column in in_binary.description or ()] == described


def test_show_figures_agree_with_postgresql_and_with_the_load(doorman: Doorman, postgres: Postgres) -> None:
    sent = 0
    with contextlib.ExitStack() as stack:
        dsn = doorman.dsn(user="app", dbname="postgres")
        clients = [stack.enter_context(psycopg.connect(dsn, autocommit=True)) for _ in range(10)]
        for client in clients:
            for _ in range(5):
                client.execute("SELECT 1")
            with client.transaction():
                client.execute("SELECT 2")
            sent += 8
        backends = {row["pid"]: row for row in postgres.activity(usename="app", application_name="pg_doorman")}
        servers = [row for row in doorman.console("SHOW SERVERS") if row["database_name"] == "postgres"]
        assert {int(row["server_process_id"]) for row in servers} == set(backends)
        stats = next(row for row in doorman.console("SHOW STATS") if row["database"] == "postgres")
        assert (stats["total_query_count"], stats["total_xact_count"]) == (sent, 60)
        assert sum(row["transaction_count"] for row in servers) == 60
        shown = [row for row in doorman.console("SHOW CLIENTS") if row["database"] == "postgres"]
        assert [(row["query_count"], row["transaction_count"]) for row in shown] == [(8, 6)] * 10
        connections = doorman.console("SHOW CONNECTIONS")[0]
        assert connections["plain"] >= 10 and connections["total"] >= connections["plain"] and not connections["tls"]
        pool = doorman.pool_row()
        assert (pool["cl_idle"], pool["sv_idle"]) == (10, len(backends))


def test_averages_after_a_window(postgres: Postgres, make_doorman: Any) -> None:
    doorman = make_doorman(postgres, env={"PG_DOORMAN_TEST_WINDOW": "1"})
    dsn = doorman.dsn(user="app", dbname="postgres")
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as client:  # its Parse and Sync would count too
        until = time.monotonic() + 5
        while time.monotonic() < until:
            client.execute("SELECT pg_sleep(0.02)")
            stats = next(row for row in doorman.console("SHOW STATS") if row["database"] == "postgres")
            if stats["avg_xact_time"]:
                break
        assert 20_000 <= stats["avg_xact_time"] < 40_000 and 20_000 <= stats["avg_query_time"] < 40_000
        row = next(row for row in doorman.console("SHOW POOLS_EXTENDED") if row["database"] == "postgres")
        assert 20_000 <= row["query_0.5"] <= row["query_0.95"] <= row["query_0.99"] < 200_000


@pytest.mark.parametrize("words", ["SHUTDOWN", "SHUTDOWN WAIT"])
def test_shutdown(doorman: Doorman, words: str) -> None:
    assert doorman.console(words) == [{"success": "t"}]
    assert doorman.wait_exit() == 0
