"""A PostgreSQL and a pooler for these tests: two workers, pools of two servers that hold few statements or none.

`postgres`, `shared` replace those of tests/e2e, so `pooler`, `connect`, `table` are of these two; the pool is found
whole after every test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.traps.clients import SERVERS
from tests.harness import Doorman, Postgres, procfs
from tests.harness.doorman import pool_of, user_of

TEXTS = 64  # texts that a worker remembers: fewer than the tests use


def pools(postgres: Postgres) -> dict[str, Any]:
    """`keeps_N`: servers hold N statements. `session`: session mode."""
    users = [user_of("app", SERVERS)]

    def keeps(count: int) -> dict[str, Any]:
        return pool_of(postgres, users=users, server_prepared_statements_cache_size=count)

    return {
        "postgres": pool_of(postgres, users=users),
        "keeps_0": keeps(0),
        "keeps_1": keeps(1),
        "keeps_2": keeps(2),
        "session": pool_of(postgres, users=users, pool_mode="session"),
    }


@pytest.fixture(scope="package")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="package")
def shared(postgres: Postgres) -> Iterator[Doorman]:
    general = {"query_wait_timeout": 20_000, "prepared_statements_cache_size": TEXTS}
    with Doorman(postgres, pools=pools(postgres), general=general) as doorman:
        yield doorman


@pytest.fixture
def share_of_memory(pooler: Doorman) -> Callable[[], int]:
    """Proportional set size of all workers together, in bytes."""
    return lambda: procfs.pss_bytes(pooler.pids().workers)
