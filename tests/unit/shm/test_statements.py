"""The set of prepared statements of a slot against an ordered dict; needs no server."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorman.shm.table import Table
from doorman.shm.trial import Trial

Digest = tuple[int, int]
Step = tuple[str, Digest]

# Few low words, so that buckets hold chains; equal low words with different high ones.
digests = st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 8, 9, 16, 1 << 32, (1 << 64) - 1]))
steps = st.lists(st.tuples(st.sampled_from(["has", "add", "add", "evict", "remove", "clear"]), digests), max_size=60)


class Model:
    """What a set is to do: the least recently used digest first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: OrderedDict[Digest, None] = OrderedDict()
        self.doubtful = False

    def has(self, digest: Digest) -> bool:
        if digest in self.held:
            self.held.move_to_end(digest)
        return digest in self.held

    def add(self, digest: Digest) -> bool:
        if digest not in self.held and len(self.held) >= self.capacity:
            self.doubtful = True
            return False
        self.held.setdefault(digest)
        return True

    def evict(self, most: int) -> Digest | None:
        if not self.held or len(self.held) < most:
            return None
        return self.held.popitem(last=False)[0]

    def remove(self, digest: Digest) -> bool:
        return self.held.pop(digest, 0) is None

    def clear(self) -> None:
        self.held.clear()
        self.doubtful = False


def make(capacity: int) -> Trial:
    table = Table.create(processes=1, pools=1, slots=3, clients=1, max_connections=1, statements=capacity)
    return Trial(table)


@pytest.fixture(params=[0, 1, 2, 5])
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    trial = make(request.param)
    yield trial
    trial.table.close()


def take(trial: Trial, model: Model, step: Step) -> None:
    what, digest = step
    if what == "has":
        assert trial.has_statement(1, *digest) == model.has(digest)
    elif what == "add":
        assert trial.add_statement(1, *digest) == model.add(digest)
    elif what == "remove":
        assert trial.remove_statement(1, *digest) == model.remove(digest)
    elif what == "evict":
        assert trial.evict_statement(1, model.capacity) == model.evict(model.capacity)
    else:
        trial.clear_statements(1)
        model.clear()
    state = trial.statement_set(1)
    assert (state["count"], bool(state["doubtful"])) == (len(model.held), model.doubtful)
    assert state["touched"] <= model.capacity


def check_order(trial: Trial, model: Model) -> None:
    """Emptied by eviction, the least recently used comes first."""
    while (victim := trial.evict_statement(1, 0)) is not None:
        assert victim == model.evict(0)
    assert not model.held


@pytest.mark.parametrize("capacity", [0, 1, 2, 5])
@settings(max_examples=150, deadline=None)
@given(steps=steps)
def test_a_set_does_what_its_model_does(capacity: int, steps: list[Step]) -> None:
    trial, model = make(capacity), Model(capacity)
    for step in steps:
        take(trial, model, step)
    check_order(trial, model)
    trial.table.close()


def test_the_bytes_of_a_set_are_those_of_what_it_holds() -> None:
    trial = make(5)
    for number in range(4):
        assert trial.add_statement(1, number, number, size=1000 + number)
    assert trial.add_statement(1, 0, 0, size=5)  # is there already
    assert trial.statement_set(1)["bytes"] == 4006
    assert trial.remove_statement(1, 2, 2) and trial.evict_statement(1, 0) == (0, 0)
    assert trial.statement_set(1)["bytes"] == 2004
    trial.clear_statements(1)
    assert trial.statement_set(1)["bytes"] == 0
    trial.table.close()


def test_a_large_set_holds_all_and_evicts_by_use() -> None:
    capacity = 8192
    trial, model = make(capacity), Model(capacity)
    everything = [(number, number * 0x9E3779B97F4A7C15 % (1 << 64)) for number in range(capacity)]
    for digest in everything:
        assert trial.add_statement(1, *digest) and model.add(digest)
    assert not trial.add_statement(1, 1, 1) and not model.add((1, 1))
    for digest in everything[::3]:
        assert trial.has_statement(1, *digest) and model.has(digest)
    for digest in everything[1::3]:
        assert trial.remove_statement(1, *digest) and model.remove(digest)
    check_order(trial, model)
    trial.table.close()


def test_sets_of_neighbouring_slots_do_not_touch(trial: Trial) -> None:
    for slot in (0, 1, 2):
        trial.add_statement(slot, slot, 7)
    trial.clear_statements(1)
    room = trial.table.total_bytes and trial.add_statement(1, 5, 5)
    assert trial.has_statement(0, 0, 7) == trial.has_statement(2, 2, 7) == room
    assert not trial.has_statement(1, 1, 7)


def test_a_set_without_room_is_doubtful_until_it_is_cleared() -> None:
    trial = make(0)
    assert not trial.add_statement(1, 1, 1) and not trial.has_statement(1, 1, 1)
    assert trial.statement_set(1)["doubtful"] and trial.evict_statement(1, 0) is None
    trial.clear_statements(1)
    assert not trial.statement_set(1)["doubtful"]
    trial.table.close()
