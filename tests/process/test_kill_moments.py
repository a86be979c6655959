"""SIGKILL at chosen moments: while a client waits, while a server is being opened, while a cancel is on its way, …"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from tests.harness import Doorman, Postgres
from tests.harness.clients import worker_of
from tests.harness.doorman import pool_of, user_of
from tests.process.load import kill, stopped
from tests.process.proxy import Proxy
from tests.process.session import Session, open_many, open_on
from tests.process.watching import no_clients, until, wait_for, wait_whole
from tests.torture import wire
from tests.torture.wire import ConnectionEnded


def start(make_doorman: Any, postgres: Postgres, *, size: int, workers: int = 2, **keys: Any) -> Doorman:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", size)], **keys)}
    doorman: Doorman = make_doorman(pools=pools, general={"worker_threads": workers})
    return doorman


async def hold(session: Session, seconds: float) -> asyncio.Task[list[str | None]]:
    """Start a statement that keeps its server busy for so long, and wait until it runs."""
    task = asyncio.create_task(session.query(f"SELECT pg_sleep({seconds})"))
    await asyncio.sleep(0.1)
    return task


async def test_a_waiter_of_another_worker_gets_the_server_that_a_killed_worker_was_using(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres, size=1)
    first, second = doorman.pids().workers
    [holder], [waiter] = await open_on(doorman, first), await open_on(doorman, second)
    held = await hold(holder, 30)
    waiting = asyncio.create_task(waiter.query("SELECT 'served'"))
    await asyncio.sleep(0.05)
    kill(first)
    assert await asyncio.wait_for(waiting, 1.5) == ["served"]
    with pytest.raises(ConnectionEnded):
        await held
    wait_whole(doorman, postgres)


async def test_waiters_of_a_killed_worker_leave_the_queue_and_those_behind_them_move_up(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres, size=1)
    first, second = doorman.pids().workers
    doomed = await open_on(doorman, first, 3)
    holder, waiter = await open_on(doorman, second, 2)
    held = await hold(holder, 0.5)
    lost = [asyncio.create_task(session.query("SELECT 'never'")) for session in doomed]
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(waiter.query("SELECT 'served'"))
    await asyncio.sleep(0.05)
    assert doorman.pool_row()["cl_waiting"] == 4
    kill(first)
    wait_for(lambda: doorman.pool_row()["cl_waiting"] == 1, "end of the dead worker's waiters", 1)
    await held
    assert await asyncio.wait_for(waiting, 1) == ["served"]
    assert all(isinstance(end, ConnectionEnded) for end in await asyncio.gather(*lost, return_exceptions=True))
    wait_whole(doorman, postgres)


async def test_a_grant_to_a_worker_that_was_just_killed_goes_to_the_next_waiter(
    make_doorman: Any, postgres: Postgres
) -> None:
    """The first worker stands still, so that the grant lies in its mailbox when it dies."""
    doorman = start(make_doorman, postgres, size=1)
    first, second = doorman.pids().workers
    [doomed] = await open_on(doorman, first)
    holder, waiter = await open_on(doorman, second, 2)
    held = await hold(holder, 0.3)
    lost = asyncio.create_task(doomed.query("SELECT 'never'"))
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(waiter.query("SELECT 'served'"))
    await asyncio.sleep(0.05)
    with stopped(first):
        await held
        await asyncio.sleep(0.05)
        assert not waiting.done()
        os.kill(first, signal.SIGKILL)
    assert await asyncio.wait_for(waiting, 1) == ["served"]
    with pytest.raises(ConnectionEnded):
        await lost
    wait_whole(doorman, postgres)


async def test_a_waiter_is_served_when_the_worker_that_was_opening_its_server_is_killed(
    make_doorman: Any, postgres: Postgres
) -> None:
    """The opening takes a second; its worker dies in the middle. The pool's only place must not be lost with it."""
    with Proxy(postgres) as proxy:
        doorman = start(make_doorman, postgres, size=1, **proxy.pool)
        first, second = doorman.pids().workers
        async with asyncio.timeout(10):
            survivor, doomed = (await open_on(doorman, second))[0], (await open_on(doorman, first))[0]
            postgres.terminate_backends(user="app")
            wait_for(lambda: not doorman.console("SHOW SERVERS"), "end of the server")
            proxy.delay = 1.0
            lost = asyncio.create_task(doomed.query("SELECT 'never'"))
            await asyncio.sleep(0.2)
            waiting = asyncio.create_task(survivor.query("SELECT 'served'"))
            await asyncio.sleep(0.1)
            assert doorman.pool_row()["sv_login"] == 1
            proxy.delay = 0.0
            kill(first)
            assert await asyncio.wait_for(waiting, 1.5) == ["served"]
            with pytest.raises(ConnectionEnded):
                await lost
        wait_whole(doorman, postgres, 2.0)


