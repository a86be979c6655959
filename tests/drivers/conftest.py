"""A pooler with two workers and fewer servers than any test has clients, in both pool modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of

POOL_SIZE = 3
CLIENTS = 8
GENERAL: dict[str, Any] = {"query_wait_timeout": 30_000}


@pytest.fixture(scope="package")  # gone before the next package counts servers
def pooler(postgres: Postgres) -> Iterator[Doorman]:
    """`postgres`: transaction mode; `session`: session mode with three servers; `wide`: with one for each client."""
    pools = {
        "postgres": pool_of(postgres, users=[user_of("app", POOL_SIZE)]),
        "session": pool_of(postgres, pool_mode="session", users=[user_of("app", POOL_SIZE)]),
        "wide": pool_of(postgres, pool_mode="session", users=[user_of("app", CLIENTS)]),
    }
    with Doorman(postgres, pools=pools, general=GENERAL) as doorman:
        yield doorman
        for name in pools:
            doorman.wait_pool(name, cl_waiting=0, cl_active=0, sv_active=0)
        assert not doorman.log_contains("Traceback|internal error")


@pytest.fixture
def accounts(postgres: Postgres) -> Iterator[str]:
    """A table with a hundred rows of (id, balance = 100)."""
    postgres.query("DROP TABLE IF EXISTS accounts")
    postgres.query("CREATE TABLE accounts AS SELECT id, 100 AS balance FROM generate_series(1, 100) id")
    yield "accounts"
    postgres.query("DROP TABLE accounts")
