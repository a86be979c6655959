"""The pool is one: its size holds for all workers together, and any worker may use all of it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.load import Load
from tests.process.proxy import Proxy
from tests.process.session import Session, SqlError, open_many, open_on
from tests.process.watching import Witness, wait_for, wait_whole
from tests.torture import wire
from tests.torture.wire import ConnectionEnded


def start(make_doorman: Any, postgres: Postgres, *, size: int, workers: int, **keys: Any) -> Doorman:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", size)], **keys)}
    doorman: Doorman = make_doorman(pools=pools, general={"worker_threads": workers})
    return doorman


async def test_five_busy_clients_on_one_worker_use_all_five_servers(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, size=5, workers=4)
    for worker in doorman.pids().workers:
        sessions = await open_on(doorman, worker, 5)
        began = time.monotonic()
        pids = await asyncio.gather(*(session.query("SELECT pg_backend_pid(), pg_sleep(0.3)") for session in sessions))
        assert time.monotonic() - began < 0.75, "they had to wait for one another"
        assert len({pid for [pid] in pids}) == 5
        for session in sessions:
            session.close()
    assert len(doorman.console("SHOW SERVERS")) == 5


async def test_postgresql_never_sees_a_sixth_connection_while_servers_come_and_go(
    make_doorman: Any, postgres: Postgres
) -> None:
    """Backends are terminated, clients vanish in transactions, connections outlive their time: always a new server."""
    doorman = start(make_doorman, postgres, size=5, workers=4, server_lifetime=100)
    with Witness(postgres) as witness:
        expected = frozenset({"connection lost", "57P01", "08006"})
        async with Load(doorman, 12, expected=expected) as load:
            until = time.monotonic() + 3
            while time.monotonic() < until:
                await asyncio.sleep(random.uniform(0, 0.1))
                await asyncio.to_thread(postgres.terminate_backends, user="app")
                await vanish_in_a_transaction(doorman)
            await load.run(0.2)
            load.check()
    assert witness.most == 5
    wait_whole(doorman, postgres)


async def vanish_in_a_transaction(doorman: Doorman) -> None:
    """A client that leaves half a message to its server: such a server is not lent again."""
    try:
        session = await Session.open(doorman)
        await session.query("BEGIN; SELECT 1")
        await session.send(wire.query("SELECT '" + "x" * 200_000)[:100_000])
    except (SqlError, ConnectionEnded, OSError):
        return
    session.vanish()


async def test_a_cold_start_opens_no_more_servers_than_clients_need(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, size=20, workers=4)
    session = await Session.open(doorman)
    for _ in range(20):
        await session.query("SELECT 1")
    assert postgres.activity_count(user="app") == 1


async def test_a_cold_pool_fills_at_once_when_many_clients_come(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, size=20, workers=4)
    sessions = await open_many(doorman, 40)
    began = time.monotonic()
    await asyncio.gather(*(session.query("SELECT pg_sleep(0.3)") for session in sessions))
    assert time.monotonic() - began < 1.5
    assert postgres.activity_count(user="app") == 20


async def test_servers_that_are_being_opened_count(make_doorman: Any, postgres: Postgres) -> None:
    """Openings take half a second each; thirty clients must not start more of them than there is room."""
    with Proxy(postgres) as proxy:
        doorman = start(make_doorman, postgres, size=3, workers=3, **proxy.pool)
        doorman.query("SELECT 1")
        before, proxy.delay = proxy.accepted, 0.5
        sessions = await open_many(doorman, 30)
        tasks = [asyncio.create_task(session.query("SELECT pg_sleep(0.02)")) for session in sessions]
        await asyncio.sleep(0.3)
        row = doorman.pool_row()
        assert row["sv_login"] + row["sv_active"] + row["sv_idle"] == 3
        assert proxy.accepted - before == 2
        await asyncio.gather(*tasks)
        wait_whole(doorman, postgres)


@pytest.mark.parametrize("workers", [2, 4])
async def test_a_killed_opening_does_not_let_postgresql_see_one_more(
    make_doorman: Any, postgres: Postgres, workers: int
) -> None:
    """Workers die while PostgreSQL is just making a backend for them: its end must be awaited before the next."""
    from tests.process.load import kill

    doorman = start(make_doorman, postgres, size=2, workers=workers)
    with Witness(postgres) as witness:
        for _ in range(40):
            postgres.terminate_backends(user="app")
            sessions = await open_many(doorman, 6)
            asks = [asyncio.create_task(session.query("SELECT 1")) for session in sessions]
            await asyncio.sleep(random.uniform(0, 0.008))
            kill(doorman.pids().workers[0])
            await asyncio.gather(*asks, return_exceptions=True)
            for session in sessions:
                session.vanish()
            wait_for(lambda: len(doorman.pids().workers) >= 1, "a worker")
    assert witness.most <= 2
    wait_whole(doorman, postgres)
