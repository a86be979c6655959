"""Counters and histograms: who adds what up, percentiles beside exact ones, windows, and what a reader touches."""

from __future__ import annotations

import random

import pytest

from doorman.shm.counters import (
    end_window,
    pool_averages,
    pool_cumulative,
    pool_percentiles,
    pool_times,
    pool_totals,
)
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from tests.simulate.rows import make_table

EXACT = 0.02


@pytest.fixture
def table() -> Table:
    return make_table(processes=4, pool_sizes=(2, 3))


def workers(table: Table) -> list[Trial]:
    return [Trial(table, process=row) for row in range(3)]


def exact(times: list[int], share: float) -> int:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, max(0, int(share * len(ordered) + 0.999999) - 1))]


@pytest.mark.parametrize("seed", range(6))
def test_percentiles_over_all_workers_are_within_two_percent(table: Table, seed: int) -> None:
    chance = random.Random(seed)
    draw = [
        lambda: int(chance.lognormvariate(7, 2)),
        lambda: chance.randrange(1, 70),
        lambda: int(chance.paretovariate(1) * 1000),
    ][seed % 3]
    times = []
    for worker in workers(table):
        for _ in range(2000):
            times.append(draw())
            worker.count_query(1, times[-1])
    found = pool_percentiles(table, 1).query
    for share, value in zip((0.5, 0.9, 0.95, 0.99), found, strict=True):
        right = exact(times, share)
        assert abs(value - right) <= max(1, EXACT * right), (share, value, right)
    assert pool_percentiles(table, 0).query == (0, 0, 0, 0)


def test_buckets_are_cumulative_and_sums_exact(table: Table) -> None:
    times = [0, 499, 501, 4_000, 60_000, 700_000, 9_000_000]
    for worker, time in zip(workers(table) * 3, times, strict=False):
        worker.count_query(0, time)
    assert pool_cumulative(table, 0).query == (2, 4, 4, 5, 6)
    totals = pool_totals(table, 0)
    assert (totals.queries, totals.query_time) == (len(times), sum(times))
    assert pool_times(table, 1)[0].query == (0, 0, 0, 0, 0)


def test_a_window_ends_and_percentiles_forget_what_was_before_the_last_two(table: Table) -> None:
    worker = workers(table)[0]
    for time in (100, 1_000, 10_000):
        for _ in range(50):
            worker.count_query(0, time)
        assert pool_percentiles(table, 0).query[3] == pytest.approx(time, rel=EXACT)
        end_window(table, 0)
        assert pool_averages(table, 0).query_us == time
    assert pool_percentiles(table, 0).query[0] == pytest.approx(10_000, rel=EXACT)
    for _ in range(4):
        end_window(table, 0)
    assert pool_averages(table, 0).query_us == 0 and pool_percentiles(table, 0).query == (0, 0, 0, 0)
    assert pool_totals(table, 0).queries == 150


def test_a_successor_counts_on_in_the_same_row(table: Table) -> None:
    workers(table)[1].count_query(0, 5)
    Trial(table, process=1).count_query(0, 5)
    assert pool_totals(table, 0).queries == 2


def test_errors_are_counted_by_class(table: Table) -> None:
    worker = workers(table)[0]
    for sqlstate in ("08006", "53300", "57014", "57P01", "25P02", "26000", "42P01", "XX000"):
        worker.count_error(0, sqlstate.encode())
    totals = pool_totals(table, 0)
    assert totals.errors == 8 and totals.errors_of_class == (1, 1, 2, 1, 1, 2)
