"""Batches of the usual shape (`relay.batch`), when a server must be told of the statement and when it has it: the same
bytes as from PostgreSQL, also where a batch or its answer turns out not to be of that shape."""

from __future__ import annotations

import pytest

from tests.e2e.differential.bench import Bench, Case
from tests.e2e.differential.script import (
    COPY_DONE,
    FLUSH,
    SYNC,
    WAIT,
    Script,
    bind,
    copy_data,
    describe_portal,
    describe_statement,
    execute,
    parse,
    query,
    rival,
)

BEGIN, ROLLBACK = query("BEGIN"), query("ROLLBACK")
RUN = [describe_portal(), execute(), SYNC]


def batch(text: str, *values: bytes) -> Script:
    """What a driver sends for a query with parameters, in one packet."""
    return [parse(text), bind(list(values)), *RUN]


def again(text: str, *values: bytes) -> Script:
    """The same until the server has the statement for certain, and twice more."""
    return [*batch(text, *values), WAIT] * 3


def named(*values: bytes) -> Script:
    return [bind(list(values), "a"), *RUN, WAIT]


SCRIPTS: dict[str, Script] = {
    "a row": again("SELECT $1::text", b"x"),
    "no row": again("SELECT 1 WHERE false"),
    "many rows": again("SELECT generate_series(1, 20000)"),
    "a row larger than any buffer": again("SELECT repeat('x', 300000)"),
    "a large parameter": again("SELECT length($1::text)", b"y" * 60_000),
    "no description": [parse("SELECT 1"), bind(), execute(), SYNC, WAIT] * 3,
    "no Parse": [*batch("SELECT $1::int", b"7"), WAIT, *[bind([b"8"]), *RUN, WAIT] * 2],
    "neither": [*batch("SELECT $1::int", b"7"), WAIT, *[bind([b"8"]), execute(), SYNC, WAIT] * 2],
    "a name": [parse("SELECT $1::int", "a"), SYNC, WAIT, *named(b"1") * 3, bind([b"2"], "a"), execute(), SYNC],
    "a name that was described": [parse("SELECT 1 AS one", "a"), describe_statement("a"), SYNC, WAIT, *named() * 3],
    "a name that is not there": [*batch("SELECT 1"), WAIT, bind([], "nosuch"), *RUN, WAIT, *batch("SELECT 1")],
    "one text after another": [*again("SELECT 1"), *again("SELECT 'two'"), *again("SELECT 1"), bind(), *RUN],
    "commands without rows": [
        *again("INSERT INTO scratch VALUES ($1, 'n')", b"1"),
        *again("UPDATE scratch SET name = $1", b"m"),
        *again("DELETE FROM scratch RETURNING id"),
        *again("SELECT count(*) FROM scratch"),
    ],
    "rows in portions": [parse("SELECT generate_series(1, 3)"), bind(), execute("", 2), SYNC, WAIT] * 3,
    "no statement": again(""),
    "an error of Bind": [*again("SELECT $1::int", b"x"), *again("SELECT $1::int", b"1")],
    "an error of Execute": [*again("SELECT 1 / $1::int", b"0"), *again("SELECT 1 / $1::int", b"1")],
    "an error behind rows": again("SELECT 1 / (3 - n) FROM generate_series(1, 9) n"),
    "a notice": again("DO $$ BEGIN RAISE NOTICE 'well'; END $$"),
    "a parameter": [
        BEGIN,
        WAIT,
        *again("SELECT set_config('application_name', $1, false)", b"other"),
        *again("SHOW application_name"),
        query("COMMIT"),
    ],
    "within a transaction": [BEGIN, WAIT, *again("SELECT 1"), query("COMMIT"), WAIT, *again("SELECT 1")],
    "right behind BEGIN": [*again("SELECT 1"), BEGIN, *batch("SELECT 1"), WAIT, *batch("SELECT 1"), ROLLBACK],
    "BEGIN and COMMIT": [*again("SELECT 1"), *batch("BEGIN"), WAIT, *again("SELECT 1"), *batch("COMMIT"), WAIT] * 2,
    "in a failed transaction": [
        *again("SELECT 1"),
        BEGIN,
        WAIT,
        *batch("SELECT 1 / 0"),
        WAIT,
        *again("SELECT 1"),
        ROLLBACK,
        WAIT,
        *again("SELECT 1"),
    ],
    "two in one packet": [*again("SELECT 1"), *batch("SELECT 1"), *batch("SELECT 1"), WAIT, *batch("SELECT 1")],
    "the first of two fails": [
        *again("SELECT 1 / $1::int", b"1"),
        *batch("SELECT 1 / $1::int", b"0"),
        *batch("SELECT 1 / $1::int", b"1"),
    ],
    "a Query behind it": [*again("SELECT 1"), *batch("SELECT 1"), query("SELECT 2"), WAIT, *again("SELECT 1")],
    "Flush instead of Sync": [*again("SELECT 1"), *batch("SELECT 1")[:-1], FLUSH, WAIT, SYNC, WAIT, *again("SELECT 1")],
    "COPY": [
        *again("SELECT 1"),
        parse("COPY scratch FROM STDIN"),
        bind(),
        execute(),
        SYNC,
        WAIT,
        copy_data(b"1\tx\n"),
        COPY_DONE,
        SYNC,
        WAIT,
        *again("SELECT count(*) FROM scratch"),
        parse("COPY scratch TO STDOUT"),
        bind(),
        execute(),
        SYNC,
        WAIT,
        *again("SELECT 1"),
    ],
    "a plan that another client makes stale": [
        *again("SELECT * FROM scratch"),
        rival(0),
        *again("SELECT * FROM scratch"),
    ],
    "DDL of one's own": [
        *again("SELECT * FROM scratch"),
        BEGIN,
        query("ALTER TABLE scratch ADD more int"),
        WAIT,
        *again("SELECT * FROM scratch"),
        ROLLBACK,
        WAIT,
        *again("SELECT * FROM scratch"),
    ],
    "settings": [
        *again("SELECT '{1}'::text::bytea"),
        BEGIN,
        query("SET LOCAL bytea_output = escape"),
        WAIT,
        *again("SELECT '{1}'::text::bytea"),
        query("COMMIT"),
        WAIT,
        *again("SELECT '{1}'::text::bytea"),
    ],
    "Queries": [
        *[query("SELECT 1"), WAIT, query("SELECT 1 WHERE false"), WAIT, query("INSERT INTO scratch VALUES (1)"), WAIT]
        * 2,
        *[query("SELECT generate_series(1, 20000)"), WAIT, query("SELECT repeat('x', 300000)"), WAIT],
        *[query("SELECT 1; SELECT 2"), WAIT, query(""), WAIT, query("SELECT 1 / 0"), WAIT, query("SELEC"), WAIT],
        *[query("SELECT 1"), query("SELECT 2"), query("BEGIN"), WAIT, query("SELECT 1"), WAIT, query("COMMIT"), WAIT],
        *[
            query("DO $$ BEGIN RAISE NOTICE 'well'; END $$"),
            WAIT,
            query("DELETE FROM scratch"),
            query("SELECT 3"),
            SYNC,
        ],
    ],
    "a Query drops the unnamed statement": [*again("SELECT 1"), query("SELECT 2"), WAIT, bind(), *RUN, WAIT],
    "malformed": [*again("SELECT 1"), parse("SELECT 1"), bind([b"1", b"2"]), *RUN, WAIT, *again("SELECT 1")],
}


@pytest.mark.parametrize("pool", ["transaction", "tight1", "session"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_answer_is_postgresqls(bench: Bench, name: str, pool: str) -> None:
    for pieces in ([], [3], [20, 1, 7]):
        case = Case(pool, SCRIPTS[name], pieces, ["SELECT 1", "SELECT $1::int"])
        found = bench.compare(case)
        assert found is None, f"\n{case}\n{found.text}"
