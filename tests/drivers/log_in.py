"""How each driver logs in, asks who it is, and leaves: over plain text, over TLS, bound to it, with a certificate."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pg8000.dbapi
import psycopg
import psycopg2
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.drivers.programs import JAVA, built_or_skipped
from tests.harness import Doorman
from tests.harness.certificates import Pair

PATIENCE = 20


class Route(NamedTuple):
    """Plain text without an `authority` (a file). `binds`: the driver must insist on SCRAM-SHA-256-PLUS."""

    authority: Path | None = None
    binds: bool = False
    pair: Pair | None = None

    def context(self) -> ssl.SSLContext | None:
        """For drivers that speak TLS by Python's module."""
        if self.authority is None:
            return None
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.pair is not None:
            context.load_cert_chain(self.pair.certificate_path, self.pair.key_path)
        return context


class Attempt(NamedTuple):
    database: str
    user: str
    password: str
    route: Route


LogIn = Callable[[Doorman, Attempt], str]
"""Who we are then, or the SQLSTATE of the refusal."""

# libpq tells no SQLSTATE of a failed login, only words.
WORDS = {
    "password authentication failed for user": "28P01",
    "certificate authentication failed for user": "28000",
    "is not permitted by HBA configuration": "28000",
    "Connection without SSL is not allowed": "28000",
}


def libpq_words(doorman: Doorman, attempt: Attempt) -> str:
    """The connection string."""
    route = attempt.route
    words: dict[str, str | int] = {"sslmode": "disable", "sslcert": "/none", "sslkey": "/none"}
    if route.authority is not None:
        words |= {"sslmode": "verify-full", "sslrootcert": str(route.authority)}
        words["channel_binding"] = "require" if route.binds else "disable"
    if route.pair is not None:
        words |= route.pair.client_parameters()
    return doorman.dsn(
        user=attempt.user, dbname=attempt.database, password=attempt.password, connect_timeout=PATIENCE, **words
    )


def state_of(error: Exception) -> str:
    found = [state for words, state in WORDS.items() if words in str(error)]
    assert len(found) == 1, error
    return found[0]


def with_psycopg(doorman: Doorman, attempt: Attempt) -> str:
    try:
        with psycopg.connect(libpq_words(doorman, attempt)) as connection:
            return str(connection.execute("SELECT current_user").fetchall()[0][0])
    except psycopg.OperationalError as error:
        return state_of(error)


def with_psycopg2(doorman: Doorman, attempt: Attempt) -> str:
    try:
        connection = psycopg2.connect(libpq_words(doorman, attempt))
    except psycopg2.OperationalError as error:
        return state_of(error)
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        [(name,)] = cursor.fetchall()
    connection.close()
    return str(name)


def with_asyncpg(doorman: Doorman, attempt: Attempt) -> str:
    """It knows no channel binding: over TLS it chooses SCRAM-SHA-256, although PLUS is offered."""
    assert not attempt.route.binds

    async def log_in() -> str:
        keys: dict[str, Any] = {"user": attempt.user, "password": attempt.password, "database": attempt.database}
        keys["ssl"] = attempt.route.context() or False
        try:
            connection = await asyncpg.connect(host=doorman.host, port=doorman.port, timeout=PATIENCE, **keys)
        except asyncpg.InvalidAuthorizationSpecificationError as error:  # and InvalidPasswordError, its child
            return str(error.sqlstate)
        name = await connection.fetchval("SELECT current_user")
        await connection.close()
        return str(name)

    return asyncio.run(log_in())


def with_pg8000(doorman: Doorman, attempt: Attempt) -> str:
    """Over TLS it chooses SCRAM-SHA-256-PLUS where it is offered."""
    keys: dict[str, Any] = {"password": attempt.password, "database": attempt.database, "timeout": PATIENCE}
    try:
        connection = pg8000.dbapi.connect(
            attempt.user, host=doorman.host, port=doorman.port, ssl_context=attempt.route.context() or False, **keys
        )
    except pg8000.dbapi.DatabaseError as error:
        return str(error.args[0]["C"])
    cursor = connection.cursor()
    cursor.execute("SELECT current_user")
    [[name]] = cursor.fetchall()
    connection.close()
    return str(name)


PYTHON: list[LogIn] = [with_psycopg, with_psycopg2, with_asyncpg, with_pg8000]


def with_pgjdbc(doorman: Doorman, attempts: Sequence[Attempt], scratch: Path) -> list[str]:
    """One program for all of them: a JVM takes its time to start. `scratch`: where keys go in the form it wants."""
    program = built_or_skipped(JAVA)
    done = subprocess.run(
        [*JAVA.run[:-1], "Logins"],
        cwd=program,
        env={**os.environ, "PGHOST": doorman.host, "PGPORT": str(doorman.port)},
        input="\n".join(jdbc_line(attempt, scratch) for attempt in attempts),
        text=True,
        capture_output=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def jdbc_line(attempt: Attempt, scratch: Path) -> str:
    """`database user password`, and properties, one behind a tab each."""
    route = attempt.route
    properties = {"sslmode": "disable"}
    if route.authority is not None:
        properties = {"sslmode": "verify-full", "sslrootcert": str(route.authority)}
        properties["channelBinding"] = "require" if route.binds else "disable"
    if route.pair is not None:
        properties |= {"sslcert": str(route.pair.certificate_path), "sslkey": str(der_key(route.pair, scratch))}
    words = [attempt.database, attempt.user, attempt.password, *(f"{key}={value}" for key, value in properties.items())]
    return "\t".join(words)


def der_key(pair: Pair, scratch: Path) -> Path:
    """pgjdbc wants PKCS #8 in DER."""
    path = scratch / f"{pair.key_path.stem}.pk8"
    path.touch(mode=0o600)
    path.write_bytes(pair.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    return path
