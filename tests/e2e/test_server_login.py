"""How the pooler logs in to PostgreSQL: trust, md5, SCRAM, cleartext; over TCP and Unix socket; and failing at it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import MakeDoorman
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres, free_port
from tests.harness.doorman import pool_of, user_of
from tests.harness.postgres import PASSWORDS
from tests.torture.wire import query, startup

ITERATIONS = (1, 4096, 10_000, 100_000)


def pooler_for(make: MakeDoorman, postgres: Postgres, server_user: str, password: str, **keys: Any) -> Doorman:
    users = [user_of("app", 2, server_username=server_user, server_password=password)]
    return make(pools={"postgres": pool_of(postgres, users=users, **keys)})


@pytest.mark.parametrize("user", ["md5_user", "scram_user", "plain_user"])
@pytest.mark.parametrize("by_socket", [False, True], ids=["tcp", "socket"])
def test_servers_are_opened_with_the_configured_password(
    make_doorman: MakeDoorman, postgres: Postgres, user: str, by_socket: bool
) -> None:
    keys = {"server_host": str(postgres.socket_directory)} if by_socket else {}
    doorman = pooler_for(make_doorman, postgres, user, PASSWORDS[user], **keys)
    assert doorman.query("SELECT current_user, inet_client_addr() IS NULL") == [(user, by_socket)]


@pytest.mark.parametrize("user", ["md5_user", "scram_user"])
def test_the_clients_own_password_opens_the_server_too(
    make_doorman: MakeDoorman, postgres: Postgres, user: str
) -> None:
    users = [user_of(user, 2, password=PASSWORDS[user])]
    doorman = make_doorman(pools={"postgres": pool_of(postgres, users=users)}, general={"pg_hba": None})
    assert doorman.query("SELECT current_user", user=user, password=PASSWORDS[user]) == [(user,)]


@pytest.fixture(scope="module")
def iterated() -> Iterator[Postgres]:
    """Asks `i1`, `i4096`, … for their passwords, of which it made verifiers with so many iterations."""
    with Postgres(hba="host all app,postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n") as server:
        with server.connect(user="postgres") as connection:
            for count in ITERATIONS:
                connection.execute(f"SET scram_iterations = {count}; CREATE USER i{count} PASSWORD 'scram-secret'")
        yield server


@pytest.mark.parametrize("known", ["server_password", "clients_password", "passthrough", "auth_query"])
def test_a_verifier_may_have_any_number_of_iterations(
    make_doorman: MakeDoorman, iterated: Postgres, known: str
) -> None:
    """As PostgreSQL asks for them when we log in, and as clients are asked for them."""
    rows = iterated.admin("SELECT rolname, rolpassword FROM pg_authid WHERE rolname ~ '^i[0-9]+$'")
    verifiers = {int(name[1:]): str(stored) for name, stored in rows}
    assert all(verifiers[count].startswith(f"SCRAM-SHA-256${count}:") for count in ITERATIONS)
    secret = {"server_password": "scram-secret"}
    words: dict[int, dict[str, Any]] = {count: {"password": "scram-secret"} for count in ITERATIONS}
    if known == "server_password":
        words = {count: {**secret, "password": "", "server_username": f"i{count}"} for count in ITERATIONS}
    elif known == "passthrough":
        words = {count: {"password": verifiers[count]} for count in ITERATIONS}
    pool = pool_of(iterated, users=[user_of(f"i{count}", 2, **words[count]) for count in ITERATIONS])
    if known == "auth_query":
        query = "SELECT rolpassword FROM pg_authid WHERE rolname = $1"
        pool = pool_of(iterated, users=[], auth_query={"query": query, "user": "postgres", "database": "postgres"})
    method = "trust" if known == "server_password" else "scram-sha-256"
    rules = {"content": f"host pgdoorman all all md5\nhost all all all {method}"}
    doorman = make_doorman(pools={"postgres": pool}, general={"pg_hba": rules, "auth_failure_delay": 0})
    for count in ITERATIONS:
        for _ in range(3):  # both workers
            assert doorman.query("SELECT current_user", user=f"i{count}", password="scram-secret") == [(f"i{count}",)]
        if method != "trust":
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                doorman.query("SELECT 1", user=f"i{count}", password="wrong")


def test_an_md5_hash_opens_a_server_that_asks_for_md5(make_doorman: MakeDoorman, postgres: Postgres) -> None:
    stored = str(postgres.admin("SELECT rolpassword FROM pg_authid WHERE rolname = 'md5_user'")[0][0])
    users = [user_of("md5_user", 2, password=stored)]
    doorman = make_doorman(pools={"postgres": pool_of(postgres, users=users)}, general={"pg_hba": None})
    rows = doorman.query("SELECT current_user", user="md5_user", password=PASSWORDS["md5_user"])
    assert rows == [("md5_user",)]


def first_error(doorman: Doorman) -> dict[str, str]:
    """What a client's login or first query ends with."""
    with Raw((doorman.host, doorman.port)) as raw:
        raw.send(startup("app", "postgres"), query("SELECT 1"))
        while (got := raw.next()).kind != b"E":
            assert got.kind != b"D"
        return got.fields()


