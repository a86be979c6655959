"""Look-ups against a real PostgreSQL, and against peers that are none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from doorman.auth.auth_query import Found, LookUpProblem
from doorman.workers.lookup_connection import Target
from doorman.workers.lookup_executor import Executor
from tests.harness import Postgres
from tests.harness.postgres import PASSWORDS

T = TypeVar("T")
SHADOW = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1"

WELCOME = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"
END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg_doorman_auth_query'"


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 30))


def target(postgres: Postgres, query: str = SHADOW, **changes: Any) -> Target:
    keys: dict[str, Any] = {"host": postgres.host, "port": postgres.port, "database": "postgres", "user": "postgres"}
    return Target(**{**keys, "password": "", "query": query, "encrypted_or_local": True, **changes})


def look_up(postgres: Postgres, name: str, query: str = SHADOW, **changes: Any) -> Found | None:
    """One look-up by an executor of its own."""

    async def work() -> Found | None:
        executor = Executor(target(postgres, query, **changes), 1, 3)
        try:
            return await executor.fetch(name)
        finally:
            executor.close()

    return run(work())


@pytest.fixture(scope="module")
def people(postgres: Postgres) -> Iterator[Postgres]:
    with postgres.connect(user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE SCHEMA people")
        connection.execute("CREATE TABLE people.list (name text, secret text, startup_parameters jsonb)")
        connection.execute("CREATE TABLE public.unqualified (name text, secret text)")
        connection.execute("""INSERT INTO people.list VALUES ('ann', 'secret', '{"work_mem": "1MB", "role": "x"}')""")
        connection.execute(
            "INSERT INTO people.list VALUES ('two', 'a'), ('two', 'b'), (E'o\\'b', 'quoted'), ('nul', NULL)"
        )
        connection.execute("CREATE USER expired PASSWORD 'x' VALID UNTIL '2001-01-01'")
        connection.execute("CREATE USER ancient PASSWORD 'x' VALID UNTIL '-infinity'")
        connection.execute("CREATE USER eternal PASSWORD 'x' VALID UNTIL 'infinity'")
        connection.execute("CREATE USER hurried PASSWORD 'x'")
        connection.execute("DO $$BEGIN EXECUTE format('ALTER ROLE hurried VALID UNTIL %L', now() + '1 hour'); END$$")
        yield postgres
        connection.execute("DROP SCHEMA people CASCADE; DROP TABLE public.unqualified")
        connection.execute("DROP USER expired, ancient, eternal, hurried")


@pytest.mark.parametrize("user", ["md5_user", "scram_user"])
def test_a_user_is_found(postgres: Postgres, user: str) -> None:
    found = look_up(postgres, user)
    stored = postgres.admin("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [user])[0][0]
    assert found is not None and (found.password, found.expires_in) == (stored, None)


@pytest.mark.parametrize("user", ["nobody", "app", "x'; DROP TABLE people.list; --", "$1", "%s"])
def test_nobody_is_found(people: Postgres, user: str) -> None:
    assert look_up(people, user) is None


def test_the_name_is_a_parameter(people: Postgres) -> None:
    found = look_up(people, "o'b", "SELECT secret FROM people.list WHERE name = $1")
    assert found is not None and found.password == "quoted"


def test_parameters_come_along(people: Postgres) -> None:
    query = "SELECT secret AS passwd, startup_parameters FROM people.list WHERE name = $1"
    found = look_up(people, "ann", query)
    assert found is not None and found.parameters == {"work_mem": "1MB"}
    assert [reason for reason, _ in found.dropped] == ["auth_query_invalid_entry"]


@pytest.mark.parametrize("user", ["expired", "ancient"])
def test_an_expired_password_is_none(people: Postgres, user: str) -> None:
    assert look_up(people, user) is None


def test_the_rest_of_a_passwords_time(people: Postgres) -> None:
    eternal, hurried = look_up(people, "eternal"), look_up(people, "hurried")
    assert eternal is not None and eternal.expires_in is None
    assert hurried is not None and hurried.expires_in is not None and 3500 < hurried.expires_in <= 3600


@pytest.mark.parametrize(
    ("query", "user", "words"),
    [
        ("SELECT secret FROM people.list WHERE name = $1", "two", "more than one row"),
        ("SELECT secret FROM unqualified WHERE name = $1", "ann", "names in auth_query.query must have their schema"),
        ("SELECT get_auth($1)", "ann", "names in auth_query.query must have their schema"),
        ("SELECT 1/0 WHERE $1 = $1", "ann", "22012 division by zero"),
        ("SELEKT $1", "ann", "42601 syntax error"),
        ("SELECT $1::int", "ann", "22P02"),
        ("SELECT name, secret FROM people.list WHERE name = $1", "ann", "passwd or password"),
        ("SELECT 1", "ann", "08P01"),
        ("COPY people.list TO STDOUT", "ann", "08P01|unexpected message"),
    ],
)
def test_a_query_that_cannot_work_is_named(people: Postgres, query: str, user: str, words: str) -> None:
    with pytest.raises(LookUpProblem, match=words):
        look_up(people, user, query)


def test_a_schema_of_somebody_else_changes_nothing(people: Postgres) -> None:
    """CVE-2025-12819: what stands in another search_path must not answer for pg_shadow."""
    with people.connect(user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE SCHEMA evil; CREATE VIEW evil.pg_shadow AS SELECT 'ann' AS usename, 'x' AS passwd")
        connection.execute("ALTER ROLE postgres SET search_path = evil, pg_catalog")
        try:
            assert look_up(people, "ann") is None
        finally:
            connection.execute("ALTER ROLE postgres RESET search_path; DROP SCHEMA evil CASCADE")


@pytest.mark.parametrize("user", PASSWORDS)
def test_the_executor_proves_itself(postgres: Postgres, user: str) -> None:
    found = look_up(postgres, "ann", "SELECT $1::text || ' is known'", user=user, password=PASSWORDS[user])
    assert found is not None and found.password == "ann is known"


def test_a_wrong_password_of_the_executor_is_told(postgres: Postgres) -> None:
    with pytest.raises(LookUpProblem, match="user scram_user: password authentication failed"):
        look_up(postgres, "ann", user="scram_user", password="wrong")


def test_connections_are_few_and_are_used_again(postgres: Postgres) -> None:
    async def work() -> tuple[int, int]:
        executor = Executor(
            target(postgres, "SELECT $1::text, pg_sleep(0.02)".replace("$1::text", "$1::text AS passwd")), 2, 3
        )
        found = await asyncio.gather(*(executor.fetch(f"user {number}") for number in range(20)))
        assert [user.password for user in found if user] == [f"user {number}" for number in range(20)]
        count = await asyncio.to_thread(postgres.activity_count, application_name="pg_doorman_auth_query")
        executor.close()
        return count, executor.queries

    assert run(work()) == (2, 20)


def test_connections_that_were_ended_are_replaced(postgres: Postgres) -> None:
    async def work() -> None:
        executor = Executor(target(postgres), 2, 3)
        for _ in range(5):
            assert await asyncio.gather(executor.fetch("scram_user"), executor.fetch("md5_user"))
            await asyncio.to_thread(postgres.admin, END_ALL)
        executor.close()

    run(work())


def test_nobody_answers(postgres: Postgres) -> None:
    with pytest.raises(LookUpProblem, match="Connect call failed"):
        look_up(postgres, "ann", port=1)


@pytest.mark.parametrize(
    "lie",
    [
        b"",
        b"HTTP/1.1 400\r\n\r\n",
        WELCOME + b"D\xff\xff\xff\xff",
        WELCOME + b"Z\0\0\0\x05T",
        WELCOME + b"D\0\0\0\x08\0\x01\0\0" * 9,
        WELCOME + b"G\0\0\0\x07\0\0\0",
        WELCOME + b"T\0\0\0\x06\0\x05",
        WELCOME + b"Z\0\0\0\x05I",
    ],
)
def test_a_server_that_lies_lets_nobody_in(postgres: Postgres, lie: bytes) -> None:
    async def work() -> None:
        async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1000)
            writer.write(lie[:15])
            await asyncio.sleep(0.05)
            writer.write(lie[15:])
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(pretend, "127.0.0.1", 0)
        executor = Executor(target(postgres, port=server.sockets[0].getsockname()[1]), 1, 1)
        with pytest.raises(LookUpProblem):
            await executor.fetch("ann")
        assert not executor.idle
        server.close()

    run(work())


def test_a_server_that_says_nothing_is_given_up(postgres: Postgres) -> None:
    async def work() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        executor = Executor(target(postgres, port=server.sockets[0].getsockname()[1]), 1, 0.2)
        began = time.monotonic()
        with pytest.raises(LookUpProblem, match="connect_timeout"):
            await executor.fetch("ann")
        assert time.monotonic() - began < 2
        server.close()

    run(work())
