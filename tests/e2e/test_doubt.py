"""What leaves it open which answers PostgreSQL owes: a doubtful server is not its client's for ever, nor another's.

The pool has one server: who gets an answer while the doubtful client is idle got that place.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import is_idle
from tests.e2e.raw import Raw, tell, wait_until
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import (
    COPY_DONE,
    FLUSH,
    SYNC,
    bind,
    close_statement,
    copy_data,
    copy_fail,
    describe_statement,
    execute,
    parse,
    query,
)

ROW, BAD_ROW = copy_data(b"1\tone\n"), copy_data(b"no number\tx\n")


@contextlib.contextmanager
def one_server(postgres: Postgres, **general: object) -> Iterator[Doorman]:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 1)])}
    with Doorman(postgres, pools=pools, general={"query_wait_timeout": 20_000, **general}) as doorman:
        yield doorman
        wait_until(lambda: is_idle(doorman), f"the pool is idle: {doorman.console('SHOW POOLS')}", 8)
        for words in ("Traceback", "internal error", "by an error"):
            assert not doorman.log_contains(words), doorman.log_text()


@pytest.fixture(scope="module")
def single(postgres: Postgres) -> Iterator[Doorman]:
    with one_server(postgres) as doorman:
        yield doorman


@pytest.fixture(scope="module")
def single_unrenamed(postgres: Postgres) -> Iterator[Doorman]:
    """Here what a portal runs is not known, so nothing waits for the beginning of a COPY (rule 1 of `copying`)."""
    with one_server(postgres, prepared_statements=False) as doorman:
        yield doorman


def log_in_to(doorman: Doorman) -> Iterator[list[Raw]]:
    """One to confuse its server, others of both workers."""
    raws = [Raw((doorman.host, doorman.port)).log_in() for _ in range(7)]
    yield raws
    for raw in raws:
        raw.close()


@pytest.fixture
def clients(single: Doorman) -> Iterator[list[Raw]]:
    yield from log_in_to(single)


@pytest.fixture
def unrenamed(single_unrenamed: Doorman) -> Iterator[list[Raw]]:
    yield from log_in_to(single_unrenamed)


def whole(sql: str) -> bytes:
    return parse(sql) + bind() + execute()


def start_copy(raw: Raw, table: str, *behind: bytes) -> None:
    raw.send(whole(f"COPY {table} FROM STDIN"), *behind, FLUSH)
    raw.until("G")


def others_are_served(others: list[Raw], within: float) -> None:
    began = time.monotonic()
    for raw in others:
        assert raw.value("SELECT 'served'") == "served"
    assert time.monotonic() - began < within


ENDS: dict[str, tuple[list[bytes], int]] = {
    "CopyFail": ([ROW, SYNC, SYNC, copy_fail("no"), whole("SELECT 'behind'"), SYNC], 1),
    "CopyFail and a known text": ([SYNC, copy_fail("no"), whole("SELECT 'known'"), SYNC, whole("SELECT 1"), SYNC], 2),
    "CopyFail, then a batch, then one more": ([SYNC, copy_fail("no"), SYNC, whole("SELECT 'known'"), SYNC], 2),
    "bad data in front of the Sync": ([BAD_ROW, SYNC, COPY_DONE, whole("SELECT 'known'"), SYNC], 2),
    "bad data behind the Sync": ([SYNC, BAD_ROW, COPY_DONE, whole("SELECT 'known'"), SYNC, whole("SELECT 2"), SYNC], 2),
    "bad data between Syncs": ([ROW, SYNC, BAD_ROW, SYNC, SYNC, copy_fail("no"), whole("SELECT 'known'"), SYNC], 3),
    "bad data, rows behind": ([SYNC, BAD_ROW, SYNC, COPY_DONE, whole("SELECT generate_series(1, 900)"), SYNC], 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_an_execute_right_behind_a_copy_that_failed_with_syncs_in_it(
    clients: list[Raw], postgres: Postgres, table: str, name: str
) -> None:
    """The client is answered as by PostgreSQL, has its names, and keeps no server."""
    sent, ready = ENDS[name]
    raw, *others = clients
    assert raw.ask(whole("SELECT 'known'"), SYNC) == "1 2 D C ZI"
    answers = []
    for one in (Raw((postgres.host, postgres.port)).log_in(), raw):
        one.send(parse("SELECT 'mine'", "mine"), SYNC)
        one.until("Z")
        start_copy(one, table, SYNC)
        answers.append(one.converse(*sent, ready=ready))
        assert one.is_silent(0.05)
        assert one.ask(bind([], "mine"), execute(), SYNC) == "2 D C ZI"
    assert tell(answers[1]) == tell(answers[0])
    assert answers[1] == answers[0]
    others_are_served(others, 0.9)
    assert raw.ask(close_statement("mine"), query("SELECT 1"), SYNC, ready=2) == "3 T D C ZI ZI"


def early_end(table: str, *behind: bytes) -> list[bytes]:
    """The COPY's end goes out before the COPY is announced, and a batch behind that."""
    return [whole(f"COPY {table} FROM STDIN"), ROW, COPY_DONE, *behind, SYNC]


def test_a_doubt_is_settled_while_the_client_is_idle_and_it_lives_on(unrenamed: list[Raw], table: str) -> None:
    raw, *others = unrenamed
    for _ in range(2):
        assert raw.ask(*early_end(table, whole("SELECT 'behind'"))) == "1 2 G C 1 2 D C ZI"
        others_are_served(others, 5)
    assert raw.value(f"SELECT count(*) FROM {table}") == "2"


