"""psycopg 3 on each way to PostgreSQL: sync, async, pipeline, server-side cursors, COPY, binary.

With `prepare_threshold=1`, so that all is prepared under names from the second use on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.drivers.tagged import ROUNDS, Route, together
from tests.harness import Doorman

Connection = psycopg.Connection[Any]


@pytest.fixture
def connection(route: Route) -> Iterator[Connection]:
    with psycopg.connect(route.dsn(), autocommit=True, prepare_threshold=1, connect_timeout=10) as made:
        yield made


def test_types_in_text_and_binary(connection: Connection) -> None:
    values = [1, 2.5, "text", b"\0\1bytes", None, True, [1, 2, None], {"a": 1}]
    row = [psycopg.types.json.Jsonb(value) if isinstance(value, dict) else value for value in values]
    for binary in (False, True):
        with connection.cursor(binary=binary) as cursor:
            sql = "SELECT %b::int, %b::float8, %s::text, %b::bytea, %s::text, %s::bool, %s::int[], %s::jsonb"
            assert list(cursor.execute(sql, row).fetchone() or ()) == values


def test_the_same_statement_many_times(connection: Connection) -> None:
    for number in range(20):
        assert connection.execute("SELECT %s::int * 2", [number]).fetchone() == (number * 2,)


def test_executemany(connection: Connection, accounts: str) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(f"UPDATE {accounts} SET balance = %s WHERE id = %s", [(n, n) for n in range(1, 51)])
    total = connection.execute(f"SELECT sum(balance) FROM {accounts} WHERE id <= 50").fetchone()
    assert total == (sum(range(1, 51)),)


def test_transactions_savepoints_and_errors(connection: Connection, accounts: str) -> None:
    with connection.transaction():
        connection.execute(f"UPDATE {accounts} SET balance = 0 WHERE id = 1")
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            connection.execute(f"UPDATE {accounts} SET balance = 1 WHERE id = 1")
            connection.execute("SELECT 1/0")
        assert connection.execute(f"SELECT balance FROM {accounts} WHERE id = 1").fetchone() == (0,)
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("TABLE nowhere")
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_pipeline_with_an_error_in_it(connection: Connection) -> None:
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int", [number]) for number in range(30)]
    assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(30)]
    with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
        connection.execute("SELECT 1")
        connection.execute("SELECT 1/0")
        connection.execute("SELECT 2")
    assert connection.execute("SELECT 3").fetchone() == (3,)


def test_a_server_side_cursor(connection: Connection) -> None:
    with connection.transaction(), connection.cursor("served", row_factory=dict_row) as cursor:
        cursor.execute("SELECT generate_series(1, 1000) AS n")
        cursor.itersize = 37
        assert sum(row["n"] for row in cursor) == 500_500
    with connection.transaction(), connection.cursor("scrolled", scrollable=True) as cursor:
        cursor.execute("SELECT generate_series(1, 10)")
        cursor.scroll(8)
        assert cursor.fetchall() == [(9,), (10,)]


def test_copy(connection: Connection, accounts: str) -> None:
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY {accounts} FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "int4"])
            for number in range(5000):
                copy.write_row((1000 + number, number))
        with cursor.copy(f"COPY (SELECT balance FROM {accounts} WHERE id >= 1000 ORDER BY id) TO STDOUT") as copy:
            assert [int(row[0]) for row in copy.rows()] == list(range(5000))
        with (
            pytest.raises(psycopg.errors.InvalidTextRepresentation),
            cursor.copy(f"COPY {accounts} FROM STDIN") as copy,
        ):
            copy.write("no\tnumber\n")
        assert cursor.execute("SELECT 1").fetchone() == (1,)


def test_streaming_row_by_row(connection: Connection) -> None:
    with connection.cursor() as cursor:
        assert sum(row[0] for row in cursor.stream("SELECT generate_series(1, 2000)")) == 2_001_000


def test_cancel_from_another_thread(connection: Connection) -> None:
    timer = threading.Timer(0.2, connection.cancel_safe)
    timer.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(20)")
    timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_notify_inside_one_session(pooler: Doorman) -> None:
    with pooler.connect(dbname="session") as listener, pooler.connect() as speaker:
        listener.execute("LISTEN news")
        speaker.execute("NOTIFY news, 'hello'")
        assert [note.payload for note in listener.notifies(timeout=5, stop_after=1)] == ["hello"]


def test_two_phase_commit(pooler: Doorman, accounts: str) -> None:
    with psycopg.connect(pooler.dsn(), prepare_threshold=None) as connection:
        xid = connection.xid(1, "global", "branch")
        connection.tpc_begin(xid)
        connection.execute(f"DELETE FROM {accounts} WHERE id = 1")
        connection.tpc_prepare()
        connection.tpc_rollback()
    with pooler.connect() as connection:
        assert connection.execute(f"SELECT count(*) FROM {accounts}").fetchone() == (100,)


async def open_async(route: Route, **options: Any) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(route.dsn(), prepare_threshold=1, autocommit=True, **options)


async def test_many_clients_move_money_without_losing_any(route: Route, accounts: str) -> None:
    async def move(tag: int) -> None:
        async with await open_async(route) as connection:
            for step in range(ROUNDS):
                source, target = 1 + (tag * 7 + step) % 50, 51 + (tag * 13 + step * 3) % 50
                async with connection.transaction():
                    await connection.execute(f"UPDATE {accounts} SET balance = balance - 1 WHERE id = %s", [source])
                    await connection.execute(f"UPDATE {accounts} SET balance = balance + 1 WHERE id = %s", [target])

    await together(move)
    total = f"SELECT sum(balance), min(balance) < 100 FROM {accounts}"
    assert route.server.query(total, dbname=route.dbname) == [(10_000, True)]


@pytest.mark.parametrize("kept", [100, 3])
async def test_many_clients_prepare_their_statements(route: Route, accounts: str, kept: int) -> None:
    """All clients call them _pg3_0, _pg3_1, ...; with `kept` = 3 the driver closes and prepares all the time."""

    async def client(tag: int) -> None:
        async with await open_async(route) as connection:
            connection.prepared_max = kept
            for number in range(ROUNDS):
                for text in range(5):
                    cursor = await connection.execute(f"SELECT {tag}, {text}, %s::int", [number], prepare=True)
                    assert await cursor.fetchone() == (tag, text, number)
                cursor = connection.cursor(binary=True)
                await cursor.execute("SELECT %b::int + %b::int, %b::bytea", [tag, number, b"%d" % tag])
                assert await cursor.fetchone() == (tag + number, b"%d" % tag)
                with pytest.raises(psycopg.errors.DivisionByZero):
                    async with connection.transaction():
                        await connection.execute(f"UPDATE {accounts} SET balance = 0 WHERE id = %s", [tag])
                        await connection.execute("SELECT 1 / %s::int", [0])

    await together(client)
    assert route.server.query(f"SELECT count(*) FROM {accounts} WHERE balance = 0", dbname=route.dbname) == [(0,)]


async def test_many_clients_with_pipelines(route: Route) -> None:
    async def client(tag: int) -> None:
        async with await open_async(route) as connection:
            for number in range(ROUNDS):
                async with connection.pipeline():
                    texts = [f"SELECT {tag} * 1000 + %s::int", "SELECT %s::int", f"SELECT {number % 4} + %s::int"]
                    cursors = [await connection.execute(text, [tag]) for text in texts * 3]
                    answers = [await cursor.fetchone() for cursor in cursors]
                assert answers == [(tag * 1001,), (tag,), (number % 4 + tag,)] * 3
                with pytest.raises(psycopg.errors.DivisionByZero):
                    async with connection.pipeline():
                        await connection.execute("SELECT %s::int", [number])
                        await connection.execute("SELECT %s::int / 0", [number])
                        await connection.execute("SELECT %s::int", [tag])

    await together(client)


async def test_many_clients_with_cursors_on_the_server(route: Route) -> None:
    async def client(tag: int) -> None:
        async with await open_async(route) as connection:
            for number in range(ROUNDS):
                async with connection.transaction(), connection.cursor("same_name") as cursor:
                    cursor.itersize = 20
                    await cursor.execute("SELECT %s::int + generate_series(1, 50)", [tag * 100])
                    assert sum([row[0] async for row in cursor]) == 50 * tag * 100 + 1275
                answer = await connection.execute("SELECT %s::int, %s::int", [tag, number])
                assert await answer.fetchone() == (tag, number)

    await together(client)


def test_tables_that_change(connection: Connection, accounts: str) -> None:
    """After an ALTER of its own the driver forgets all it has prepared, with DEALLOCATE ALL."""
    for number in range(4):
        for _ in range(4):
            row = connection.execute(f"SELECT * FROM {accounts} WHERE id = %s", [7]).fetchone()
            assert row == (7, 100, *range(number))
        connection.execute(f"ALTER TABLE {accounts} ADD added_{number} int DEFAULT {number}")
