"""A client that did nothing to its server's session causes no statement at check-in: read in PostgreSQL's own log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.lone import Lone, again, extended, lone_pooler
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.torture.wire import (
    COPY_DONE,
    SYNC,
    bind,
    close_statement,
    copy_data,
    copy_fail,
    describe_statement,
    execute,
    function_call,
    parse,
    query,
)

MARK = "SELECT 'the next client'"

Work = tuple[list[bytes], int, list[str]]

# Messages, how many ReadyForQuery answer them, and the statements that PostgreSQL may have to run for them.
WORK: dict[str, Work] = {
    "a query": ([query("SELECT 1")], 1, ["SELECT 1"]),
    "nothing": ([query("")], 1, [""]),
    "a lone Sync": ([SYNC], 1, []),
    "an error": ([query("SELECT 1/0")], 1, ["SELECT 1/0"]),
    "a syntax error": ([query("SELEC")], 1, []),
    "an insert": ([query("INSERT INTO kept VALUES (1, 'x')")], 1, ["INSERT INTO kept VALUES (1, 'x')"]),
    "an update": ([query("UPDATE kept SET id = id")], 1, ["UPDATE kept SET id = id"]),
    "a statement": ([extended("SELECT 2")], 1, ["P: SELECT 2"]),
    "a named statement": ([extended("SELECT 3", "s"), again("s")], 2, ["P: SELECT 3"] * 2),
    "one that is closed": ([extended("SELECT 4", "s"), close_statement("s"), SYNC], 2, ["P: SELECT 4"]),
    "one that is only described": ([parse("SELECT 5", "s"), describe_statement("s"), SYNC], 1, []),
    "a statement that fails": ([extended("SELECT 1/(id-id) FROM kept")], 1, ["P: SELECT 1/(id-id) FROM kept"]),
    "a Parse that fails": ([parse("SELEC"), bind(), execute(), SYNC], 1, []),
    "a Bind that fails": ([parse("SELECT $1::int", "s"), bind([b"x"], "s"), execute(), SYNC], 1, []),
    "an open portal": ([parse("TABLE kept"), bind(portal="p"), execute("p", 1), SYNC], 1, ["P: TABLE kept"]),
    "a transaction": (
        [query("BEGIN"), query("SELECT 1"), query("COMMIT")],
        3,
        ["BEGIN", "SELECT 1", "COMMIT"],
    ),
    "one by extended protocol": (
        [extended("BEGIN"), extended("SELECT 2"), extended("ROLLBACK")],
        3,
        ["P: BEGIN", "P: SELECT 2", "P: ROLLBACK"],
    ),
    "an empty transaction": ([query("BEGIN"), query("COMMIT")], 2, []),
    "a failed transaction": (
        [query("BEGIN"), query("SELECT 1/0"), query("ROLLBACK")],
        3,
        ["BEGIN", "SELECT 1/0", "ROLLBACK"],
    ),
    "savepoints and locks": (
        [query("BEGIN; SAVEPOINT s; LOCK kept; ROLLBACK TO s; SELECT pg_advisory_xact_lock(7); COMMIT")],
        1,
        ["BEGIN; SAVEPOINT s; LOCK kept; ROLLBACK TO s; SELECT pg_advisory_xact_lock(7); COMMIT"],
    ),
    "constraints": (
        [query("BEGIN; SET CONSTRAINTS ALL DEFERRED; END")],
        1,
        ["BEGIN; SET CONSTRAINTS ALL DEFERRED; END"],
    ),
    "a function call": ([function_call(1598, [])], 1, []),
    "a COPY out": ([query("COPY kept TO STDOUT")], 1, ["COPY kept TO STDOUT"]),
    "a notification": ([query("NOTIFY news")], 1, ["NOTIFY news"]),
    "a block": ([query("VALUES (1)"), query("EXPLAIN VALUES (1)")], 2, ["VALUES (1)", "EXPLAIN VALUES (1)"]),
    "a look at a setting": ([query("SHOW work_mem")], 1, ["SHOW work_mem"]),
    "a truncation": ([query("TRUNCATE kept")], 1, ["TRUNCATE kept"]),
    "words that only look like it": ([query("SELECT 'temp' AS temp_x")], 1, ["SELECT 'temp' AS temp_x"]),
}


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler() as services:
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone


def statements_of(lone: Lone, actor: Raw, sent: list[bytes], ready: int) -> list[str]:
    """What PostgreSQL was told from here until the next client's first word."""
    other = lone.client()
    pid = other.value("SELECT pg_backend_pid()") or ""
    mark = lone.postgres.log_mark()
    actor.converse(*sent, ready=ready)
    assert other.value(MARK) == "the next client"
    assert other.value("SELECT pg_backend_pid()") == pid
    told = lone.logged(mark, pid)
    return told[: told.index(MARK)]


