"""PostgreSQL restarts, ends connections, refuses them, falls silent: clients get proper errors and are served again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.harness import Doorman, Postgres, free_port
from tests.harness.doorman import pool_of, user_of
from tests.process.load import Load, stopped
from tests.process.proxy import Proxy
from tests.process.session import Session, SqlError, open_many
from tests.process.watching import Descriptors, wait_for, wait_whole
from tests.torture import wire
from tests.torture.wire import ConnectionEnded

SERVER_GONE = frozenset({"57P01", "57P02", "57P03", "08006", "08000", "connection lost"})


def start(make_doorman: Any, postgres: Postgres, *, size: int = 5, users: Any = None, **keys: Any) -> Doorman:
    general = keys.pop("general", {})
    pools = {"postgres": pool_of(postgres, users=users or [user_of("app", size)], **keys)}
    doorman: Doorman = make_doorman(pools=pools, general={"worker_threads": 2, **general})
    return doorman


async def serves_within(doorman: Doorman, seconds: float) -> None:
    """Sessions of every worker are served again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            sessions = await open_many(doorman, 6)
            await asyncio.gather(*(session.query("SELECT 1") for session in sessions))
            break
        except (SqlError, ConnectionEnded, OSError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
    for session in sessions:
        session.close()


# --- PostgreSQL goes -------------------------------------------------------------------------------------------------


async def test_a_restart_of_postgresql_under_load_gives_proper_errors_and_is_recovered_from(
    make_doorman: Any, own_postgres: Postgres
) -> None:
    doorman = start(make_doorman, own_postgres)
    doorman.query("SELECT 1")
    before = Descriptors(doorman)
    async with Load(doorman, 12, expected=SERVER_GONE) as load:
        await load.run(0.5)
        await asyncio.to_thread(own_postgres.restart)
        await load.run(0.6)
        answers = load.answers
        await load.run(0.5)
        load.check()
        assert load.answers > answers, "nobody is served after the restart"
    wait_whole(doorman, own_postgres)
    before.check()


async def test_without_postgresql_clients_are_told_so_at_once_and_served_when_it_is_back(
    make_doorman: Any, own_postgres: Postgres
) -> None:
    doorman = start(make_doorman, own_postgres)
    [session, idle] = await open_many(doorman, 2)
    await session.query("SELECT 1")
    own_postgres.stop()
    await asyncio.sleep(0.2)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(SqlError) as failed:
            await session.query("SELECT 1")
        assert (failed.value.sqlstate, failed.value.fields["V"]) == ("08006", "ERROR")
        assert f"127.0.0.1:{own_postgres.port}" in failed.value.message
    assert time.monotonic() - began < 1
    own_postgres.start()
    assert await session.query("SELECT 'back'") == ["back"]
    assert await idle.query("SELECT 'back'") == ["back"]
    wait_whole(doorman, own_postgres)


async def test_terminating_every_server_harms_only_who_was_using_one(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres)
    sessions = await open_many(doorman, 10)
    await asyncio.gather(*(session.query("SELECT pg_sleep(0.05)") for session in sessions))
    busy = asyncio.create_task(sessions[0].query("SELECT pg_sleep(5)"))
    await asyncio.sleep(0.1)
    assert postgres.terminate_backends(user="app") == 5
    with pytest.raises(SqlError) as failed:
        await busy
    assert (failed.value.sqlstate, failed.value.fields["V"]) == ("57P01", "FATAL")
    assert await sessions[0].is_ended()
    assert await asyncio.gather(*(session.query("SELECT 1") for session in sessions[1:])) == [["1"]] * 9
    wait_whole(doorman, postgres)


async def test_a_server_lost_inside_a_transaction_ends_the_session_and_nothing_is_repeated(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres)
    session = await Session.open(doorman)
    await session.query("DROP TABLE IF EXISTS once; CREATE TABLE once (v int)")
    await session.query("BEGIN; SELECT 1")
    await session.query("INSERT INTO once VALUES (1)")
    postgres.terminate_backends(user="app")
    with pytest.raises((SqlError, ConnectionEnded)):
        await session.query("INSERT INTO once VALUES (2)")
        await session.query("COMMIT")
    assert doorman.query("SELECT count(*) FROM once") == [(0,)]


# --- PostgreSQL does not let in --------------------------------------------------------------------------------------


async def test_a_refused_connection_is_an_error_with_address_and_reason(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, server_port=free_port())
    began = time.monotonic()
    with pytest.raises(SqlError) as failed:
        await Session.open(doorman)
    assert time.monotonic() - began < 1
    assert failed.value.sqlstate == "08006"
    assert "Connection refused" in failed.value.message


@pytest.mark.parametrize("kind", ["simple", "extended"])
async def test_a_refusal_that_comes_at_once_is_answered_once(
    make_doorman: Any, own_postgres: Postgres, kind: str
) -> None:
    """Over a Unix socket connect() itself fails. Every statement has one answer, and what was refused is not run."""
    doorman = start(make_doorman, own_postgres, server_host=str(own_postgres.socket_directory))
    session = await Session.open(doorman)
    await session.query("CREATE TABLE refused (v int)")
    own_postgres.stop()
    await asyncio.sleep(0.2)
    insert = "INSERT INTO refused VALUES (1)"
    batch = wire.parse(insert) + wire.bind() + wire.execute() + wire.SYNC
    for _ in range(4):
        await session.send(wire.query(insert) if kind == "simple" else batch)
        with pytest.raises(SqlError) as failed:
            await session.answer()
        assert (failed.value.sqlstate, failed.value.fields["V"]) == ("08006", "ERROR")
        await asyncio.sleep(0.15)
        assert not session.wire.messages
    own_postgres.start()
    assert await session.query("SELECT count(*) FROM refused") == ["0"]


async def test_attempts_to_open_are_not_repeated_without_a_pause(make_doorman: Any, postgres: Postgres) -> None:
    """Twenty clients that come again and again: PostgreSQL and the log are not flooded, the processor is not busy."""
    doorman = start(make_doorman, postgres, server_port=free_port())

    async def come_again() -> None:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            with pytest.raises((SqlError, ConnectionEnded)):
                await Session.open(doorman)
            await asyncio.sleep(0.02)

    await asyncio.gather(*(come_again() for _ in range(20)))
    assert len([line for line in doorman.log_text().splitlines() if "no server for" in line]) <= 8


async def test_too_many_connections_in_postgresql_reach_the_client_as_such(
    make_doorman: Any, own_postgres: Postgres
) -> None:
    own_postgres.stop()
    with (own_postgres.data / "postgresql.conf").open("a") as conf:
        conf.write("max_connections = 6\nsuperuser_reserved_connections = 2\nmax_wal_senders = 0\n")
    own_postgres.start()
    doorman = start(make_doorman, own_postgres, size=20)
    others = [await own_postgres.connect_async(user="app") for _ in range(4)]
    with pytest.raises(SqlError) as failed:
        await Session.open(doorman)
    assert failed.value.sqlstate == "53300"
    for connection in others[:2]:
        await connection.close()
    await asyncio.sleep(0.2)
    sessions = await open_many(doorman, 8)
    asked = await asyncio.gather(*(session.query("SELECT pg_sleep(0.05)") for session in sessions))
    assert asked == [[""]] * 8, "two servers must do where PostgreSQL has room for no more"
    for connection in others[2:]:
        await connection.close()
    wait_whole(doorman, own_postgres)


async def test_a_database_that_does_not_exist_is_postgresqls_error(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, server_database="absent")
    with pytest.raises(SqlError) as failed:
        await Session.open(doorman)
    assert failed.value.sqlstate == "3D000"
    assert "absent" in failed.value.message


# --- PostgreSQL is silent --------------------------------------------------------------------------------------------


async def test_a_server_that_never_answers_the_login_is_given_up_at_connect_timeout(
    make_doorman: Any, postgres: Postgres
) -> None:
    with Proxy(postgres) as proxy:
        proxy.flow.clear()
        doorman = start(make_doorman, postgres, general={"connect_timeout": 500}, **proxy.pool)
        began = time.monotonic()
        with pytest.raises(SqlError) as failed:
            await Session.open(doorman)
        assert 0.4 < time.monotonic() - began < 1.5
        assert failed.value.sqlstate == "08006"
        assert "connect_timeout" in failed.value.message
        proxy.flow.set()
        await serves_within(doorman, 2)
        wait_whole(doorman, postgres)


async def test_a_statement_on_a_silent_server_can_be_cancelled_or_left_and_the_pool_recovers(
    make_doorman: Any, postgres: Postgres
) -> None:
    """Everything between pooler and PostgreSQL falls silent, cancel requests too; then all clients go away."""
    with Proxy(postgres) as proxy:
        doorman = start(make_doorman, postgres, size=2, general={"query_wait_timeout": 1000}, **proxy.pool)
        sessions = await open_many(doorman, 4)
        await asyncio.gather(*(session.query("SELECT pg_sleep(0.05)") for session in sessions))
        proxy.flow.clear()
        asks = [asyncio.create_task(session.query("SELECT 1")) for session in sessions]
        await asyncio.sleep(0.2)
        await sessions[0].cancel()
        await asyncio.sleep(1.2)
        timed_out = [ask for ask in asks if ask.done()]
        assert len(timed_out) == 2
        for session in sessions:
            session.vanish()
        await asyncio.gather(*asks, return_exceptions=True)
        proxy.flow.set()
        await serves_within(doorman, 6)
        wait_whole(doorman, postgres, 6)


async def test_a_backend_that_stands_still_holds_up_nobody_else(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, size=3)
    sessions = await open_many(doorman, 6)
    [backend] = await sessions[0].query("BEGIN; SELECT pg_backend_pid()")
    assert backend is not None
    with stopped(int(backend)):
        stuck = asyncio.create_task(sessions[0].query("SELECT 'late'"))
        await asyncio.sleep(0.1)
        for _ in range(20):
            assert await asyncio.gather(*(s.query("SELECT 1") for s in sessions[1:])) == [["1"]] * 5
        assert not stuck.done()
    assert await stuck == ["late"]
    await sessions[0].query("COMMIT")
    wait_whole(doorman, postgres)


async def test_a_client_that_leaves_a_backend_that_stands_still_frees_its_place_in_the_end(
    make_doorman: Any, postgres: Postgres
) -> None:
    """The clean-up cannot succeed, so the server is given up after a while, and the pool of one has room again."""
    doorman = start(make_doorman, postgres, size=1)
    session = await Session.open(doorman)
    [backend] = await session.query("BEGIN; SELECT pg_backend_pid()")
    assert backend is not None
    await session.send(wire.query("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.1)
    with stopped(int(backend)):
        session.vanish()
        began = time.monotonic()
        assert await (await Session.open(doorman)).query("SELECT 'served'") == ["served"]
        assert time.monotonic() - began < 8
    wait_whole(doorman, postgres, 3)


async def test_connections_that_are_cut_end_only_their_clients_statements(
    make_doorman: Any, postgres: Postgres
) -> None:
    with Proxy(postgres) as proxy:
        doorman = start(make_doorman, postgres, size=3, **proxy.pool)
        async with Load(doorman, 8, expected=SERVER_GONE) as load:
            for _ in range(10):
                await load.run(0.1)
                proxy.cut()
            await load.run(0.3)
            load.check()
        assert load.answers > 50
        wait_whole(doorman, postgres, 2)
        wait_for(lambda: len(proxy.open) <= 6, "end of the proxy's connections", 2)
