"""What drivers say, recorded (psycopg, asyncpg, pgbench, psql) or as their sources have it, through each kind of pool.

Each script runs whole, byte by byte, with its texts known to the pooler before, and with other clients in between.
"""

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
    bind_as,
    close_portal,
    close_statement,
    copy_data,
    copy_fail,
    describe_portal,
    describe_statement,
    execute,
    parse,
    query,
    rival,
    texts_of,
)
from tests.e2e.differential.smallest import assert_same

INT2, BEGIN, COMMIT, ROLLBACK = 21, query("BEGIN"), query("COMMIT"), query("ROLLBACK")
INSERT = "INSERT INTO scratch VALUES ($1, $2)"


def run(
    name: str = "", values: list[bytes | None] | None = None, formats: list[int] | None = None, text: int = 0
) -> Script:
    """Bind, Describe portal, Execute: as libpq asks for a result."""
    return [bind_as(values or [], name, "", formats or [], [text]), describe_portal(), execute()]


def asyncpg(number: int, sql: str, values: list[bytes | None] | None = None) -> Script:
    """Prepare and fetch: Flush behind the description, results in binary."""
    name = f"__asyncpg_stmt_{number:x}__"
    fetch = [bind_as(values or [], name, "", [1], [1]), execute(), SYNC, WAIT]
    return [parse(sql, name), describe_statement(name), FLUSH, WAIT, *fetch]


def pgbench(*names: str) -> Script:
    return [step for name in names for step in run(name, [b"1"] if name == "P_1" else [])]


PSYCOPG_LOOP = [
    step
    for n in range(5)
    for step in (parse("SELECT $1::int + 1", "", [INT2]), *run("", [bytes([0, n])], [1]), SYNC, WAIT)
]  # fmt: skip

