"""Clients that vanish in every state, by FIN, by RST and with Terminate: the server comes back clean or ends.

What `pooler` checks after each test is the point: nothing lent, no transaction open, no lock, counts as PostgreSQL's.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import POOL_SIZE, Connect
from tests.e2e.raw import Raw, wait_until
from tests.harness import Doorman, Postgres
from tests.torture.wire import FLUSH, SYNC, TERMINATE, bind, execute, message, parse, query

HALF_LARGE = message(b"Q", b"SELECT '" + b"x" * 300_000 + b"'\0")[:200_000]
WAYS = ["close", "reset", "terminate"]


def vanish(raw: Raw, how: str) -> None:
    if how == "terminate":
        raw.send(TERMINATE)
    raw.reset() if how == "reset" else raw.close()


def in_transaction(raw: Raw, table: str) -> None:
    raw.ask(query(f"BEGIN; INSERT INTO {table} VALUES (1, 'x'); LOCK TABLE {table}"))


def in_failed_transaction(raw: Raw, table: str) -> None:
    raw.ask(query(f"BEGIN; LOCK TABLE {table}"))
    raw.ask(query("SELECT 1/0"))


def with_a_statement_running(raw: Raw, table: str) -> None:
    raw.send(query(f"INSERT INTO {table} SELECT 1, pg_sleep(30)::text"))
    time.sleep(0.05)


def with_a_batch_running(raw: Raw, table: str) -> None:
    raw.send(parse("SELECT pg_sleep(30)"), bind(), execute(), SYNC)
    time.sleep(0.05)


def after_parse_only(raw: Raw, table: str) -> None:
    raw.send(parse(f"INSERT INTO {table} VALUES (1, 'x')"), FLUSH)
    raw.until("1")


def after_execute_without_sync(raw: Raw, table: str) -> None:
    raw.send(parse(f"INSERT INTO {table} VALUES (1, 'x')"), bind(), execute(), FLUSH)
    raw.until("C")


def after_an_error_without_sync(raw: Raw, table: str) -> None:
    raw.send(parse(f"INSERT INTO {table} VALUES (1, 'x')"), bind(), execute(), parse("SELEC"), FLUSH)
    raw.until("E")


def with_a_full_pipeline(raw: Raw, table: str) -> None:
    raw.send(*[data for _ in range(8) for data in (parse("SELECT pg_sleep(0.1)"), bind(), execute(), SYNC)])


def with_unread_rows(raw: Raw, table: str) -> None:
    raw.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 50000)"))
    raw.until("D")


def with_half_a_message(raw: Raw, table: str) -> None:
    raw.send(query("SELECT 1")[:7])


def with_half_a_message_in_a_transaction(raw: Raw, table: str) -> None:
    in_transaction(raw, table)
    raw.send(query("SELECT 1")[:7])


def with_half_a_large_message(raw: Raw, table: str) -> None:
    raw.send(HALF_LARGE)
    time.sleep(0.05)


def with_half_a_large_message_in_a_transaction(raw: Raw, table: str) -> None:
    in_transaction(raw, table)
    with_half_a_large_message(raw, table)


def idle(raw: Raw, table: str) -> None:
    raw.value("SELECT 1")


STATES: list[Callable[[Raw, str], None]] = [
    idle,
    in_transaction,
    in_failed_transaction,
    with_a_statement_running,
    with_a_batch_running,
    after_parse_only,
    after_execute_without_sync,
    after_an_error_without_sync,
    with_a_full_pipeline,
    with_unread_rows,
    with_half_a_message,
    with_half_a_message_in_a_transaction,
    with_half_a_large_message,
    with_half_a_large_message_in_a_transaction,
]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("database", ["postgres", "session"])
def test_nothing_of_it_is_left(
    connect: Connect, postgres: Postgres, table: str, database: str, state: Callable[[Raw, str], None], how: str
) -> None:
    raw = connect(database)
    state(raw, table)
    vanish(raw, how)
    others = connect.many(POOL_SIZE, database)
    for other in others:
        assert other.value("SELECT 1") == "1"
    free = f"SELECT count(*) = 0 FROM pg_locks WHERE relation = '{table}'::regclass"
    wait_until(lambda: postgres.admin(free) == [(True,)], "locks are free", 6)
    assert postgres.admin(f"SELECT count(*) FROM {table}") == [(0,)]


@pytest.mark.parametrize("how", WAYS)
def test_one_that_waits_in_the_queue(connect: Connect, pooler: Doorman, how: str) -> None:
    holders = connect.many(POOL_SIZE)
    for raw in holders:
        raw.ask(query("BEGIN; SELECT 1"))
    waiters = connect.many(4)
    for raw in waiters:
        raw.send(query("SELECT 1"))
    pooler.wait_pool(cl_waiting=4)
    vanish(waiters[1], how)
    vanish(waiters[3], how)
    if how != "terminate":  # a Terminate behind a Query is read when the Query has its server
        pooler.wait_pool(cl_waiting=2)
    for raw in holders:
        raw.ask(query("COMMIT"))
    for raw in (waiters[0], waiters[2]):
        raw.until("Z")


def test_a_crowd_that_vanishes_while_it_waits_and_runs(connect: Connect) -> None:
    for number, raw in enumerate(connect.many(60)):
        raw.send(query("BEGIN; SELECT pg_sleep(0.05)"))
        vanish(raw, WAYS[number % 3])
    assert connect().value("SELECT 1") == "1"


def test_a_statement_of_a_vanished_client_is_cancelled(connect: Connect, postgres: Postgres) -> None:
    raw = connect()
    raw.send(query("SELECT pg_sleep(60)"))
    time.sleep(0.05)
    raw.close()

    def is_over() -> bool:
        return not any(row["state"] == "active" for row in postgres.activity(application_name="pg_doorman"))

    wait_until(is_over, "the statement is cancelled", 2)


def test_a_cancel_that_comes_before_its_statement_is_sent_again(connect: Connect, postgres: Postgres) -> None:
    """Who vanishes right behind its statement: PostgreSQL may get to the cancel first, and forgets it."""
    before = {connect().value("SELECT pg_backend_pid()") or "" for _ in range(9)}

    def sleeping() -> bool:
        return any(row["wait_event"] == "PgSleep" for row in postgres.activity(application_name="pg_doorman"))

    for turn in range(25):
        for raw in connect.many(POOL_SIZE):
            raw.send(parse("SELECT pg_sleep(60)", f"s{turn}"), bind(name=f"s{turn}"), execute(), SYNC)
            raw.close()
    wait_until(lambda: not sleeping(), "everything is cancelled", 4)
    assert before <= {str(row["pid"]) for row in postgres.activity(application_name="pg_doorman")}


def test_a_statement_sent_right_before_terminate_completes(connect: Connect, postgres: Postgres, table: str) -> None:
    raw = connect()
    raw.send(query(f"INSERT INTO {table} SELECT 1, pg_sleep(0.3)::text"), TERMINATE)
    raw.close()
    wait_until(lambda: postgres.admin(f"SELECT count(*) FROM {table}") == [(1,)], "the row is there", 3)


def test_what_stands_before_terminate_is_run_also_when_it_must_wait(
    connect: Connect, postgres: Postgres, table: str
) -> None:
    """What a Parse behind a Query means is known when that is answered."""
    raw = connect()
    insert = f"INSERT INTO {table} SELECT $1, 'x'"
    raw.send(query(f"INSERT INTO {table} SELECT 1, pg_sleep(0.3)::text"))
    raw.send(parse(insert), bind([b"2"]), execute(), SYNC, bind([b"3"]), execute(), SYNC, TERMINATE)
    raw.socket.shutdown(socket.SHUT_WR)
    raw.read_to_end()
    wait_until(lambda: postgres.admin(f"SELECT count(*) FROM {table}") == [(3,)], "the rows are there", 3)


def test_what_waits_before_terminate_does_not_keep_a_server_for_ever(connect: Connect, postgres: Postgres) -> None:
    raw = connect()
    raw.send(query("SELECT pg_sleep(60)"), parse("SELECT 1"), bind(), execute(), SYNC, TERMINATE)
    raw.close()
    wait_until(lambda: sleepers(postgres) == 1, "it runs", 3)
    wait_until(lambda: sleepers(postgres) == 0, "it was cancelled", 9)


def sleepers(postgres: Postgres) -> int:
    return len(
        postgres.admin("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)' AND state = 'active'")
    )
