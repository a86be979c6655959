"""Processes that stand still for a while (SIGSTOP, a frozen machine) and go on: nobody else waits for more than what
they hold, and they go on where they were. And servers that end while a cancel request holds them."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.load import kill, stopped
from tests.process.proxy import Proxy
from tests.process.session import Session, SqlError, open_many, open_on
from tests.process.test_kill_moments import cancel_at
from tests.process.watching import wait_for, wait_whole
from tests.torture.wire import ConnectionEnded

STILL = 1.5  # seconds


def start(make_doorman: Any, postgres: Postgres, *, size: int, **keys: Any) -> Doorman:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", size)], **keys)}
    doorman: Doorman = make_doorman(pools=pools, general={"worker_threads": 2})
    return doorman


async def ask(session: Session, sql: str, seconds: float = 2.0) -> list[str | None]:
    return await asyncio.wait_for(session.query(sql), seconds)


async def test_a_worker_that_stands_still_keeps_what_it_holds_and_nothing_else(
    make_doorman: Any, postgres: Postgres
) -> None:
    """Its client is in a transaction, another waits; the other worker serves its own meanwhile with what is left."""
    doorman = start(make_doorman, postgres, size=2)
    first, second = doorman.pids().workers
    holder, idle = await open_on(doorman, first, 2)
    others = await open_on(doorman, second, 3)
    await holder.query("BEGIN; SET LOCAL work_mem = '1234kB'")
    backend = await holder.query("SELECT pg_backend_pid()")
    with stopped(first):
        late = [asyncio.create_task(session.query("SELECT 'late'")) for session in (holder, idle)]
        until = time.monotonic() + STILL
        while time.monotonic() < until:
            assert await asyncio.gather(*(ask(session, "SELECT 'served'", 1) for session in others)) == [["served"]] * 3
            await asyncio.sleep(0.05)
        assert not any(task.done() for task in late)
    assert await asyncio.wait_for(asyncio.gather(*late), 2) == [["late"], ["late"]]
    assert await ask(holder, "SELECT pg_backend_pid()") == backend
    assert await ask(holder, "SHOW work_mem") == ["1234kB"]
    await ask(holder, "COMMIT")
    wait_whole(doorman, postgres)


async def test_a_server_granted_to_a_worker_that_stands_still_is_used_when_it_goes_on(
    make_doorman: Any, postgres: Postgres
) -> None:
    """The pool's only server waits in its mailbox: strict order, so nobody overtakes."""
    doorman = start(make_doorman, postgres, size=1)
    first, second = doorman.pids().workers
    [still] = await open_on(doorman, first)
    holder, behind = await open_on(doorman, second, 2)
    held = asyncio.create_task(holder.query("SELECT pg_sleep(0.3)"))
    await asyncio.sleep(0.1)
    granted = asyncio.create_task(still.query("SELECT 'granted'"))
    await asyncio.sleep(0.05)
    wait_for(lambda: doorman.pool_row()["cl_waiting"] == 1, "a waiter")
    waiting = asyncio.create_task(behind.query("SELECT 'behind'"))
    await asyncio.sleep(0.05)
    wait_for(lambda: doorman.pool_row()["cl_waiting"] == 2, "two waiters")
    with stopped(first):
        await held
        await asyncio.sleep(STILL)
        assert not granted.done() and not waiting.done()
    assert await asyncio.wait_for(granted, 2) == ["granted"]
    assert await asyncio.wait_for(waiting, 2) == ["behind"]
    wait_whole(doorman, postgres)


async def test_servers_that_were_opened_and_closed_while_a_worker_stood_still_are_known_to_it_afterwards(
    make_doorman: Any, postgres: Postgres
) -> None:
    """More messages about servers than its channel has room for; what it has heard of them then is true."""

    def no_server_is_left() -> bool:
        postgres.terminate_backends(user="app")  # also one that was about to be opened the last time
        return not postgres.activity(usename="app")

    doorman = start(make_doorman, postgres, size=8)
    first, second = doorman.pids().workers
    [still] = await open_on(doorman, first)
    others = await open_on(doorman, second, 8)
    await still.query("SELECT 1")
    with stopped(first):
        for _ in range(40):
            await asyncio.gather(*(ask(session, "SELECT pg_sleep(0.01)") for session in others))
            wait_for(no_server_is_left, "end of the servers")
            await asyncio.sleep(0.02)
        await asyncio.gather(*(ask(session, "SELECT pg_sleep(0.05)") for session in others))
    for _ in range(10):
        assert await asyncio.gather(*(ask(session, "SELECT 'fine'") for session in (still, *others))) == [["fine"]] * 9
    wait_whole(doorman, postgres, 2)


