"""PgBouncer beside us: the pooler that the benchmark compares with, and on which our own tools are tried."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.harness.endpoint import Endpoint
from tests.harness.ports import free_port
from tests.harness.postgres import Postgres, server_user
from tests.harness.service import Service, port_answers

DEFAULTS: dict[str, str | int] = {
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
    "auth_type": "trust",
    "pool_mode": "transaction",
    "default_pool_size": 20,
    "max_client_conn": 20000,
    "admin_users": "admin",
    "log_connections": 0,
    "log_disconnections": 0,
    "log_pooler_errors": 0,
    "ignore_startup_parameters": "extra_float_digits,search_path,statement_timeout",
}


class PgBouncer(Service, Endpoint):
    """One PgBouncer on a free port of 127.0.0.1 before a PostgreSQL, transaction mode, everybody trusted."""

    name = "pgbouncer"

    def __init__(
        self,
        postgres: Postgres,
        *,
        settings: Mapping[str, str | int] | None = None,
        users: Mapping[str, str] | None = None,
        port: int | None = None,
        binary: Path | None = None,
        directory: Path | None = None,
        limit_files: int | None = None,
    ) -> None:
        super().__init__(directory)
        found = binary or find_pgbouncer()
        if found is None:
            raise FileNotFoundError("no pgbouncer: install the package pgbouncer, or name the binary in PGBOUNCER")
        self.binary: Path = found
        self.port = port or free_port()
        self.limit_files = limit_files
        self.config_path = self.directory / "pgbouncer.ini"
        self._write_config(postgres, {**DEFAULTS, "listen_port": self.port, **(settings or {})}, users or {})

    def start(self) -> Self:
        # PgBouncer refuses to run as root, like PostgreSQL.
        self.spawn([self.binary, "-q", self.config_path], user=server_user(), limit_files=self.limit_files)
        self.wait_until(lambda: port_answers(self.host, self.port), f"listening on port {self.port}")
        return self

    def console(self, sql: str) -> list[dict[str, Any]]:
        import psycopg

        dsn = self.dsn(user="admin", dbname="pgbouncer")
        with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as console:
            cursor = console.execute(sql)
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in (cursor.fetchall() if names else ())]

    def _write_config(
        self, postgres: Postgres, settings: Mapping[str, str | int], passwords: Mapping[str, str]
    ) -> None:
        """`passwords`: what PostgreSQL stores for users that are not simply trusted."""
        users = self.directory / "users.txt"
        known = {"app": "", "postgres": "", "admin": "", **passwords}
        users.write_text("".join(f'"{user}" "{password}"\n' for user, password in known.items()))
        lines = ["[databases]", f"postgres = host=127.0.0.1 port={postgres.port} dbname=postgres", "[pgbouncer]"]
        lines += [f"{key} = {value}" for key, value in {**settings, "auth_file": users}.items()]
        self.config_path.write_text("\n".join(lines) + "\n")


def find_pgbouncer() -> Path | None:
    """The binary named in PGBOUNCER, else the one on PATH or in /usr/sbin."""
    named = os.environ.get("PGBOUNCER")
    if named:
        return Path(named)
    found = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def pgbouncer_version(binary: Path) -> tuple[int, int]:
    """(1, 18) for Debian 12's."""
    output = subprocess.run([binary, "-V"], capture_output=True, text=True, check=True).stdout
    major, minor = re.findall(r"\d+", output)[:2]
    return int(major), int(minor)
