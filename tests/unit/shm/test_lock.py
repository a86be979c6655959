"""The lock between real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from doorman.shm.table import Table
from doorman.shm.trial import Trial

PROCESSES = 4
ROUNDS = 50_000


@pytest.fixture
def table() -> Iterator[Table]:
    table = Table.create(processes=PROCESSES, pools=1, slots=4, clients=200, max_connections=90)
    yield table
    table.close()


def in_processes(table: Table, work: Callable[[Trial], int]) -> list[int]:
    """Run this in several processes at once; their results, of 0 to 255 each."""
    pids = []
    for row in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            result = 255
            try:
                table.enter(row, 1)
                result = work(Trial(table))
            finally:
                os._exit(result)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def count(trial: Trial) -> int:
    trial.count_under_lock(0, ROUNDS)
    return 0


def test_only_one_process_at_a_time_is_inside(table: Table) -> None:
    assert in_processes(table, count) == [0] * PROCESSES
    assert Trial(table).counted() == PROCESSES * ROUNDS
    assert Trial(table).pool_row(0)["owner"] == 0


def test_a_waiting_process_sleeps_and_is_woken(table: Table) -> None:
    """Who waits long uses hardly any processor time. Posts left over from a tumult before would make it spin."""
    in_processes(table, count)
    trial = Trial(table)
    trial.lock_pool(0)

    def wait(other: Trial) -> int:
        began = time.process_time()
        other.lock_pool(0)
        other.unlock_pool(0)
        return int((time.process_time() - began) * 1000)

    child = os.fork()
    if child == 0:
        time.sleep(0.3)
        trial.unlock_pool(0)
        os._exit(0)
    used_ms = in_processes(table, wait)
    os.waitpid(child, 0)
    assert max(used_ms) < 60, f"processor time while waiting 300 ms: {used_ms} ms"


def test_exactly_max_connections_clients_are_admitted_by_all_processes_together(table: Table) -> None:
    def admit_all(trial: Trial) -> int:
        return sum(trial.admit(1) >= 0 for _ in range(90))

    assert sum(in_processes(table, admit_all)) == 90
    header = Trial(table).header_row()
    assert (header["clients_used"], header["clients_high"]) == (90, 90)


def test_admission_and_dismissal_by_all_processes_lose_no_row(table: Table) -> None:
    def come_and_go(trial: Trial) -> int:
        mine: list[int] = []
        for turn in range(3000):
            if turn % 5 < 3 and len(mine) < 20:
                mine.append(trial.admit(1))
                assert mine[-1] >= 0 and trial.client_row(mine[-1])["worker"] == trial.process
            elif mine:
                trial.dismiss(mine.pop(turn % len(mine)))
        for client in mine:
            trial.dismiss(client)
        return 0

    assert in_processes(table, come_and_go) == [0] * PROCESSES
    assert Trial(table).header_row()["clients_used"] == 0
    assert len({Trial(table).admit(1) for _ in range(91)}) == 91, "90 rows and one refusal"
