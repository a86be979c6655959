"""Servers that were idle for longer than `server_idle_check_timeout` are probed, whatever way they come to a client.

A backend that is stopped (SIGSTOP) is like a host that has vanished: it takes everything and says nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.e2e.conftest import backends
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import query

TIMES = {"server_idle_check_timeout": 100, "connect_timeout": 700, "query_wait_timeout": 1500}


@pytest.fixture(scope="module")
def probing(postgres: Postgres) -> Iterator[Doorman]:
    pools = {
        "postgres": pool_of(postgres, users=[user_of("app", 1)]),
        "four": pool_of(postgres, users=[user_of("app", 4)]),
    }
    with Doorman(postgres, pools=pools, general=TIMES) as doorman:
        yield doorman


@contextmanager
def frozen(postgres: Postgres) -> Iterator[None]:
    """All servers that there are. They come to life again, and are idle or end."""
    pids = [row["pid"] for row in backends(postgres)]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("number", range(8))
def test_by_whatever_worker_it_is_used(probing: Doorman, postgres: Postgres, number: int) -> None:
    address = (probing.host, probing.port)
    with closing(Raw(address).log_in()) as one, closing(Raw(address).log_in()) as other:  # of both workers
        assert one.value("SELECT 1") == "1"
        time.sleep(0.3)
        with frozen(postgres):
            assert (one if number % 2 else other).value("SELECT 'by another'") == "by another"


def test_by_a_client_that_waited_for_the_end_of_a_pause(probing: Doorman, postgres: Postgres) -> None:
    with closing(Raw((probing.host, probing.port)).log_in()) as raw:
        assert raw.value("SELECT 1") == "1"
        probing.console("PAUSE postgres")
        time.sleep(0.3)
        with frozen(postgres):
            raw.send(query("SELECT 'by another'"))
            probing.wait_pool(cl_waiting=1)
            probing.console("RESUME postgres")
            assert [got.columns() for got in raw.until("Z") if got.kind == b"D"] == [[b"by another"]]


def test_all_that_a_client_waits_for_is_within_query_wait_timeout(probing: Doorman, postgres: Postgres) -> None:
    address = (probing.host, probing.port)
    clients = [Raw(address).log_in(database="four") for _ in range(4)]
    for raw in clients:
        raw.send(query("SELECT pg_sleep(0.2)"))
    for raw in clients:
        raw.until("Z")
    time.sleep(0.3)
    with frozen(postgres):
        began = time.monotonic()
        assert clients[0].error(query("SELECT 1"))["C"] == "53300"
        assert time.monotonic() - began < 2.5
    for raw in clients:
        assert raw.value("SELECT 1") == "1"
        raw.close()


def test_it_is_one_deadline_also_for_who_waits_again(probing: Doorman, postgres: Postgres) -> None:
    """An idle server that is dead, another that is busy, and nothing can be opened."""
    address = (probing.host, probing.port)
    busy, raw = (Raw(address).log_in(database="four") for _ in range(2))
    busy.ask(query("BEGIN; SELECT 1"))
    assert raw.value("SELECT 1") == "1"
    time.sleep(0.3)
    with frozen(postgres):
        os.kill(postgres.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert raw.error(query("SELECT 1"))["C"] == "53300"
            assert time.monotonic() - began < 1.9
        finally:
            os.kill(postgres.pid, signal.SIGCONT)
    busy.ask(query("COMMIT"))
    assert raw.value("SELECT 1") == "1"
    busy.close()
    raw.close()
