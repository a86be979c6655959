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


async def kill_again_and_again(doorman: Doorman, load: Load, choose: Choice, rounds: int) -> int:
    """Kill whom `choose` names, at random moments; how many died."""
    killed = 0
    for _ in range(rounds):
        await asyncio.sleep(random.uniform(0, 0.05))
        killed += sum(kill(pid, load) for pid in choose(doorman))
        if load.unexplained:
            break
    return killed


def one_worker(doorman: Doorman) -> list[int]:
    return random.sample(living(doorman, "worker", 2), 1)


def one_of_all(doorman: Doorman) -> list[int]:
    """Any process but the master."""
    return random.sample(living(doorman, "", 3), 1)


def two_workers(doorman: Doorman) -> list[int]:
    return random.sample(living(doorman, "worker", 2), 2)


def keeper(doorman: Doorman) -> list[int]:
    return living(doorman, "keeper", 1)


def worker_and_keeper(doorman: Doorman) -> list[int]:
    """The keeper right behind the worker whose servers it is about to end."""
    return one_worker(doorman) + keeper(doorman)


def living(doorman: Doorman, kind: str, at_least: int) -> list[int]:
    """Children of this kind, also just born ones; waits while there are too few, for births take their time."""
    found: list[int] = []

    def are_there() -> bool:
        named = [pid for pid in procfs.children(doorman.pid) if f"doorman {kind}" in procfs.command_name(pid)]
        found[:] = [pid for pid in named if procfs.is_alive(pid)]
        return len(found) >= at_least

    wait_for(are_there, f"{at_least} living {kind}")
    return found


@pytest.mark.parametrize(
    ("choose", "rounds"),
    [(one_worker, 60), (one_of_all, 45), (two_workers, 30), (keeper, 20), (worker_and_keeper, 30)],
)
async def test_other_workers_clients_notice_nothing_and_the_pool_is_whole_within_a_second(
    make_doorman: Any, postgres: Postgres, choose: Choice, rounds: int
) -> None:
    """Five servers for 16 clients of four workers. PostgreSQL never sees a sixth connection."""
    doorman = start(make_doorman, postgres, workers=4, size=5)
    before = Descriptors(doorman)
    with Witness(postgres) as witness:
        async with Load(doorman, 16) as load:
            await load.run(0.3)
            killed = await kill_again_and_again(doorman, load, choose, rounds)
            await load.run(0.5)
            await load.stop()
            load.check()
    assert killed >= 0.9 * rounds
    assert load.answers > 10 * rounds
    assert witness.most <= 5, f"PostgreSQL saw {witness.most} connections"
    wait_whole(doorman, postgres)
    wait_for(lambda: no_clients(doorman), "end of all client rows", 1)
    doorman.wait_workers(4)
    before.check()
