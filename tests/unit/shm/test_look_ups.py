"""The counters of auth_query in the table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doorman.shm.look_ups import COUNTS, close_row, count_look_up, look_up_rows, open_row, set_entries
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from tests.simulate.rows import WORKER, make_table


@pytest.fixture
def table() -> Iterator[Table]:
    table = make_table()
    yield table
    table.close()


def test_anybody_counts_and_everybody_reads(table: Table) -> None:
    open_row(table, "shop", False)
    open_row(table, "accounts", False)
    for row in (0, 1):
        worker = Trial(table, process=row, role=WORKER).table
        for name in COUNTS:
            count_look_up(worker, "shop", name)
    set_entries(table, "shop", 7)
    first, second = look_up_rows(table)
    assert (first.database, second.database, second.cache_entries) == ("accounts", "shop", 7)
    assert second.counts == dict.fromkeys(COUNTS, 2) and first.counts == dict.fromkeys(COUNTS, 0)


def test_a_keepers_successor_counts_on_and_a_reload_begins_anew(table: Table) -> None:
    open_row(table, "shop", False)
    count_look_up(table, "shop", "cache_hits")
    set_entries(table, "shop", 7)
    open_row(table, "shop", False)
    (row,) = look_up_rows(table)
    assert (row.generation, row.counts["cache_hits"], row.cache_entries) == (1, 1, 0)
    open_row(table, "shop", True)
    (row,) = look_up_rows(table)
    assert (row.generation, row.counts["cache_hits"]) == (2, 0)
    close_row(table, "shop")
    count_look_up(table, "shop", "cache_hits")
    assert look_up_rows(table) == []


def test_rows_are_given_out_until_none_is_left(table: Table) -> None:
    assert all(open_row(table, f"db {number}", False) for number in range(256))
    assert not open_row(table, "one more", False)
    close_row(table, "db 5")
    assert open_row(table, "one more", False)
