"""The channel between master and workers: whole messages, descriptors that arrive, a queue when nobody reads."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorman.auth.auth_query import Found
from doorman.workers.channel import (
    MAX_DESCRIPTORS,
    Channel,
    Drain,
    Forget,
    Message,
    Obtain,
    Publish,
    Ready,
    Want,
    close_all,
)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    pair = Channel.pair()
    yield pair
    for end in pair:
        end.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def drain(end: Channel) -> list[Message]:
    """All messages that are there; their descriptors are closed."""
    taken = []
    while (received := end.receive()) is not None:
        taken.append(received[0])
        close_all(received[1])
    return taken


@pytest.mark.parametrize("message", [Ready(), Publish(7, 0xFFFFFFFF), Forget([(0, 0)]), Want(65535, 1), Drain()])
def test_a_message_arrives_as_it_was_sent(ends: tuple[Channel, Channel], message: Message) -> None:
    for there, here in (ends, ends[::-1]):
        there.send(message)
        assert here.receive() == (message, [])
        assert here.receive() is None


@pytest.mark.parametrize("count", [1, 2, MAX_DESCRIPTORS])
def test_descriptors_arrive_open_and_close_on_exec(ends: tuple[Channel, Channel], count: int) -> None:
    reader, writer = os.pipe()
    ends[0].send(Publish(1, 2), [writer] * count)
    os.close(writer)
    received = ends[1].receive()
    assert received is not None and len(received[1]) == count
    for number, fd in enumerate(received[1]):
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.write(fd, b"%d" % (number % 10))
    assert len(os.read(reader, 100)) == count
    close_all([*received[1], reader])


def fill(channel: Channel) -> int:
    """Send until messages have to be queued; how many were sent."""
    for number in range(100_000):
        channel.send(Publish(number, number))
        if channel.has_queue:
            return number + 1
    raise AssertionError("the channel takes everything")


def test_what_the_peer_does_not_read_is_queued_and_comes_in_order(ends: tuple[Channel, Channel]) -> None:
    sender, receiver = ends
    sent = fill(sender)
    for number in range(sent, sent + 50):
        sender.send(Publish(number, number))
    taken: list[Message] = []
    while sender.has_queue:
        taken += drain(receiver)
        sender.flush()
    taken += drain(receiver)
    assert taken == [Publish(number, number) for number in range(sent + 50)]


def test_a_queued_message_keeps_its_descriptors_although_the_sender_closes_its_own(
    ends: tuple[Channel, Channel],
) -> None:
    sender, receiver = ends
    fill(sender)
    reader, writer = os.pipe()
    sender.send(Want(5, 5), [writer])
    os.close(writer)
    drain(receiver)
    sender.flush()
    messages = []
    while (received := receiver.receive()) is not None:
        messages.append(received)
    assert messages[-1][0] == Want(5, 5)
    os.write(messages[-1][1][0], b"!")
    assert os.read(reader, 1) == b"!"
    close_all([reader, *messages[-1][1]])


def test_no_descriptor_is_left_when_a_channel_with_a_queue_is_closed() -> None:
    before = open_descriptors()
    sender, receiver = Channel.pair()
    fill(sender)
    reader, writer = os.pipe()
    for _ in range(10):
        sender.send(Publish(1, 1), [writer])
    close_all([reader, writer])
    sender.close()
    drain_to_end(receiver)
    receiver.close()
    assert open_descriptors() == before


def drain_to_end(end: Channel) -> None:
    with pytest.raises(EOFError):
        while True:
            drain(end)


def test_the_end_of_the_peer_is_told_after_its_last_message(ends: tuple[Channel, Channel]) -> None:
    ends[0].send(Ready())
    ends[0].close()
    assert ends[1].receive() == (Ready(), [])
    with pytest.raises(EOFError):
        ends[1].receive()
    with pytest.raises(BrokenPipeError):
        ends[1].send(Ready())


def test_a_message_longer_than_a_packet_arrives_whole_and_in_its_place(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    overlay = {f"name_{number}": "x" * 100 for number in range(2000)}
    sent = [Forget([(1, 1)]), Obtain(7, "db", "user", Found(password="x", parameters=overlay)), Forget([(2, 2)])]
    for message in sent:
        ours.send(message)
    received: list[Message] = []
    while len(received) < len(sent):
        ours.flush()
        got = theirs.receive()
        if got is not None:
            received.append(got[0])
    assert received == sent


def test_a_deposit_wakes_nobody_and_is_collected_in_order(ends: tuple[Channel, Channel]) -> None:
    reader, writer = os.pipe()
    assert ends[0].deposit_server(1, 2, writer)
    os.close(writer)
    assert ends[0].deposit(Forget([(1, 2)]))
    assert select.select([ends[1]], [], [], 0) == ([], [], [])
    assert ends[1].receive() is None
    published = ends[1].collect()
    assert published is not None and published[0] == Publish(1, 2)
    os.write(published[1][0], b"!")
    assert os.read(reader, 1) == b"!"
    assert ends[1].collect() == (Forget([(1, 2)]), [])
    assert ends[1].collect() is None
    close_all([reader, *published[1]])


def test_a_deposit_outlives_who_made_it(ends: tuple[Channel, Channel]) -> None:
    reader, writer = os.pipe()
    if not (child := os.fork()):
        ends[0].deposit_server(3, 4, writer)
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    ends[0].close()
    published = ends[1].collect()
    assert published is not None and published[0] == Publish(3, 4)
    os.write(published[1][0], b"!")
    assert os.read(reader, 1) == b"!"
    with pytest.raises(EOFError):
        ends[1].collect()
    close_all([reader, *published[1]])


@pytest.mark.parametrize(("slot", "generation"), [(0, 0), (1, 127), (128, 65_536), (2**31 - 1, 2**32 - 1)])
def test_a_deposited_server_is_a_publish(ends: tuple[Channel, Channel], slot: int, generation: int) -> None:
    reader, writer = os.pipe()
    assert ends[0].deposit_server(slot, generation, writer)
    published = ends[1].collect()
    assert published is not None and published[0] == Publish(slot, generation) and len(published[1]) == 1
    close_all([reader, writer, *published[1]])


def test_there_is_an_end_to_deposits(ends: tuple[Channel, Channel]) -> None:
    made = 0
    while ends[0].deposit(Publish(made, 0)):
        made += 1
    assert made > 50
    assert not ends[0].deposit(Forget([(number, 0) for number in range(10_000)])), "longer than a packet"
    for number in range(made):
        assert ends[1].collect() == (Publish(number, 0), [])
    assert ends[0].deposit(Publish(0, 0))
