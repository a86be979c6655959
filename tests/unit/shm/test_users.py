"""The region of learnt SCRAM keys: found, replaced, dropped without a trace, and whole after a kill anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import pytest

from doorman.shm.repair import repair_after
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from doorman.shm.users import drop_key, find_key, has_key, keep_key
from tests.simulate.crash_states import can_trace, crash_states
from tests.simulate.rows import WORKER, make_table

needs_ptrace = pytest.mark.skipif(not can_trace(), reason="needs ptrace with single steps (x86_64)")


@pytest.fixture
def table() -> Iterator[Table]:
    table = make_table()
    yield table
    table.close()


def pair(number: int) -> tuple[bytes, bytes]:
    """StoredKey and ClientKey."""
    client_key = sha256(b"%d" % number).digest()
    return sha256(client_key).digest(), client_key


def test_a_key_is_found_by_every_process_until_it_is_dropped(table: Table) -> None:
    stored, key = pair(1)
    others = [Trial(table, process=row, role=WORKER).table for row in (1, 2)]
    assert find_key(table, stored) is None
    assert keep_key(others[0], stored, key)
    assert not keep_key(others[1], stored, key), "it is known already"
    assert find_key(others[1], stored) == key and has_key(table, stored)
    assert drop_key(table, stored)
    assert not drop_key(table, stored)
    assert find_key(others[0], stored) is None


def test_a_dropped_key_leaves_no_trace_in_the_segment(table: Table) -> None:
    stored, key = pair(1)
    trial = Trial(table, process=0, role=WORKER)
    keep_key(table, stored, key)
    assert key in trial.snapshot()
    drop_key(table, stored)
    assert key not in trial.snapshot() and stored not in trial.snapshot()


def test_a_full_table_gives_up_what_was_used_longest_ago(table: Table) -> None:
    favourite = pair(0)
    keep_key(table, *favourite)
    for number in range(1, 1000):
        keep_key(table, *pair(number))
        assert find_key(table, favourite[0]) == favourite[1]
        assert find_key(table, pair(number)[0]) == pair(number)[1]
    held = sum(has_key(table, pair(number)[0]) for number in range(1000))
    assert held == 64


@pytest.mark.parametrize("length", [0, 31, 33])
def test_other_lengths_are_refused(table: Table, length: int) -> None:
    for call in (
        lambda: keep_key(table, bytes(length), bytes(32)),
        lambda: keep_key(table, bytes(32), bytes(length)),
        lambda: find_key(table, bytes(length)),
        lambda: drop_key(table, bytes(length)),
    ):
        with pytest.raises(ValueError, match="32 bytes"):
            call()


@needs_ptrace
@pytest.mark.parametrize("move", ["keep", "replace", "drop"])
def test_a_kill_in_the_middle_leaves_the_key_or_nothing(table: Table, move: str) -> None:
    trial = Trial(table, process=1, role=WORKER)
    (stored, key), other = pair(1), pair(2)
    keep_key(table, *other)
    if move != "keep":
        keep_key(table, stored, bytes(32) if move == "replace" else key)
    work = (lambda: trial.drop_key(stored)) if move == "drop" else (lambda: trial.keep_key(stored, key))
    states = list(crash_states(trial, work))
    assert len(states) > 4
    for state in states:
        trial.restore(state)
        repair_after(table, 1, trial.pid)
        found = find_key(table, stored)
        assert found in (None, key) or (move == "replace" and found == bytes(32))
        assert find_key(table, other[0]) == other[1]
        if found is None:
            assert key not in trial.snapshot(), "half a row is left"
        keep_key(table, stored, key)
        assert find_key(table, stored) == key
        Trial(table, process=1, role=WORKER)
