"""Drivers of Node, Go, Java and Rust: many clients on few servers, each one must get its own rows.

The programs are in the folders `node`, `go`, `java` and `rust`. Each runs directly (the driver itself does what it
should), in session mode, in transaction mode, in transaction mode with servers that hold only four statements, and
over TLS (`sslmode=verify-full`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drivers.conftest import ROUTES
from tests.drivers.programs import PROGRAMS, TLS_PROGRAMS, Program, Unavailable, built, built_or_skipped
from tests.drivers.tagged import CLIENTS
from tests.harness import Doorman, Postgres
from tests.harness.certificates import Authority

# For each check of a program, of which it has about ten. Directly and in session mode little can go wrong.
SECONDS = {"direct": 0.05, "session": 0.1, "transaction": 0.3, "evicting": 0.2}


@pytest.fixture(params=PROGRAMS, ids=str)
def program(request: pytest.FixtureRequest) -> Program:
    wanted: Program = request.param
    built_or_skipped(wanted.language)
    return wanted


@pytest.mark.parametrize("place", SECONDS)
def test_every_row_is_its_clients_own(program: Program, place: str, postgres: Postgres, pooler: Doorman) -> None:
    server = postgres if place == "direct" else pooler
    dbname = ROUTES[place] or "postgres"
    code, output = program.run(server, dbname, clients=CLIENTS, seconds=SECONDS[place])
    print(output)
    assert code == 0 and "all checks passed" in output, output[-5000:]


@pytest.mark.parametrize("program", TLS_PROGRAMS, ids=str, indirect=True)
def test_over_tls(program: Program, tls_pooler: Doorman, authority: Authority) -> None:
    code, output = program.run(tls_pooler, "postgres", clients=CLIENTS, seconds=0.2, authority=authority.path)
    print(output)
    assert code == 0 and "all checks passed" in output, output[-5000:]


def test_each_of_them_looks_at_the_certificate(tls_pooler: Doorman, tmp_path: Path) -> None:
    """Another authority of the same name: no driver goes on."""
    stranger = Authority(tmp_path)
    tried = 0
    for program in TLS_PROGRAMS:
        try:
            built(program.language)
        except Unavailable:
            continue
        tried += 1
        code, output = program.run(tls_pooler, "postgres", clients=2, seconds=0, authority=stranger.path)
        assert code != 0 and "all checks passed" not in output, f"{program}: {output[-2000:]}"
    if not tried:
        pytest.skip("needs one of Node, Go, Java, Rust")
