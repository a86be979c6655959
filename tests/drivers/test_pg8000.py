"""pg8000 (Python alone) on each way: unnamed statements that it binds after a Sync, named ones, COPY."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pg8000.dbapi
import pg8000.exceptions
import pg8000.native
import pytest

from tests.drivers.tagged import CLIENTS, ROUNDS, Route, in_threads


def connect(route: Route) -> pg8000.native.Connection:
    server = route.server
    return pg8000.native.Connection(server.user, host=server.host, port=server.port, database=route.dbname, timeout=30)


@pytest.fixture
def connection(route: Route) -> Iterator[pg8000.native.Connection]:
    with connect(route) as made:
        yield made


def fails(connection: pg8000.native.Connection, sqlstate: str, sql: str, **values: object) -> None:
    with pytest.raises(pg8000.exceptions.DatabaseError) as failure:
        connection.run(sql, **values)
    assert failure.value.args[0]["C"] == sqlstate


def test_types(connection: pg8000.native.Connection) -> None:
    values = {"a": 1, "b": 2.5, "c": "text", "d": b"\0\1bytes", "e": True, "f": None, "g": [1, 2]}
    sql = "SELECT :a::int, :b::float8, :c::text, :d::bytea, :e::bool, :f::text, :g::int[]"
    for _ in range(5):
        assert connection.run(sql, **values) == [list(values.values())]


def test_prepared_statements(connection: pg8000.native.Connection) -> None:
    statement = connection.prepare("SELECT :n::int * 2")
    another = connection.prepare("SELECT :n::text")
    for number in range(10):
        assert statement.run(n=number) == [[number * 2]]
        assert another.run(n=f"word {number}") == [[f"word {number}"]]
    statement.close()
    assert another.run(n="still there") == [["still there"]]
    another.close()


def test_transactions_and_errors(connection: pg8000.native.Connection, accounts: str) -> None:
    divide = connection.prepare("SELECT 1 / :n::int")
    connection.run("START TRANSACTION")
    connection.run(f"DELETE FROM {accounts} WHERE id = :id", id=1)
    with pytest.raises(pg8000.exceptions.DatabaseError, match="division by zero"):
        divide.run(n=0)
    fails(connection, "25P02", "SELECT :n::int", n=1)
    connection.run("ROLLBACK")
    assert divide.run(n=1) == [[1]]
    fails(connection, "42P01", "SELECT :n::int FROM nowhere", n=1)
    fails(connection, "42601", "SELEKT 1")
    assert connection.run(f"SELECT count(*) FROM {accounts}") == [[100]]
    divide.close()


def test_copy(connection: pg8000.native.Connection, accounts: str) -> None:
    lines = io.StringIO("".join(f"{number}\t{number}\n" for number in range(1000, 3000)))
    connection.run(f"COPY {accounts} FROM STDIN", stream=lines)
    out = io.BytesIO()
    connection.run(f"COPY (SELECT balance FROM {accounts} WHERE id >= 1000 ORDER BY id) TO STDOUT", stream=out)
    assert out.getvalue().split() == [str(number).encode() for number in range(1000, 3000)]


def test_the_interface_of_the_database_api(route: Route, accounts: str) -> None:
    server = route.server
    connection = pg8000.dbapi.connect(server.user, host=server.host, port=server.port, database=route.dbname)
    cursor = connection.cursor()
    cursor.executemany(f"UPDATE {accounts} SET balance = %s WHERE id = %s", [(n, n) for n in range(1, 51)])
    connection.commit()
    cursor.execute(f"UPDATE {accounts} SET balance = 0")
    connection.rollback()
    cursor.execute(f"SELECT sum(balance) FROM {accounts} WHERE id <= %s", (50,))
    assert cursor.fetchall() == ([sum(range(1, 51))],)
    connection.close()


def test_many_threads(route: Route, accounts: str) -> None:
    """The unnamed statement is bound in another transaction than it was parsed in; named ones live for long."""

    def client(tag: int) -> None:
        with connect(route) as connection:
            own = connection.prepare(f"SELECT {tag} * 100 + :n::int")
            shared = connection.prepare("SELECT :a::int, :b::text")
            for number in range(ROUNDS):
                assert own.run(n=number) == [[tag * 100 + number]]
                assert shared.run(a=tag, b=f"word {number}") == [[tag, f"word {number}"]]
                assert connection.run(f"SELECT {tag}, :n::int", n=number) == [[tag, number]]
                fails(connection, "22012", "SELECT :n::int / 0", n=number)
                connection.run("START TRANSACTION")
                connection.run(f"UPDATE {accounts} SET balance = balance + 1 WHERE id = :id", id=tag + 1)
                assert own.run(n=number) == [[tag * 100 + number]]
                connection.run("COMMIT")
            own.close()

    in_threads(client)
    counted = f"SELECT count(*) FROM {accounts} WHERE balance = {100 + ROUNDS}"
    assert route.server.query(counted, dbname=route.dbname) == [(CLIENTS,)]
