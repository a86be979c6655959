"""psycopg 3 through the pooler: sync, async, pipeline, server-side cursors, COPY, binary.

In transaction mode with `prepare_threshold=None`, as PgBouncer's users do: named statements come with issue 3.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.drivers.conftest import CLIENTS, POOL_SIZE
from tests.harness import Doorman


@pytest.fixture(params=["postgres", "session"])
def connection(pooler: Doorman, request: pytest.FixtureRequest) -> Any:
    threshold = None if request.param == "postgres" else 1
    dsn = pooler.dsn(dbname=request.param)
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=threshold, connect_timeout=10) as made:
        yield made


Connection = psycopg.Connection[Any]


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


@pytest.mark.parametrize("dbname", ["postgres", "session"])
async def test_more_async_clients_than_servers_move_money_without_losing_any(
    pooler: Doorman, accounts: str, dbname: str
) -> None:
    async def move(number: int) -> None:
        dsn = pooler.dsn(dbname=dbname)
        async with await psycopg.AsyncConnection.connect(dsn, prepare_threshold=None, autocommit=True) as connection:
            for step in range(10):
                source, target = sorted({1 + (number * 7 + step) % 100, 1 + (number * 13 + step * 3) % 100} | {1})[:2]
                async with connection.transaction():
                    await connection.execute(f"UPDATE {accounts} SET balance = balance - 1 WHERE id = %s", [source])
                    await connection.execute(f"UPDATE {accounts} SET balance = balance + 1 WHERE id = %s", [target])

    assert CLIENTS > POOL_SIZE
    await asyncio.gather(*[move(number) for number in range(1, CLIENTS + 1)])
    assert pooler.query(f"SELECT sum(balance) FROM {accounts}") == [(10_000,)]