RECORDED: dict[str, Script] = {
    "psycopg prepares at the sixth time": [
        BEGIN, WAIT, *PSYCOPG_LOOP, parse("SELECT $1::int + 1", "_pg3_0", [INT2]), SYNC, WAIT,
        *run("_pg3_0", [b"\0\5"], [1]), SYNC, WAIT, *run("_pg3_0", [b"\0\6"], [1]), SYNC, WAIT, COMMIT, WAIT,
        BEGIN, WAIT, *run("_pg3_0", [b"\0\t"], [1]), SYNC, WAIT, query("SELECT 1/0"), WAIT, ROLLBACK, WAIT,
        query("DEALLOCATE ALL"), WAIT, BEGIN, WAIT, parse("SELECT $1::int + 1", "_pg3_1", [INT2]), SYNC, WAIT,
        *run("_pg3_1", [b"\0\t"], [1]), SYNC, WAIT, COMMIT, WAIT,
    ],
    "psycopg in a pipeline": [
        parse(INSERT, "_pg3_0", [INT2, 0]), *run("_pg3_0", [b"\0\0", b"n"], [1, 0]), *run("_pg3_0", [b"\0\1", b"n"],
        [1, 0]),
        *run("_pg3_0", [b"\0\2", b"n"], [1, 0]), SYNC, WAIT, parse("SELECT count(*) FROM scratch"), *run(), SYNC, WAIT,
        parse("BEGIN"), *run(), SYNC, WAIT, parse("SELECT 2"), *run(), SYNC, FLUSH, WAIT,
        parse("COMMIT"), *run(), SYNC, FLUSH, WAIT, SYNC, WAIT,
    ],
    "psycopg executemany, then COPY": [
        parse(INSERT, "_pg3_0", [INT2, 0]), *run("_pg3_0", [b"\0\0", b"n"], [1, 0]), *run("_pg3_0", [b"\0\1", b"n"],
        [1, 0]),
        SYNC, FLUSH, WAIT, query("COPY scratch FROM STDIN"), WAIT, copy_data(b"1\tx\n"), COPY_DONE, WAIT,
        query("COPY scratch TO STDOUT"), WAIT, parse("SELECT 1", "_pg3_1"), SYNC, WAIT, *run("_pg3_1"), SYNC, WAIT,
    ],
    "psycopg keeps two statements and closes the older": [
        step for n in range(5) for step in (
            parse(f"SELECT {n}", f"_pg3_{n}"), SYNC, WAIT, *run(f"_pg3_{n}"), SYNC, WAIT,
            *([close_statement(f"_pg3_{n - 1}"), SYNC, WAIT] if n else []),
        )
    ],
    "asyncpg fetches, twice by one statement": [
        *asyncpg(1, "SELECT $1::int + 1", [b"\0\0\0\4"]),
        bind_as([b"\0\0\0\5"], "__asyncpg_stmt_1__", "", [1], [1]), execute(), SYNC, WAIT,
    ],
    "asyncpg's cursor": [
        query("BEGIN;"), WAIT, parse("SELECT generate_series(1,5)", "s2"), describe_statement("s2"), FLUSH, WAIT,
        bind_as([], "s2", "p3", [1], [1]), execute("p3", 2), SYNC, WAIT, execute("p3", 2), SYNC, WAIT,
        execute("p3", 2), SYNC, WAIT, close_portal("p3"), SYNC, WAIT, query("COMMIT;"), WAIT,
    ],
    "asyncpg executemany, an error, COPY, reset": [
        parse(INSERT, "s4"), describe_statement("s4"), FLUSH, WAIT, bind_as([b"\0\0\0\1", b"a"], "s4", "", [1, 1], [1]),
        execute(), bind_as([b"\0\0\0\2", b"b"], "s4", "", [1, 1], [1]), execute(), SYNC, WAIT,
        parse("SELECT 1/$1::int", "s6"), describe_statement("s6"), FLUSH, WAIT, close_statement("s4"), SYNC, WAIT,
        bind_as([bytes(4)], "s6", "", [1], [1]), execute(), SYNC, WAIT,
        parse('SELECT * FROM "scratch" LIMIT 1', "s7"), describe_statement("s7"), FLUSH, WAIT,
        query('COPY "scratch" FROM STDIN '), WAIT, copy_data(b"5\tx\n"), COPY_DONE, WAIT,
        query("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"), WAIT,
    ],
    "asyncpg with a cache of one statement": [
        *asyncpg(8, "SELECT 0, $1::int", [b"\0\0\0\4"]), parse("SELECT 1, $1::int", "s9"), describe_statement("s9"),
        FLUSH, WAIT,
        close_statement("__asyncpg_stmt_8__"), SYNC, WAIT, bind_as([b"\0\0\0\4"], "s9", "", [1], [1]), execute(),
        SYNC, WAIT,
    ],
    "asyncpg without a cache": [
        parse("SELECT 0, $1::int"), describe_statement(), FLUSH, WAIT,
        parse("SELECT 0, $1::int"), bind_as([b"\0\0\0\4"], "", "", [1], [1]), execute(), SYNC, WAIT,
        parse("SELECT 1, $1::int"), describe_statement(), FLUSH, WAIT,
        parse("SELECT 1, $1::int"), bind_as([b"\0\0\0\4"], "", "", [1], [1]), execute(), SYNC, WAIT,
    ],
    "pgbench -M extended": [
        step for _ in range(2) for sql, values in (("BEGIN;", []), ("SELECT $1 + 1;", [b"1"]), ("END;", []))
        for step in (parse(sql), *run("", list(values)), SYNC, WAIT)
    ],
    "pgbench -M prepared": [
        *(step for name, sql in (("P_0", "BEGIN;"), ("P_1", "SELECT $1 + 1;"), ("P_2", "END;"))
          for step in (parse(sql, name), SYNC, WAIT, *pgbench(name), SYNC, WAIT)),
        *(step for name in ("P_0", "P_1", "P_2") for step in (*pgbench(name), SYNC, WAIT)),
    ],
    "pgbench with \\startpipeline": [
        *(step for name, sql in (("P_0", "BEGIN;"), ("P_1", "SELECT $1 + 1;"), ("P_2", "SELECT 2;"), ("P_3", "END;"))
          for step in (parse(sql, name), SYNC, WAIT)),
        *pgbench("P_0", "P_1", "P_2"), SYNC, *pgbench("P_1", "P_3"), SYNC, WAIT,
        *pgbench("P_0", "P_1", "P_2"), SYNC, *pgbench("P_1", "P_3"), SYNC, WAIT,
    ],
    "psql's \\bind, \\parse, \\gdesc, \\close_prepared and pipelines": [
        parse("SELECT 1 "), *run(), SYNC, WAIT, parse("SELECT $1::int ", "s"), SYNC, WAIT, *run("s", [b"5"]), SYNC,
        WAIT,
        parse("SELECT $1 "), SYNC, WAIT, describe_statement(), SYNC, WAIT,
        query("SELECT pg_catalog.format_type('25'::pg_catalog.oid, -1)"), WAIT, close_statement("s"), SYNC, WAIT,
        parse("SELECT 1 "), *run(), parse("SELECT 2 "), *run(), FLUSH, WAIT, parse("SELECT 3 "), *run(), SYNC, WAIT,
    ],
    "pgjdbc: unnamed five times, then S_1; rows in portions": [
        *(step for _ in range(5) for step in (
            parse("SELECT $1::int"), bind([b"1"]), describe_portal(), execute(), SYNC, WAIT)),
        parse("SELECT $1::int", "S_1"), bind([b"1"], "S_1"), describe_portal(), execute(), SYNC, WAIT,
        bind([b"2"], "S_1"), execute(), SYNC, WAIT,
        parse("BEGIN", "S_2"), bind([], "S_2"), execute("", 0), parse("SELECT generate_series(1, 7)", "S_3"),
        bind([], "S_3", "C_4"), describe_portal("C_4"), execute("C_4", 3), SYNC, WAIT,
        execute("C_4", 3), SYNC, WAIT, execute("C_4", 3), SYNC, WAIT, close_portal("C_4"), bind([], "S_2"), execute(),
        SYNC, WAIT,
        parse("COMMIT", "S_5"), bind([], "S_5"), execute(), SYNC, WAIT, close_statement("S_1"),
        close_statement("S_3"), SYNC, WAIT,
    ],
    "pgjdbc's batch in one go, with a bad row": [
        parse("BEGIN"), bind(), execute(), parse(INSERT, "S_1"), describe_statement("S_1"),
        *(step for value in (b"1", b"bad", b"3") for step in (bind([value, b"x"], "S_1"), execute("", 1))), SYNC, WAIT,
        parse("ROLLBACK"), bind(), execute(), SYNC, WAIT, bind([b"4", b"x"], "S_1"), execute(), SYNC, WAIT,
    ],
    "Npgsql: prepares several before one Sync, closes on the way": [
        parse("SELECT $1::int", "_p1"), describe_statement("_p1"), parse("SELECT 2", "_p2"), describe_statement("_p2"),
        SYNC, WAIT, bind([b"1"], "_p1"), execute(), bind([], "_p2"), execute(), SYNC, WAIT,
        close_statement("_p1"), parse("SELECT 3", "_p1"), describe_statement("_p1"), SYNC, WAIT, bind([], "_p1"),
        execute(), SYNC, WAIT,
        query("DISCARD ALL"), WAIT, parse("SELECT 4", "_p1"), describe_statement("_p1"), SYNC, WAIT,
    ],
    "pgx: describes by Sync, deallocates by Close, sends batches": [
        parse("SELECT $1::int", "stmtcache_1"), describe_statement("stmtcache_1"), SYNC, WAIT,
        bind_as([b"\0\0\0\1"], "stmtcache_1", "", [1], [1]), describe_portal(), execute(), SYNC, WAIT,
        BEGIN, WAIT, bind_as([b"\0\0\0\1"], "stmtcache_1", "", [1], [1]), describe_portal(), execute(),
        bind_as([b"\0\0\0\2"], "stmtcache_1", "", [1], [1]), describe_portal(), execute(), SYNC, WAIT, COMMIT, WAIT,
        close_statement("stmtcache_1"), SYNC, WAIT, parse("SELECT $1::int", "stmtcache_1"),
        describe_statement("stmtcache_1"),
        SYNC, WAIT, query("deallocate \"stmtcache_1\""), WAIT,
    ],
    "Active Record: a1, DEALLOCATE by Query, an aborted transaction": [
        parse("SELECT $1::text", "a1"), SYNC, WAIT, *run("a1", [b"x"]), SYNC, WAIT, query("DEALLOCATE a1"), WAIT,
        parse("SELECT $1::text", "a1"), SYNC, WAIT, BEGIN, WAIT, query("SELEC"), WAIT, *run("a1", [b"x"]), SYNC, WAIT,
        query("DEALLOCATE a1"), WAIT, ROLLBACK, WAIT, *run("a1", [b"x"]), SYNC, WAIT, query("DEALLOCATE a1"), WAIT,
    ],
    "node-postgres: named, no Describe of statements, COPY that fails": [
        parse("SELECT $1::text", "fetch"), bind([b"x"], "fetch"), describe_portal(), execute(), SYNC, WAIT,
        bind([b"y"], "fetch"), describe_portal(), execute(), SYNC, WAIT,
        query("COPY scratch FROM STDIN"), WAIT, copy_data(b"1\n"), copy_fail("stream error"), WAIT,
        bind([b"z"], "fetch"), describe_portal(), execute(), SYNC, WAIT,
    ],
    "rust-postgres: COPY by Execute, all in the order of its sink": [
        parse("COPY scratch FROM STDIN", "s0"), describe_statement("s0"), SYNC, WAIT, bind([], "s0"), execute(), SYNC,
        WAIT,
        copy_data(b"1\tx\n"), COPY_DONE, SYNC, WAIT, close_statement("s0"), SYNC, WAIT,
    ],
}  # fmt: skip


def between(script: Script) -> Script:
    """Other clients speak in the pauses."""
    pauses = iter(range(10_000))
    return [rival(next(pauses) % 8) if step == WAIT else step for step in script]


@pytest.mark.parametrize("pool", ["session", "transaction", "tight1", "tight2"])
@pytest.mark.parametrize("name", RECORDED)
def test_drivers_get_what_postgresql_answers(bench: Bench, name: str, pool: str) -> None:
    script = RECORDED[name]
    assert_same(bench, Case(pool, script))
    assert_same(bench, Case(pool, [step for step in script if step != WAIT]))
    assert_same(bench, Case(pool, script, pieces=[1, 3]))
    if pool != "session":
        assert_same(bench, Case(pool, script, warm=texts_of(script)[:4]))
        assert_same(bench, Case(pool, between(script)))
