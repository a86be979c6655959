"""New clients are shared out among the workers, whatever the kernel's hash says, and none is lost on its way."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Doorman, Postgres, procfs
from tests.harness.clients import client_ports, worker_of
from tests.harness.doorman import pool_of, user_of
from tests.process.load import stopped
from tests.process.session import Session, open_many, open_on
from tests.process.watching import wait_for
from tests.torture.wire import query

STALE = 0.7  # seconds without a sign of life, after which nobody is handed to a worker


def start(make_doorman: Any, postgres: Postgres, *, workers: int = 2) -> Doorman:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 4)])}
    doorman: Doorman = make_doorman(pools=pools, general={"worker_threads": workers})
    return doorman


def clients_of(doorman: Doorman) -> list[int]:
    """How many clients each worker has."""
    return [len(client_ports(pid, doorman.port)) for pid in doorman.pids().workers]


@pytest.mark.parametrize(("workers", "clients"), [(2, 40), (4, 60)])
async def test_workers_have_equally_many_clients(
    make_doorman: Any, postgres: Postgres, workers: int, clients: int
) -> None:
    """Thrice, for whom a busy machine keeps from running for half a second is handed nobody."""
    doorman = start(make_doorman, postgres, workers=workers)
    differences = []
    for _ in range(3):
        sessions = [await Session.open(doorman) for _ in range(clients)]
        wait_for(lambda: sum(clients_of(doorman)) == clients, "who handed a client over has let go of it")
        counts = clients_of(doorman)
        differences.append(max(counts) - min(counts))
        served = await asyncio.gather(*(session.query("SELECT 'served'") for session in sessions))
        assert served == [["served"]] * clients
        for session in sessions:
            session.close()
        wait_for(lambda: sum(clients_of(doorman)) == 0, "all clients are gone")
    assert sorted(differences)[1] <= 2


async def test_a_worker_whose_clients_left_gets_the_next(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres)
    sessions = await open_many(doorman, 20)
    first, second = doorman.pids().workers
    for session in sessions:
        if worker_of(doorman, session.port) == first:
            session.close()
    wait_for(lambda: not client_ports(first, doorman.port), "the first worker has no client")
    had = len(client_ports(second, doorman.port))
    more = [await Session.open(doorman) for _ in range(had - 1)]
    assert sum(worker_of(doorman, session.port) == first for session in more) >= had - 4


async def test_many_that_come_at_once_are_all_served(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres)
    evenly = 0
    for _ in range(5):
        sessions = await open_many(doorman, 150)
        assert await asyncio.gather(*(session.query("SELECT 1") for session in sessions)) == [["1"]] * 150
        few, many = sorted(clients_of(doorman))
        evenly += many - few <= few // 8 + 3
        for session in sessions:
            session.close()
        wait_for(lambda: clients_of(doorman) == [0, 0], "all clients are gone")
    assert evenly >= 3


async def open_crowd(doorman: Doorman, pid: int) -> list[Session]:
    """Many clients of the other worker, none of this one."""
    (other,) = set(doorman.pids().workers) - {pid}
    crowd = await open_on(doorman, other, 24)
    wait_for(lambda: not client_ports(pid, doorman.port), "one worker has no client")
    return crowd


async def served_by(doorman: Doorman, pid: int, already: int, late: list[asyncio.Task[Session]]) -> int:
    """How many of them a worker serves that had so many clients, once everybody whom it has is logged in."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        await asyncio.sleep(0.3)
        served = sum(task.done() for task in late)
        if served and len(client_ports(pid, doorman.port)) == already + served:
            return served
    raise AssertionError(f"{served} of those that came were served; {len(client_ports(pid, doorman.port))} are there")


async def test_nobody_is_handed_to_a_worker_that_shows_no_sign_of_life(make_doorman: Any, postgres: Postgres) -> None:
    """What the kernel gave to it waits for it; all others are served by the other, however many it has."""
    doorman = start(make_doorman, postgres)
    first, second = doorman.pids().workers
    crowd = await open_crowd(doorman, first)
    with stopped(first):
        time.sleep(STALE)
        late = [asyncio.create_task(Session.open(doorman)) for _ in range(20)]
        served = await served_by(doorman, second, len(crowd), late)
        assert served
    for session in await asyncio.wait_for(asyncio.gather(*late), 5):
        assert await session.query("SELECT 1") == ["1"]


async def test_whom_a_worker_has_not_taken_when_it_dies_its_successor_takes(
    make_doorman: Any, postgres: Postgres
) -> None:
    """Stopped, but not for long enough to be taken for dead: clients are handed to it."""
    doorman = start(make_doorman, postgres)
    first, _ = doorman.pids().workers
    crowd = await open_crowd(doorman, first)
    os.kill(first, signal.SIGSTOP)
    late = [asyncio.create_task(Session.open(doorman)) for _ in range(20)]
    done, _ = await asyncio.wait(late, timeout=0.3)
    assert len(done) < 5, "even with all of these it has fewer; by the hash alone half would be served"
    os.kill(first, signal.SIGKILL)
    sessions = await asyncio.wait_for(asyncio.gather(*late), 5)
    for session in [*sessions, *crowd]:
        await session.send(query("SELECT 1"))
        await session.answer()
    assert first not in doorman.pids().workers


async def test_whom_a_worker_has_not_taken_when_it_dies_while_the_pooler_ends_is_let_go(
    make_doorman: Any, postgres: Postgres
) -> None:
    """It has no successor then, and a transaction elsewhere may take its time."""
    doorman = start(make_doorman, postgres)
    first, second = doorman.pids().workers
    crowd = await open_crowd(doorman, first)
    await crowd[0].query("BEGIN; SELECT 1")
    with stopped(first):
        late = [asyncio.create_task(Session.open(doorman)) for _ in range(20)]
        done, _ = await asyncio.wait(late, timeout=0.3)
        assert len(done) < 5
        doorman.signal(signal.SIGINT)
        doorman.wait_log("shutting down")
        os.kill(first, signal.SIGKILL)
        ends = await asyncio.wait_for(asyncio.gather(*late, return_exceptions=True), 2)
    assert sum(isinstance(end, Session) for end in ends) == len(done)
    assert await crowd[0].query("SELECT 'goes on'") == ["goes on"]
    assert procfs.is_alive(second)


async def test_whom_a_worker_has_no_descriptor_for_waits(make_doorman: Any, postgres: Postgres) -> None:
    """And only those: while it has none, whoever comes to another worker stays there."""
    doorman = start(make_doorman, postgres)
    first, _ = doorman.pids().workers
    crowd = await open_crowd(doorman, first)
    taken = {int(path.name) for path in Path(f"/proc/{first}/fd").iterdir()}
    full = next(fd for fd in range(len(taken) + 1) if fd not in taken)
    before = resource.prlimit(first, resource.RLIMIT_NOFILE, (full, resource.prlimit(first, resource.RLIMIT_NOFILE)[1]))
    late = [asyncio.create_task(Session.open(doorman)) for _ in range(4)]
    assert (await asyncio.wait(late, timeout=0.5))[1], "the first that comes goes there, whoever accepts it"
    doorman.wait_log("no file descriptor is left for a new client")
    more = [asyncio.create_task(Session.open(doorman)) for _ in range(12)]
    assert (await asyncio.wait(more, timeout=1))[0], "even with all of these it has fewer"
    resource.prlimit(first, resource.RLIMIT_NOFILE, before)
    for session in [*await asyncio.wait_for(asyncio.gather(*late, *more), 5), *crowd]:
        assert await session.query("SELECT 1") == ["1"]