@pytest.mark.parametrize("user", ["md5_user", "scram_user", "plain_user"])
def test_a_wrong_server_password_is_told_with_postgresqls_words(
    make_doorman: MakeDoorman, postgres: Postgres, user: str
) -> None:
    doorman = pooler_for(make_doorman, postgres, user, "wrong")
    fields = first_error(doorman)
    assert fields["C"] == "28P01"
    assert f'password authentication failed for user "{user}"' in fields["M"]
    assert "wrong" not in fields["M"]


def test_a_missing_server_database_is_told(make_doorman: MakeDoorman, postgres: Postgres) -> None:
    doorman = make_doorman(pools={"postgres": pool_of(postgres, server_database="not_there")})
    fields = first_error(doorman)
    assert fields["C"] == "3D000"
    assert 'database "not_there" does not exist' in fields["M"]


def test_nobody_listens(make_doorman: MakeDoorman, postgres: Postgres) -> None:
    doorman = make_doorman(pools={"postgres": pool_of(postgres, server_port=free_port())})
    fields = first_error(doorman)
    assert fields["C"] == "08006"
    assert "Connection refused" in fields["M"]


def test_a_host_name_is_resolved_and_an_unknown_one_is_told(make_doorman: MakeDoorman, postgres: Postgres) -> None:
    doorman = make_doorman(pools={"postgres": pool_of(postgres, server_host="localhost")})
    assert doorman.query("SELECT 1") == [(1,)]
    other = make_doorman(pools={"postgres": pool_of(postgres, server_host="no-such-host.invalid")})
    assert "no-such-host.invalid" in first_error(other)["M"]


def test_a_server_that_never_answers_is_given_up_after_connect_timeout(
    make_doorman: MakeDoorman, postgres: Postgres
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        pool = pool_of(postgres, server_port=deaf.getsockname()[1], connect_timeout=300)
        doorman = make_doorman(pools={"postgres": pool})
        began = time.monotonic()
        assert "connect_timeout" in first_error(doorman)["M"]
        assert 0.2 < time.monotonic() - began < 3


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        b"R\xff\xff\xff\xff",
        b"R\x00\x00\x00\x08\x00\x00\x00\x63",
        b"E\x00\x00\x00\x05\x00",
        b"",
    ],
)
def test_a_server_that_is_no_postgresql_is_told_and_ends_nothing_else(
    make_doorman: MakeDoorman, postgres: Postgres, greeting: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        pool = pool_of(postgres, server_port=impostor.getsockname()[1], connect_timeout=2000)
        doorman = make_doorman(pools={"postgres": pool, "sound": pool_of(postgres)})
        with Raw((doorman.host, doorman.port)) as raw:
            raw.send(startup("app", "postgres"))
            connection, _ = impostor.accept()
            connection.recv(1000)
            connection.sendall(greeting)
            connection.shutdown(socket.SHUT_WR)
            assert raw.last_words()["C"][:2] in ("08", "28", "0A", "58", "XX")
            connection.close()
        assert doorman.query("SELECT 1", dbname="sound") == [(1,)]
        assert not doorman.log_contains("Traceback")


def test_the_servers_values_greet_the_client(make_doorman: MakeDoorman, postgres: Postgres) -> None:
    doorman = make_doorman(pools={"postgres": pool_of(postgres, startup_parameters={"TimeZone": "Asia/Tokyo"})})
    with Raw((postgres.host, postgres.port)) as direct, Raw((doorman.host, doorman.port)) as pooled:
        direct.log_in(TimeZone="Asia/Tokyo", application_name="x")
        pooled.log_in(application_name="x")
        assert pooled.parameters == direct.parameters