@pytest.mark.parametrize(("sent", "ready", "expected"), WORK.values(), ids=WORK)
def test_nothing_is_sent_when_nothing_was_done(lone: Lone, sent: list[bytes], ready: int, expected: list[str]) -> None:
    assert statements_of(lone, lone.client(), sent, ready) == expected


def test_nothing_is_sent_after_a_copy(lone: Lone) -> None:
    actor, other = lone.client(), lone.client()
    pid = other.value("SELECT pg_backend_pid()") or ""
    mark = lone.postgres.log_mark()
    for end in (COPY_DONE, copy_fail("no")):
        actor.send(query("COPY kept FROM STDIN"))
        actor.until("G")
        actor.converse(copy_data(b"1\tx\n"), end)
        other.value(MARK)
    assert lone.logged(mark, pid) == ["COPY kept FROM STDIN", MARK] * 2


def test_nothing_is_sent_to_a_server_when_its_client_leaves(lone: Lone) -> None:
    for end in ("quit", "close", "reset"):
        actor = lone.client()
        actor.ask(query("SELECT 1"), extended("SELECT 2", "s"), ready=2)
        other = lone.client()
        pid = other.value("SELECT pg_backend_pid()") or ""
        mark = lone.postgres.log_mark()
        getattr(actor, end)()
        assert other.value(MARK) == "the next client"
        assert lone.logged(mark, pid) == [MARK], end


def test_logins_and_their_parameters_cost_nothing_while_they_agree(lone: Lone) -> None:
    first = lone.client(TimeZone="Asia/Tokyo")
    second, third = lone.client(TimeZone="Asia/Tokyo"), lone.client(TimeZone="Asia/Tokyo")
    second.value("SELECT 1")
    pid = second.value("SELECT pg_backend_pid()") or ""
    mark = lone.postgres.log_mark()
    for client in (first, second, third, first):
        client.value("SELECT 1")
    assert lone.logged(mark, pid) == ["SELECT 1"] * 4


def test_what_was_done_is_cleaned_once_and_by_one_message(lone: Lone) -> None:
    for sql, cleaner in (
        ("SET work_mem = '7MB'", "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD PLANS"),
        ("SET lock_timeout = 7", "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL"),
        ("PREPARE a AS SELECT 1", "DEALLOCATE ALL"),
        ("DECLARE held CURSOR WITH HOLD FOR SELECT 1", "CLOSE ALL"),
        ("LISTEN news", "UNLISTEN *"),
        ("CREATE TEMP TABLE mine ()", "DISCARD TEMP"),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_catalog.pg_advisory_unlock_all()"),
        ("LISTEN news; PREPARE a AS SELECT 1", "DEALLOCATE ALL; UNLISTEN *"),
    ):
        assert statements_of(lone, lone.client(), [query(sql)], 1) == [sql, cleaner]
        assert statements_of(lone, lone.client(), [query("SELECT 1")], 1) == ["SELECT 1"]


def test_who_cleans_up_behind_itself_is_not_cleaned_again(lone: Lone) -> None:
    """By DISCARD ALL, the only command that leaves nothing at all."""
    actor = lone.client()
    sent = [query("BEGIN; SET work_mem = '7MB'; SELECT pg_advisory_lock(7); COMMIT; LISTEN news")]
    told = statements_of(lone, actor, [*sent, query("DISCARD ALL")], 2)
    assert told[1:] == ["DISCARD ALL"]
