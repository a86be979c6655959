"""The door between slot states: what it lets through, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from doorman.shm.trial import Trial
from tests.simulate.invariants import check_table
from tests.simulate.rows import BACK_HELD, BACK_IDLE, NONE, Slot, make_table

ALLOWED = {
    Slot.FREE: {Slot.OPENING},
    Slot.OPENING: {Slot.IDLE, Slot.GRANTED, Slot.CLOSING},
    Slot.IDLE: {Slot.ACTIVE, Slot.RESETTING, Slot.GRANTED, Slot.CLOSING},
    Slot.ACTIVE: {Slot.IDLE, Slot.RESETTING, Slot.GRANTED, Slot.CLOSING},
    Slot.RESETTING: {Slot.IDLE, Slot.GRANTED, Slot.CLOSING},
    Slot.GRANTED: {Slot.ACTIVE, Slot.IDLE, Slot.GRANTED, Slot.CLOSING},
    Slot.CLOSING: {Slot.FREE},
}


@pytest.fixture
def trial() -> Iterator[Trial]:
    table = make_table(processes=3, pool_sizes=(4,))
    yield Trial(table, process=0)
    table.close()


def bring_to(trial: Trial, slot: int, state: Slot) -> None:
    """Lead slot 0 from FREE to a state by legal moves."""
    trial.force_state(slot, 0, Slot.FREE)
    ways = {
        Slot.FREE: (),
        Slot.OPENING: (Slot.OPENING,),
        Slot.IDLE: (Slot.OPENING, Slot.IDLE),
        Slot.ACTIVE: (Slot.OPENING, Slot.IDLE, Slot.ACTIVE),
        Slot.RESETTING: (Slot.OPENING, Slot.IDLE, Slot.RESETTING),
        Slot.GRANTED: (Slot.OPENING, Slot.GRANTED),
        Slot.CLOSING: (Slot.OPENING, Slot.CLOSING),
    }
    for step in ways[state]:
        assert trial.move(slot, step)


@pytest.mark.parametrize(("state", "to"), list(itertools.product(Slot, Slot)))
def test_every_move_is_allowed_or_refused_as_the_rules_say(trial: Trial, state: Slot, to: Slot) -> None:
    bring_to(trial, 0, state)
    before = trial.slot_row(0)
    moved = trial.move(0, to)
    assert moved == (to in ALLOWED[state])
    assert trial.slot_row(0)["state"] == (to if moved else state)
    if not moved:
        assert trial.slot_row(0) == before
    assert trial.slot_row(0)["generation"] == before["generation"] + (moved and to == Slot.FREE)


def serving(trial: Trial) -> tuple[int, int]:
    """A client of this process and the slot that runs its statement."""
    client = trial.admit(1)
    trial.log_in(client, 0)
    slot, to_open = trial.take(0, client, 2)
    if slot == NONE:
        slot = to_open
        assert trial.give_back(slot, 3) == client
    trial.set_running(slot, True)
    return client, slot


def test_a_slot_that_somebody_else_closes_keeps_its_owner(trial: Trial) -> None:
    _, slot = serving(trial)
    other = Trial(trial.table, process=1)
    assert other.start_close(slot)
    assert not trial.start_close(slot)
    assert trial.slot_row(slot)["owner"] == 1


def test_a_server_given_back_while_a_cancel_is_on_its_way_is_held(trial: Trial) -> None:
    client, slot = serving(trial)
    canceller = Trial(trial.table, process=1)
    generation = trial.slot_row(slot)["generation"]
    assert canceller.begin_cancel(client) == slot
    assert trial.give_back(slot, 4) == BACK_HELD
    assert canceller.end_cancel(slot, generation, doubtful=False)
    assert trial.slot_row(slot)["owner"] == 1, "from here on the canceller must be found with it"
    assert canceller.give_back(slot, 5) == BACK_IDLE
    check_table(trial)


def test_a_held_server_that_closes_meanwhile_is_not_given_on(trial: Trial) -> None:
    client, slot = serving(trial)
    canceller = Trial(trial.table, process=1)
    generation = trial.slot_row(slot)["generation"]
    canceller.begin_cancel(client)
    trial.give_back(slot, 4)
    assert trial.start_close(slot)
    assert not canceller.end_cancel(slot, generation, doubtful=False)
    trial.finish_close(slot)
    check_table(trial)


def test_a_cancel_request_for_a_client_that_was_replaced_hits_nobody(trial: Trial) -> None:
    client, slot = serving(trial)
    wanted = trial.client_row(client)["connection_id"]
    trial.start_reset(slot)
    trial.give_back(slot, 4)
    trial.dismiss(client)
    assert serving(trial) == (client, slot), "another client has the row and the server now"
    assert Trial(trial.table, process=1).begin_cancel(client, wanted) == NONE


def test_the_cancel_key_of_a_server_that_was_replaced_is_not_given(trial: Trial) -> None:
    client, slot = serving(trial)
    canceller = Trial(trial.table, process=1)
    generation = trial.slot_row(slot)["generation"]
    assert canceller.begin_cancel(client) == slot
    assert canceller.has_cancel_key(slot, generation)
    assert not trial.has_cancel_key(slot, generation), "it is not this process that cancels"
    trial.start_close(slot)
    assert canceller.has_cancel_key(slot, generation)
    trial.finish_close(slot)
    assert not canceller.has_cancel_key(slot, generation)
    assert serving(trial)[1] == slot
    assert not canceller.has_cancel_key(slot, generation + 1)


def test_a_resumed_pool_serves_who_waits(trial: Trial) -> None:
    _, slot = serving(trial)
    waiter = Trial(trial.table, process=1)
    client = waiter.admit(1)
    waiter.log_in(client, 0)
    trial.set_paused(0, True)
    assert waiter.take(0, client, 5) == (NONE, NONE)
    assert trial.give_back(slot, 6) == BACK_IDLE
    trial.set_paused(0, False)
    assert trial.woken == 0b10
    assert waiter.take_mail() == [slot] and waiter.accept_grant(slot, client, 7)
    check_table(trial)
