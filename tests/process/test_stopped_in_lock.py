"""A process that is stopped at the worst moment (SIGSTOP, a debugger, a frozen machine): while it holds a pool's lock.
Nobody can take the pool from it, for it may go on at any time; when it dies, at whatever instruction, all is good."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.load import kill
from tests.process.pool_lock import PoolLock
from tests.process.session import Session, first_columns, open_on
from tests.process.watching import wait_whole
from tests.torture import wire

STILL = 1.5  # seconds
PARTS = 6


def start(make_doorman: Any, postgres: Postgres) -> Doorman:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 4)])}
    doorman: Doorman = make_doorman(pools=pools, general={"worker_threads": 2})
    return doorman


async def open_ready(doorman: Doorman, worker: int, count: int) -> list[Session]:
    """Clients of a worker who have had their first server."""
    sessions = await open_on(doorman, worker, count)
    for session in sessions:
        await session.query("SELECT 1")
    return sessions


def asking(session: Session) -> Callable[[], None]:
    """A statement, which is on its way at once."""
    return lambda: session.wire.transport.write(wire.query("SELECT 'late'"))


@pytest.mark.parametrize("end", ["goes on", "is killed"])
async def test_who_needs_the_pool_waits_at_next_to_no_cost(make_doorman: Any, postgres: Postgres, end: str) -> None:
    doorman = start(make_doorman, postgres)
    family = doorman.pids()
    first, second = family.workers
    [victim], others = await open_ready(doorman, first, 1), await open_ready(doorman, second, 3)
    lock = PoolLock(doorman)
    lock.stop_inside(first, asking(victim))
    waiting = [asyncio.create_task(session.query("SELECT 'late'")) for session in others]
    await asyncio.sleep(0.2)
    used = doorman.cpu_seconds()
    await asyncio.sleep(STILL)
    assert doorman.cpu_seconds() - used < 0.2 * STILL, "somebody spins"
    assert not any(task.done() for task in waiting) and lock.owner() == first
    os.kill(first, signal.SIGCONT if end == "goes on" else signal.SIGKILL)
    assert await asyncio.wait_for(asyncio.gather(*waiting), 1) == [["late"]] * 3
    if end == "goes on":
        assert first_columns(await asyncio.wait_for(victim.answer(), 2)) == ["late"]
    else:
        assert await victim.is_ended(1)
    wait_whole(doorman, postgres, 1.0)
    pids = doorman.pids()
    assert second in pids.workers and pids.keeper == family.keeper, "somebody else had to pay for it"
    assert (first in pids.workers) == (end == "goes on")


async def test_a_worker_killed_anywhere_in_the_section_leaves_the_pool_whole(
    make_doorman: Any, postgres: Postgres
) -> None:
    """Where a client takes a server, at steps from the first instruction under the lock to the last."""
    doorman = start(make_doorman, postgres)
    first, second = doorman.pids().workers
    [victim], others = await open_ready(doorman, first, 1), await open_ready(doorman, second, 3)
    lock = PoolLock(doorman)
    length = lock.length_of_section(first, asking(victim))
    await victim.answer()
    assert PARTS < length < 2000, f"{length} instructions under the lock"
    for part in range(PARTS):
        lock.stop_inside(first, asking(victim), depth=part * (length - 1) // (PARTS - 1))
        waiting = [asyncio.create_task(session.query("SELECT 'late'")) for session in others]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        kill(first)
        assert await asyncio.wait_for(asyncio.gather(*waiting), 1) == [["late"]] * 3, part
        wait_whole(doorman, postgres, 1.0)
        [first] = [pid for pid in doorman.wait_workers(2, without=[first]) if pid != second]
        [victim] = await open_ready(doorman, first, 1)
