"""A real shared table with three pools, and consoles on it."""

from __future__ import annotations

import pytest

from doorman.admin.command import Sources
from doorman.admin.console import Console
from doorman.shm.rows import set_up_pool
from doorman.shm.table import Table
from tests.unit.admin.client import Session
from tests.unit.auth.chopping import Chop, byte_by_byte, whole

VERSION = "9.8.7"
POOLS = [("shop", "writer"), ("shop", "app"), ("books", "app")]


def make_table(pools: list[tuple[str, str]]) -> Table:
    table = Table.create(processes=3, pools=8, slots=16, clients=16, max_connections=16)
    for number, (database, user) in enumerate(pools):
        set_up_pool(
            table,
            number,
            database=database,
            user=user,
            session_mode=database == "books",
            pool_size=10 + number,
            min_pool_size=0,
            max_opening=2,
            round_robin=False,
            check_after_us=0,
        )
    return table


@pytest.fixture
def table() -> Table:
    return make_table(POOLS)


@pytest.fixture
def console(table: Table) -> Console:
    return Console(Sources(table, [], VERSION))


@pytest.fixture
def session(console: Console) -> Session:
    return Session(console)


@pytest.fixture(params=[whole, byte_by_byte])
def chopped(console: Console, request: pytest.FixtureRequest) -> Session:
    """A session whose messages arrive in one piece, and byte by byte."""
    chop: Chop = request.param
    return Session(console, chop)
