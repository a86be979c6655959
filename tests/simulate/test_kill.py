"""Real processes that use the pool at full speed and are killed with SIGKILL, by chance and at chosen points."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator

import pytest

from doorman.shm.repair import has_died, repair_after
from doorman.shm.table import Table, monotonic_us
from doorman.shm.trial import Trial
from tests.simulate.actor import Actor
from tests.simulate.invariants import check_at_rest, check_table
from tests.simulate.rows import KEEPER, WORKER, make_table

WORKERS = 3
KEEPER_ROW = WORKERS
KILLS = 800
KILLS_A_ROUND = 20
REST_WITHIN = 1.0  # seconds


class Signboard:
    """Shared words beside the table: whether all should rest, and how much each process has done."""

    def __init__(self, processes: int) -> None:
        self.words = mmap.mmap(-1, 8 * (processes + 1))

    def get(self, at: int) -> int:
        return int(struct.unpack_from("q", self.words, 8 * at)[0])

    def put(self, at: int, value: int) -> None:
        struct.pack_into("q", self.words, 8 * at, value)


class Family:
    """The master's side: starts, kills, buries and replaces the processes of one table."""

    def __init__(self, table: Table, signboard: Signboard) -> None:
        self.table = table
        self.signboard = signboard
        self.watcher = Trial(table)
        self.pids: dict[int, int] = {}

    def start(self, row: int) -> None:
        pid = os.fork()
        if pid == 0:
            live(self.table, row, self.signboard)
        self.pids[row] = pid

    def kill(self, rows: list[int]) -> None:
        for row in rows:
            os.kill(self.pids[row], signal.SIGKILL)
        for row in rows:
            self.bury(row)

    def bury(self, row: int) -> None:
        pid = self.pids.pop(row)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), f"process {row} ended by itself with status {status}; see its traceback"
        repair_after(self.table, row, pid)
        self.start(row)

    def rest(self) -> None:
        """Everybody finishes what is under way; all must be well soon."""
        self.signboard.put(0, 1)
        until = time.monotonic() + REST_WITHIN
        while True:
            try:
                check_at_rest(self.watcher)
                break
            except AssertionError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.002)
        self.signboard.put(0, 0)

    def end(self) -> None:
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def live(table: Table, row: int, signboard: Signboard) -> None:
    """A child: a worker or the keeper, until it is killed."""
    master = os.getppid()
    try:
        role = KEEPER if row == KEEPER_ROW else WORKER
        table.enter(row, role)
        actor = Actor(Trial(table), monotonic_us, random.Random(), role, 3)
        actor.look_around()
        while os.getppid() == master:
            act(actor, signboard, row + 1)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def act(actor: Actor, signboard: Signboard, word: int) -> None:
    if signboard.get(0):
        if not actor.settle():
            time.sleep(0.001)
        return
    for _ in range(100):
        actor.step()
    signboard.put(word, signboard.get(word) + 100)


@pytest.mark.slow
def test_processes_killed_at_random_leave_the_table_whole() -> None:
    table = make_table(processes=WORKERS + 1, pool_sizes=(2, 2), max_connections=10)
    family = Family(table, Signboard(WORKERS + 1))
    rng = random.Random()
    try:
        for row in range(WORKERS + 1):
            family.start(row)
        for _round in range(0, KILLS, KILLS_A_ROUND):
            for _ in range(0, KILLS_A_ROUND, 2):
                time.sleep(rng.random() * 0.02)
                family.kill(rng.sample(range(WORKERS + 1), 2))
            family.rest()
        assert all(family.signboard.get(row + 1) > 1000 for row in range(WORKERS + 1)), "somebody never got to work"
    finally:
        family.end()
        table.close()


# --- chosen points ---------------------------------------------------------------------------------------------------


@pytest.fixture
def table() -> Iterator[Table]:
    table = make_table(processes=4, pool_sizes=(2, 2))
    yield table
    table.close()


def run_child(table: Table, row: int, work: Callable[[Trial], None]) -> int:
    """A worker that does this and exits with 0; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            table.enter(row, WORKER)
            work(Trial(table))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def kill_self(trial: Trial) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_after(*steps: Callable[[Trial], object]) -> Callable[[Trial], None]:
    def work(trial: Trial) -> None:
        for step in steps:
            step(trial)
        kill_self(trial)

    return work


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 2
    while not holds():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.001)


def test_who_waits_for_the_lock_of_a_dead_process_gets_it_after_the_repair(table: Table) -> None:
    dead = run_child(table, 0, killed_after(lambda trial: trial.lock_pool(1)))
    wait_until(lambda: has_died(dead))
    waiting = run_child(table, 1, lambda trial: trial.count_under_lock(1, 1))
    wait_until(lambda: Trial(table).pool_row(1)["sleepers"] == 1)
    assert not has_died(waiting)
    os.waitpid(dead, 0)
    repair_after(table, 0, dead)
    assert os.waitpid(waiting, 0)[1] == 0
    check_table(Trial(table))


def test_two_dead_processes_with_locks_do_not_stop_the_repair_of_the_first(table: Table) -> None:
    """The first one's client waits in the pool whose lock the second one took to its grave."""

    def wait_in_pool_1(trial: Trial) -> None:
        client = trial.admit(1)
        trial.log_in(client, 1)
        trial.take(1, client, 2)

    first = run_child(table, 0, killed_after(wait_in_pool_1, lambda trial: trial.lock_clients()))
    wait_until(lambda: has_died(first))
    second = run_child(table, 1, killed_after(lambda trial: trial.lock_pool(1)))
    wait_until(lambda: has_died(second))
    for row, pid in ((0, first), (1, second)):
        os.waitpid(pid, 0)
        repair_after(table, row, pid)
        repair_after(table, row, pid)  # a repair that was repeated does no harm
    check_at_rest(Trial(table))


def test_a_claim_of_a_dead_process_is_void(table: Table) -> None:
    dead = run_child(table, 0, killed_after(lambda trial: trial.claim(3)))
    os.waitpid(dead, 0)
    assert Trial(table).slot_row(3)["claim"] == dead
    repair_after(table, 0, dead)
    check_at_rest(Trial(table))


def test_one_killed_while_it_slept_on_a_lock_leaves_nothing_behind(table: Table) -> None:
    trial = Trial(table, process=2)
    trial.lock_pool(0)
    sleeper = run_child(table, 0, lambda trial: trial.lock_pool(0))
    wait_until(lambda: trial.pool_row(0)["sleepers"] == 1)
    os.kill(sleeper, signal.SIGKILL)
    os.waitpid(sleeper, 0)
    repair_after(table, 0, sleeper)
    trial.unlock_pool(0)
    assert trial.pool_row(0)["sleepers"] == 0
    check_at_rest(trial)


def test_without_a_keeper_the_servers_of_the_dead_are_free_at_once(table: Table) -> None:
    def serve(trial: Trial) -> None:
        client = trial.admit(1)
        trial.log_in(client, 0)
        _, slot = trial.take(0, client, 2)
        assert trial.give_back(slot, 3) == client

    dead = run_child(table, 0, killed_after(serve))
    os.waitpid(dead, 0)
    freed, _ = repair_after(table, 0, dead)
    assert len(freed) == 1
    check_at_rest(Trial(table))


def test_a_process_killed_before_it_entered_has_nothing_to_repair(table: Table) -> None:
    dead = os.fork()
    if dead == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(dead, 0)
    assert repair_after(table, 1, dead)[0] == []
    check_at_rest(Trial(table))
