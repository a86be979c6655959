"""A pooler with two workers and fewer servers than any test has clients, in both pool modes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.drivers.tagged import CLIENTS, Route
from tests.harness import Doorman, Postgres
from tests.harness.certificates import Authority
from tests.harness.doorman import pool_of, user_of
from tests.harness.service import temporary_directory

POOL_SIZE = 3
WIDE_SIZE = CLIENTS + 4  # a few for what is asked beside
# Where a `route` leads: the pool's name, None for PostgreSQL itself.
ROUTES = {"direct": None, "session": "wide", "transaction": "postgres", "evicting": "evicting"}
GENERAL: dict[str, Any] = {"query_wait_timeout": 30_000}


@pytest.fixture(scope="package")  # gone before the next package counts servers
def pooler(postgres: Postgres) -> Iterator[Doorman]:
    """`postgres`: transaction mode; `evicting`: the same, but a server holds only four prepared statements;
    `session`: session mode with three servers; `wide`: with one for each client."""
    pools = {
        "postgres": pool_of(postgres, users=[user_of("app", POOL_SIZE)]),
        "evicting": pool_of(postgres, server_prepared_statements_cache_size=4, users=[user_of("app", POOL_SIZE)]),
        "session": pool_of(postgres, pool_mode="session", users=[user_of("app", POOL_SIZE)]),
        "wide": pool_of(postgres, pool_mode="session", users=[user_of("app", WIDE_SIZE)]),
    }
    with Doorman(postgres, pools=pools, general=GENERAL) as doorman:
        yield doorman
        for name in pools:
            doorman.wait_pool(name, cl_waiting=0, cl_active=0, sv_active=0)
        assert not doorman.log_contains("Traceback|internal error")


@pytest.fixture(scope="package")
def authority() -> Iterator[Authority]:
    directory = temporary_directory("drivers-certificates")
    yield Authority(directory)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="package")
def tls_pooler(postgres: Postgres, authority: Authority) -> Iterator[Doorman]:
    """Transaction mode; whoever does not speak TLS is refused."""
    pair = authority.issue("localhost", names=("localhost",), addresses=("127.0.0.1",))
    files = {"tls_certificate": str(pair.certificate_path), "tls_private_key": str(pair.key_path)}
    pools = {"postgres": pool_of(postgres, users=[user_of("app", POOL_SIZE)])}
    with Doorman(postgres, pools=pools, general={**GENERAL, **files, "tls_mode": "require"}) as doorman:
        yield doorman
        doorman.wait_pool(cl_waiting=0, cl_active=0, sv_active=0)
        assert not doorman.log_contains("Traceback|internal error")


@pytest.fixture
def accounts(postgres: Postgres) -> Iterator[str]:
    """A table with a hundred rows of (id, balance = 100)."""
    postgres.query("DROP TABLE IF EXISTS accounts")
    postgres.query("CREATE TABLE accounts AS SELECT id, 100 AS balance FROM generate_series(1, 100) id")
    yield "accounts"
    postgres.query("DROP TABLE accounts")


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, postgres: Postgres, pooler: Doorman) -> Route:
    """Each way to PostgreSQL in turn."""
    dbname = ROUTES[request.param]
    return Route(postgres, "postgres") if dbname is None else Route(pooler, dbname)
