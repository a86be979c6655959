"""What a client does over the simple query protocol: results of all sizes, errors and notices, transactions."""

from __future__ import annotations

import hashlib
import struct

from tests.torture import wire
from tests.torture.client import Client
from tests.torture.expect import (
    ANY_ROW,
    EMPTY,
    Expected,
    described,
    done,
    error,
    function_result,
    notice,
    ready,
    row,
    row_or,
    selected,
)

INT4PL = 177  # oid of the function int4pl(integer, integer)


def digest(text: str) -> str:
    """What PostgreSQL's md5() answers."""
    return hashlib.md5(text.encode()).hexdigest()


def series_rows(tag: str, count: int, repeat: int = 1) -> list[Expected]:
    """Rows of `series_sql`."""
    return [row(tag, number, digest(f"{tag}{number}") * repeat) for number in range(1, count + 1)]


def series_sql(tag: str, count: int, repeat: int = 1) -> str:
    return f"SELECT '{tag}', g, repeat(md5('{tag}' || g), {repeat}) FROM generate_series(1, {count}) g"


async def select_one(client: Client, tag: str) -> None:
    number = client.rng.randrange(1_000_000)
    await client.ask(f"SELECT '{tag}', {number}, NULL AS \"{tag}\"", *selected(row(tag, number, None), column=tag))


async def select_many(client: Client, tag: str) -> None:
    count = client.rng.choice((2, 10, 100, 700))
    await client.ask(series_sql(tag, count), *selected(*series_rows(tag, count)))


async def select_wide(client: Client, tag: str) -> None:
    """Rows larger than any buffer: up to 2 MB in one message."""
    repeat = client.rng.choice((300, 3000, 60_000))
    await client.ask(series_sql(tag, 2, repeat), *selected(*series_rows(tag, 2, repeat)))


async def read_slowly(client: Client, tag: str) -> None:
    """A result that the client does not take for a while: the pooler must wait, not hoard nor mix."""
    await client.send(wire.query(series_sql(tag, 50, 700)))
    await client.connected.read_nothing(client.rng.random() * 0.3)
    await client.expect([*selected(*series_rows(tag, 50, 700)), ready("I")])


async def several_statements(client: Client, tag: str) -> None:
    parts = [f"{tag}{number}" for number in range(client.rng.randint(2, 5))]
    sql = "; ".join(f"SELECT '{part}'" for part in parts)
    expected = [item for part in parts for item in selected(row(part))]
    await client.ask(sql, *expected)


async def statements_with_error(client: Client, tag: str) -> None:
    """The error ends the whole string: what stands behind it is not run."""
    sql = f"SELECT '{tag}'; SELECT 1/0 /* {tag} */; SELECT 'never'"
    await client.ask(sql, *selected(row(tag)), error("22012"))


async def empty_query(client: Client, tag: str) -> None:
    await client.ask(f"/* {tag} */", EMPTY)


async def pipelined_queries(client: Client, tag: str) -> None:
    """Several Query messages in one write."""
    parts = [f"{tag}{number}" for number in range(client.rng.randint(2, 6))]
    expected = [item for part in parts for item in (*selected(row(part)), ready("I"))]
    await client.exchange(b"".join(wire.query(f"SELECT '{part}'") for part in parts), expected)


async def raise_error(client: Client, tag: str) -> None:
    await client.ask(f"DO $$BEGIN RAISE EXCEPTION '{tag}' USING ERRCODE = 'TOR01'; END$$", error("TOR01", tag))


async def divide_by_zero(client: Client, tag: str) -> None:
    await client.ask(f"SELECT 1/0 /* {tag} */", error("22012", "division by zero"))


async def raise_notices(client: Client, tag: str) -> None:
    count = client.rng.randint(1, 5)
    body = " ".join(f"RAISE NOTICE '{tag}{number}';" for number in range(count))
    notices = [notice("00000", f"{tag}{number}") for number in range(count)]
    await client.ask(f"DO $$BEGIN {body} END$$", *notices, done("DO"))


async def show_own_parameters(client: Client, tag: str) -> None:
    """What the client asked for at login holds on whichever server it gets."""
    await client.ask("SHOW application_name", described("application_name"), row(client.application_name), done("SHOW"))
    await client.ask("SHOW TimeZone", described("TimeZone"), row(client.zone), done("SHOW"))


