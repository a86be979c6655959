"""What the differential test has found: the smallest script of each, by what was wrong with it."""

from __future__ import annotations

import time

import pytest

from tests.e2e.differential.bench import Bench, Case
from tests.e2e.differential.script import (
    COPY_DONE,
    FLUSH,
    SYNC,
    WAIT,
    bind,
    close_portal,
    close_statement,
    copy_data,
    copy_fail,
    describe_portal,
    describe_statement,
    execute,
    function_call,
    parse,
    query,
    rival,
)
from tests.e2e.raw import Raw, tell
from tests.harness import Postgres

BEGIN, SELECT_1, EXECUTED = query("BEGIN"), "SELECT 1", [bind(), execute(), SYNC]
BAD, COPY = query("SELEC"), [parse("COPY scratch FROM STDIN"), bind(), execute()]
EVICT = rival(0)
ROWS, NULLS = "SELECT id + 0 AS n FROM scratch", "SELECT array_to_string('{NULL}'::text[], ',', 'none')"

FOUND: dict[str, Case] = {
    "DEALLOCATE by Query while the server is held by an unsynced Parse": Case(
        "transaction", [parse(SELECT_1, "a"), FLUSH, WAIT, query("DEALLOCATE a"), WAIT]
    ),
    "a name prepared again right behind DEALLOCATE of it by Execute": Case(
        "transaction", [parse("deallocate A;", "a"), bind([], "a"), execute(), parse("deallocate A;", "a"), SYNC]
    ),
    "DEALLOCATE by Execute, and Execute again": Case(
        "transaction", [parse("DEALLOCATE a", "a"), bind([], "a"), execute("", 3), execute("", 3), SYNC,
                        bind([b"41", b"y"], "a"), SYNC]
    ),
    "DEALLOCATE by Execute of one portal, and then of another": Case(
        "tight1", [parse("DEALLOCATE a", "a"), bind([], "a", "p"), execute("p"), execute(), SYNC, parse(SELECT_1, "a")]
    ),
    "DEALLOCATE by Query behind an unsynced message that fails": Case(
        "tight1", [parse("SELECT $1::int", "a"), query("START TRANSACTION"), execute(), WAIT, query("deallocate A;")]
    ),
    "DEALLOCATE by Query in the same packet as an unsynced message that fails": Case(
        "tight1", [parse("SELECT $1::int", "a"), parse(SELECT_1, "b"), query("START TRANSACTION"), execute(),
                   query("deallocate A;")]
    ),
    "DEALLOCATE by Execute that is skipped": Case(
        "transaction", [parse(SELECT_1, "a"), SYNC, parse("DEALLOCATE a"), bind([], "nosuch"), bind(), execute(), SYNC,
                        bind([], "a"), execute(), SYNC]
    ),
    "a name parsed again in a failed transaction, of a statement that was evicted": Case(
        "tight1", [parse(SELECT_1, "a"), SYNC, WAIT, EVICT, BEGIN, BAD, parse("SELECT 1; SELECT 2", "a"), SYNC, WAIT,
                   parse("ROLLBACK", "a"), SYNC, WAIT, parse(SELECT_1, "a"), SYNC]
    ),
    "PREPARE by Execute of a name that Parse has given": Case(
        "tight1", [parse(SELECT_1, "a"), SYNC, WAIT, parse("PREPARE a AS SELECT 2"), *EXECUTED]
    ),
    "PREPARE by Execute of a name that Parse gives in the same batch": Case(
        "transaction", [parse(SELECT_1, "a"), parse("PREPARE a AS SELECT 2", "b"), bind([], "b"), execute(), SYNC]
    ),
    "a name parsed behind a PREPARE of it by Query": Case(
        "transaction", [BEGIN, query("PREPARE a AS SELECT 2"), WAIT, parse(SELECT_1, "b"), parse(SELECT_1, "a"), SYNC]
    ),
    "a name parsed behind a PREPARE of it by Execute, and a DEALLOCATE": Case(
        "tight1", [BEGIN, parse("PREPARE a AS SELECT 2"), *EXECUTED, WAIT, query("DEALLOCATE a"), WAIT,
                   parse(SELECT_1, "a"), bind([], "a"), execute(), SYNC, WAIT, query("EXECUTE a")]
    ),
    "DEALLOCATE by Execute behind what fails": Case(
        "transaction", [parse(SELECT_1, "a"), SYNC, parse("DEALLOCATE a"), bind(), execute("nosuch"), execute(), SYNC,
                        bind([], "a"), execute(), SYNC]
    ),
    "DEALLOCATE by Execute": Case(
        "transaction", [parse(SELECT_1, "a"), SYNC, WAIT, parse("DEALLOCATE a"), *EXECUTED, WAIT,
                        parse(SELECT_1, "a"), SYNC]
    ),
    "DEALLOCATE by Query behind a DEALLOCATE ALL by Execute that is skipped": Case(
        "tight2", [parse(SELECT_1, "a"), parse("DEALLOCATE PREPARE ALL", "b"), parse(SELECT_1, "b"), bind([], "b", "p"),
                   execute("p", 2), SYNC, query("DEALLOCATE a")]
    ),
    "the unnamed statement when it cannot be prepared again in a failed transaction": Case(
        "tight1", [parse("BEGIN;"), describe_statement(), bind(), execute(), execute(), parse("DEALLOCATE x", "b"),
                   bind([], "b"), SYNC, bind(), SYNC, bind()]
    ),
    "the unnamed statement behind a Query that is skipped": Case(
        "tight1", [parse("SELECT $1::text"), describe_statement("nosuch"), query(SELECT_1), SYNC, bind()]
    ),
    "the unnamed statement behind its Close and a Query that are skipped": Case(
        "tight1", [parse(SELECT_1), SYNC, describe_statement("nosuch"), close_statement(""), query(SELECT_1), SYNC,
                   bind(), SYNC]
    ),
    # -- COPY
    "names of a batch whose COPY ends before it is announced": Case(
        "transaction", [parse(SELECT_1, "a"), *COPY, COPY_DONE, SYNC, WAIT, bind([], "a"), execute(), SYNC]
    ),
    "names of a batch whose COPY fails before it is announced": Case(
        "transaction", [parse(SELECT_1, "a"), *COPY, copy_fail("no"), SYNC, WAIT, bind([], "a"), execute(), SYNC]
    ),
    "the order of ReadyForQuery and a known Close behind a COPY that ends before it is announced": Case(
        "transaction", [parse("COPY scratch FROM STDIN", "c"), SYNC, bind([], "c"), execute(), COPY_DONE, SYNC,
                        close_statement("c"), SYNC],
    ),
    "a name prepared again right behind DEALLOCATE ALL by Execute": Case(
        "transaction", [parse("DEALLOCATE ALL", "a"), bind([], "a"), execute(), parse("DEALLOCATE ALL", "a"), SYNC]
    ),
    "names given behind DEALLOCATE ALL by Execute, in the same batch": Case(
        "transaction", [parse("DEALLOCATE ALL"), bind(), execute(), parse(SELECT_1, "a"), SYNC, bind([], "a"), SYNC]
    ),
    "DEALLOCATE ALL that was not bound for an error, executed in the next batch": Case(
        "transaction", [bind([], "nosuch"), parse("DEALLOCATE ALL", "a"), bind([], "a"), parse(SELECT_1, "b"), SYNC,
                        execute(), SYNC, WAIT, bind([], "b"), execute(), SYNC],
    ),
    "DEALLOCATE that was not bound for an error, and another portal of that name": Case(
        "transaction", [parse(SELECT_1, "a"), SYNC, BEGIN, query("SAVEPOINT s"), parse("DEALLOCATE a"), SYNC, WAIT,
                        bind([], "nosuch"), bind([], "", "p"), SYNC, WAIT, query("ROLLBACK TO s"),
                        query("DECLARE p CURSOR FOR SELECT 1"), execute("p"), SYNC, bind([], "a"), execute(), SYNC],
    ),
    "DEALLOCATE of a reserved word that is a name": Case(
        "transaction", [parse(SELECT_1, "user"), parse(SELECT_1, "left"), parse(SELECT_1, "prepare"), SYNC, WAIT,
                        query("DEALLOCATE user"), WAIT, query("DEALLOCATE LEFT"), WAIT, query("DEALLOCATE prepare"),
                        WAIT, query('DEALLOCATE "user"'), bind([], "left"), execute(), SYNC],
    ),
    "EXECUTE behind the end of a failed transaction, in one batch": Case(
        "transaction", [parse("SELECT 'a'", "a"), parse("ROLLBACK", "b"), SYNC, BEGIN, query("SELECT 1/0"), WAIT,
                        bind([], "b"), execute(), parse("EXECUTE a"), *EXECUTED],
    ),
    "EXECUTE of what was closed when a Close before that was skipped": Case(
        "transaction", [BEGIN, parse("SELECT 'a'", "a"), SYNC, query("SAVEPOINT s"), query("EXECUTE a"), WAIT,
                        bind([], "nosuch"), close_statement("a"), SYNC, WAIT, query("ROLLBACK TO s"), WAIT,
                        close_statement("a"), SYNC, WAIT, query("EXECUTE a"), WAIT],
    ),
    "DEALLOCATE by Execute that was skipped at first": Case(
        "transaction", [BEGIN, parse(SELECT_1, "a"), parse("DEALLOCATE a"), bind([], "", "p"), SYNC,
                        query("SAVEPOINT s"), query("SELECT 1/0"), WAIT, execute("p"), SYNC, WAIT,
                        query("ROLLBACK TO s"), WAIT, execute("p"), SYNC, WAIT, bind([], "a"), execute(), SYNC],
    ),
    "a setting by Execute that was skipped at first": Case(
        "transaction", [BEGIN, parse("SELECT set_config('array_nulls', 'off', true)"), bind([], "", "p"), SYNC,
                        query("SAVEPOINT s"), query("SELECT 1/0"), WAIT, execute("p"), SYNC, WAIT,
                        query("ROLLBACK TO s"), WAIT, parse(NULLS), *EXECUTED, WAIT, execute("p"), SYNC, WAIT,
                        parse(NULLS), *EXECUTED, WAIT],
    ),
    "an error of a Query behind an unsynced Parse": Case(
        "transaction", [parse(SELECT_1), FLUSH, WAIT, BAD, WAIT, parse(SELECT_1, "a"), SYNC]
    ),
    "an error of a FunctionCall behind an unsynced Parse": Case(
        "transaction", [parse(SELECT_1), FLUSH, WAIT, function_call(1, []), WAIT, describe_statement(), SYNC]
    ),
    "an error of a FunctionCall in the same packet as an unsynced Close": Case(
        "transaction", [close_statement("nosuch"), function_call(1, []), WAIT, query(SELECT_1), WAIT]
    ),
    "the only server stays with a client that sent a Query behind an unsynced Parse": Case(
        "tight1", [parse(SELECT_1, "a"), describe_statement("a"), FLUSH, WAIT, query(SELECT_1), WAIT, EVICT]
    ),
    "DEALLOCATE by Query in the same packet as the Parse": Case(
        "transaction", [parse(SELECT_1, "a"), SYNC, query("DEALLOCATE a"), parse(SELECT_1, "a"), SYNC]
    ),
    "DEALLOCATE while PostgreSQL skips to the next Sync": Case(
        "transaction",
        [BEGIN, WAIT, parse(SELECT_1, "a"), FLUSH, WAIT, bind([], "nosuch"), query("DEALLOCATE a"), SYNC, WAIT],
    ),
    "a known Parse behind an unsynced message in a failed transaction": Case(
        "transaction", [BEGIN, query("SELECT 1/0"), WAIT, close_portal(), parse(SELECT_1, "a"), SYNC], warm=[SELECT_1]
    ),
    "names of an earlier batch, after an error in Describe": Case(
        "transaction", [parse(SELECT_1, "a"), bind([], "a"), SYNC, describe_portal(), SYNC, bind([], "a"), SYNC]
    ),
    "the unnamed statement, after an error in Describe of a portal": Case(
        "transaction", [parse(SELECT_1), describe_portal("nosuch"), SYNC, bind(), execute(), SYNC]
    ),
    "names of an earlier batch, after an error in Describe in a failed transaction": Case(
        "transaction", [parse(SELECT_1, "a"), SYNC, BEGIN, BAD, bind([], "a"), describe_portal(), SYNC,
                        query("ROLLBACK"), bind([], "a"), SYNC],
    ),
    "a name whose second Parse in the batch failed": Case(
        "transaction",
        [parse(SELECT_1, "a"), parse("SELECT 2", "a"), describe_statement("a"), SYNC, bind([], "a"), SYNC],
    ),
    "the unnamed statement, closed in a batch that failed and dropped by the Query behind it": Case(
        "tight1", [parse(SELECT_1), execute("nosuch"), close_statement(""), SYNC, query("ROLLBACK"), bind(), SYNC]
    ),
    # -- what an error undoes, and what it says
    "a known Parse in the same packet as what fails a transaction that has begun here only": Case(
        "tight1", [query("begin ;"), execute("nosuch"), SYNC, parse(SELECT_1), SYNC], warm=[SELECT_1]
    ),
    "the error of a Bind, of a statement with two names": Case(
        "transaction", [parse(SELECT_1, "a"), parse(SELECT_1, "b"), bind([b"x"], "a"), SYNC]
    ),
    "the error of a second Parse, of a statement with two names": Case(
        "transaction", [parse(SELECT_1, "a"), parse(SELECT_1, "b"), parse("SELECT 2", "a"), SYNC]
    ),
    "the error of a second Parse, with another in the same batch": Case(
        "transaction", [parse("SELECT $1::text", "b"), parse(SELECT_1, "b"), parse("SELECT $1::text", "a"), SYNC]
    ),
    "the unnamed statement, prepared again in the batch behind one that failed": Case(
        "transaction", [describe_statement("nosuch"), parse(SELECT_1), SYNC, parse(SELECT_1), WAIT,
                        describe_statement()],
        warm=[SELECT_1],
    ),
    "the unnamed statement of a COPY that ends before it is announced": Case(
        "transaction", [*COPY, COPY_DONE, SYNC, describe_statement(), SYNC]
    ),
    "the unnamed statement of a COPY that fails by its data": Case(
        "transaction", [*COPY, FLUSH, WAIT, copy_data(b"bad\tx\n"), SYNC, describe_statement(), SYNC]
    ),
    "names of an earlier batch, after a COPY by Query that fails by its data": Case(
        "transaction", [parse(SELECT_1, "a"), SYNC, query("COPY scratch FROM STDIN"), copy_data(b"1\n"), COPY_DONE,
                        bind([], "a"), execute(), SYNC],
    ),
    "a known Parse and Flush after a COPY with Syncs in it": Case(
        "transaction", [*COPY, SYNC, WAIT, copy_data(b"bad\tx\n"), SYNC, copy_fail("no"), SYNC, close_portal(),
                        parse(SELECT_1, "a"), FLUSH, WAIT, SYNC],
        warm=[SELECT_1],
    ),
    "the only server stays with a client whose COPY ended before it was announced": Case(
        "tight1", [*COPY, COPY_DONE, SYNC, WAIT, EVICT]
    ),
    "the only server stays with a client that sent Sync in a COPY which failed": Case(
        "tight1", [query("COPY scratch FROM STDIN"), copy_data(b"bad\tx\n"), SYNC, WAIT, EVICT]
    ),
    # -- a Query right behind unsynced messages, as asyncpg sends one after prepare()
    "names after a COPY in a Query behind an unsynced Parse": Case(
        "transaction", [parse(SELECT_1, "a"), query("COPY scratch FROM STDIN; SELECT 1/0"), COPY_DONE,
                        parse(SELECT_1, "a"), SYNC],
    ),
    # -- what a transaction changes, noted while the end of the one before it was still to come
    "a temporary table behind the end of another transaction": Case(
        "transaction", [query("INSERT INTO scratch VALUES (6)"), parse(ROWS), *EXECUTED, WAIT, BEGIN, query(SELECT_1),
                        query("ROLLBACK"), BEGIN, query("CREATE TEMP TABLE scratch (id int)"), parse(ROWS), *EXECUTED,
                        query("ROLLBACK")],
    ),
    "a setting that is taken back in the batch which has made it": Case(
        "transaction", [BEGIN, parse("SET LOCAL array_nulls = off"), bind(), execute(), parse(NULLS), bind(), execute(),
                        parse("ROLLBACK"), bind(), execute(), parse(NULLS), *EXECUTED]
    ),
    "a setting behind the end of another transaction": Case(
        "tight1", [BEGIN, query(SELECT_1), query("ROLLBACK"), BEGIN, query("SET LOCAL array_nulls = off"),
                   parse(NULLS), *EXECUTED, query("ROLLBACK"), WAIT, parse(NULLS), *EXECUTED], warm=[NULLS],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_found(bench: Bench, name: str) -> None:
    case = FOUND[name]
    for _ in range(2):
        found = bench.compare(case)
        assert found is None, f"\n{case}\n{found.text}"


def test_a_crash_of_postgresql_is_no_difference(own_postgres: Postgres) -> None:
    """PostgreSQL 18 ends by SIGSEGV, without a pooler: an Execute behind a DEALLOCATE that fails in a transaction and a
    Query of several statements that is refused for it."""
    script = [BEGIN, query("DEALLOCATE a"), query("SELECT 1; SELECT 2"), execute()]
    with Bench(own_postgres) as bench:
        assert bench.compare(Case("transaction", script)) is None
        assert bench.compare(Case("transaction", [parse(SELECT_1), *EXECUTED])) is None


@pytest.mark.parametrize("first", [5, 6, 8])
def test_a_large_bind_may_come_in_pieces_that_end_within_its_names(bench: Bench, first: int) -> None:
    said = bind([b"y" * 70_000], "name", "portal")
    with Raw(bench.address).log_in(database="transaction") as raw:
        raw.send(parse("SELECT $1 = $1", "name"), said[:first])
        time.sleep(0.05)
        raw.send(said[first:], execute("portal"), SYNC)
        assert tell(raw.until("Z")) == "1 2 D C ZI"


def test_the_answer_to_the_check_query_is_remembered_without_what_follows(bench: Bench) -> None:
    """What one client had sent behind its `;` was answered to every other client's `;`."""
    for script in ([query(";"), query("SELECT 'mine'"), query("SELECT 'mine too'")], [query(";")], [query(";"), SYNC]):
        found = bench.compare(Case("checks", script))
        assert found is None, found.text