async def test_a_server_whose_canceller_was_killed_is_not_lent_again(make_doorman: Any, postgres: Postgres) -> None:
    """The cancel request hangs in a proxy when its worker dies: it may still come, so the server must end."""
    with Proxy(postgres) as proxy:
        doorman = start(make_doorman, postgres, size=1, **proxy.pool)
        first, second = doorman.pids().workers
        [session] = await open_on(doorman, second)
        [backend] = await session.query("SELECT pg_backend_pid()")
        statement = await hold(session, 2.0)
        proxy.delay, known = 3.0, proxy.accepted
        cancels = [asyncio.create_task(cancel_at(doorman, first, session))]
        await until(lambda: proxy.accepted > known, "cancel request", 1.9)
        kill(first)
        proxy.delay = 0.0
        assert await asyncio.wait_for(statement, 4) == [""]
        again = await asyncio.wait_for(session.query("SELECT pg_backend_pid()"), 2)
        assert again != [backend]
        await asyncio.gather(*cancels, return_exceptions=True)
        wait_whole(doorman, postgres)


async def cancel_at(doorman: Doorman, worker: int, session: Session) -> None:
    """Send the cancel request to this worker: until one of the connections is its own, none of them says more than how
    long its first packet is."""
    packet = (80877102).to_bytes(4, "big") + session.wire.pid.to_bytes(4, "big") + session.wire.secret
    for _ in range(100):
        reader, writer = await asyncio.open_connection(doorman.host, doorman.port)
        writer.write((len(packet) + 4).to_bytes(4, "big"))  # nobody accepts a connection that says nothing
        if worker_of(doorman, writer.get_extra_info("sockname")[1]) == worker:
            writer.write(packet)
            await reader.read(1)
            return
        writer.close()


async def test_the_keeper_is_killed_while_it_ends_the_servers_of_a_killed_worker(
    make_doorman: Any, postgres: Postgres
) -> None:
    """PostgreSQL cannot end them at once: its backends stand still. Then both die, and all is made good."""
    doorman = start(make_doorman, postgres, size=4)
    first, _ = doorman.pids().workers
    busy = await open_on(doorman, first, 4)
    tasks = [asyncio.create_task(session.query("SELECT pg_sleep(30)")) for session in busy]
    await asyncio.sleep(0.2)
    backends = [row["pid"] for row in postgres.activity(usename="app")]
    assert len(backends) == 4
    with stopped(*backends):
        kill(first)
        for _ in range(3):
            await asyncio.sleep(0.1)
            keeper = doorman.pids().keeper
            assert keeper is not None
            kill(keeper)
    await asyncio.gather(*tasks, return_exceptions=True)
    wait_whole(doorman, postgres, 3.0)
    sessions = await open_many(doorman, 4)
    assert len(await asyncio.gather(*(session.query("SELECT pg_sleep(0.2)") for session in sessions))) == 4
    wait_whole(doorman, postgres)


@pytest.mark.parametrize("moment", ["idle", "in a transaction", "in a statement", "in a copy", "half a message"])
async def test_a_killed_workers_servers_are_ended_whatever_its_client_was_doing(
    make_doorman: Any, postgres: Postgres, moment: str
) -> None:
    doorman = start(make_doorman, postgres, size=2)
    [session] = await open_on(doorman, doorman.pids().workers[0])
    await session.query("CREATE TABLE IF NOT EXISTS copied (t text)")
    if moment == "in a transaction":
        await session.query("BEGIN; LOCK TABLE copied")
    elif moment == "in a statement":
        await session.send(wire.query("SELECT pg_sleep(30)"))
    elif moment == "in a copy":
        await session.send(wire.query("COPY copied FROM STDIN") + wire.copy_data(b"row\n"))
    elif moment == "half a message":
        await session.send(wire.query("SELECT '" + "x" * 200_000 + "'")[:150_000])
    await asyncio.sleep(0.1)
    began = time.monotonic()
    kill(worker_of(doorman, session.port))
    assert await session.is_ended(1)
    wait_whole(doorman, postgres, 1.0 - (time.monotonic() - began) + 0.2)
    assert doorman.query("SELECT count(*) FROM copied") == [(0,)]
    wait_for(lambda: no_clients(doorman), "end of the client rows", 1)


async def test_all_workers_at_once_and_the_keeper_are_replaced_and_serve_again(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres, size=3, workers=3)
    sessions = await open_many(doorman, 9)
    tasks = [asyncio.create_task(session.query("SELECT pg_sleep(5)")) for session in sessions]
    await asyncio.sleep(0.2)
    family = doorman.pids()
    assert family.keeper is not None
    for pid in [*family.workers, family.keeper]:
        kill(pid)
    began = time.monotonic()
    assert doorman.query("SELECT 'served'") == [("served",)]
    assert time.monotonic() - began < 1.5
    await asyncio.gather(*tasks, return_exceptions=True)
    wait_whole(doorman, postgres)
    assert doorman.pool_row()["sv_idle"] <= 3
