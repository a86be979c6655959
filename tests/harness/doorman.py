"""pg_doorman as a subprocess: its configuration, its console, its family of processes, and what it must not leave.

Rules
1. The configuration is a dict (`general`, `pools`), merged over defaults and written as YAML.
2. `stop` fails the test if a process, a shared-memory entry or a socket file is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import yaml

from tests.harness import procfs
from tests.harness.endpoint import Endpoint
from tests.harness.ports import free_port
from tests.harness.postgres import Postgres
from tests.harness.service import START_TIMEOUT, Service, ServiceFailed, port_answers

ADMIN_USER, ADMIN_PASSWORD, CONSOLE = "admin", "adminpw", "pgdoorman"
TRUST_RULES = "host all all 127.0.0.1/32 trust\nlocal all all trust\n"
VANISH_TIMEOUT = 5.0  # seconds after the master's end in which workers must be gone too

Config = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Pids of one running pg_doorman."""

    master: int
    workers: list[int] = field(default_factory=list)
    keeper: int | None = None
    others: list[int] = field(default_factory=list)

    def all(self) -> list[int]:
        keeper = [] if self.keeper is None else [self.keeper]
        return [self.master, *self.workers, *keeper, *self.others]


class Doorman(Service, Endpoint):
    """One pg_doorman on a free port of 127.0.0.1, by default with one pool `postgres` for the user `app`."""

    name = "pg_doorman"
    dbname = "postgres"

    def __init__(
        self,
        postgres: Postgres | None = None,
        *,
        general: Mapping[str, Any] | None = None,
        pools: Mapping[str, Any] | None = None,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        directory: Path | None = None,
        limit_files: int | None = None,
    ) -> None:
        """`general` is merged over the defaults; `pools`, if given, replaces the default pool (see `pool_of`)."""
        super().__init__(directory)
        self.port = port or free_port()
        self.env = dict(env or {})
        self.arguments = list(arguments)
        self.limit_files = limit_files
        self.config_path = self.directory / "pg_doorman.yaml"
        self.config = default_config(self.port, postgres)
        self.update_config(general=general, pools=pools)

    # -- configuration

    def update_config(self, general: Mapping[str, Any] | None = None, pools: Mapping[str, Any] | None = None) -> None:
        """Change the file only; `reload` makes a running pg_doorman read it."""
        self.config = {**self.config, "general": merged(self.config["general"], general or {})}
        if pools is not None:
            self.config["pools"] = dict(pools)
        self.write_config()

    def write_config(self) -> None:
        self.config_path.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def reload(self, general: Mapping[str, Any] | None = None, pools: Mapping[str, Any] | None = None) -> None:
        """Write the changes and RELOAD through the console, which answers when the new configuration holds."""
        self.update_config(general, pools)
        self.console("RELOAD")

    # -- life

    def start(self) -> Self:
        self.spawn_only()
        self.wait_until(self.is_serving, f"listening on port {self.port}", START_TIMEOUT)
        return self

    def spawn_only(self) -> None:
        """Start without waiting, for configurations that must fail (then `wait_exit`)."""
        self.spawn([*doorman_command(), *self.arguments, self.config_path], env=self.env, limit_files=self.limit_files)

    def wait_exit(self, timeout: float = 10.0) -> int:
        """Wait for the master's own end and answer its exit code."""
        assert self.process is not None
        code = self.process.wait(timeout)
        self._forget()
        self.process = None
        return code

    def stop(self) -> None:
        """SIGTERM, then check that nothing is left."""
        if self.process is None:
            return
        footprint = self._footprint()
        super().stop()
        self._assert_nothing_left(footprint)

    def kill_master(self) -> None:
        """SIGKILL to the master alone: the workers must notice and go."""
        assert self.process is not None
        footprint = self._footprint()
        self.process.kill()
        self.process.wait(5)
        self._forget()
        self.process = None
        self._assert_nothing_left({entry for entry in footprint if "/shm/" in entry})

    def signal(self, number: int) -> None:
        """Send a signal to the master, e.g. signal.SIGHUP."""
        os.kill(self.pid, number)

    def is_serving(self) -> bool:
        return port_answers(self.host, self.port)

    def check_config(self) -> int:
        """Exit code of `pg_doorman -t` on the written file; what it says goes to the log."""
        import subprocess

        with self.log_path.open("ab") as log:
            argv = [*doorman_command(), "-t", str(self.config_path)]
            return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=30).returncode

    # -- the console

    def console(self, sql: str, *, dbname: str = CONSOLE) -> list[dict[str, Any]]:
        """Rows of an admin command over the simple protocol; integral numbers come as int."""
        import psycopg

        dsn = self.dsn(user=ADMIN_USER, password=ADMIN_PASSWORD, dbname=dbname)
        with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor, connect_timeout=10) as console:
            cursor = console.execute(sql)
            if cursor.description is None:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, map(_plain, row), strict=True)) for row in cursor.fetchall()]

    def pool_row(self, database: str = "postgres", user: str = "app") -> dict[str, Any]:
        """The row of SHOW POOLS for one pool, {} while it does not exist."""
        rows = [row for row in self.console("SHOW POOLS") if (row["database"], row["user"]) == (database, user)]
        return rows[0] if rows else {}

    def wait_pool(
        self, database: str = "postgres", user: str = "app", timeout: float = 5.0, **wanted: int | str
    ) -> None:
        """Wait until the columns of SHOW POOLS are as wanted: `wait_pool(cl_waiting=0, sv_active=0)`."""

        def is_wanted() -> bool:
            row = self.pool_row(database, user)
            return bool(row) and all(row[key] == value for key, value in wanted.items())

        try:
            self.wait_until(is_wanted, f"pool with {wanted}", timeout)
        except ServiceFailed as failed:
            raise ServiceFailed(f"SHOW POOLS: {self.pool_row(database, user)}\n{failed}") from None

    # -- the processes

    def pids(self) -> Family:
        """Master, workers and keeper, told apart by process name, else by who listens on the port."""
        master = self.pid
        workers, keepers, others = [], [], []
        for pid in procfs.children(master):
            if not procfs.is_alive(pid):
                continue
            label = f"{procfs.command_name(pid)} {procfs.command_line(pid)}".replace(str(self.directory), "")
            if "keeper" in label:
                keepers.append(pid)
            elif "worker" in label or procfs.is_listening(pid, self.port):
                workers.append(pid)
            else:
                others.append(pid)
        if not keepers and len(others) == 1:
            keepers, others = others, []
        return Family(master, workers, keepers[0] if keepers else None, others + keepers[1:])

    def kill_worker(self, index: int = 0) -> int:
        """SIGKILL to one worker; answers its pid."""
        while True:
            pid = self.pids().workers[index]
            with contextlib.suppress(ProcessLookupError):  # one that died just now and is still listed
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        return pid

    def wait_workers(self, count: int, *, without: Sequence[int] = (), timeout: float = 10.0) -> list[int]:
        """Wait until so many workers live, none of them in `without`."""
        found: list[int] = []

        def is_whole() -> bool:
            found[:] = self.pids().workers
            return len(found) == count and not set(found).intersection(without)

        self.wait_until(is_whole, f"{count} workers", timeout)
        return found

    # -- what must not be left

    def _footprint(self) -> set[str]:
        """Paths outside of processes that must vanish with them: shared memory, socket file."""
        names = {f"/dev/shm/{name}" for pid in self.members() for name in procfs.shared_memory_names(pid)}
        socket_directory = self.config["general"].get("unix_socket_dir")
        if socket_directory:
            names.add(f"{socket_directory}/.s.PGSQL.{self.port}")
        return names

    def _assert_nothing_left(self, footprint: set[str]) -> None:
        deadline = time.monotonic() + VANISH_TIMEOUT
        while (left := self.members()) and time.monotonic() < deadline:
            time.sleep(0.02)
        if left:
            lines = [f"{pid} {procfs.command_name(pid)} {procfs.command_line(pid)}" for pid in left]
            with contextlib.suppress(OSError):
                self._kill_left()
            raise ServiceFailed(f"pg_doorman left processes: {lines}\n{self.log_tail()}")
        files = sorted(path for path in footprint if Path(path).exists())
        if files:
            raise ServiceFailed(f"pg_doorman left files: {files}\n{self.log_tail()}")


