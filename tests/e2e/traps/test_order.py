"""Answers that the pooler gives itself stand where PostgreSQL would have given them, also in very long batches.

trap: pg_doorman 3.0.1 to 3.3.3 (Npgsql, asyncpg); PgDog #57.
"""

from __future__ import annotations

import time

import pytest

from tests.e2e.conftest import Connect
from tests.e2e.raw import tell
from tests.e2e.traps.clients import KEEPS, ask, on_each_server, run, whole, words
from tests.torture.wire import FLUSH, SYNC, bind, close_statement, describe_portal, describe_statement, execute, parse

every_size = pytest.mark.parametrize("database", KEEPS)


@every_size
def test_a_client_that_flushes_parse_and_describe_and_then_binds(connect: Connect, database: str) -> None:
    """As asyncpg does for each statement; all but the first client find it prepared."""
    clients = connect.many(6, database)
    for turn in range(3):
        for number, raw in enumerate(clients):
            raw.send(
                parse(f"SELECT 'turn {turn}', $1::int", f"__asyncpg_{turn}__"),
                describe_statement(f"__asyncpg_{turn}__"),
                FLUSH,
            )
            assert tell(raw.until("T")) == "1 t T"
            raw.send(bind([str(number).encode()], f"__asyncpg_{turn}__"), execute(), SYNC)
            answer = raw.until("Z")
            assert (tell(answer), words(answer)) == ("2 D C ZI", [f"turn {turn}"])
    for raw in clients:
        assert ask(raw, *[close_statement(f"__asyncpg_{turn}__") for turn in range(3)]) == []


@every_size
def test_flush_only_and_nothing_owed(connect: Connect, database: str) -> None:
    """Every answer comes at once, not after a time-out; a Flush that is owed nothing brings nothing."""
    raw = connect(database)
    ask(raw, parse("SELECT 'known'", "k"))
    began = time.monotonic()
    for _ in range(20):
        raw.send(parse("SELECT 'known'"), FLUSH)
        assert tell([raw.next()]) == "1"
        raw.send(bind(name="k"), FLUSH)
        assert tell([raw.next()]) == "2"
        raw.send(execute(), FLUSH)
        assert tell(raw.until("C")) == "D C"
        raw.send(describe_statement("k"), FLUSH, FLUSH)
        assert tell(raw.until("T")) == "t T"
        raw.send(parse("SELECT 'known'", "l"), close_statement("l"), FLUSH)
        assert tell(raw.until("3")) == "1 3"
    assert time.monotonic() - began < 2
    raw.send(FLUSH)
    assert raw.is_silent(0.05)
    assert raw.ask(SYNC) == "ZI"


@every_size
def test_batched_prepare_keeps_the_order_of_each_statement(connect: Connect, database: str) -> None:
    """trap: pg_doorman 3.0.2 to 3.1.5: many Parse and Describe before one Sync, some known, some without rows."""
    texts = ["SELECT 1::int AS a", "SET work_mem = '5MB'", "SELECT $1::text, $2::int", "SELECT 'x', 'y', 'z'"] * 3
    answers = ["T\0\1", "n", "T\0\2", "T\0\3"] * 3
    counts = [0, 0, 2, 0] * 3
    for known in range(4):
        raw = connect(database)
        ask(raw, *[parse(text, f"known {number}") for number, text in enumerate(texts[:known])])
        batch = [parse(text, f"s{number}") + describe_statement(f"s{number}") for number, text in enumerate(texts)]
        got = raw.converse(*batch, SYNC)
        assert tell(got) == " ".join(f"1 t {answer[0]}" for answer in answers) + " ZI"
        assert [int.from_bytes(one.body[:2], "big") for one in got if one.kind == b"t"] == counts
        shapes = [(one.kind + one.body[:2]).decode() for one in got if one.kind in b"Tn"]
        assert shapes == answers
        assert ask(raw, run("s0"), run("s3")) == ["1", "x"]


@every_size
def test_no_completion_between_the_rows_of_a_large_result(connect: Connect, database: str) -> None:
    """trap: pg_doorman 3.0.1, 3.3.3: known Parses in front of, between and behind results of many chunks."""
    raw = connect(database)
    rows, large = "SELECT generate_series(1, 20000)", "SELECT repeat('x', 3000000)"
    ask(raw, parse(rows, "r"), parse(large, "l"))
    for _ in on_each_server(connect, database):
        batch = [
            whole(rows),
            whole(large),
            parse(rows),
            parse(large),
            run("r"),
            describe_portal(),
            run("l"),
            parse(rows),
        ]
        got = raw.converse(*batch, SYNC)
        kinds = "".join(one.kind.decode() for one in got)
        assert kinds == "12" + "D" * 20000 + "C12DC112" + "D" * 20000 + "CT2DC1Z"


@every_size
def test_five_thousand_statements_in_one_batch(connect: Connect, database: str) -> None:
    """Parse, Bind, Execute, Close of four texts by five thousand names; other clients work meanwhile."""
    raw, other = connect(database), connect(database)
    parts = [whole(f"SELECT {number % 4}, $1::text", f"n{number}", [b"v"]) for number in range(5000)]
    raw.send(*parts, SYNC)
    assert other.value("SELECT 'meanwhile'") == "meanwhile"
    got = raw.until("Z")
    assert tell(got) == "1 2 D C " * 5000 + "ZI"
    assert words(got) == [str(number % 4) for number in range(5000)]
    assert ask(raw, run("n4999", [b"v"]), run("n0", [b"v"])) == ["3", "0"]
    closes = [close_statement(f"n{number}") for number in range(5000)]
    assert tell(raw.converse(*closes, SYNC)) == "3 " * 5000 + "ZI"
    assert raw.ask(run("n17", [b"v"]), SYNC) == "E:26000 ZI"


@pytest.mark.parametrize("database", ["keeps_1", "postgres"])
def test_five_thousand_different_texts_before_the_first_bind(connect: Connect, database: str) -> None:
    raw = connect(database)
    parses = [parse(f"SELECT {number}", f"n{number}") for number in range(5000)]
    runs = [run(f"n{number}") for number in range(4999, -1, -1)]
    got = raw.converse(*parses, *runs, SYNC)
    assert tell(got) == "1 " * 5000 + "2 D C " * 5000 + "ZI"
    assert words(got) == [str(number) for number in range(4999, -1, -1)]


@every_size
def test_an_error_in_the_middle_of_a_very_long_batch(connect: Connect, database: str) -> None:
    raw = connect(database)
    parts = [whole(f"SELECT {number % 7}", f"n{number}") for number in range(1000)]
    got = raw.converse(
        *parts, whole("SELECT 1/0", "bad"), *[whole("SELECT 'late'", f"l{n}") for n in range(1000)], SYNC
    )
    assert tell(got) == "1 2 D C " * 1000 + "1 E:22012 ZI"  # the plan already fails
    assert [ask(raw, run(name)) for name in ("n999", "n0", "bad", "l0", "l999")] == [
        [str(999 % 7)], ["0"], ["22012"], ["26000"], ["26000"]
    ]  # fmt: skip
