"""A process killed between any two instructions of any door: after the repair the table is whole, nobody is stuck."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from doorman.shm.repair import repair_after
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from tests.simulate.actor import Actor, Belongings
from tests.simulate.crash_states import can_trace, crash_states
from tests.simulate.invariants import check_at_rest, check_table
from tests.simulate.rows import KEEPER, WORKER, make_table

WORKERS = 3
KEEPER_ROW = WORKERS
POOL_SIZES = (2, 3)

needs_ptrace = pytest.mark.skipif(not can_trace(), reason="needs ptrace with single steps (x86_64)")


class Clock:
    """Time passes with every look, fast enough that a failed opening is tried again soon."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        self.now += 20_000
        return self.now


class Cast:
    """A table, actors for three workers and the keeper, and what is needed to go back to an earlier instant."""

    def __init__(self, seed: int) -> None:
        self.table = make_table(processes=WORKERS + 1, pool_sizes=POOL_SIZES)
        self.clock = Clock()
        self.rng = random.Random(seed)
        self.most_clients = 1 + seed % 3  # 3 to 9 clients for 5 servers
        self.actors = [self.make_actor(row) for row in range(WORKERS + 1)]
        self.master = self.actors[0].trial

    def make_actor(self, row: int) -> Actor:
        role = KEEPER if row == KEEPER_ROW else WORKER
        return Actor(Trial(self.table, process=row, role=role), self.clock, self.rng, role, self.most_clients)

    def play(self, steps: int) -> None:
        for _ in range(steps):
            self.rng.choice(self.actors).step()

    def remember(self) -> list[Belongings]:
        return [copy.deepcopy(actor.own) for actor in self.actors]

    def go_back(self, snapshot: bytes, belongings: list[Belongings]) -> None:
        self.master.restore(snapshot)
        for actor, own in zip(self.actors, belongings, strict=True):
            actor.own = copy.deepcopy(own)

    def bury(self, victim: int) -> None:
        """Repair after the death of an actor, whose row somebody new gets; nobody misses a wake-up."""
        freed, wake = repair_after(self.table, victim, self.actors[victim].trial.pid)
        assert len(freed) == len(set(freed))
        for row in range(WORKERS + 1):
            if row != victim and (self.master.mail_of(row) or self.master.attention_of(row)):
                assert wake >> row & 1, f"process {row} has mail and is not woken"
        check_table(self.master)
        assert not any(
            row["state"] and row["worker"] == victim
            for row in map(self.master.client_row, range(self.master.header_row()["clients_high"]))
        ), "a client row of the dead process is left"
        self.actors[victim] = self.make_actor(victim)
        self.actors[victim].look_around()

    def come_to_rest(self) -> None:
        for _ in range(60):
            under_way = [actor.settle() for actor in self.actors]
            if not any(under_way):
                break
        check_at_rest(self.master)


@pytest.fixture
def cast(request: pytest.FixtureRequest) -> Iterator[Cast]:
    cast = Cast(request.param)
    yield cast
    cast.table.close()


def test_the_cast_itself_keeps_the_rules() -> None:
    cast = Cast(seed=0)
    for _ in range(3000):
        cast.play(1)
        check_table(cast.master)
    cast.come_to_rest()
    cast.table.close()


@needs_ptrace
@pytest.mark.parametrize("cast", range(4), indirect=True)
def test_every_state_a_killed_process_can_leave_is_repaired(cast: Cast) -> None:
    moves = sorted({move.__name__ for move in cast.actors[0].moves})
    tried = Counter(dict.fromkeys(moves, 0))
    for move in moves * 2:
        tried[move] += kill_sometime_within(cast, move)
    assert tried.total() > 200 and min(tried.values()) > 0, tried


def kill_sometime_within(cast: Cast, move: str) -> int:
    """Go on until somebody really can make that move, then kill it there."""
    for _ in range(200):
        cast.play(cast.rng.randrange(5, 20))
        for victim in cast.rng.sample(range(WORKERS + 1), WORKERS + 1):
            states = kill_within(cast, victim, move) if cast.actors[victim].has_use_for(move) else 0
            if states:
                return states
    return 0


def kill_within(cast: Cast, victim: int, move: str) -> int:
    """Try all states of one move; the number of them. The cast is then as it was before."""
    actor = cast.actors[victim]
    before, belongings, rng = cast.master.snapshot(), cast.remember(), cast.rng.getstate()
    states = list(crash_states(actor.trial, getattr(actor, move)))
    if len(states) == 1:
        return 0
    for number, state in enumerate(states):
        cast.go_back(state, belongings)
        try:
            cast.bury(victim)
            cast.come_to_rest()
        except AssertionError as problem:
            problem.add_note(f"process {victim} was killed in {move}, state {number} of {len(states)}")
            raise
    cast.actors[victim] = actor
    cast.go_back(before, belongings)
    cast.rng.setstate(rng)
    return len(states)


@needs_ptrace
def test_a_resume_that_was_cut_short_is_finished() -> None:
    cast = Cast(seed=0)
    serving, waiting, console = cast.actors[:3]
    for actor in (serving, waiting):
        client = actor.trial.admit(1)
        actor.trial.log_in(client, 0)
        actor.own.clients[client] = 0
    serving.take()
    serving.finish_open()
    console.trial.set_paused(0, True)
    waiting.take()
    serving.release()
    assert kill_within(cast, 2, "resume") > 5
    cast.table.close()


def test_a_row_that_somebody_else_has_is_not_repaired() -> None:
    table: Table = make_table()
    Trial(table, process=1)
    with pytest.raises(ValueError, match="process row 1 belongs to"):
        repair_after(table, 1, 4711)
    table.close()
