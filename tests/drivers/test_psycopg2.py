"""psycopg2 on each way: the simple protocol, COPY, named cursors, large objects (FunctionCall), threads."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extras
import psycopg2.pool
import pytest

from tests.drivers.tagged import CLIENTS, ROUNDS, Route, in_threads

Connection = Any  # psycopg2 has no types


@pytest.fixture
def connection(route: Route) -> Iterator[Connection]:
    made = psycopg2.connect(route.dsn(connect_timeout=10))
    yield made
    made.close()


def ask(connection: Connection, sql: str, *values: Any) -> Any:
    """The first row."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone()


def ask_alone(connection: Connection, sql: str, *values: Any) -> Any:
    """The first row, in a transaction that ends here: an open one would keep the fixtures from dropping their table."""
    with connection:
        return ask(connection, sql, *values)


def test_types(connection: Connection) -> None:
    values = (1, 2.5, "text", True, None, [1, 2])
    assert ask_alone(connection, "SELECT %s, %s::float8, %s, %s, %s, %s", *values) == values
    assert bytes(ask_alone(connection, "SELECT %s::bytea", b"\0\1bytes")[0]) == b"\0\1bytes"


def test_transactions_savepoints_and_errors(connection: Connection, accounts: str) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(f"UPDATE {accounts} SET balance = 0 WHERE id = 1")
        cursor.execute("SAVEPOINT here")
        with pytest.raises(psycopg2.errors.DivisionByZero):
            cursor.execute("SELECT 1/0")
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
            cursor.execute("SELECT 1")
        cursor.execute("ROLLBACK TO here")
    with pytest.raises(psycopg2.errors.UndefinedTable), connection, connection.cursor() as cursor:
        cursor.execute(f"UPDATE {accounts} SET balance = 0")
        cursor.execute("TABLE nowhere")
    assert ask_alone(connection, f"SELECT count(*) FROM {accounts} WHERE balance = 0") == (1,)


def test_many_values_at_once(connection: Connection, accounts: str) -> None:
    with connection, connection.cursor() as cursor:
        rows = [(1000 + number, number) for number in range(1000)]
        psycopg2.extras.execute_values(cursor, f"INSERT INTO {accounts} VALUES %s", rows)
        psycopg2.extras.execute_batch(
            cursor, f"UPDATE {accounts} SET balance = -1 WHERE id = %s", [(n,) for n in (1, 2)]
        )
        cursor.executemany(f"UPDATE {accounts} SET balance = -2 WHERE id = %s", [(3,), (4,)])
    assert ask_alone(connection, f"SELECT count(*), sum(balance) FROM {accounts} WHERE id >= 1000") == (1000, 499_500)
    assert ask_alone(connection, f"SELECT sum(balance) FROM {accounts} WHERE id < 5") == (-6,)


def test_a_named_cursor(connection: Connection) -> None:
    with connection, connection.cursor("served", scrollable=True) as cursor:
        cursor.itersize = 37
        cursor.execute("SELECT generate_series(1, 1000)")
        assert sum(row[0] for row in cursor) == 500_500
        cursor.scroll(9, mode="absolute")
        assert cursor.fetchone() == (10,)


def test_copy(connection: Connection, accounts: str) -> None:
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(
            f"COPY {accounts} FROM STDIN", io.StringIO("".join(f"{n}\t{n}\n" for n in range(1000, 4000)))
        )
        out = io.StringIO()
        cursor.copy_expert(f"COPY (SELECT balance FROM {accounts} WHERE id >= 1000 ORDER BY id) TO STDOUT", out)
        assert out.getvalue().split() == [str(number) for number in range(1000, 4000)]
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation), connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {accounts} FROM STDIN", io.StringIO("no\tnumber\n"))
    assert ask_alone(connection, "SELECT 1") == (1,)


def test_large_objects(connection: Connection) -> None:
    with connection:
        made = connection.lobject(mode="rwb")
        made.write(b"0123456789" * 10_000)
        made.seek(-10, 2)
        assert made.read() == b"0123456789"
        number = made.oid
    with connection:
        found = connection.lobject(number, "rb")
        assert len(found.read()) == 100_000
        found.unlink()
    with pytest.raises(psycopg2.OperationalError), connection:
        connection.lobject(number, "rb")


def test_cancel_from_another_thread(connection: Connection) -> None:
    timer = threading.Timer(0.2, connection.cancel)
    timer.start()
    with pytest.raises(psycopg2.errors.QueryCanceled), connection:
        ask(connection, "SELECT pg_sleep(20)")
    timer.join()
    assert ask_alone(connection, "SELECT 1") == (1,)


def test_prepare_and_execute_in_sql_within_a_transaction(connection: Connection) -> None:
    with connection:
        ask(connection, "PREPARE twice AS SELECT $1::int * 2; SELECT 1")
        assert ask(connection, "EXECUTE twice (21)") == (42,)
        ask(connection, "DEALLOCATE twice; SELECT 1")


def test_many_threads(route: Route, accounts: str) -> None:
    def client(tag: int) -> None:
        connection = psycopg2.connect(route.dsn(connect_timeout=20))
        for number in range(ROUNDS):
            with connection:
                ask(connection, f"UPDATE {accounts} SET balance = balance + 1 WHERE id = %s RETURNING id", tag + 1)
                assert ask(connection, "SELECT %s, %s", tag, f"{tag}.{number}") == (tag, f"{tag}.{number}")
            with pytest.raises(psycopg2.errors.DivisionByZero), connection:
                ask(connection, f"UPDATE {accounts} SET balance = 0 WHERE id = %s RETURNING id", tag + 1)
                ask(connection, "SELECT 1/0")
        connection.close()

    in_threads(client)
    counted = f"SELECT count(*) FROM {accounts} WHERE balance = {100 + ROUNDS}"
    assert route.server.query(counted, dbname=route.dbname) == [(CLIENTS,)]


def test_its_own_pool(route: Route) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(1, CLIENTS, route.dsn(connect_timeout=20))

    def client(tag: int) -> None:
        for number in range(ROUNDS):
            connection = pool.getconn()
            assert ask(connection, "SELECT %s + %s", tag * 100, number) == (tag * 100 + number,)
            pool.putconn(connection)

    in_threads(client)
    pool.closeall()
