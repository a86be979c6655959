"""The vault's answers, in every order of messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from doorman.shm.table import Table
from doorman.workers.channel import Deposited, Forget, Message, Publish, Want, close_all
from doorman.workers.process import Process
from doorman.workers.vault import Vault


class Peer:
    """A child and its channel."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.told: list[Message] = []
        self.channel = SimpleNamespace(fileno=lambda: 100 + row)


class Hub:
    """The master as the vault sees it. `meanwhile` is called for each child when its channel is read."""

    def __init__(self, table: Table, count: int) -> None:
        self.table = table
        self.children = {100 + row: Peer(row) for row in range(count)}
        self.meanwhile: Callable[[int], None] = lambda row: None
        self.deposits: list[tuple[Peer, Publish]] = []
        self.deaf_until = None
        self.vault = Vault(self)  # type: ignore[arg-type]

    def peer(self, row: int) -> Any:
        return self.children[100 + row]

    def read_all(self, child: Peer) -> None:
        self.meanwhile(child.row)

    def collect(self, child: Peer) -> None:
        for peer, message in [entry for entry in self.deposits if entry[0] is child]:
            self.deposits.remove((peer, message))
            self.vault.publish(peer, message, [os.open("/dev/null", os.O_RDONLY)])  # type: ignore[arg-type]

    def tell(self, child: Peer, message: Message, *descriptors: int) -> None:
        child.told.append(message)


@pytest.fixture
def hub() -> Iterator[Hub]:
    table = Table.create(processes=3, pools=1, slots=4, clients=4, max_connections=4, statements=4)
    hub = Hub(table, 3)
    yield hub
    close_all(hub.vault.sockets.values())


def test_a_socket_that_was_deposited_behind_the_readers_back_is_not_said_to_be_over(hub: Hub) -> None:
    """Worker 0 opens a server after its channel was read and before worker 2's is, who has a client for it by then."""

    def meanwhile(row: int) -> None:
        if row == 2:
            hub.deposits.append((hub.peer(0), Publish(3, 0)))
            hub.vault.unanswered.append((hub.peer(2), Want(3, 0)))
            hub.meanwhile = lambda row: None

    hub.meanwhile = meanwhile
    hub.vault.unanswered.append((hub.peer(1), Want(2, 0)))
    while hub.vault.unanswered:
        hub.vault.answer_wants()
    assert hub.peer(1).told == [Forget([(2, 0)])]
    assert hub.peer(2).told == [Publish(3, 0)]


def test_a_publish_that_could_not_be_sent_is_sent_later() -> None:
    """A full channel, and no descriptor left for the duplicate that would wait in the queue."""

    def send(message: Message, descriptors: tuple[int, ...]) -> None:
        raise OSError(24, "Too many open files")

    later: list[tuple[int, int]] = []
    channel = SimpleNamespace(send=send, has_queue=False)
    process: Any = SimpleNamespace(channel=channel, republish_later=lambda *server: later.append(server))
    Process.tell(process, Publish(3, 7), 0)
    Process.tell(process, Want(3, 7))
    assert later == [(3, 7)]


def test_what_was_deposited_is_announced_before_anything_waits_in_the_queue() -> None:
    """The kernel takes none while too many of a user's descriptors are on their way: those must be collected first."""
    told: list[Message] = []
    channel = SimpleNamespace(deposit=lambda message: False, deposit_server=lambda *server: False)
    process: Any = SimpleNamespace(channel=channel, deposited_at=1.0, tell=lambda message, *fds: told.append(message))
    process.have_collected = lambda: Process.have_collected(process)
    for _ in range(2):
        Process.publish(process, 3, 7, 0)
    Process.deposit(process, Forget([(3, 7)]))
    assert told == [Deposited(), Publish(3, 7), Publish(3, 7), Forget([(3, 7)])]
