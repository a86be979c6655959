"""The end: SIGTERM, SIGINT, SIGKILL of the master. Nothing is left, and clients are told what they can be told.

That no process, shared memory or socket file is left is checked by the harness after every stop of every test.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.load import Load, stop, stopped
from tests.process.session import Session, SqlError, open_many
from tests.process.watching import wait_for
from tests.torture.wire import ConnectionEnded


def with_unix_socket(tmp_path: Path) -> dict[str, str]:
    return {"unix_socket_dir": str(tmp_path)}


def semaphores() -> set[str]:
    """Named semaphores of anybody: /dev/shm/sem.*"""
    return {path.name for path in Path("/dev/shm").glob("sem.*")}


async def test_sigterm_ends_everything_at_once_also_under_load(
    make_doorman: Any, postgres: Postgres, tmp_path: Path
) -> None:
    before = semaphores()
    doorman = make_doorman(general=with_unix_socket(tmp_path))
    async with Load(doorman, 8, expected=frozenset({"connection lost"})) as load:
        await load.run(0.3)
        began = time.monotonic()
        doorman.stop()
        assert time.monotonic() - began < 2
        await load.stop()
    assert load.answers > 0
    assert list(tmp_path.iterdir()) == []
    assert semaphores() == before
    wait_for(lambda: postgres.activity_count(user="app") == 0, "end of all servers", 2)


async def test_sigkill_of_the_master_ends_everything_also_under_load(
    make_doorman: Any, postgres: Postgres, tmp_path: Path
) -> None:
    before = semaphores()
    doorman = make_doorman(general=with_unix_socket(tmp_path))
    async with Load(doorman, 8, expected=frozenset({"connection lost"})) as load:
        await load.run(0.3)
        doorman.kill_master()
        await load.stop()
    assert list(tmp_path.iterdir()) == []
    assert semaphores() == before
    wait_for(lambda: postgres.activity_count(user="app") == 0, "end of all servers", 2)


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.2])
def test_sigkill_of_the_master_leaves_nothing_when_the_keeper_was_killed_before(
    make_doorman: Any, tmp_path: Path, pause: float
) -> None:
    doorman = make_doorman(general=with_unix_socket(tmp_path))
    os.kill(doorman.pids().keeper, signal.SIGKILL)
    time.sleep(pause)
    doorman.kill_master()
    wait_for(lambda: list(tmp_path.iterdir()) == [], "end of the socket file", 1)


def test_sigkill_of_master_and_keeper_together_leaves_nothing(make_doorman: Any, tmp_path: Path) -> None:
    """The master stands still, so that it cannot replace the keeper before it dies."""
    doorman = make_doorman(general=with_unix_socket(tmp_path))
    keeper = doorman.pids().keeper
    stop(doorman.pid)
    os.kill(keeper, signal.SIGKILL)
    doorman.kill_master()
    wait_for(lambda: list(tmp_path.iterdir()) == [], "end of the socket file", 1)


def test_sigkill_of_the_master_ends_a_worker_that_stands_still(make_doorman: Any) -> None:
    doorman = make_doorman()
    os.kill(doorman.pids().workers[0], signal.SIGSTOP)
    doorman.kill_master()


def test_sigterm_ends_a_worker_that_stands_still(make_doorman: Any) -> None:
    doorman = make_doorman()
    with stopped(*doorman.pids().workers):
        doorman.stop()


def test_sigterm_during_the_start_ends_it(make_doorman: Any) -> None:
    for pause in (0.25, 0.3, 0.35, 0.4, 0.5):
        doorman = make_doorman(start=False, general={"worker_threads": 4})
        doorman.spawn_only()
        time.sleep(pause)
        doorman.signal(signal.SIGTERM)
        assert doorman.wait_exit() in (0, -signal.SIGTERM)


def test_the_exit_code_of_an_orderly_end_is_zero(make_doorman: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        doorman = make_doorman()
        doorman.signal(number)
        assert doorman.wait_exit() == 0


def test_signals_meant_for_the_master_do_not_end_workers(make_doorman: Any) -> None:
    """Ctrl-C in a terminal reaches the whole process group; SIGHUP and SIGUSR2 by mistake too."""
    doorman = make_doorman()
    family = doorman.pids()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        for pid in [*family.workers, family.keeper]:
            os.kill(pid, number)
    for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGPIPE):
        doorman.signal(number)
    time.sleep(0.2)
    assert doorman.pids() == family
    assert doorman.query("SELECT 1") == [(1,)]


# --- SIGINT ----------------------------------------------------------------------------------------------------------


async def test_sigint_tells_idle_clients_at_once_and_ends(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman()
    sessions = await open_many(doorman, 6)
    await asyncio.gather(*(session.query("SELECT 1") for session in sessions))
    began = time.monotonic()
    doorman.signal(signal.SIGINT)
    for session in sessions:
        with pytest.raises(SqlError) as ended:
            await session.answer()
        assert (ended.value.sqlstate, ended.value.fields["V"]) == ("57P01", "FATAL")
        assert await session.is_ended()
    assert doorman.wait_exit() == 0
    assert time.monotonic() - began < 1.5
    wait_for(lambda: postgres.activity_count(user="app") == 0, "end of all servers", 2)


@pytest.mark.parametrize("begin", ["BEGIN; SELECT 1", "BEGIN"])
async def test_after_sigint_a_transaction_may_finish_and_then_its_client_is_told(make_doorman: Any, begin: str) -> None:
    """Also one that has taken no server yet."""
    doorman = make_doorman(general={"shutdown_timeout": 5000})
    session = await Session.open(doorman)
    await session.query(begin)
    doorman.signal(signal.SIGINT)
    await asyncio.sleep(0.3)
    assert await session.query("SELECT 'goes on'") == ["goes on"]
    await session.query("COMMIT")
    with pytest.raises(SqlError) as ended:
        await session.answer()
    assert ended.value.sqlstate == "57P01"
    assert doorman.wait_exit() == 0


async def test_after_sigint_new_connections_are_refused(make_doorman: Any, tmp_path: Path) -> None:
    doorman = make_doorman(general={"shutdown_timeout": 5000, **with_unix_socket(tmp_path)})
    session = await Session.open(doorman)
    await session.query("BEGIN; SELECT 1")
    doorman.signal(signal.SIGINT)
    await asyncio.sleep(0.2)
    for _ in range(8):
        with pytest.raises(OSError):
            await Session.open(doorman)
    with pytest.raises(OSError):
        await asyncio.open_unix_connection(str(tmp_path / f".s.PGSQL.{doorman.port}"))
    await session.query("COMMIT")
    assert doorman.wait_exit() == 0


async def test_sigint_gives_up_waiting_at_shutdown_timeout(make_doorman: Any) -> None:
    doorman = make_doorman(general={"shutdown_timeout": 600})
    session = await Session.open(doorman)
    await session.query("BEGIN; SELECT 1")
    began = time.monotonic()
    doorman.signal(signal.SIGINT)
    doorman.signal(signal.SIGINT)
    assert await asyncio.to_thread(doorman.wait_exit) == 0
    assert 0.5 < time.monotonic() - began < 1.5
    with pytest.raises((SqlError, ConnectionEnded)):
        await session.answer()


async def test_after_sigint_waiting_clients_are_still_served(make_doorman: Any, postgres: Postgres) -> None:
    """What was asked before the signal is answered: the pool of one serves its queue to the end."""
    doorman = small_pool(make_doorman, postgres)
    sessions = await open_many(doorman, 5)
    tasks = [asyncio.create_task(session.query("SELECT pg_sleep(0.1), 1")) for session in sessions]
    await asyncio.sleep(0.05)
    doorman.signal(signal.SIGINT)
    assert [len(rows) for rows in await asyncio.gather(*tasks)] == [1] * 5
    assert await asyncio.to_thread(doorman.wait_exit) == 0


async def test_sigterm_during_a_drain_ends_it(make_doorman: Any) -> None:
    doorman = make_doorman()
    session = await Session.open(doorman)
    await session.query("BEGIN; SELECT 1")
    doorman.signal(signal.SIGINT)
    await asyncio.sleep(0.1)
    doorman.signal(signal.SIGTERM)
    assert doorman.wait_exit(2) == 0


async def test_a_worker_that_dies_during_a_drain_does_not_hold_it_up(make_doorman: Any) -> None:
    doorman = make_doorman()
    session = await Session.open(doorman)
    await session.query("BEGIN; SELECT 1")
    doorman.signal(signal.SIGINT)
    await asyncio.sleep(0.2)
    for pid in doorman.pids().workers:
        os.kill(pid, signal.SIGKILL)
    assert doorman.wait_exit(2) == 0


def small_pool(make_doorman: Any, postgres: Postgres) -> Doorman:
    from tests.harness.doorman import pool_of, user_of

    doorman: Doorman = make_doorman(pools={"postgres": pool_of(postgres, users=[user_of("app", 1)])})
    return doorman


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_runs_when_the_pooler_stops_does_not_run_on(
    make_doorman: Any, postgres: Postgres, number: int
) -> None:
    """PostgreSQL would notice the end of a connection only when it has an answer to write."""
    doorman = make_doorman(general={"shutdown_timeout": 300})
    sessions = await open_many(doorman, 4)
    tasks = [asyncio.create_task(session.query("SELECT pg_sleep(60)")) for session in sessions]
    await asyncio.to_thread(
        wait_for, lambda: postgres.activity_count(user="app", state="active") == 4, "four to run", 5
    )
    doorman.signal(number)
    assert await asyncio.to_thread(doorman.wait_exit) == 0
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(wait_for, lambda: postgres.activity_count(user="app") == 0, "the end of all", 2)


async def test_idle_servers_end_when_a_drain_begins(make_doorman: Any, postgres: Postgres) -> None:
    pools = {
        "postgres": pool_of(postgres, users=[user_of("app", 4)]),
        "other": pool_of(postgres, users=[user_of("app", 4, min_pool_size=2)]),
    }
    doorman = make_doorman(general={"shutdown_timeout": 20_000}, pools=pools)
    sessions = await open_many(doorman, 3)
    await asyncio.gather(*(session.query("SELECT pg_sleep(0.05)") for session in sessions))
    await sessions[0].query("BEGIN; SELECT 1")
    assert postgres.activity_count(user="app") >= 3
    doorman.signal(signal.SIGINT)
    await asyncio.to_thread(wait_for, lambda: postgres.activity_count(user="app") == 1, "the busy server alone", 4)
    await asyncio.sleep(0.3)
    assert postgres.activity_count(user="app") == 1
    await sessions[0].query("COMMIT")
    assert await asyncio.to_thread(doorman.wait_exit) == 0
