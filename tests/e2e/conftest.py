"""One pooler for most of these tests: two workers, small pools, in front of the shared PostgreSQL.

After every test the pool must be whole: nothing lent, nobody waiting, no transaction open, no lock held, and as many
servers as PostgreSQL sees. What the log says of internal errors fails the test as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.differential.bench import Bench
from tests.e2e.raw import Raw, wait_until
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of

POOL_SIZE = 3
HBA = "host guarded all 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"


def pools(postgres: Postgres) -> dict[str, Any]:
    """`postgres` and `session`: the two modes; `mixed`: transaction mode, and a user who has session mode;
    `guarded` asks for a password."""
    users = [user_of("app", POOL_SIZE)]
    return {
        "postgres": pool_of(postgres, users=users),
        "session": pool_of(postgres, users=users, pool_mode="session"),
        "guarded": pool_of(postgres, users=[user_of("guarded", 2, password="secret")]),
        "mixed": pool_of(postgres, users=[user_of("app", POOL_SIZE), user_of("scram_user", 2, **SESSION_USER)]),
    }


SESSION_USER = {"server_username": "app", "server_password": "", "pool_mode": "session"}


@pytest.fixture(scope="package")
def shared(postgres: Postgres) -> Iterator[Doorman]:
    """The pooler. Do not stop it, do not kill its workers."""
    general = {"query_wait_timeout": 20_000, "pg_hba": {"content": HBA}}
    with Doorman(postgres, pools=pools(postgres), general=general) as doorman:
        yield doorman


@pytest.fixture
def pooler(shared: Doorman, postgres: Postgres) -> Iterator[Doorman]:
    """The shared pooler, which is found whole afterwards."""
    mark = shared.log_mark()
    workers = shared.pids().workers
    yield shared
    assert_whole(shared, postgres)
    assert shared.pids().workers == workers, "a worker died"
    for words in ("Traceback", "internal error", "by an error"):
        assert not shared.log_contains(words, since=mark), shared.log_text(mark)


def assert_whole(doorman: Doorman, postgres: Postgres) -> None:
    """Nothing lent, nobody waiting, nothing left open, the counts are PostgreSQL's."""
    wait_until(lambda: is_idle(doorman), f"all pools idle: {doorman.console('SHOW POOLS')}", 8)
    wait_until(lambda: counts(doorman) == len(backends(postgres)), lambda: both_sides(doorman, postgres), 3)
    for row in backends(postgres):
        assert row["state"] == "idle", row
        assert row["backend_xmin"] is None, row
    held = "SELECT relation::regclass, locktype FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE usename = 'app'"
    assert postgres.admin(held) == []


def both_sides(doorman: Doorman, postgres: Postgres) -> str:
    """Servers by the pooler's and by PostgreSQL's account."""
    servers = doorman.console("SHOW SERVERS")
    theirs = [(row["pid"], row["state"], row["wait_event"], row["query"]) for row in backends(postgres)]
    return f"as many servers as backends\n{doorman.console('SHOW POOLS')}\n{servers}\n{theirs}"


def is_idle(doorman: Doorman) -> bool:
    busy = ("cl_active", "cl_waiting", "sv_active", "sv_used", "sv_login")
    return all(row[key] == 0 for row in doorman.console("SHOW POOLS") for key in busy)


def counts(doorman: Doorman) -> int:
    return sum(row["sv_idle"] + row["sv_active"] + row["sv_used"] for row in doorman.console("SHOW POOLS"))


def backends(postgres: Postgres) -> list[dict[str, Any]]:
    """What PostgreSQL sees of the pooler's servers."""
    return postgres.activity(usename="app", application_name="pg_doorman")


@pytest.fixture
def address(pooler: Doorman) -> tuple[str, int]:
    return pooler.host, pooler.port


class Connect:
    """`connect()` gives a logged-in raw client of the shared pooler; all are closed after the test."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.made: list[Raw] = []

    def __call__(self, database: str = "postgres", user: str = "app", **parameters: str) -> Raw:
        return self.bare().log_in(user, database, **parameters)

    def bare(self) -> Raw:
        """Connected, nothing said."""
        raw = Raw(self.address)
        self.made.append(raw)
        return raw

    def many(self, count: int, database: str = "postgres") -> list[Raw]:
        return [self(database) for _ in range(count)]


@pytest.fixture
def connect(address: tuple[str, int]) -> Iterator[Connect]:
    connect = Connect(address)
    yield connect
    for raw in connect.made:
        raw.close()


@pytest.fixture
def table(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty table (id int, name text) with the name of the test."""
    name = "t_" + "".join(char if char.isalnum() else "_" for char in request.node.name)[-50:].lower()
    postgres.query(f"CREATE TABLE {name} (id int, name text)")
    yield name
    postgres.query(f"DROP TABLE {name}")


@pytest.fixture
def worker_memory(pooler: Doorman) -> Any:
    """`worker_memory()`: the largest resident set of any worker now, in bytes."""

    def measure() -> int:
        return max(resident_bytes(pid) for pid in pooler.pids().workers)

    return measure


def resident_bytes(pid: int) -> int:
    """VmHWM would not come down again; VmRSS is what it has now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.fixture(scope="module")
def bench(postgres: Postgres) -> Iterator[Bench]:
    """PostgreSQL and a pooler of its own, for the differential tests; the pooler is found idle afterwards."""
    with Bench(postgres) as bench:
        yield bench
        wait_until(lambda: is_idle(bench.doorman), f"all pools idle: {bench.doorman.console('SHOW POOLS')}", 8)
        for words in ("Traceback", "internal error", "by an error"):
            assert not bench.doorman.log_contains(words), bench.doorman.log_text()