def test_a_long_statement_in_doubt_is_not_disturbed(unrenamed: list[Raw], table: str) -> None:
    raw, *others = unrenamed
    answers = raw.ask(*early_end(table, whole("SELECT pg_sleep(3.5), 'done'")), query("SELECT 'last'"), ready=2)
    assert answers == "1 2 G C 1 2 D C ZI T D C ZI"
    others_are_served(others, 5)
    assert raw.value("SELECT 1") == "1"


def test_a_doubt_is_settled_though_postgresql_is_slow(unrenamed: list[Raw], table: str) -> None:
    """Its machine is busy: that it has not answered for two seconds is no sign of anything."""
    raw, *others = unrenamed
    backend = int(raw.value("SELECT pg_backend_pid()"))
    assert raw.ask(*early_end(table, whole("SELECT 'behind'"))) == "1 2 G C 1 2 D C ZI"
    os.kill(backend, signal.SIGSTOP)
    try:
        time.sleep(4.5)
    finally:
        os.kill(backend, signal.SIGCONT)
    assert raw.value("SELECT 'still here'") == "still here"
    others_are_served(others, 8)


def test_a_transaction_in_doubt_is_its_clients_until_its_end(unrenamed: list[Raw], table: str) -> None:
    raw, *others = unrenamed
    raw.ask(query("BEGIN"))
    assert raw.ask(*early_end(table, whole("SELECT 'behind'"))) == "1 2 G C 1 2 D C ZT"
    time.sleep(2.5)
    assert raw.value(f"SELECT count(*) FROM {table}") == "1"
    assert raw.ask(query("ROLLBACK")) == "C ZI"
    others_are_served(others, 5)
    assert raw.value(f"SELECT count(*) FROM {table}") == "0"


def test_an_unsynced_batch_in_doubt_is_not_ended_by_a_sync_of_ours(unrenamed: list[Raw], table: str) -> None:
    raw, *others = unrenamed
    raw.send(*early_end(table, whole("SELECT 'behind'")), parse(f"INSERT INTO {table} VALUES (2)"), bind(), execute())
    raw.until("Z")
    time.sleep(2.5)
    assert raw.ask(execute("nothing"), SYNC) == "1 2 C E:34000 ZI"
    others_are_served(others, 5)
    assert raw.value(f"SELECT count(*) FROM {table}") == "1"


@pytest.mark.parametrize("how", ["close", "reset", "quit"])
def test_a_client_that_leaves_in_doubt(unrenamed: list[Raw], table: str, how: str) -> None:
    raw, *others = unrenamed
    raw.ask(*early_end(table, whole("SELECT 'behind'")))
    getattr(raw, how)()
    others_are_served(others, 5)


def test_a_second_copy_behind_one_that_failed_with_syncs_in_it(
    clients: list[Raw], postgres: Postgres, table: str
) -> None:
    raw, *others = clients
    copy = whole(f"COPY {table} FROM STDIN")
    answers = []
    for one in (Raw((postgres.host, postgres.port)).log_in(), raw):
        start_copy(one, table)
        one.send(BAD_ROW, SYNC, COPY_DONE, copy, SYNC, ROW, COPY_DONE, SYNC)
        answers.append(tell(one.until("Z") + one.until("Z")))
    assert answers[1] == answers[0] == "E:22P02 ZI 1 2 G C ZI"
    others_are_served(others, 2)
    assert raw.value(f"SELECT count(*) FROM {table}") == "2"


@pytest.mark.parametrize("behind", [[], [SYNC]], ids=["unsynced", "synced"])
@pytest.mark.parametrize("data", [ROW, BAD_ROW, copy_fail("no")], ids=["row", "bad", "fail"])
@pytest.mark.parametrize("block", [False, True], ids=["alone", "transaction"])
def test_what_follows_the_end_of_a_copy_with_syncs_in_it(
    clients: list[Raw], postgres: Postgres, table: str, behind: list[bytes], data: bytes, block: bool
) -> None:
    """A known text behind one that failed in a transaction was said to be prepared; what had no Sync, out of step."""
    raw, *others = clients
    raw.ask(whole("SELECT 'known'"), SYNC)
    answers = []
    for one in (Raw((postgres.host, postgres.port)).log_in(), raw):
        if block:
            one.ask(query("BEGIN"), query("SELECT 1"), ready=2)
        start_copy(one, table, SYNC)
        end = [data] if data[:1] == b"f" else [data, SYNC, COPY_DONE]
        one.send(*end, whole("SELECT 'known'"), whole("SELECT 'new'"), describe_statement("none"), *behind)
        time.sleep(0.2)
        one.send(SYNC, query("ROLLBACK"), query("SELECT 'end'"))
        heard = [one.next()]
        while heard[-1].kind != b"D" or heard[-1].columns() != [b"end"]:
            heard.append(one.next())
        answers.append(tell(heard + one.until("Z")))
    assert answers[1] == answers[0]
    others_are_served(others, 2)


def test_what_cannot_be_told_keeps_no_server(unrenamed: list[Raw], table: str) -> None:
    """All before the COPY is announced: was its end read within it, or behind its failure?"""
    raw, *others = unrenamed
    raw.send(whole(f"COPY {table} FROM STDIN"), SYNC, BAD_ROW, SYNC, COPY_DONE, whole("SELECT 'behind'"), SYNC)
    raw.until("E")
    others_are_served(others, 8)
