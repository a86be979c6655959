"""What is sent on behind a COPY IN before anybody knows how it ends: answered as by PostgreSQL, names and all."""

from __future__ import annotations

import itertools

import pytest

from tests.e2e.differential.bench import Bench, Case
from tests.e2e.differential.script import (
    COPY_DONE,
    FLUSH,
    SYNC,
    WAIT,
    Script,
    bind,
    close_statement,
    copy_data,
    copy_fail,
    describe_statement,
    execute,
    parse,
    query,
)

TEXT = "COPY scratch FROM STDIN"
COPY, EXECUTED = [parse(TEXT), bind(), execute()], [bind([], "a"), execute(), SYNC]
ROW, BAD = copy_data(b"1\tone\n"), copy_data(b"bad\tx\n")

COPIES: dict[str, Script] = {
    "bad data, Sync": [*COPY, BAD, SYNC],
    "bad data": [*COPY, BAD],
    "bad data, Flush": [*COPY, BAD, FLUSH],
    "bad data, Sync, CopyDone": [*COPY, BAD, SYNC, COPY_DONE],
    "bad data, two Syncs": [*COPY, BAD, SYNC, SYNC],
    "Sync, bad data, CopyDone, Sync": [*COPY, SYNC, BAD, COPY_DONE, SYNC],
    "Sync, wait, bad data, CopyDone, Sync": [*COPY, SYNC, WAIT, BAD, COPY_DONE, SYNC],
    "Sync, wait, bad data, wait, CopyDone, Sync": [*COPY, SYNC, WAIT, BAD, WAIT, COPY_DONE, SYNC],
    "bad data, CopyDone, Sync": [*COPY, BAD, COPY_DONE, SYNC],
    "good data": [*COPY, ROW, COPY_DONE, SYNC],
    "good data, Syncs": [*COPY, SYNC, ROW, SYNC, COPY_DONE, SYNC],
    "CopyFail": [*COPY, ROW, SYNC, copy_fail("no"), SYNC],
    "no such table": [parse("COPY nosuch FROM STDIN"), bind(), execute(), ROW, COPY_DONE, SYNC],
    "a named portal of an earlier batch": [
        query("BEGIN"), parse(TEXT), bind([], "", "p"), SYNC,
        execute("p"), SYNC, BAD, SYNC, COPY_DONE, SYNC, query("ROLLBACK"),
    ],
    "behind a Query that fails": [query("SELEC"), *COPY, SYNC, BAD, SYNC, COPY_DONE],
    "in a batch that has failed": [bind([], "nosuch"), *COPY, SYNC, BAD, SYNC, COPY_DONE],
    "COPY TO": [parse("COPY scratch TO STDOUT"), bind(), execute(), SYNC],
    "COPY TO, unsynced": [parse("COPY scratch TO STDOUT"), bind(), execute()],
    "Query, bad data": [query(TEXT), BAD],
    "Query, bad data, Sync": [query(TEXT), BAD, SYNC],
    "Query, bad data, Sync, CopyDone": [query(TEXT), BAD, SYNC, COPY_DONE],
    "Query, good data, Sync, CopyDone": [query(TEXT), ROW, SYNC, COPY_DONE],
    "Query of two": [query(f"{TEXT}; {TEXT}"), ROW, COPY_DONE, BAD, COPY_DONE],
    "Query of others before": [query(f"SELECT 1; SELECT 2; {TEXT}"), SYNC, BAD, COPY_DONE],
}  # fmt: skip

BEHIND: dict[str, Script] = {
    "an error, a taken name": [query("SELECT 1/0"), parse("SELECT 7", "a"), *EXECUTED],
    "Query, a name": [query("SELECT 1"), *EXECUTED],
    "a name": EXECUTED,
    "a name, wait, a name": [*EXECUTED, WAIT, *EXECUTED],
    "an unknown name": [describe_statement("nosuch"), SYNC, *EXECUTED],
    "Close": [close_statement("a"), SYNC, parse("SELECT 7", "a"), *EXECUTED],
    "another COPY": [parse(TEXT, "c"), bind([], "c"), execute(), BAD, SYNC, COPY_DONE, SYNC, *EXECUTED],
}


@pytest.mark.parametrize("copy", COPIES)
def test_what_is_sent_on_behind_a_copy(bench: Bench, copy: str) -> None:
    known: Script = [parse("SELECT 42", "a"), SYNC, WAIT]
    for behind, pool in itertools.product(BEHIND, ("transaction", "tight1")):
        case = Case(pool, [*known, *COPIES[copy], *BEHIND[behind]])
        found = bench.compare(case)
        assert found is None, f"\n{behind}:\n{case}\n{found.text}"