def doorman_command() -> list[str]:
    """The installed command of this interpreter, else the module."""
    script = Path(sys.executable).parent / "pg_doorman"
    return [str(script)] if script.exists() else [sys.executable, "-m", "doorman.cli"]


def default_config(port: int, postgres: Postgres | None) -> Config:
    """What a test needs: two workers, loopback, everybody trusted, one pool of 20 for `app`."""
    general = {
        "host": "127.0.0.1",
        "port": port,
        "worker_threads": 2,
        "admin_username": ADMIN_USER,
        "admin_password": ADMIN_PASSWORD,
        "pg_hba": {"content": TRUST_RULES},
    }
    return {"general": general, "pools": {} if postgres is None else {"postgres": pool_of(postgres)}}


def pool_of(postgres: Postgres, *, users: Sequence[Mapping[str, Any]] | None = None, **keys: Any) -> Config:
    """A pool section in front of this PostgreSQL: `pool_of(pg, pool_mode="session", users=[user_of("app", 5)])`."""
    return {
        "server_host": postgres.host,
        "server_port": postgres.port,
        "server_database": "postgres",
        "pool_mode": "transaction",
        **keys,
        "users": [dict(user) for user in users] if users is not None else [user_of("app")],
    }


def user_of(username: str, pool_size: int = 20, *, password: str = "", **keys: Any) -> Config:
    return {"username": username, "password": password, "pool_size": pool_size, **keys}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """`base` with `changes` over it, maps merged key by key; a change to None removes the key."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping) and key != "pg_hba":
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value
