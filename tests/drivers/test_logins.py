"""Every driver logs in by every method that asks for something, with the right password and with a wrong one."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pg8000.dbapi
import psycopg
import psycopg2
import pytest

from doorman.auth.md5 import md5_hash
from doorman.auth.verifier import format_verifier, verifier_of_password
from tests.drivers.programs import JAVA, REQUIRED, Unavailable, built
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.harness.slapd import BASE, Slapd, is_slapd_there
from tests.unit.auth.tokens import KEYS, sign, write_public

OPEN = {"server_username": "app", "server_password": ""}
SECRET = "ann-secret"  # as in the directory
PAM = Path("/etc/pam.d") / f"doorman_drivers_{os.getpid()}"
PAM_SCRIPT = '#!/bin/sh\n[ "$(tr -d "\\000")" = ann-secret ]\n'

STORED = {
    "md5": SECRET,
    "md5_from_hash": md5_hash(SECRET, "ann"),
    "scram": SECRET,
    "scram_from_verifier": format_verifier(verifier_of_password("ann", SECRET)),
    "clear": SECRET,
}
OWN_ROLE = ("passthrough", "auth_query")
METHODS = {"scram": "scram-sha-256", "scram_from_verifier": "scram-sha-256", "clear": "password"}


@pytest.fixture(scope="module")
def directory() -> Iterator[Slapd | None]:
    if not is_slapd_there():
        yield None
        return
    with Slapd() as slapd:
        yield slapd


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    if not os.access(PAM.parent, os.W_OK):
        yield None
        return
    script = tmp_path_factory.mktemp("pam") / "check"
    script.write_text(PAM_SCRIPT)
    script.chmod(0o755)
    PAM.write_text(f"auth required pam_exec.so expose_authtok quiet {script}\naccount required pam_permit.so\n")
    yield PAM.name
    PAM.unlink()


@pytest.fixture(scope="module")
def asking() -> Iterator[Postgres]:
    """A PostgreSQL that asks `ann` for her password, and whoever opens servers for her likewise."""
    with Postgres(hba="host all app,postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n") as server:
        server.admin(f"CREATE USER ann PASSWORD '{SECRET}'")
        yield server


def passed_through(server: Postgres) -> dict[str, dict[str, Any]]:
    """Pools whose servers only what the client proved opens; and with users whom nobody has listed."""
    stored = str(server.admin("SELECT rolpassword FROM pg_authid WHERE rolname = 'ann'")[0][0])
    query = {
        "query": "SELECT rolpassword FROM pg_authid WHERE rolname = $1",
        "user": "postgres",
        "database": "postgres",
    }
    return {
        "passthrough": pool_of(server, users=[user_of("ann", 2, password=stored)]),
        "auth_query": pool_of(server, users=[], auth_query={**query, "pool_size": 2}),
        "dedicated": pool_of(server, users=[], auth_query={**query, "pool_size": 2, "server_user": "app"}),
    }


@pytest.fixture(scope="module")
def guarded(
    postgres: Postgres,
    asking: Postgres,
    directory: Slapd | None,
    service: str | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Doorman]:
    """A database for each method; `pam` and `ldap` where the machine has them."""
    key = write_public(KEYS["ES256"], tmp_path_factory.mktemp("keys") / "key.pem")
    rules = {name: METHODS.get(name, "md5") for name in STORED}
    stored = {**STORED, "jwt": f"jwt-pkey-fpath:{key}"}
    rules["jwt"] = "scram-sha-256"
    if service is not None:
        rules["pam"], stored["pam"] = f"pam pamservice={service}", ""
    if directory is not None:
        where = f'ldapserver=127.0.0.1 ldapport={directory.port} ldapprefix="uid=" ldapsuffix=",ou=people,{BASE}"'
        rules["ldap"], stored["ldap"] = f"ldap {where}", ""
    rules |= dict.fromkeys(OWN_ROLE, "scram-sha-256") | {"dedicated": "scram-sha-256", "trust": "trust"}
    stored["trust"] = ""
    pools = {n: pool_of(postgres, users=[user_of("ann", 2, password=p, **OPEN)]) for n, p in stored.items()}
    pools |= passed_through(asking)
    hba = "\n".join(f"host {name} all 127.0.0.1/32 {method}" for name, method in rules.items())
    general = {"pg_hba": {"content": hba + "\nhost pgdoorman all all md5"}, "auth_failure_delay": "100ms"}
    with Doorman(postgres, pools=pools, general=general) as doorman:
        yield doorman
        assert not doorman.log_contains("Traceback|internal error")


Login = Callable[[Doorman, str, str], str]
"""Database and password -> who we are then; "28P01" when refused."""


def with_psycopg(doorman: Doorman, database: str, password: str) -> str:
    try:
        with psycopg.connect(doorman.dsn(user="ann", dbname=database, password=password)) as connection:
            return str(connection.execute("SELECT current_user").fetchall()[0][0])
    except psycopg.OperationalError as error:
        assert "password authentication failed" in str(error)
        return "28P01"


def with_psycopg2(doorman: Doorman, database: str, password: str) -> str:
    try:
        connection = psycopg2.connect(doorman.dsn(user="ann", dbname=database, password=password))
    except psycopg2.OperationalError as error:
        assert "password authentication failed" in str(error)
        return "28P01"
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        [(name,)] = cursor.fetchall()
    connection.close()
    return str(name)


def with_asyncpg(doorman: Doorman, database: str, password: str) -> str:
    async def log_in() -> str:
        try:
            connection = await asyncpg.connect(
                host=doorman.host, port=doorman.port, user="ann", database=database, password=password, timeout=20
            )
        except asyncpg.InvalidPasswordError as error:
            return str(error.sqlstate)
        name = await connection.fetchval("SELECT current_user")
        await connection.close()
        return str(name)

    return asyncio.run(log_in())


def with_pg8000(doorman: Doorman, database: str, password: str) -> str:
    try:
        connection = pg8000.dbapi.connect(
            "ann", host=doorman.host, port=doorman.port, database=database, password=password, timeout=20
        )
    except pg8000.dbapi.DatabaseError as error:
        return str(error.args[0]["C"])
    cursor = connection.cursor()
    cursor.execute("SELECT current_user")
    [[name]] = cursor.fetchall()
    connection.close()
    return str(name)


@pytest.mark.parametrize("method", [*STORED, "jwt", "pam", "ldap", *OWN_ROLE, "dedicated", "trust"])
@pytest.mark.parametrize("log_in", [with_psycopg, with_psycopg2, with_asyncpg, with_pg8000])
def test_python_drivers_log_in(guarded: Doorman, log_in: Login, method: str) -> None:
    if method not in guarded.config["pools"]:
        pytest.skip(f"needs {'slapd and ldap-utils' if method == 'ldap' else 'to write into /etc/pam.d'}")
    for _ in range(3):
        assert log_in(guarded, method, password_of(method)) == role_of(method)
    assert log_in(guarded, method, "wrong") == ("app" if method == "trust" else "28P01")


def role_of(method: str) -> str:
    """Who the client is in PostgreSQL."""
    return "ann" if method in OWN_ROLE else "app"


def password_of(method: str) -> str:
    return sign("ES256").decode() if method == "jwt" else SECRET


def test_pgjdbc_logs_in(guarded: Doorman) -> None:
    try:
        program = built(JAVA)
    except Unavailable as reason:
        if os.environ.get(REQUIRED):
            pytest.fail(str(reason))
        pytest.skip(str(reason))
    methods = list(guarded.config["pools"])
    lines = [f"{m} ann {password}" for m in methods for password in (password_of(m), password_of(m), "wrong")]
    done = subprocess.run(
        [*JAVA.run[:-1], "Logins"],
        cwd=program,
        env={**os.environ, "PGHOST": guarded.host, "PGPORT": str(guarded.port)},
        input="\n".join(lines),
        text=True,
        capture_output=True,
        timeout=100,
    )
    expected = [w for m in methods for w in (role_of(m), role_of(m), "app" if m == "trust" else "28P01")]
    assert done.stdout.split() == expected, done.stdout + done.stderr
