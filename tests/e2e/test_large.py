"""Large messages both ways, slow readers and slow writers: memory stays bounded and other clients notice nothing."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import POOL_SIZE, Connect
from tests.e2e.raw import Raw
from tests.harness import Doorman
from tests.torture.wire import (
    COPY_DONE,
    SYNC,
    bind,
    close_statement,
    copy_data,
    describe_portal,
    execute,
    message,
    parse,
    query,
)

MB = 1 << 20
ROOM = 16 * MB  # what a worker may grow by, whatever the message; it is far below the message
Measure = Callable[[], int]


@pytest.fixture(params=["postgres", "session"])
def raw(connect: Connect, request: pytest.FixtureRequest) -> Raw:
    return connect(request.param)


@pytest.mark.parametrize("size", [65_530, 65_531, 65_532, 65_536, 131_067, 131_072, MB, 5 * MB])
def test_a_large_query_and_its_large_answer(raw: Raw, size: int) -> None:
    text = "x" * (size - 20)
    assert raw.value(f"SELECT md5('{text}')") == hashlib.md5(text.encode()).hexdigest()
    row = raw.value(f"SELECT repeat('y', {size})")
    assert row == "y" * size


def test_a_large_parameter_between_small_messages(raw: Raw) -> None:
    value = b"p" * (3 * MB)
    sent = [parse("SELECT $1::text"), bind([value]), describe_portal(), execute(), SYNC]
    got = raw.converse(query("SELECT 1"), *sent, query("SELECT 2"), ready=3)
    assert [one.columns()[0] for one in got if one.kind == b"D"] == [b"1", value, b"2"]


def test_large_messages_in_a_pipeline(raw: Raw) -> None:
    sizes = [100_000 + number for number in range(20)]
    sent = [data for size in sizes for data in (parse("SELECT length($1)"), bind([b"z" * size]), execute(), SYNC)]
    got = raw.converse(*sent, ready=20)
    assert [one.columns()[0] for one in got if one.kind == b"D"] == [str(size).encode() for size in sizes]


def test_a_hundred_megabytes_up_and_down_in_bounded_memory(connect: Connect, worker_memory: Measure) -> None:
    raw, bystander = connect(), connect()
    before = worker_memory()
    seen = [before]
    head = message(b"Q", b"SELECT length('" + b"x" * (100 * MB) + b"')\0")
    for at in range(0, len(head), MB):
        raw.send(head[at : at + MB])
        if at % (10 * MB) == 0:
            assert bystander.value("SELECT 1") == "1"
            seen.append(worker_memory())
    del head
    assert [got.columns() for got in raw.until("Z") if got.kind == b"D"] == [[str(100 * MB).encode()]]
    raw.send(query(f"SELECT repeat('x', {100 * MB})"))
    taken = 0
    while taken < 100 * MB:
        taken += len(raw.socket.recv(MB))
        if taken // MB % 10 == 0:
            seen.append(worker_memory())
    assert max(seen) - before < ROOM, [value // MB for value in seen]


def test_very_many_rows(connect: Connect, worker_memory: Measure) -> None:
    raw = connect()
    before = worker_memory()
    raw.send(query("SELECT generate_series(1, 300000)"))
    got = raw.until("Z")
    assert sum(one.kind == b"D" for one in got) == 300_000
    assert worker_memory() - before < ROOM


def test_a_reader_that_stops_stops_its_server_and_nobody_else(
    connect: Connect, worker_memory: Measure, pooler: Doorman
) -> None:
    before = worker_memory()
    lazy, others = connect.many(POOL_SIZE - 1), connect.many(4)
    for raw in lazy:
        raw.send(query("SELECT repeat('x', 100000) FROM generate_series(1, 400)"))
    time.sleep(0.4)
    assert worker_memory() - before < ROOM
    assert pooler.pool_row()["sv_active"] == POOL_SIZE - 1
    for other in others * 5:
        assert other.value("SELECT 1") == "1"
    for raw in lazy:
        assert sum(one.kind == b"D" for one in raw.until("Z")) == 400


def test_a_reader_whose_answer_fits_costs_the_pool_nothing(connect: Connect, pooler: Doorman) -> None:
    """The server is given back when its last byte is read, not when the client has taken it."""
    for raw in connect.many(10):
        raw.send(query("SELECT repeat('x', 50000)"))
    pooler.wait_pool(sv_active=0, cl_waiting=0)


def test_a_writer_that_does_not_read_is_not_read_either(connect: Connect, worker_memory: Measure) -> None:
    raw = connect()
    before = worker_memory()
    one = parse("SELECT repeat('r', 2000), $1") + bind([b"w" * 2000]) + execute() + SYNC
    count = 10_000
    sender = threading.Thread(target=raw.send, args=(one * count,), daemon=True)
    sender.start()
    time.sleep(0.5)
    assert sender.is_alive(), "twenty megabytes went somewhere"
    assert worker_memory() - before < ROOM
    assert connect().value("SELECT 1") == "1"
    got = [answer for _ in range(count) for answer in raw.until("Z")]
    sender.join(10)
    assert sum(answer.kind == b"D" for answer in got) == count


def test_a_slow_writer_holds_its_server_only_for_a_large_message(connect: Connect, pooler: Doorman) -> None:
    slow = connect()
    small = query("SELECT 'small'")
    slow.send(small[:6])
    pooler.wait_pool(sv_active=0)
    slow.send(small[6:])
    slow.until("Z")
    large = query("SELECT '" + "x" * 200_000 + "'")
    slow.send(large[:100_000])
    pooler.wait_pool(sv_active=1)
    assert all(other.value("SELECT 1") == "1" for other in connect.many(4))
    slow.send(large[100_000:])
    assert [len(got.columns()[0] or b"") for got in slow.until("Z") if got.kind == b"D"] == [200_000]


def test_copy_of_many_megabytes_both_ways(connect: Connect, table: str, worker_memory: Measure) -> None:
    raw = connect()
    before = worker_memory()
    raw.send(query(f"COPY {table} FROM STDIN"))
    raw.until("G")
    rows = b"".join(copy_data(b"%d\t%s\n" % (number, b"n" * 200)) for number in range(1000))
    for _ in range(100):
        raw.send(rows)
    assert raw.ask(COPY_DONE) == "C ZI"
    got = raw.converse(query(f"COPY {table} TO STDOUT"))
    assert sum(one.kind == b"d" for one in got) == 100_000
    assert worker_memory() - before < ROOM


def test_memory_returns_after_many_large_messages(connect: Connect, worker_memory: Measure) -> None:
    before = worker_memory()
    clients = connect.many(30)
    for _ in range(2):
        for raw in clients:
            raw.send(query("SELECT length('" + "x" * 2_000_000 + "')"))
            raw.until("Z")
    assert worker_memory() - before < ROOM


@pytest.mark.parametrize("opening", ["RESET TimeZone", "SELECT pg_sleep(0.3)", "much that is owed"])
def test_a_large_parse_whose_end_comes_while_its_client_is_held_up(connect: Connect, opening: str) -> None:
    raw = connect(TimeZone="Asia/Tokyo")
    large = parse("SELECT 'large' --" + "x" * 67_000)
    owed = query("SELECT pg_sleep(0.3)") + close_statement("none") * 5000 if "owed" in opening else query(opening)
    raw.send(owed, large[:40_000])
    time.sleep(0.15)
    raw.send(large[40_000:], bind(), execute(), SYNC)
    raw.until("Z")
    assert [got.columns() for got in raw.until("Z") if got.kind == b"D"] == [[b"large"]]
