"""`ServerLogin` and the builders against a real PostgreSQL."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from doorman.auth.exchange import choose_exchange
from doorman.auth.md5 import md5_hash
from doorman.auth.scram import ScramClient
from doorman.auth.server_login import Credentials, ServerLogin, ServerRefusal
from doorman.auth.verifier import derive_keys, format_verifier, parse_verifier, verifier_of_password
from doorman.errors import ServerFault
from doorman.wire import backend, frontend
from doorman.wire.framing import Frames
from tests.harness import Postgres
from tests.harness.postgres import PASSWORDS
from tests.unit.auth.conftest import join_server

PIECES = pytest.mark.parametrize("piece", [65536, 1])


def attempt_for(
    user: str, password: str | None = None, known: Credentials | None = None, database: str = "postgres", **options: Any
) -> ServerLogin:
    arguments = {"encrypted_or_local": False, "parameters": {}, **options}
    return ServerLogin(user, known or Credentials(password=password), database, **arguments)


def ask(sock: socket.socket, message: bytes) -> list[tuple[int, bytes]]:
    """Messages up to ReadyForQuery."""
    sock.sendall(message)
    frames = Frames(1 << 20)
    answers: list[tuple[int, bytes]] = []
    while not answers or answers[-1][0] != ord("Z"):
        frames.feed(sock.recv(65536))
        while (frame := frames.take()) is not None:
            answers.append(frame)
    return answers


@PIECES
@pytest.mark.parametrize("minor", [0, 2])
@pytest.mark.parametrize("user", ["app", "md5_user", "scram_user"])
def test_logins(postgres: Postgres, user: str, minor: int, piece: int) -> None:
    attempt = attempt_for(user, PASSWORDS.get(user), minor=minor)
    with join_server(postgres, attempt, piece=piece) as sock:
        pid = str(attempt.pid)
        answers = ask(sock, frontend.query("SELECT pg_backend_pid(), NULL, current_setting('application_name')"))
        assert backend.parse_data_row(answers[1][1]) == [pid, None, "pg_doorman"]
        names = [column.name for column in backend.parse_row_description(answers[0][1])]
        assert names == ["pg_backend_pid", "?column?", "current_setting"]
        assert backend.parse_command_complete(answers[2][1]) == "SELECT 1"
        assert attempt.parameters["server_version"].startswith("18")
        assert (attempt.minor, len(attempt.secret)) == ((2, 32) if minor == 2 else (0, 4))
        sock.sendall(frontend.terminate())
        assert sock.recv(1) == b""


def test_md5_by_hash(postgres: Postgres) -> None:
    stored = md5_hash(PASSWORDS["md5_user"], "md5_user")
    join_server(postgres, attempt_for("md5_user", known=Credentials(md5_hash=stored))).close()


def test_scram_by_client_key(postgres: Postgres) -> None:
    stored = postgres.admin("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram_user'")[0][0]
    exchange = choose_exchange(None, "scram_user", stored)
    client = ScramClient(password=PASSWORDS["scram_user"])
    answer = exchange.feed(frontend.sasl_initial(client.mechanism, client.first())[5:])
    exchange.feed(client.final(answer[9:]))
    verifier = parse_verifier(stored)
    assert verifier is not None
    for known in (None, verifier):
        attempt = attempt_for("scram_user", known=Credentials(client_key=exchange.client_key, verifier=known))
        join_server(postgres, attempt).close()


def test_cleartext_over_a_unix_socket_only(postgres: Postgres) -> None:
    password = PASSWORDS["plain_user"]
    join_server(postgres, attempt_for("plain_user", password, encrypted_or_local=True), local=True).close()
    with pytest.raises(ServerFault, match="cleartext password over an unencrypted connection"):
        join_server(postgres, attempt_for("plain_user", password))


@pytest.mark.parametrize("user", ["md5_user", "scram_user", "plain_user"])
def test_a_wrong_password(postgres: Postgres, user: str) -> None:
    with pytest.raises(ServerRefusal) as caught:
        join_server(postgres, attempt_for(user, "wrong", encrypted_or_local=True))
    assert caught.value.sqlstate == "28P01"
    assert caught.value.message == f'password authentication failed for user "{user}"'


def test_an_unknown_database(postgres: Postgres) -> None:
    with pytest.raises(ServerRefusal) as caught:
        join_server(postgres, attempt_for("app", database="no such database"))
    assert caught.value.sqlstate == "3D000"
    assert caught.value.message == 'database "no such database" does not exist'


def test_startup_parameters(postgres: Postgres) -> None:
    attempt = attempt_for("app", parameters={"work_mem": "12MB", "TimeZone": "Asia/Tokyo", "application_name": "é"})
    with join_server(postgres, attempt) as sock:
        assert backend.parse_data_row(ask(sock, frontend.query("SHOW work_mem"))[1][1]) == ["12MB"]
    assert attempt.parameters["TimeZone"] == "Asia/Tokyo"


def test_a_rejected_startup_parameter_is_told_verbatim(postgres: Postgres) -> None:
    with pytest.raises(ServerRefusal) as caught:
        join_server(postgres, attempt_for("app", parameters={"work_mem": "many"}))
    assert caught.value.sqlstate == "22023"
    assert caught.value.message == 'invalid value for parameter "work_mem": "many"'


def test_newer_minor_versions_are_negotiated_down(postgres: Postgres) -> None:
    attempt = attempt_for("app", minor=7)
    join_server(postgres, attempt).close()
    assert attempt.minor == 2


def test_an_older_server_speaks_3_0(postgres_debian: Postgres) -> None:
    attempt = attempt_for("app", minor=2)
    join_server(postgres_debian, attempt).close()
    assert (attempt.minor, len(attempt.secret)) == (0, 4)


def test_ssl_is_refused_by_a_server_without_it(postgres: Postgres) -> None:
    with socket.create_connection((postgres.host, postgres.port), 10) as sock:
        sock.sendall(frontend.ssl_request())
        assert sock.recv(1) == b"N"


@pytest.mark.parametrize("minor", [0, 2])
def test_a_cancel_request_is_understood(postgres: Postgres, minor: int) -> None:
    attempt = attempt_for("app", minor=minor)
    with join_server(postgres, attempt) as sock:
        sock.sendall(frontend.query("SELECT pg_sleep(30)"))
        while postgres.admin("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", [attempt.pid]) != [("PgSleep",)]:
            time.sleep(0.01)  # a request that comes before the statement cancels nothing
        with socket.create_connection((postgres.host, postgres.port), 10) as canceller:
            canceller.sendall(frontend.cancel_request(attempt.pid, attempt.secret))
            assert canceller.recv(1) == b""
        answers = ask(sock, b"")
        assert backend.parse_error_fields(answers[-2][1])["C"] == "57014"


def test_copy_fail_is_understood(postgres: Postgres) -> None:
    with join_server(postgres, attempt_for("app")) as sock:
        ask(sock, frontend.query("CREATE TEMP TABLE t (a int)"))
        sock.sendall(frontend.query("COPY t FROM STDIN"))
        assert sock.recv(1) == b"G"
        sock.recv(100)
        answers = ask(sock, frontend.copy_fail("changed my mind") + frontend.sync())
        fields = backend.parse_error_fields(answers[0][1])
        assert fields["C"] == "57014"
        assert "changed my mind" in fields["M"]


@pytest.mark.parametrize("password", ["secret", "sécret ½", "I\u00adX", "пароль", "\u0627\u0031", "x" * 1500])
def test_our_hashes_are_postgresqls(postgres: Postgres, roles: Callable[[str], str], password: str) -> None:
    stored = format_verifier(verifier_of_password("made_0", password))
    for role in (roles(stored), roles(md5_hash(password, "made_1"))):
        join_server(postgres, attempt_for(role, password)).close()


@pytest.mark.parametrize("password", ["secret", "sécret ½", "I\u00adX", "пароль", "\u0627\u0031", "x" * 1500])
def test_postgresqls_hashes_are_ours(postgres: Postgres, roles: Callable[[str], str], password: str) -> None:
    role = roles(password)
    stored = postgres.admin("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role])[0][0]
    exchange = choose_exchange(None, role, stored)
    client = ScramClient(password=password)
    answer = exchange.feed(frontend.sasl_initial(client.mechanism, client.first())[5:])
    client.finish(exchange.feed(client.final(answer[9:]))[9:])
    assert exchange.done
    assert len(derive_keys(password, b"salt", 1).client_key) == 32
