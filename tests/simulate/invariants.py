"""What must be true of a table whenever nobody is inside a lock, read from the bare rows.

Rules checked
1. No lock is held, no claim stands; every count is the number of slots in that state; servers never exceed pool_size,
   but for a pool whose size was lowered: that has as many as before at most, and none of them idles while it has more.
2. The idle list has exactly the IDLE slots, doubly linked; the queue has exactly the QUEUED clients, by ticket.
3. A slot names at most one client and that client names it; no two slots name the same client.
4. No server idles while somebody waits, unless the pool is paused.
5. A GRANTED slot lies in the mailbox of its client's process.
6. Client rows in use and in the free list are all rows; `clients_used` counts the former.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from doorman.shm.trial import Trial
from tests.simulate.rows import NONE, Slot, Wait

Row = dict[str, int]


def check_table(trial: Trial, sizes: Mapping[int, int] | None = None) -> None:
    """Raise AssertionError when the table breaks a rule. sizes: servers that a pool may have that was made smaller."""
    slots = [trial.slot_row(number) for number in range(trial.table.slot_count)]
    clients = [trial.client_row(number) for number in range(trial.header_row()["clients_high"])]
    for number, slot in enumerate(slots):
        assert slot["claim"] == 0, f"slot {number} is still claimed by {slot['claim']}"
    for pool in range(trial.table.pools_high):
        check_pool(trial, pool, slots, clients, (sizes or {}).get(pool, 0))
    check_lending(trial, slots, clients)
    check_client_rows(trial, clients)


def check_pool(trial: Trial, number: int, slots: list[Row], clients: list[Row], most: int) -> None:
    pool = trial.pool_row(number)
    states = Counter(slot["state"] for slot in slots if slot["pool"] == number)
    assert pool["owner"] == 0, f"pool {number} is locked by {pool['owner']}"
    assert pool["n_idle"] == states[Slot.IDLE]
    assert pool["n_busy"] == states[Slot.ACTIVE] + states[Slot.GRANTED] + states[Slot.RESETTING]
    assert pool["n_opening"] == states[Slot.OPENING] <= pool["max_opening"]
    assert pool["n_closing"] == states[Slot.CLOSING]
    servers = sum(states.values()) - states[Slot.FREE]
    assert servers <= max(pool["pool_size"], most)
    assert servers - states[Slot.CLOSING] <= pool["pool_size"] or not states[Slot.IDLE]

    idle = walk(pool["idle_head"], pool["idle_tail"], lambda n: (slots[n]["next"], slots[n]["previous"]))
    assert set(idle) == {n for n, s in enumerate(slots) if s["pool"] == number and s["state"] == Slot.IDLE}
    for slot in idle:
        assert slots[slot]["owner"] == NONE and slots[slot]["canceller"] == NONE

    queue = queue_of(trial, number, clients)
    assert pool["n_waiting"] == len(queue)
    assert set(queue) == {
        n for n, c in enumerate(clients) if c["state"] and c["pool"] == number and c["wait_state"] == Wait.QUEUED
    }
    tickets = [clients[client]["wait_ticket"] for client in queue]
    assert tickets == sorted(set(tickets)), f"queue of pool {number} is out of order: {tickets}"
    assert not (idle and queue) or pool["paused"], f"pool {number}: {idle} idle while {queue} wait"


def queue_of(trial: Trial, number: int, clients: list[Row]) -> list[int]:
    pool = trial.pool_row(number)
    return walk(pool["wait_head"], pool["wait_tail"], lambda n: (clients[n]["wait_next"], clients[n]["wait_previous"]))


def walk(head: int, tail: int, links: Callable[[int], tuple[int, int]]) -> list[int]:
    """The members of a doubly linked list, whose links are checked."""
    seen: list[int] = []
    at, before = head, NONE
    while at != NONE:
        assert at not in seen, f"the list runs in a circle: {seen} then {at}"
        following, previous = links(at)
        assert previous == before, f"{at} names {previous} before it, it is {before}"
        seen.append(at)
        at, before = following, at
    assert tail == before
    return seen


def check_lending(trial: Trial, slots: list[Row], clients: list[Row]) -> None:
    named: set[int] = set()
    for number, slot in enumerate(slots):
        if slot["state"] not in (Slot.ACTIVE, Slot.GRANTED):
            assert slot["state"] == Slot.FREE or slot["client"] == NONE, f"slot {number} names a client: {slot}"
            continue
        assert slot["client"] != NONE and slot["client"] not in named, (number, slot)
        client = clients[slot["client"]]
        named.add(slot["client"])
        assert client["state"] and client["slot"] == number and client["pool"] == slot["pool"], (number, slot, client)
        assert client["worker"] == slot["owner"], (number, slot, client)
        granted = slot["state"] == Slot.GRANTED
        assert client["wait_state"] == (Wait.GRANTED if granted else Wait.NO), (number, slot, client)
        assert not granted or number in trial.mail_of(slot["owner"]), f"nobody told {slot['owner']} of slot {number}"
    for number, client in enumerate(clients):
        if client["state"] and number not in named:
            assert client["slot"] == NONE and client["wait_state"] != Wait.GRANTED, (number, client)


def check_client_rows(trial: Trial, clients: list[Row]) -> None:
    header = trial.header_row()
    assert header["clients_owner"] == 0
    used = {number for number, client in enumerate(clients) if client["state"]}
    free: list[int] = []
    at = header["clients_free"]
    while at != NONE:
        assert at not in free
        free.append(at)
        at = clients[at]["next_free"]
    assert used.isdisjoint(free) and len(used) + len(free) == header["clients_high"]
    assert header["clients_used"] == len(used)
    for number, client in enumerate(clients):
        assert client["state"] or client["cancel_pid"] == 0, f"free row {number} can be found by its cancel key"


def check_at_rest(trial: Trial) -> None:
    """Nothing is under way: nobody waits, every server is idle."""
    check_table(trial)
    for number in range(trial.table.slot_count):
        row = trial.slot_row(number)
        assert row["state"] in (Slot.FREE, Slot.IDLE), f"slot {number} never came to rest: {row}"
    for number in range(trial.header_row()["clients_high"]):
        client = trial.client_row(number)
        assert client["state"] == 0 or client["wait_state"] == Wait.NO, f"client {number} is stuck: {client}"
