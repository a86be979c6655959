"""A stand-in for a worker or the keeper: goes through the doors of the pool as the relay does, without sockets.

It knows only what a real process knows: what it took, opened, claimed itself, and what its mailbox says. So a slot
that a repair leaves to somebody who is never told of it stays where it is and is found by the invariants.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from doorman.shm.trial import Trial
from tests.simulate.rows import (
    ATTEND_POOLS,
    ATTEND_WAITERS,
    BACK_CLOSE,
    BACK_REFUSED,
    KEEPER,
    NONE,
    Slot,
    Wait,
)


@dataclass
class Belongings:
    """Clients and servers that this process knows to be its own."""

    clients: dict[int, int] = field(default_factory=dict)  # client -> pool
    waiting: set[int] = field(default_factory=set)
    serving: dict[int, int] = field(default_factory=dict)  # slot -> client
    resetting: set[int] = field(default_factory=set)
    opening: set[int] = field(default_factory=set)
    closing: set[int] = field(default_factory=set)
    cancels: list[tuple[int, int]] = field(default_factory=list)  # (slot, generation)


class Actor:
    def __init__(
        self, trial: Trial, clock: Callable[[], int], rng: random.Random, role: int, most_clients: int
    ) -> None:
        self.trial = trial
        self.clock = clock
        self.rng = rng
        self.role = role
        self.pools = range(trial.table.pool_count)
        self.own = Belongings()
        self.most_clients = most_clients
        self.moves: list[Callable[[], None]] = [
            *[self.take] * 6,
            *[self.release] * 6,
            *[self.read_mail] * 3,
            self.admit,
            self.dismiss,
            self.finish_reset,
            self.finish_open,
            self.finish_open,
            self.fail_open,
            self.finish_close,
            self.time_out,
            self.cancel,
            self.end_cancel,
            self.claim_idle,
            self.reserve,
            self.reset,
            self.close,
            self.pause_or_resume,
            self.reconnect,
        ]

    def has_use_for(self, move: str) -> bool:
        """False: that move would surely do nothing now."""
        own = self.own
        needed: dict[str, object] = {
            "take": set(own.clients) - own.waiting - set(own.serving.values()),
            "release": own.serving,
            "reset": own.serving,
            "close": own.serving,
            "dismiss": own.clients,
            "finish_reset": own.resetting,
            "finish_open": own.opening,
            "fail_open": own.opening,
            "finish_close": own.closing,
            "time_out": own.waiting,
            "end_cancel": own.cancels,
            "read_mail": self.trial.has_mail(),
        }
        return bool(needed.get(move, True))

    def step(self) -> None:
        self.rng.choice(self.moves)()

    # --- clients -----------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        if len(self.own.clients) >= self.most_clients or self.role == KEEPER:
            return
        client = self.trial.admit(self.clock())
        if client != NONE:
            pool = self.rng.choice(self.pools)
            self.own.clients[client] = pool
            self.trial.log_in(client, pool, cancel_pid=self.rng.randrange(1, 1 << 31))

    def dismiss(self) -> None:
        client = self.some(self.own.clients)
        if client is None:
            return
        if client in self.own.waiting:
            self.stop_waiting(client)
        slot = next((slot for slot, user in self.own.serving.items() if user == client), None)
        if slot is not None:
            del self.own.serving[slot]
            assert self.trial.start_reset(slot)
            self.own.resetting.add(slot)
        del self.own.clients[client]
        self.trial.dismiss(client)

    def take(self) -> None:
        busy = self.own.waiting | set(self.own.serving.values())
        client = self.some([client for client in self.own.clients if client not in busy])
        if client is None:
            return
        slot, to_open = self.trial.take(self.own.clients[client], client, self.clock())
        if slot == NONE:
            self.own.waiting.add(client)
        else:
            self.serve(slot, client)
        if to_open != NONE:
            self.own.opening.add(to_open)

    def serve(self, slot: int, client: int) -> None:
        self.own.waiting.discard(client)
        self.own.serving[slot] = client
        self.trial.set_home(slot)
        self.trial.set_running(slot, True)

    def time_out(self) -> None:
        client = self.some(self.own.waiting)
        if client is not None:
            self.stop_waiting(client)

    def stop_waiting(self, client: int) -> None:
        self.own.waiting.discard(client)
        slot = self.trial.leave_queue(client)
        if slot != NONE:
            self.hand_on(slot)

    # --- servers -----------------------------------------------------------------------------------------------------

    def hand_on(self, slot: int) -> None:
        result = self.trial.give_back(slot, self.clock())
        assert result != BACK_REFUSED, f"slot {slot} was refused: {self.trial.slot_row(slot)}"
        if result >= 0:
            self.serve(slot, result)
        elif result == BACK_CLOSE:
            self.own.closing.add(slot)

    def release(self) -> None:
        slot = self.some(self.own.serving)
        if slot is not None:
            self.stop_serving(slot)
            self.hand_on(slot)

    def stop_serving(self, slot: int) -> None:
        del self.own.serving[slot]
        self.trial.set_running(slot, False)

    def reset(self) -> None:
        slot = self.some(self.own.serving)
        if slot is not None:
            self.stop_serving(slot)
            assert self.trial.start_reset(slot)
            self.own.resetting.add(slot)

    def finish_reset(self) -> None:
        if self.own.resetting:
            self.hand_on(self.own.resetting.pop())

    def close(self) -> None:
        slot = self.some(self.own.serving)
        if slot is not None:
            self.stop_serving(slot)
            assert self.trial.start_close(slot)
            self.own.closing.add(slot)

    def finish_close(self) -> None:
        if self.own.closing:
            slot = self.own.closing.pop()
            pool = self.trial.slot_row(slot)["pool"]
            self.trial.finish_close(slot)
            self.reserve_in(pool)

    def finish_open(self) -> None:
        if self.own.opening:
            self.hand_on(self.own.opening.pop())

    def fail_open(self) -> None:
        if self.own.opening and self.rng.random() < 0.5:
            self.trial.open_failed(self.own.opening.pop(), self.clock())

    def reserve(self) -> None:
        self.reserve_in(self.rng.choice(self.pools))

    def reserve_in(self, pool: int) -> None:
        slot = self.trial.reserve(pool, self.clock())
        if slot != NONE:
            self.own.opening.add(slot)

    def claim_idle(self) -> None:
        slot = self.trial.pool_row(self.rng.choice(self.pools))["idle_tail"]
        if slot == NONE:
            return
        row = self.trial.slot_row(slot)
        to = self.rng.choice((Slot.RESETTING, Slot.CLOSING))
        if self.trial.claim_idle(slot, row["generation"], to):
            (self.own.resetting if to == Slot.RESETTING else self.own.closing).add(slot)

    # --- console -----------------------------------------------------------------------------------------------------

    def pause_or_resume(self) -> None:
        pool = self.rng.choice(self.pools)
        paused = not self.trial.pool_row(pool)["paused"] and self.rng.random() < 0.2
        self.trial.set_paused(pool, paused)
        if not paused:
            self.reserve_in(pool)

    def resume(self) -> None:
        for pool in self.pools:
            if self.trial.pool_row(pool)["paused"]:
                self.trial.set_paused(pool, False)

    def reconnect(self) -> None:
        self.trial.reconnect(self.rng.choice(self.pools))

    # --- cancel requests ---------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        high = self.trial.header_row()["clients_high"]
        if high == 0:
            return
        client = self.rng.randrange(high)
        row = self.trial.client_row(client)
        if row["cancel_pid"]:
            slot = self.trial.begin_cancel(client, row["connection_id"])
            if slot != NONE:
                self.own.cancels.append((slot, self.trial.slot_row(slot)["generation"]))

    def end_cancel(self) -> None:
        if self.own.cancels:
            slot, generation = self.own.cancels.pop()
            if self.trial.end_cancel(slot, generation, self.rng.random() < 0.3):
                self.hand_on(slot)

    # --- mail --------------------------------------------------------------------------------------------------------

    def read_mail(self) -> None:
        for slot in self.trial.take_mail():
            row = self.trial.slot_row(slot)
            if row["owner"] != self.trial.process:
                continue
            if row["state"] == Slot.GRANTED and row["client"] in self.own.waiting:
                if self.trial.accept_grant(slot, row["client"], self.clock()):
                    self.serve(slot, row["client"])
            elif row["state"] == Slot.CLOSING and self.role == KEEPER:
                self.own.closing.add(slot)
        attention = self.trial.table.take_attention()
        if attention & ATTEND_WAITERS:
            self.look_at_waiters()
        if attention & ATTEND_POOLS:
            for pool in self.pools:
                self.reserve_in(pool)

    def look_at_waiters(self) -> None:
        for client in list(self.own.waiting):
            if self.trial.client_row(client)["wait_state"] in (Wait.FAILED, Wait.CANCELLED):
                self.trial.end_wait(client)
                self.own.waiting.discard(client)

    def look_around(self) -> None:
        """A keeper that was just born: what is CLOSING in its name?"""
        for slot in range(self.trial.table.slot_count):
            row = self.trial.slot_row(slot)
            if row["state"] == Slot.CLOSING and row["owner"] == self.trial.process:
                self.own.closing.add(slot)
        for pool in self.pools:
            self.reserve_in(pool)

    # --- rest --------------------------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """Finish what is under way and begin nothing new. True while there was something to do."""
        own = self.own
        had = bool(own.serving or own.resetting or own.opening or own.closing or own.cancels or self.trial.has_mail())
        self.read_mail()
        while own.cancels:
            self.end_cancel()
        for slot in list(own.serving):
            self.stop_serving(slot)
            self.hand_on(slot)
        while own.resetting:
            self.finish_reset()
        while own.opening:
            self.finish_open()
        while own.closing:
            self.finish_close()
        for pool in self.pools:
            self.reserve_in(pool)
        self.resume()
        return had or bool(own.opening)

    def some(self, choices: Iterable[int]) -> int | None:
        members = list(choices)
        return self.rng.choice(members) if members else None
