"""Cancel requests: at any worker, for running and waiting clients, too late, and with the wrong key."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.e2e.conftest import POOL_SIZE, Connect
from tests.e2e.raw import Raw, cancel, cancel_packet, packet, wait_until
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import SYNC, bind, execute, parse, query

Address = tuple[str, int]


def is_sleeping(postgres: Postgres, count: int = 1) -> bool:
    return sum("pg_sleep" in row["query"] and row["state"] == "active" for row in postgres.activity()) == count


def end_of(raw: Raw) -> str:
    """The SQLSTATE of the answer under way."""
    return next(got.fields()["C"] for got in raw.until("Z") if got.kind == b"E")


@pytest.mark.parametrize("database", ["postgres", "session"])
def test_a_cancel_reaches_the_statement_at_whatever_worker_it_arrives(
    connect: Connect, address: Address, postgres: Postgres, database: str
) -> None:
    raw = connect(database)
    for _ in range(12):  # the kernel spreads connections over the workers
        raw.send(query("SELECT pg_sleep(20)"))
        wait_until(lambda: is_sleeping(postgres), "the statement runs")
        assert cancel(address, raw.pid, raw.secret) == b""
        assert end_of(raw) == "57014"
        assert raw.value("SELECT 5") == "5"


def test_a_cancel_inside_a_transaction_fails_it_and_only_it(connect: Connect, address: Address) -> None:
    raw = connect()
    raw.ask(query("BEGIN; SELECT 1"))
    raw.send(parse("SELECT pg_sleep(20)"), bind(), execute(), SYNC)
    time.sleep(0.1)
    cancel(address, raw.pid, raw.secret)
    assert end_of(raw) == "57014"
    assert raw.status == "E"
    assert raw.ask(query("ROLLBACK")) == "C ZI"


def test_a_client_that_waits_for_a_server_is_cancelled_out_of_the_queue(
    connect: Connect, address: Address, pooler: Doorman
) -> None:
    busy = connect.many(POOL_SIZE)
    for raw in busy:
        raw.ask(query("BEGIN; SELECT 1"))
    waiters = connect.many(6)
    for number, raw in enumerate(waiters):
        data = [query("SELECT 1")] if number % 2 else [parse("SELECT 1"), bind(), execute(), SYNC]
        raw.send(*data)
    pooler.wait_pool(cl_waiting=6)
    for raw in waiters[:5]:
        cancel(address, raw.pid, raw.secret)
    for raw in waiters[:5]:
        assert end_of(raw) == "57014"
        assert raw.status == "I"
    pooler.wait_pool(cl_waiting=1)
    for raw in busy:
        raw.ask(query("COMMIT"))
    waiters[5].until("Z")
    assert all(raw.value("SELECT 2") == "2" for raw in waiters)


def test_a_late_cancel_hits_nobody(connect: Connect, address: Address) -> None:
    quick, slow = connect(), connect.many(POOL_SIZE)
    for _ in range(30):
        quick.value("SELECT 1")
        for raw in slow:
            raw.send(query("SELECT pg_sleep(0.005)"))
        cancel(address, quick.pid, quick.secret)
        for raw in slow:
            assert all(got.kind != b"E" for got in raw.until("Z"))


def test_a_cancel_that_races_the_end_of_a_statement_hits_at_most_that_statement(
    connect: Connect, address: Address
) -> None:
    raw, others = connect(), connect.many(POOL_SIZE)
    for round_ in range(40):
        raw.send(query(f"SELECT pg_sleep({round_ % 5 / 1000})"))
        cancel(address, raw.pid, raw.secret)
        raw.until("Z")
        for other in others:
            assert other.value("SELECT 3") == "3"
        assert raw.value("SELECT 4") == "4"


@pytest.mark.parametrize("database", ["postgres", "session"])
def test_the_end_of_the_request_is_the_end_of_the_cancel(connect: Connect, address: Address, database: str) -> None:
    """trap: drivers (libpq's PQcancel, asyncpg) wait for it, so as not to hit their own next statement."""
    raw = connect(database)
    for _ in range(40):
        raw.ask(query("BEGIN; SAVEPOINT a"))
        raw.send(query("COPY (SELECT pg_sleep(0.004)) TO STDOUT; SELECT pg_sleep(0.001)"))
        time.sleep(0.003)
        assert cancel(address, raw.pid, raw.secret) == b""
        raw.until("Z")
        raw.ask(query("ROLLBACK TO a"))
        assert [got.kind for got in raw.converse(query("SELECT pg_sleep(0.003)"))] == [b"T", b"D", b"C", b"Z"]
        raw.ask(query("ROLLBACK"))


def test_a_wrong_key_cancels_nothing(connect: Connect, address: Address, postgres: Postgres) -> None:
    raw, other = connect(), connect()
    raw.send(query("SELECT pg_sleep(0.6), 'done'"))
    wait_until(lambda: is_sleeping(postgres), "the statement runs")
    for pid, secret in (
        (raw.pid, bytes(4)),
        (raw.pid, raw.secret + b"\0"),
        (raw.pid, other.secret),
        (other.pid, raw.secret),
        (raw.pid + 1, raw.secret),
        (0, raw.secret),
        (0xFFFFFFFF, raw.secret),
    ):
        cancel(address, pid, secret)
    assert [got.columns()[1] for got in raw.until("Z") if got.kind == b"D"] == [b"done"]


def test_keys_are_unique_and_die_with_their_client(connect: Connect, address: Address) -> None:
    clients = connect.many(30)
    assert len({(raw.pid, raw.secret) for raw in clients}) == 30
    old = clients[0].pid, clients[0].secret
    clients[0].quit()
    successors = connect.many(3)
    for raw in successors:
        raw.send(query("SELECT pg_sleep(0.2)"))
    cancel(address, *old)
    for raw in successors:
        assert all(got.kind != b"E" for got in raw.until("Z"))


def test_the_key_of_a_3_2_client_is_long_and_works(connect: Connect, address: Address, postgres: Postgres) -> None:
    raw = connect.bare()
    raw.send(packet(196610, b"user\0app\0database\0postgres\0\0"))
    raw.until("Z")
    assert len(raw.secret) == 32
    raw.send(query("SELECT pg_sleep(20)"))
    wait_until(lambda: is_sleeping(postgres), "the statement runs")
    cancel(address, raw.pid, raw.secret)
    assert end_of(raw) == "57014"


def test_a_storm_of_cancels_does_not_stop_logins(connect: Connect, address: Address) -> None:
    raw = connect()
    storm = [Raw(address) for _ in range(100)]
    for number, one in enumerate(storm):
        one.send(b"\0\0\0\x10\x04\xd2\x16\x2e" + number.to_bytes(4, "big") + b"abcd")
    began = time.monotonic()
    assert connect().value("SELECT 1") == "1"
    assert time.monotonic() - began < 2
    assert raw.value("SELECT 1") == "1"
    for one in storm:
        assert one.read_to_end() == b""
        one.close()


@pytest.mark.parametrize("database", ["postgres", "session"])
def test_a_cancel_counts_while_an_earlier_one_is_under_way(connect: Connect, address: Address, database: str) -> None:
    raw = connect(database)
    raw.ask(query("BEGIN; SELECT 1"))
    for _ in range(60):
        raw.send(query("SAVEPOINT a"), query("SELECT pg_sleep(3)"))
        raw.until("Z")
        time.sleep(0.0005)  # it runs
        with closing(socket.create_connection(address)) as canceller:
            canceller.sendall(cancel_packet(raw.pid, raw.secret))
            assert end_of(raw) == "57014"
            assert raw.ask(query("ROLLBACK TO a")) == "C ZT"
    raw.ask(query("ROLLBACK"))


@pytest.fixture
def single(postgres: Postgres) -> Iterator[Doorman]:
    with Doorman(postgres, pools={"postgres": pool_of(postgres, users=[user_of("app", 1)])}) as doorman:
        yield doorman


@pytest.mark.parametrize("extended", [False, True])
def test_a_cancel_counts_while_the_server_is_made_fit_for_the_client(single: Doorman, extended: bool) -> None:
    address = (single.host, single.port)
    with closing(Raw(address).log_in()) as first:
        pid = int(first.value("SELECT pg_backend_pid()"))
    for _ in range(4):  # of both workers
        with closing(Raw(address).log_in(options="-c work_mem=1MB")) as raw:
            with closing(Raw(address).log_in()) as plain:
                assert plain.value("SHOW work_mem") == "4MB"
            os.kill(pid, signal.SIGSTOP)  # its settings cannot be set
            try:
                raw.send(*([parse("SELECT 1"), bind(), execute(), SYNC] if extended else [query("SELECT 1")]))
                time.sleep(0.1)
                assert cancel(address, raw.pid, raw.secret) == b""
            finally:
                os.kill(pid, signal.SIGCONT)
            assert end_of(raw) == "57014"
            assert raw.status == "I"
            assert raw.value("SHOW work_mem") == "1MB", "and the next is not cancelled"
            assert int(raw.value("SELECT pg_backend_pid()")) == pid