async def check_no_leak(client: Client, tag: str) -> None:
    """Outside of a transaction nobody's SET LOCAL is to be seen."""
    sql = f"SELECT '{tag}', coalesce(current_setting('my.tag', true), '')"
    await client.ask(sql, *selected(row(tag, "")))


async def set_in_session(client: Client, tag: str) -> None:
    """SET outside of a transaction: it may hold or be gone, but nobody else may see it."""
    if client.shared.ledger.dialect.cleans_sessions:
        await client.ask(f"SET my.session = '{tag}'", done("SET"))
    sql = "SELECT coalesce(current_setting('my.session', true), '')"
    await client.ask(sql, *selected(row_or(row(""), row(tag))))


async def transaction(client: Client, tag: str) -> None:
    """One server from BEGIN to the end, with pauses; its SET LOCAL holds, its temporary table is there."""
    await client.ask_within("BEGIN", done("BEGIN"))
    await client.ask_within(f"SELECT set_config('my.tag', '{tag}', true)", *selected(row(tag)))
    pid = await backend_pid(client)
    for number in range(client.rng.randint(0, 4)):
        await client.pause(0.01)
        part = f"{tag}{number}"
        sql = f"SELECT '{part}', current_setting('my.tag'), pg_backend_pid()"
        await client.ask_within(sql, *selected(row(part, tag, pid)))
    end = client.rng.choice(("COMMIT", "ROLLBACK"))
    await client.ask(end, done(end))


async def backend_pid(client: Client) -> bytes:
    """The pid of the server that this transaction is on."""
    got = await client.ask_within("SELECT pg_backend_pid()", *selected(ANY_ROW))
    return got[1].columns()[0] or b""


async def failed_transaction(client: Client, tag: str) -> None:
    await client.ask_within("BEGIN", done("BEGIN"))
    await client.ask_within(f"SELECT '{tag}'::int", error("22P02", tag), status="E")
    await client.ask_within(f"SELECT '{tag}'", error("25P02"), status="E")
    end = client.rng.choice(("ROLLBACK", "COMMIT"))
    await client.ask(end, done("ROLLBACK"))


async def savepoints(client: Client, tag: str) -> None:
    await client.ask_within("BEGIN; SAVEPOINT a", done("BEGIN"), done("SAVEPOINT"))
    await client.ask_within(f"SELECT 1/0 /* {tag} */", error("22012"), status="E")
    await client.ask_within("ROLLBACK TO a", done("ROLLBACK"))
    await client.ask_within(f"SELECT '{tag}'", *selected(row(tag)))
    await client.ask("COMMIT", done("COMMIT"))


async def cursor(client: Client, tag: str) -> None:
    await client.ask_within(f"BEGIN; DECLARE c CURSOR FOR {series_sql(tag, 20)}", done("BEGIN"), done("DECLARE CURSOR"))
    rows = series_rows(tag, 20)
    for start in range(0, 20, 5):
        await client.ask_within("FETCH 5 FROM c", described(), *rows[start : start + 5], done("FETCH 5"))
    await client.ask("COMMIT", done("COMMIT"))


async def sql_prepare(client: Client, tag: str) -> None:
    """SQL-level PREPARE under one name that all clients use."""
    await client.ask_within(f"BEGIN; PREPARE torture AS SELECT '{tag}', $1::text", done("BEGIN"), done("PREPARE"))
    await client.ask_within("EXECUTE torture('x')", *selected(row(tag, "x"), column="text"))
    await client.ask("DEALLOCATE torture; COMMIT", done("DEALLOCATE"), done("COMMIT"))


async def call_function(client: Client, tag: str) -> None:
    """The fastpath protocol."""
    left, right = client.rng.randrange(1_000_000), client.rng.randrange(1_000_000)
    call = wire.function_call(INT4PL, [struct.pack("!i", left), struct.pack("!i", right)])
    await client.exchange(call, [function_result(struct.pack("!i", left + right)), ready("I")])


async def sleep_a_little(client: Client, tag: str) -> None:
    seconds = client.rng.random() * 0.1
    await client.ask(f"SELECT '{tag}', pg_sleep({seconds:.3f})", *selected(row(tag, "")))
