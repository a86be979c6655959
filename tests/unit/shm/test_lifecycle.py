"""Rows of pools that come, change and go. tests/simulate/test_pool_model.py has the sequences, this the details."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doorman.shm.counters import pool_totals
from doorman.shm.lifecycle import REMOVED, collect_pool, find_unused_pool, free_pool, pool_generation, remove_pool
from doorman.shm.rows import get_failure, get_parameters, pool_rows, set_parameters
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from tests.simulate.rows import (
    ATTEND_POOLS,
    ATTEND_WAITERS,
    KEEPER,
    NONE,
    Slot,
    Wait,
    add_pool,
    make_table,
    resize_pool,
)


@pytest.fixture
def table() -> Iterator[Table]:
    table = make_table(processes=3, pool_sizes=(2,), slots=8, spare_pools=2)
    yield table
    table.close()


@pytest.fixture
def worker(table: Table) -> Trial:
    return Trial(table, process=0)


@pytest.fixture
def keeper(table: Table) -> Trial:
    return Trial(table, process=1, role=KEEPER)


def enter(trial: Trial, pool: int = 0) -> int:
    client = trial.admit(1)
    assert trial.enter(client, pool, pool_generation(trial.table, pool))
    return client


def idle_server(trial: Trial, pool: int = 0) -> int:
    """A server that was opened for a client and given back."""
    client = enter(trial, pool)
    _, slot = trial.take(pool, client, 1)
    assert trial.give_back(slot, 2) == client
    trial.give_back(slot, 3)
    trial.dismiss(client)
    return slot


def test_rows_are_given_until_none_is_left(table: Table) -> None:
    for row in (1, 2):
        assert find_unused_pool(table) == row
        add_pool(table, row, 1)
    assert find_unused_pool(table) == NONE
    assert [pool.number for pool in pool_rows(table)] == [0, 1, 2]


def test_a_removed_pool_takes_nobody_in_and_its_row_waits_for_who_is_there(table: Table, worker: Trial) -> None:
    inside, late = enter(worker), worker.admit(1)
    remove_pool(table, 0)
    assert not worker.enter(late, 0, 0)
    assert not free_pool(table, 0)
    worker.dismiss(inside)
    assert free_pool(table, 0)
    assert not free_pool(table, 0)
    add_pool(table, 0, 1)
    assert not worker.enter(late, 0, 0), "that is another pool by now"
    assert worker.enter(late, 0, 1)


def test_waiters_of_a_removed_pool_are_told_why(table: Table, worker: Trial, keeper: Trial) -> None:
    waiter = enter(worker)
    worker.take(0, waiter, 1)
    _, wake = remove_pool(table, 0)
    assert worker.client_row(waiter)["wait_state"] == Wait.FAILED
    assert get_failure(table, 0) == REMOVED
    assert worker.attention_of(0) == ATTEND_WAITERS and keeper.attention_of(1) == ATTEND_POOLS
    assert wake == 0b11


def test_idle_servers_that_are_outdated_go_to_the_keeper(table: Table, worker: Trial, keeper: Trial) -> None:
    slot = idle_server(worker)
    assert resize_pool(table, 0, 2, version=1) == ([], 0b10)
    row = worker.slot_row(slot)
    assert (row["state"], row["owner"]) == (Slot.CLOSING, 1)
    assert keeper.take_mail() == [slot]


def test_without_a_keeper_they_are_named_to_be_forgotten(table: Table, worker: Trial) -> None:
    slot = idle_server(worker)
    assert resize_pool(table, 0, 2, version=1) == ([(slot, 0)], 0)
    assert worker.slot_row(slot)["state"] == Slot.FREE


def test_collecting_needs_an_empty_pool_of_that_generation(table: Table, worker: Trial, keeper: Trial) -> None:
    client = enter(worker)
    assert not collect_pool(table, 0, 0)
    worker.dismiss(client)
    assert not collect_pool(table, 0, 1)
    slot = idle_server(worker)
    assert not collect_pool(table, 0, 0)
    keeper.claim_idle(slot, 0, Slot.CLOSING)
    assert not collect_pool(table, 0, 0)
    keeper.finish_close(slot)
    assert collect_pool(table, 0, 0)
    assert not worker.enter(worker.admit(2), 0, 0)
    assert free_pool(table, 0) and pool_generation(table, 0) == 1


def test_a_row_starts_from_nothing_with_its_next_pool(table: Table, worker: Trial) -> None:
    set_parameters(table, 0, b"S\0\0\0\x08a\0b\0")
    worker.set_paused(0, True)
    worker.count_under_lock(0, 5)
    remove_pool(table, 0)
    assert worker.counted() == 5
    assert free_pool(table, 0)
    add_pool(table, 0, 1)
    (pool,) = pool_rows(table)
    assert (pool.paused, pool.failed_at) == (False, 0)
    assert get_parameters(table, 0) == b"" and worker.counted() == 0
    assert pool_totals(table, 0).queries == 0


def test_what_an_outdated_server_reports_does_not_replace_what_a_new_one_did(table: Table) -> None:
    set_parameters(table, 0, b"old", 0)
    resize_pool(table, 0, 2, version=1)
    set_parameters(table, 0, b"older", 0)
    assert get_parameters(table, 0) == b"old"
    set_parameters(table, 0, b"new", 1)
    assert get_parameters(table, 0) == b"new"
