"""The sides of a comparison: a new PostgreSQL of Debian's for each run, alone or behind a pooler with two workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import Doorman, Endpoint, Postgres, find_debian_postgres
from tests.harness.doorman import Config, pool_of, user_of
from tests.suites.fetch import CACHE
from tests.suites.suite import SUPERUSER, Missing, Outcome, Outcomes, Suite

DIRECT = "direct"
SETTINGS: dict[str, str | int] = {"max_connections": 400, "shared_buffers": "128MB"}
GENERAL = {"query_wait_timeout": "60s", "sync_server_parameters": True}  # application_name is looked for, too
POOL_SIZE = 60  # more than any suite has connections at once
OF_THE_POOLER = "(log of pg_doorman)"


def outcomes_of(suite: Suite, mode: str, label: str, place: Path) -> Outcomes:
    """What the suite comes to in this mode, run in `place`; its files are in build/suites/results/NAME/LABEL then."""
    kept = CACHE / "results" / suite.name / label
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    shutil.rmtree(place)
    place.mkdir(mode=0o755)
    try:
        with started(suite, mode, kept) as server:
            outcomes = suite.run(server, place)
    finally:
        shutil.copytree(place, kept / "place")
    return outcomes | complaints(kept / "pg_doorman.log")


@contextmanager
def started(suite: Suite, mode: str, kept: Path) -> Iterator[Endpoint]:
    bindir = find_debian_postgres()
    if bindir is None:
        raise Missing("needs Debian's package postgresql")
    with Postgres(bindir=bindir, settings=SETTINGS) as postgres:
        for dbname in suite.databases:
            if dbname != "postgres":
                postgres.admin(f'CREATE DATABASE "{dbname}"')
            postgres.psql(suite.setup, user=SUPERUSER, dbname=dbname)
        try:
            if mode == DIRECT:
                yield postgres
                return
            pools = {dbname: pool_for(suite, postgres, mode, dbname) for dbname in {*suite.databases, *suite.reached}}
            with Doorman(postgres, general=GENERAL, pools=pools) as doorman:
                try:
                    yield doorman
                finally:
                    shutil.copyfile(doorman.log_path, kept / "pg_doorman.log")
        finally:
            shutil.copyfile(postgres.log_path, kept / "postgres.log")


def pool_for(suite: Suite, postgres: Postgres, mode: str, dbname: str) -> Config:
    users = [user_of(name, POOL_SIZE) for name in suite.users]
    return pool_of(postgres, pool_mode=mode, server_database=dbname, users=users)


def complaints(log: Path) -> Outcomes:
    """A traceback of the pooler counts as a difference, whatever the tests said."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return {OF_THE_POOLER: Outcome("traceback", detail=text[text.index("Traceback") :])} if "Traceback" in text else {}
