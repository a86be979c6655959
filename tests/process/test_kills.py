"""SIGKILL of workers and keeper at random moments under load: nothing is lost but what the dead process was serving."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import Doorman, Postgres, procfs
from tests.harness.doorman import pool_of, user_of
from tests.process.load import Load, kill
from tests.process.watching import Descriptors, Witness, no_clients, wait_for, wait_whole

Choice = Callable[[Doorman], list[int]]


def start(make_doorman: Any, postgres: Postgres, *, workers: int, size: int) -> Doorman:
    """A pg_doorman with one pool of this size."""
    pools = {"postgres": pool_of(postgres, users=[user_of("app", size)])}
    doorman: Doorman = make_doorman(pools=pools, general={"worker_threads": workers})
    return doorman


async def kill_again_and_again(doorman: Doorman, load: Load, choose: Choice, seconds: float, pause: float) -> int:
    """Kill whom `choose` names, at random moments; how many died."""
    loop = asyncio.get_running_loop()
    until, killed = loop.time() + seconds, 0
    while loop.time() < until and not load.unexplained:
        await asyncio.sleep(random.uniform(0, 2 * pause))
        killed += sum(kill(pid, load) for pid in choose(doorman))
    return killed


def one_worker(doorman: Doorman) -> list[int]:
    return random.sample(workers_of(doorman), 1)


def one_of_all(doorman: Doorman) -> list[int]:
    """Any process but the master."""
    return random.sample([pid for pid in procfs.children(doorman.pid) if procfs.is_alive(pid)], 1)


def two_workers(doorman: Doorman) -> list[int]:
    return random.sample(workers_of(doorman), 2)


def keeper(doorman: Doorman) -> list[int]:
    return [pid for pid in procfs.children(doorman.pid) if "keeper" in procfs.command_name(pid)]


def worker_and_keeper(doorman: Doorman) -> list[int]:
    """The keeper right behind the worker whose servers it is about to end."""
    return one_worker(doorman) + keeper(doorman)


def workers_of(doorman: Doorman) -> list[int]:
    """Two at least: a test that kills faster than processes are born waits here."""
    found: list[int] = []

    def are_there() -> bool:
        named = [pid for pid in procfs.children(doorman.pid) if "worker" in procfs.command_name(pid)]
        found[:] = [pid for pid in named if procfs.is_alive(pid)]
        return len(found) >= 2

    wait_for(are_there, "two living workers")
    return found


@pytest.mark.parametrize(
    ("choose", "seconds", "pause", "at_least"),
    [
        (one_worker, 6, 0.04, 80),
        (one_of_all, 5, 0.03, 80),
        (two_workers, 4, 0.06, 60),
        (keeper, 2, 0.03, 30),
        (worker_and_keeper, 4, 0.05, 70),
    ],
)
async def test_other_workers_clients_notice_nothing_and_the_pool_is_whole_within_a_second(
    make_doorman: Any, postgres: Postgres, choose: Choice, seconds: float, pause: float, at_least: int
) -> None:
    """Five servers for 24 clients of four workers. PostgreSQL never sees a sixth connection."""
    doorman = start(make_doorman, postgres, workers=4, size=5)
    before = Descriptors(doorman)
    with Witness(postgres) as witness:
        async with Load(doorman, 24) as load:
            await load.run(0.3)
            killed = await kill_again_and_again(doorman, load, choose, seconds, pause)
            await load.run(1.0)
            await load.stop()
            load.check()
    assert killed >= at_least
    assert load.answers > 500
    assert witness.most <= 5, f"PostgreSQL saw {witness.most} connections"
    wait_whole(doorman, postgres)
    wait_for(lambda: no_clients(doorman), "end of all client rows", 1)
    doorman.wait_workers(4)
    before.check()
