"""What becomes of the belongings of a dead process, one thing at a time. tests/simulate kills in earnest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doorman.shm.repair import repair_after
from doorman.shm.rows import client_rows
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from tests.simulate.invariants import check_at_rest, check_table
from tests.simulate.rows import (
    BACK_CLOSE,
    BACK_GRANTED,
    BACK_HELD,
    KEEPER,
    NONE,
    WORKER,
    Slot,
    make_table,
)


@pytest.fixture
def table() -> Iterator[Table]:
    table = make_table(processes=4, pool_sizes=(1,), slots=4)
    yield table
    table.close()


@pytest.fixture
def workers(table: Table) -> list[Trial]:
    return [Trial(table, process=row, role=WORKER) for row in range(3)]


@pytest.fixture
def keeper(table: Table) -> Trial:
    return Trial(table, process=3, role=KEEPER)


def log_in(trial: Trial) -> int:
    client = trial.admit(1)
    trial.log_in(client, 0, cancel_pid=client + 1)
    return client


def serve(trial: Trial) -> tuple[int, int]:
    """A new client of this process with the pool's only server, which is opened for it."""
    client = log_in(trial)
    _, slot = trial.take(0, client, 2)
    assert trial.give_back(slot, 3) == client
    trial.set_running(slot, True)
    return client, slot


def bury(trial: Trial) -> list[tuple[int, int]]:
    freed, _ = repair_after(trial.table, trial.process, trial.pid)
    check_table(trial)
    return freed


def test_a_busy_server_goes_to_the_keeper_by_mail(workers: list[Trial], keeper: Trial) -> None:
    _, slot = serve(workers[0])
    assert bury(workers[0]) == []
    row = keeper.slot_row(slot)
    assert (row["state"], row["owner"]) == (Slot.CLOSING, keeper.process)
    assert keeper.take_mail() == [slot]
    assert client_rows(keeper.table) == []


def test_a_server_that_was_being_opened_goes_to_the_keeper_too(workers: list[Trial], keeper: Trial) -> None:
    """PostgreSQL may have made a backend for it already: it counts until the keeper has seen its end."""
    _, slot = workers[0].take(0, log_in(workers[0]), 2)
    assert bury(workers[0]) == []
    row = keeper.slot_row(slot)
    assert (row["state"], row["owner"]) == (Slot.CLOSING, keeper.process)
    assert keeper.take_mail() == [slot]


def test_a_grant_to_the_dead_goes_to_the_next_waiter(workers: list[Trial], keeper: Trial) -> None:
    _, slot = serve(workers[0])
    for waiter in workers[1:]:
        assert waiter.take(0, log_in(waiter), 4) == (NONE, NONE)
    assert workers[0].give_back(slot, 5) == BACK_GRANTED
    bury(workers[1])
    row = keeper.slot_row(slot)
    assert (row["state"], row["owner"]) == (Slot.GRANTED, 2)
    assert workers[2].take_mail() == [slot] and workers[2].accept_grant(slot, row["client"], 6)


def test_a_server_with_a_cancel_request_of_the_dead_is_not_lent_again(workers: list[Trial], keeper: Trial) -> None:
    client, slot = serve(workers[0])
    assert workers[1].begin_cancel(client) == slot
    bury(workers[1])
    assert keeper.slot_row(slot)["canceller"] == NONE
    assert workers[0].give_back(slot, 5) == BACK_CLOSE


def test_a_held_server_whose_canceller_died_ends(workers: list[Trial], keeper: Trial) -> None:
    client, slot = serve(workers[0])
    workers[1].begin_cancel(client)
    assert workers[0].give_back(slot, 5) == BACK_HELD
    bury(workers[1])
    row = keeper.slot_row(slot)
    assert (row["state"], row["owner"], row["held"]) == (Slot.CLOSING, keeper.process, 0)


def test_the_death_of_who_gave_a_held_server_back_ends_it_too(workers: list[Trial], keeper: Trial) -> None:
    client, slot = serve(workers[0])
    generation = keeper.slot_row(slot)["generation"]
    workers[1].begin_cancel(client)
    workers[0].give_back(slot, 5)
    bury(workers[0])
    assert not workers[1].end_cancel(slot, generation, doubtful=False), "it is the keeper's now"
    assert keeper.slot_row(slot)["state"] == Slot.CLOSING


def test_what_a_dead_keeper_was_closing_waits_for_the_next_one(workers: list[Trial], keeper: Trial) -> None:
    _, slot = serve(workers[0])
    bury(workers[0])
    keeper.take_mail()
    assert bury(keeper) == []
    successor = Trial(keeper.table, process=keeper.process, role=KEEPER)
    assert successor.slot_row(slot)["owner"] == successor.process
    assert successor.take_mail() == [slot]
    successor.finish_close(slot)
    check_at_rest(successor)


def test_everybody_else_is_woken(workers: list[Trial], keeper: Trial) -> None:
    _, wake = repair_after(keeper.table, 1, workers[1].pid)
    assert wake == 0b1101
