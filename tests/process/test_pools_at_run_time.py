"""Pools that appear, change and disappear while the pooler runs: what sessions, servers and the table see of it."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.session import Session, SqlError, open_many, open_on
from tests.process.watching import wait_for, wait_whole
from tests.torture import wire
from tests.torture.wire import ConnectionEnded


def start(make_doorman: Any, postgres: Postgres, size: int = 3, **keys: Any) -> Doorman:
    doorman: Doorman = make_doorman(pools=pools(postgres, size, **keys))
    return doorman


def pools(postgres: Postgres, size: int = 3, **keys: Any) -> dict[str, Any]:
    return {"postgres": pool_of(postgres, users=[user_of("app", size)], **keys)}


def reload(doorman: Doorman, **changes: Any) -> None:
    """Write the changes, send SIGHUP, wait until every process works by them."""
    mark = doorman.log_mark()
    doorman.update_config(**changes)
    doorman.signal(signal.SIGHUP)
    doorman.wait_log("configuration was (?:not )?reloaded", since=mark)


async def ends_with(session: Session, sqlstate: str) -> str:
    """The session ends by itself, with this error as its last word."""
    async with asyncio.timeout(5):
        message = await session.wire.next()
    assert message.kind == b"E", message
    fields = message.fields()
    assert (fields["V"], fields["C"]) == ("FATAL", sqlstate)
    assert await session.is_ended()
    return fields["M"]


async def test_a_pool_that_is_added_takes_clients_in_every_worker(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres)
    with pytest.raises(SqlError, match="3D000"):
        await Session.open(doorman, dbname="second")
    reload(doorman, pools={**pools(postgres), "second": pool_of(postgres, users=[user_of("app", 2)])})
    for pid in doorman.pids().workers:
        (session,) = await open_on(doorman, pid, dbname="second")
        assert await session.query("SELECT 'here'") == ["here"]
    assert doorman.pool_row("second")["sv_idle"] >= 1
    assert doorman.pool_row("postgres")["cl_idle"] == 0


async def test_a_user_that_is_added_gets_a_pool_and_the_others_keep_theirs(
    make_doorman: Any, postgres: Postgres
) -> None:
    """Trap 19 (PgBouncer #250): `user=` added by a reload touches nobody else."""
    doorman = start(make_doorman, postgres)
    session = await Session.open(doorman)
    server = await session.query("SELECT pg_backend_pid()")
    users = [user_of("app", 3), user_of("second", 2, server_username="app")]
    reload(doorman, pools={"postgres": pool_of(postgres, users=users)})
    assert doorman.query("SELECT current_user", user="second") == [("app",)]
    assert await session.query("SELECT pg_backend_pid()") == server


async def test_sessions_of_a_removed_pool_end_when_they_are_idle(make_doorman: Any, postgres: Postgres) -> None:
    both = {**pools(postgres), "second": pool_of(postgres, users=[user_of("app", 1)])}
    doorman = make_doorman(pools=both)
    other, busy = await open_many(doorman, 2)
    idle, working, waiting, begun = await open_many(doorman, 4, dbname="second")
    await begun.query("BEGIN")  # which takes no server
    await working.query("BEGIN")
    assert await working.query("SELECT 1") == ["1"]
    await waiting.send(wire.query("SELECT 2"))
    wait_for(lambda: doorman.pool_row("second")["cl_waiting"] == 1, "waiter")
    reload(doorman, pools=pools(postgres))
    assert "removed" in await ends_with(idle, "57P01")
    await ends_with(waiting, "57P01")
    await begun.send(wire.query("SELECT 3"))
    await ends_with(begun, "57P01")
    assert await working.query("SELECT 'still here'") == ["still here"]
    await working.send(wire.query("COMMIT"))
    assert (await working.wire.next()).kind == b"C"
    assert (await working.wire.next()).kind == b"Z"
    await ends_with(working, "57P01")
    with pytest.raises(SqlError, match="3D000"):
        await Session.open(doorman, dbname="second")
    wait_for(lambda: not doorman.pool_row("second"), "end of the removed pool")
    assert await other.query("SELECT 1") == await busy.query("SELECT 1") == ["1"]
    wait_whole(doorman, postgres)


async def test_a_session_mode_client_of_a_removed_pool_ends_when_it_rests(
    make_doorman: Any, postgres: Postgres
) -> None:
    both = {**pools(postgres), "second": pool_of(postgres, pool_mode="session")}
    doorman = make_doorman(pools=both)
    resting, working = await open_many(doorman, 2, dbname="second")
    await resting.query("SELECT 1")
    statement = asyncio.create_task(working.query("SELECT 'done' FROM pg_sleep(0.5)"))
    await asyncio.sleep(0.1)
    reload(doorman, pools=pools(postgres))
    await ends_with(resting, "57P01")
    assert await statement == ["done"]
    await ends_with(working, "57P01")
    wait_for(lambda: postgres.activity_count(user="app") == 0, "end of its servers")


async def test_a_row_that_another_pool_has_now_starts_from_nothing(make_doorman: Any, postgres: Postgres) -> None:
    both = {**pools(postgres), "second": pool_of(postgres)}
    doorman = make_doorman(pools=both)
    for _ in range(3):
        doorman.query("SELECT 1", dbname="second")
    for name in ("third", "fourth", "fifth"):
        reload(doorman, pools=pools(postgres))
        wait_for(lambda: len(doorman.console("SHOW POOLS")) == 1, "end of the removed pool")
        reload(doorman, pools={**pools(postgres), name: pool_of(postgres)})
        wait_for(lambda: doorman.pool_row(name), "new pool")  # noqa: B023
        assert doorman.pool_row(name)["sv_idle"] == 0
        assert doorman.query("SELECT current_database()", dbname=name) == [("postgres",)]


async def test_another_size_holds_from_the_next_checkout(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, size=1)
    sessions = await open_many(doorman, 4)
    for size, idle in ((4, 4), (2, 2), (3, 3)):
        reload(doorman, pools=pools(postgres, size))
        await asyncio.gather(*(session.query("SELECT pg_sleep(0.05)") for session in sessions))
        assert doorman.pool_row()["sv_idle"] <= size
        wait_for(lambda: postgres.activity_count(user="app") <= idle, "surplus servers' end")  # noqa: B023
    assert postgres.activity_count(user="app") == 3


async def test_waiters_are_served_when_their_pool_becomes_larger(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, size=1)
    holder, waiter = await open_many(doorman, 2)
    await holder.query("BEGIN")
    await holder.query("SELECT 1")
    waiting = asyncio.create_task(waiter.query("SELECT 'served'"))
    await asyncio.sleep(0.05)
    wait_for(lambda: doorman.pool_row()["cl_waiting"] == 1, "waiter")
    reload(doorman, pools=pools(postgres, 2))
    async with asyncio.timeout(2):
        assert await waiting == ["served"]


async def test_servers_are_opened_anew_when_what_they_are_opened_with_changes(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres, startup_parameters={"work_mem": "5MB"})
    holder, idle = await open_many(doorman, 2)
    await holder.query("BEGIN")
    assert await holder.query("SHOW work_mem") == ["5MB"]
    assert await idle.query("SHOW work_mem") == ["5MB"]
    reload(doorman, pools=pools(postgres, startup_parameters={"work_mem": "6MB"}))
    for _ in range(10):
        assert await idle.query("SHOW work_mem") == ["6MB"]
    assert await holder.query("SHOW work_mem") == ["5MB"]
    await holder.query("COMMIT")
    assert await holder.query("SHOW work_mem") == ["6MB"]
    wait_whole(doorman, postgres)


async def test_transaction_mode_becomes_session_mode_at_the_next_checkout(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres)
    session = await Session.open(doorman)
    await session.query("SELECT 1")
    reload(doorman, pools=pools(postgres, pool_mode="session"))
    await session.query("CREATE TEMP TABLE mine AS SELECT 7 AS value")
    assert await session.query("SELECT value FROM mine") == ["7"]
    assert doorman.pool_row()["sv_active"] == 1
    session.close()
    wait_whole(doorman, postgres)


async def test_a_session_keeps_what_its_mode_promised_until_it_ends(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, pool_mode="session")
    session = await Session.open(doorman)
    await session.query("CREATE TEMP TABLE mine AS SELECT 7 AS value")
    reload(doorman, pools=pools(postgres))
    assert await session.query("SELECT value FROM mine") == ["7"]
    fresh = await Session.open(doorman)
    await fresh.query("SELECT 1")
    assert doorman.pool_row()["sv_active"] == 1
    session.close()
    wait_whole(doorman, postgres)


async def test_a_replaced_worker_knows_the_pools_of_today(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres)
    reload(doorman, pools={"second": pool_of(postgres)})
    dead = doorman.kill_worker()
    for pid in doorman.wait_workers(2, without=[dead]):
        (session,) = await open_on(doorman, pid, dbname="second")
        assert await session.query("SELECT 1") == ["1"]
    with pytest.raises((SqlError, ConnectionEnded)):
        await Session.open(doorman, dbname="postgres")


async def test_a_configuration_that_is_wrong_changes_nothing(make_doorman: Any, postgres: Postgres) -> None:
    """Trap 19: a reload that fails half-way."""
    doorman = start(make_doorman, postgres)
    session = await Session.open(doorman)
    server = await session.query("SELECT pg_backend_pid()")
    broken = {"second": pool_of(postgres), "third": pool_of(postgres, pool_mode="sideways")}
    reload(doorman, pools=broken)
    assert doorman.log_contains("pools.third.pool_mode")
    assert [row["database"] for row in doorman.console("SHOW POOLS")] == ["postgres"]
    assert await session.query("SELECT pg_backend_pid()") == server


async def test_a_shorter_lifetime_holds_for_servers_that_live_already(make_doorman: Any, postgres: Postgres) -> None:
    general = {"retain_connections_time": 200, "retain_connections_max": 0}
    doorman = make_doorman(pools=pools(postgres), general=general)
    session = await Session.open(doorman)
    (server,) = await session.query("SELECT pg_backend_pid()")
    await asyncio.sleep(0.5)
    assert await session.query("SELECT pg_backend_pid()") == [server]
    reload(doorman, pools=pools(postgres, server_lifetime=300))
    wait_for(lambda: doorman.pool_row()["sv_idle"] == 0, "end of the old server")
    assert await session.query("SELECT pg_backend_pid()") != [server]


async def test_a_cancel_reaches_the_server_of_before_when_the_pool_has_moved(
    make_doorman: Any, postgres: Postgres, own_postgres: Postgres
) -> None:
    doorman = make_doorman(pools=pools(own_postgres))
    sessions = [session for pid in doorman.pids().workers for session in await open_on(doorman, pid)]
    running = [asyncio.create_task(session.query("SELECT pg_sleep(20)")) for session in sessions]
    await asyncio.sleep(0.3)
    reload(doorman, pools=pools(postgres))
    for session, statement in zip(sessions, running, strict=True):
        await session.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(SqlError, match="57014"):
                await statement
        assert await session.query("SHOW port") == [str(postgres.port)]
