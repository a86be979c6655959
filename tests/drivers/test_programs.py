"""Drivers of Node, Go, Java and Rust: many clients on few servers, each one must get its own rows.

The programs are in the folders `node`, `go`, `java` and `rust`. Each runs directly (the driver itself does what it
should), in session mode, in transaction mode, and in transaction mode with servers that hold only four statements.
"""

from __future__ import annotations

import os

import pytest

from tests.drivers.conftest import ROUTES
from tests.drivers.programs import PROGRAMS, REQUIRED, Program, Unavailable, built
from tests.drivers.tagged import CLIENTS
from tests.harness import Doorman, Postgres

# For each check of a program, of which it has about ten. Directly and in session mode little can go wrong.
SECONDS = {"direct": 0.05, "session": 0.1, "transaction": 0.3, "evicting": 0.2}


@pytest.fixture(params=PROGRAMS, ids=str)
def program(request: pytest.FixtureRequest) -> Program:
    wanted: Program = request.param
    try:
        built(wanted.language)
    except Unavailable as reason:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{wanted}: {reason}")
        pytest.skip(f"{wanted}: {reason}")
    return wanted


@pytest.mark.parametrize("place", SECONDS)
def test_every_row_is_its_clients_own(program: Program, place: str, postgres: Postgres, pooler: Doorman) -> None:
    server = postgres if place == "direct" else pooler
    dbname = ROUTES[place] or "postgres"
    code, output = program.run(server, dbname, clients=CLIENTS, seconds=SECONDS[place])
    print(output)
    assert code == 0 and "all checks passed" in output, output[-5000:]
