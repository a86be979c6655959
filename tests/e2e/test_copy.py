"""COPY in both directions, simple and extended, ending well, failing on either side, and with the client gone."""

from __future__ import annotations

import time

import pytest

from tests.e2e.conftest import Connect
from tests.e2e.raw import Raw, tell, wait_until
from tests.harness import Postgres
from tests.torture.wire import COPY_DONE, FLUSH, SYNC, bind, copy_data, copy_fail, execute, parse, query


@pytest.fixture(params=["postgres", "session"])
def raw(connect: Connect, request: pytest.FixtureRequest) -> Raw:
    return connect(request.param)


def start_in(raw: Raw, table: str, *, extended: bool = False, behind: bytes = b"") -> None:
    """COPY FROM STDIN until the server waits for data."""
    sql = f"COPY {table} FROM STDIN"
    raw.send(b"".join([parse(sql), bind(), execute(), FLUSH]) if extended else query(sql), behind)
    raw.until("G")


def count(raw: Raw, table: str) -> str | None:
    return raw.value(f"SELECT count(*) FROM {table}")


ROWS = [copy_data(f"{number}\tname {number}\n".encode()) for number in range(1000)]


def test_simple_copy_in(raw: Raw, table: str) -> None:
    for total in (1000, 2000):
        start_in(raw, table)
        assert raw.ask(*ROWS, COPY_DONE) == "C ZI"
        assert count(raw, table) == str(total)


def test_copy_in_row_by_row_with_flushes_and_syncs_between(raw: Raw, table: str) -> None:
    start_in(raw, table)
    for row in ROWS[:50]:
        raw.send(row, FLUSH, SYNC)
    assert raw.ask(COPY_DONE) == "C ZI"
    assert count(raw, table) == "50"


@pytest.mark.parametrize("behind", [b"", SYNC, SYNC + SYNC], ids=["alone", "sync", "two-syncs"])
def test_extended_copy_in_ignores_a_sync_that_was_sent_too_early(raw: Raw, table: str, behind: bytes) -> None:
    start_in(raw, table, extended=True, behind=behind)
    assert raw.ask(*ROWS, COPY_DONE, SYNC) == "C ZI"
    assert count(raw, table) == "1000"


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_the_client_fails_the_copy(raw: Raw, table: str, extended: bool) -> None:
    start_in(raw, table, extended=extended)
    assert raw.ask(*ROWS, copy_fail("changed my mind"), SYNC if extended else b"") == "E:57014 ZI"
    assert count(raw, table) == "0"


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_the_server_fails_the_copy_and_ignores_the_rest(raw: Raw, table: str, extended: bool) -> None:
    start_in(raw, table, extended=extended)
    answers = raw.ask(copy_data(b"no number\tx\n"), *ROWS, COPY_DONE, SYNC if extended else b"")
    assert answers == "E:22P02 ZI"
    assert count(raw, table) == "0"


def test_several_copies_in_one_query(raw: Raw, table: str) -> None:
    raw.send(query(f"COPY {table} FROM STDIN; COPY {table} FROM STDIN; SELECT 5"))
    raw.until("G")
    raw.send(ROWS[0], COPY_DONE)
    assert tell(raw.until("G")) == "C G"
    assert raw.ask(ROWS[1], COPY_DONE) == "C T D C ZI"
    assert count(raw, table) == "2"


def test_data_that_comes_before_it_is_asked_for(connect: Connect, table: str) -> None:
    raw = connect()
    assert raw.ask(query(f"COPY {table} FROM STDIN"), *ROWS, COPY_DONE) == "G C ZI"
    assert count(raw, table) == "1000"
    assert count(connect(), table) == "1000"


def test_copy_out_simple_and_extended(raw: Raw) -> None:
    sql = "COPY (SELECT generate_series(1, 20000)) TO STDOUT"
    for sent in ([query(sql)], [parse(sql), bind(), execute(), SYNC]):
        got = raw.converse(*sent)
        data = b"".join(one.body for one in got if one.kind == b"d")
        assert data == b"".join(b"%d\n" % number for number in range(1, 20001))
        assert tell([one for one in got if one.kind not in b"d12"]) == "H c C ZI"


def test_copy_out_that_fails_in_the_middle(raw: Raw) -> None:
    got = raw.converse(query("COPY (SELECT 100 / (100 - x) FROM generate_series(1, 200) x) TO STDOUT"))
    assert tell(got[-2:]) == "E:22012 ZI"
    assert raw.value("SELECT 1") == "1"


def test_a_copy_holds_its_server(connect: Connect, table: str) -> None:
    raw, others = connect(), connect.many(5)
    start_in(raw, table)
    for other in others * 3:
        assert other.value("SELECT 1") == "1"
    assert raw.ask(*ROWS, COPY_DONE) == "C ZI"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("after", [b"", ROWS[0], ROWS[0][:4], ROWS[0] + SYNC], ids=["none", "row", "half", "sync"])
def test_a_client_that_vanishes_in_copy_in_copies_nothing(
    connect: Connect, raw: Raw, table: str, how: str, extended: bool, after: bytes
) -> None:
    start_in(raw, table, extended=extended)
    raw.send(after)
    getattr(raw, how)()
    other = connect()
    wait_until(
        lambda: other.value(f"SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass") == "0", "gone"
    )
    assert count(other, table) == "0"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_vanishes_in_copy_out(connect: Connect, raw: Raw, how: str) -> None:
    raw.send(query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT"))
    raw.until("d")
    getattr(raw, how)()
    assert connect().value("SELECT 1") == "1"


def test_a_query_during_copy_in_ends_the_session_as_postgresql_ends_it(connect: Connect, table: str) -> None:
    raw = connect()
    start_in(raw, table)
    raw.send(query("SELECT 1"))
    assert raw.last_words()["C"] == "08P01"
    assert connect().value("SELECT 1") == "1"


def test_who_sends_on_while_its_server_is_lost_can_read_why(raw: Raw, table: str, postgres: Postgres) -> None:
    """A reset, which writing to a closed connection gets, made clients drop the error that had come before it."""
    start_in(raw, table)
    postgres.terminate_backends(user="app")
    for _ in range(10):
        raw.send(*ROWS)
        time.sleep(0.02)
    assert raw.last_words()["C"] == "57P01"
