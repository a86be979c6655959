"""Large statements, parameters, rows and results of functions: whole, in bounded memory, which is given back.

trap: PgBouncer #1472; pg_doorman 1.9.0, 3.6.3, PR #268; PgDog #956; Odyssey #52.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Connect
from tests.e2e.raw import Raw, tell
from tests.e2e.traps.clients import SERVERS, ask, on_each_server, run, whole, words
from tests.harness import Doorman
from tests.torture.wire import (
    COPY_DONE,
    SYNC,
    bind,
    close_statement,
    describe_statement,
    execute,
    function_call,
    message,
    parse,
    query,
)

MB = 1 << 20
ROOM = 16 * MB  # what workers may grow by while something large passes; far below its size
READY = b"Z\0\0\0\5I"
Measure = Callable[[], int]


def long_text(size: int, tag: str) -> str:
    return f"SELECT length('{'x' * size}'), '{tag}'"


def pour(raw: Raw, data: bytes, seen: Callable[[], None]) -> None:
    """Send in pieces and look around in between."""
    for at in range(0, len(data), 4 * MB):
        raw.send(data[at : at + 4 * MB])
        seen()


def drain(raw: Raw, size: int, seen: Callable[[], None] = lambda: None) -> bytes:
    """Read a large answer up to its ReadyForQuery without keeping it: its last bytes."""
    taken, next_look = len(raw.buffer), 0
    tail = bytes(raw.buffer)
    raw.buffer.clear()
    while taken < size or not tail.endswith(READY):
        got = raw.socket.recv(MB)
        assert got, "closed"
        taken += len(got)
        tail = (tail + got)[-64:]
        if taken >= next_look:
            seen()
            next_look += 10 * MB
    return tail


# --- texts -----------------------------------------------------------------------------------------------------------


LONG_TEXTS = [
    *((database, name, MB) for database in ("keeps_0", "keeps_1", "postgres") for name in ("", "large")),
    ("keeps_1", "large", 20 * MB),
    ("postgres", "", 20 * MB),
]


@pytest.mark.parametrize(("database", "name", "size"), LONG_TEXTS)
def test_a_long_text_is_prepared_and_used_again_by_others(
    connect: Connect, database: str, name: str, size: int
) -> None:
    clients = connect.many(2, database)
    text = long_text(size, f"{database} {name}")
    for turn, _ in enumerate(on_each_server(connect, database)):
        for raw in clients:
            if turn == 0 or not name:
                assert raw.ask(parse(text, name), SYNC) == "1 ZI"
            assert ask(raw, whole("SELECT 'between'", "b"), close_statement("b")) == ["between"]
            got = raw.converse(describe_statement(name), run(name), SYNC)
            assert (tell(got), words(got)) == ("t T 2 D C ZI", [str(size)])


def test_a_long_text_that_is_refused(connect: Connect) -> None:
    """The client that sent it and one that did not know it get PostgreSQL's error; nothing of it stays."""
    text = long_text(2 * MB, "refused") + " FROM nowhere"
    for raw in connect.many(3):
        for name in ("", "x"):
            assert raw.ask(parse(text, name), run(name), parse("SELECT 1"), SYNC) == "E:42P01 ZI"
            assert raw.ask(run(name), SYNC) == "E:26000 ZI"


def test_memory_does_not_grow_with_long_texts_that_are_used_once(connect: Connect, share_of_memory: Measure) -> None:
    """As an ORM writes rows into the text of a statement: sixteen of four megabytes, unnamed."""
    clients = connect.many(4)
    ask(clients[0], whole(long_text(4 * MB, "first")))
    before = share_of_memory()
    for number in range(16):
        assert ask(clients[number % 4], whole(long_text(4 * MB, f"once {number}"))) == [str(4 * MB)]
    for raw in clients:
        raw.quit()
    assert share_of_memory() - before < ROOM


def test_long_texts_are_kept_up_to_a_number_of_bytes(connect: Connect) -> None:
    """Thirty statements of 1 MB; PostgreSQL would keep them all."""
    raw = connect()
    for number in range(30):
        assert raw.ask(parse(f"SELECT {number}, length('{'x' * 1_000_000}')", f"s{number}"), SYNC) == "1 ZI"
    for number in (29, 0, 15):
        got = raw.converse(bind([], f"s{number}"), execute(), SYNC)
        assert [one.columns()[0] for one in got if one.kind == b"D"] == [str(number).encode()]
    held = raw.rows("SELECT count(*), sum(length(statement)) FROM pg_prepared_statements")
    assert 1 <= int(held[0][0] or 0) <= 16 and int(held[0][1] or 0) <= 16 << 20


# --- parameters ------------------------------------------------------------------------------------------------------


def test_fifty_megabytes_bound_to_a_renamed_statement(connect: Connect, worker_memory: Measure) -> None:
    clients = connect.many(2, "keeps_1")
    for raw in clients:
        ask(raw, parse("SELECT length($1), length($2)", "lengths"))
    before, most = worker_memory(), [0]

    def look() -> None:
        most.append(worker_memory())

    for size in (65_530, 65_600, 50 * MB):
        value = b"v" * size
        for raw in clients:
            pour(raw, parse("SELECT 'evicts'") + run() + run("lengths", [value, b"last"]) + SYNC, look)
            assert words(raw.until("Z")) == ["evicts", str(size)]
    assert max(most) - before < ROOM, max(most) - before