async def test_an_end_that_was_announced_while_a_server_was_anothers_is_not_missed(
    make_doorman: Any, postgres: Postgres
) -> None:
    """Both workers watch it by edge. Its home stands still, the other passes by that it was half closed, and then has
    it: what is sent there is swallowed, without a reset, as many a proxy does; nothing announces the end again."""
    with Proxy(postgres) as proxy:
        doorman = start(make_doorman, postgres, size=1, **proxy.pool)
        first, second = doorman.pids().workers
        [still], [other] = await open_on(doorman, first), await open_on(doorman, second)
        for _ in range(3):
            for session in (other, still):
                assert await ask(session, "SELECT 1") == ["1"]
        with stopped(first):
            [server] = [sock for sock in proxy.open if sock.getsockname()[1] == proxy.port]
            server.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.2)
            assert await ask(other, "SELECT 'by another'") == ["by another"]
        assert await ask(still, "SELECT 'served'") == ["served"]
        wait_whole(doorman, postgres, 3)


async def test_nobody_waits_for_a_keeper_that_stands_still(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres, size=4)
    keeper = doorman.pids().keeper
    assert keeper is not None
    with stopped(keeper):
        sessions = await open_many(doorman, 6)
        for _ in range(3):
            assert await asyncio.gather(*(ask(session, "SELECT 'served'") for session in sessions)) == [["served"]] * 6
            postgres.terminate_backends(user="app")
            await asyncio.sleep(0.1)
        assert await asyncio.gather(*(ask(session, "SELECT 'served'") for session in sessions)) == [["served"]] * 6
    wait_whole(doorman, postgres)


async def test_a_keeper_that_is_killed_while_it_opens_a_server_leaves_its_place_free(
    make_doorman: Any, postgres: Postgres
) -> None:
    """`min_pool_size` is the keeper's to open; the pool has one place."""
    with Proxy(postgres) as proxy:
        proxy.delay = 30.0
        pools = {"postgres": pool_of(postgres, users=[user_of("app", 1, min_pool_size=1)], **proxy.pool)}
        doorman = make_doorman(pools=pools)
        wait_for(lambda: doorman.pool_row().get("sv_login") == 1, "an opening by the keeper")
        keeper = doorman.pids().keeper
        assert keeper is not None
        proxy.delay = 0.0
        kill(keeper)
        session = await asyncio.wait_for(Session.open(doorman), 3)
        assert await ask(session, "SELECT 'served'", 3) == ["served"]
        wait_for(lambda: doorman.pids().keeper not in (None, keeper), "another keeper")
        wait_whole(doorman, postgres, 2)


async def test_a_server_that_ends_while_a_cancel_request_holds_it_makes_nobody_spin(
    make_doorman: Any, postgres: Postgres
) -> None:
    """The request hangs in a proxy for two seconds; the statement is over and its server is kept from everybody."""
    with Proxy(postgres) as proxy:
        doorman = start(make_doorman, postgres, size=2, **proxy.pool)
        first, second = doorman.pids().workers
        [session] = await open_on(doorman, second)
        [backend] = await session.query("SELECT pg_backend_pid()")
        statement = asyncio.create_task(session.query("SELECT pg_sleep(0.5)"))
        await asyncio.sleep(0.2)
        proxy.delay = 2.0
        cancel = asyncio.create_task(cancel_at(doorman, first, session))
        await asyncio.sleep(0.2)
        assert await asyncio.wait_for(statement, 2) == [""]
        postgres.terminate_backends(user="app")
        await asyncio.sleep(0.1)
        cpu = doorman.cpu_seconds()
        await asyncio.sleep(1.0)
        assert doorman.cpu_seconds() - cpu < 0.3, "it spins"
        proxy.delay = 0.0
        await asyncio.gather(cancel, return_exceptions=True)
        try:
            again = await ask(session, "SELECT pg_backend_pid()", 4)
            assert again != [backend]
        except (SqlError, ConnectionEnded):
            pytest.fail("the client had nothing to do with it")
        wait_whole(doorman, postgres, 3)
