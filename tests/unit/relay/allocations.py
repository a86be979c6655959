"""Counts what a relay asks of the allocator while it serves; test_allocations runs it with one that counts.

`python -m tests.unit.relay.allocations` prints, for each flow, allocations for each batch in a pipeline, and for each
batch of a client that waits for its answer before it sends the next.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable

from tests.fuzz.faithful import Application, Theatre
from tests.fuzz.stage import RENAMES, Stage
from tests.torture.wire import SYNC, bind, close_statement, describe_statement, execute, parse, query

FEW, MANY = 100, 300  # batches of a pipeline
TURNS = 200  # batches, one after the other
TEXT = "select 1"

FLOWS: dict[str, bytes] = {
    "named": bind(name="s") + execute() + SYNC,
    "named, described": bind(name="s") + describe_statement("s") + execute() + SYNC,
    "unnamed": parse(TEXT) + bind() + execute() + SYNC,
    "simple": query(TEXT),
    "named anew": close_statement("t") + parse(TEXT, "t") + bind(name="t") + execute() + SYNC,
}
"""What a batch is. "named anew" is here to show that the count counts: each time the client gets a name."""


class Counted(Theatre):
    """Adds up what happens within the relay, and nothing of what plays around it."""

    allocated = 0
    rounds = 0
    count: Callable[[], int]

    def round(self) -> int:
        moved = sum(end.move() for end in (*self.clients, *self.servers))
        before = self.count()
        self.relay.run()
        self.allocated += self.count() - before
        self.rounds += 1
        self.attend()
        return moved + sum(end.move() for end in (*self.clients, *self.servers))

    def settle(self) -> None:
        """However many exchanges it takes."""
        Stage.settle(self)
        while sum(server.work() for server in self.servers):
            Stage.settle(self)


def measure(count: Callable[[], int]) -> dict[str, tuple[float, float]]:
    theatre = Counted(pool_size=1, statement_limit=50, cache=50)
    theatre.count = count
    theatre.enter(RENAMES)
    client = theatre.clients[0]
    ask(theatre, client, parse(TEXT, "s") + parse(TEXT, "t") + SYNC)
    figures = {}
    for name, batch in FLOWS.items():
        ask(theatre, client, batch * MANY * 2)  # queues and buffers grow to what is needed
        ask(theatre, client, batch * MANY * 2)
        figures[name] = (in_a_pipeline(theatre, client, batch), one_by_one(theatre, client, batch))
    theatre.end()
    theatre.close()
    return figures


def in_a_pipeline(theatre: Counted, client: Application, batch: bytes) -> float:
    few, more = (ask(theatre, client, batch * times) for times in (FEW, MANY))
    return (more - few) / (MANY - FEW)


def one_by_one(theatre: Counted, client: Application, batch: bytes) -> float:
    """Without what a round costs in which nothing happens."""
    start, rounds = theatre.allocated, theatre.rounds
    for _ in range(TURNS):
        ask(theatre, client, batch)
    spent, rounds = theatre.allocated - start, theatre.rounds - rounds
    start = theatre.allocated
    for _ in range(rounds):
        theatre.round()
    return (spent - (theatre.allocated - start)) / TURNS


def ask(theatre: Counted, client: Application, data: bytes) -> int:
    """Allocations until all is answered."""
    start = theatre.allocated
    client.ask(data)
    theatre.settle()
    client.check(fully=True)
    client.received.clear()
    client.expected.clear()
    client.received += GREETING
    return theatre.allocated - start


GREETING = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"


def main() -> None:
    count = ctypes.CDLL(None).allocations
    count.restype = ctypes.c_long
    print(json.dumps(measure(count)))


if __name__ == "__main__":
    main()