def test_a_large_parameter_of_an_unknown_statement_is_skipped(connect: Connect, worker_memory: Measure) -> None:
    raw = connect()
    before = worker_memory()
    assert raw.ask(run("nobody", [b"v" * 30 * MB]), parse("SELECT 1"), SYNC) == "E:26000 ZI"
    assert raw.ask(whole("SELECT 1/0"), run("nobody", [b"v" * 30 * MB]), SYNC) == "1 E:22012 ZI"
    assert ask(raw, whole("SELECT length($1)", "", [b"v" * 1000])) == ["1000"]
    assert worker_memory() - before < ROOM


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_row_of_a_hundred_megabytes_of_a_prepared_statement(connect: Connect, worker_memory: Measure) -> None:
    raw, bystander = connect(), connect()
    ask(raw, parse("SELECT repeat('x', $1::int)", "large"), bind([b"1"], "large"), execute())
    before, most = worker_memory(), [0]

    def look() -> None:
        assert bystander.value("SELECT 1") == "1"
        most.append(worker_memory())

    raw.send(parse("SELECT 'known'"), run("large", [str(100 * MB).encode()]), parse("SELECT 'known'"), SYNC)
    assert drain(raw, 100 * MB, look).endswith(b"C\0\0\0\rSELECT 1\x00" + b"1\0\0\0\4" + READY)
    assert max(most) - before < ROOM, max(most) - before
    assert ask(raw, whole("SELECT 'in step'")) == ["in step"]


@pytest.mark.parametrize("database", ["postgres", "session"])
def test_function_calls_with_small_and_large_results(connect: Connect, database: str, worker_memory: Measure) -> None:
    """Oid 1622 is repeat(text, int4), 177 int4pl. trap: PgDog #956."""
    raw = connect(database)
    before = worker_memory()
    for number in range(5):
        got = raw.converse(function_call(177, [struct.pack("!i", number), struct.pack("!i", 2)]))
        assert (tell(got), got[0].body) == ("V ZI", struct.pack("!ii", 4, number + 2))
    raw.send(function_call(1622, [b"abcd", struct.pack("!i", 10 * MB)]))
    drain(raw, 40 * MB)
    assert worker_memory() - before < ROOM
    assert raw.ask(function_call(1, []), query("SELECT 1"), ready=2).startswith("E:")
    raw.ask(query("BEGIN; SELECT 1"))
    assert raw.ask(function_call(177, [struct.pack("!i", 1)] * 2)) == "V ZT"
    assert raw.ask(query("COMMIT")) == "C ZI"


def test_a_column_of_thirty_megabytes_in_copy(connect: Connect, table: str, worker_memory: Measure) -> None:
    """trap: pg_doorman 1.9.0."""
    raw = connect()
    before, most = worker_memory(), [0]

    def look() -> None:
        most.append(worker_memory())

    raw.ask(query(f"ALTER TABLE {table} ALTER name SET STORAGE EXTERNAL"))
    raw.send(query(f"COPY {table} FROM STDIN"))
    raw.until("G")
    pour(raw, message(b"d", b"1\t" + b"c" * 30 * MB + b"\n") + COPY_DONE, look)
    raw.until("Z")
    raw.send(query(f"COPY {table} TO STDOUT"))
    assert drain(raw, 30 * MB, look).endswith(b"COPY 1\0" + READY)
    assert max(most) - before < ROOM, max(most) - before


# --- memory, readers, the limit --------------------------------------------------------------------------------------


def test_memory_returns_after_a_hundred_megabytes_from_each_of_several_clients(
    connect: Connect, share_of_memory: Measure
) -> None:
    """trap: pg_doorman 3.6.3, Odyssey #52. The clients stay."""
    clients = connect.many(3)
    for raw in clients:
        ask(raw, parse("SELECT length($1)", "length"))
    before = share_of_memory()
    value = b"v" * 100 * MB
    for raw in clients[:2]:
        assert ask(raw, run("length", [value])) == [str(100 * MB)]
    for raw in clients[2:]:
        raw.send(query(f"SELECT repeat('x', {100 * MB})"))
        drain(raw, 100 * MB)
    assert all(ask(raw, whole("SELECT 1")) == ["1"] for raw in clients)
    assert share_of_memory() - before < ROOM


def test_slow_readers_of_prepared_results_keep_no_server_once_it_is_done(connect: Connect, pooler: Doorman) -> None:
    """Answers that fit into the sockets: nobody has read them, and the servers are back."""
    slow = connect.many(SERVERS * 3)
    for raw in slow:
        raw.send(parse("SELECT repeat('x', 1000) FROM generate_series(1, 50)", "s"), run("s"), SYNC)
    pooler.wait_pool(sv_active=0, cl_waiting=0)
    for raw in slow:
        assert tell(raw.until("Z")) == "1 2 " + "D " * 50 + "C ZI"


def test_a_reader_that_stops_in_the_middle_of_a_large_row(connect: Connect, worker_memory: Measure) -> None:
    slow, others = connect(), connect.many(3)
    ask(slow, parse("SELECT repeat('x', 20000000)", "large"))
    before = worker_memory()
    slow.send(run("large"), SYNC)
    slow.read_bytes(1000)
    until = time.monotonic() + 0.4
    while time.monotonic() < until:
        for raw in others:
            assert ask(raw, whole("SELECT 'busy'")) == ["busy"]
    assert worker_memory() - before < ROOM
    drain(slow, 20_000_000 - 1000)


def test_a_large_text_is_looked_through_in_no_time(connect: Connect) -> None:
    """What a text makes is told by its words: once through it, however often they come."""
    raw = connect()
    began = time.monotonic()
    assert ask(raw, whole("create " + "table " * 300_000)) == ["42601"]
    assert words(raw.converse(query("create " + "view " * 10_000))) == ["42601"]
    assert time.monotonic() - began < 5
