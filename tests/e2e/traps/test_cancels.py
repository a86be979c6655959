"""Cancels of prepared and pipelined statements, running, queued and finished: that one is hit, and nothing else.

trap: PgBouncer #38, #245, #328, #822; and PgDog #759: what is cancelled out of the queue never reaches a server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

from tests.e2e.conftest import Connect, backends, counts, is_idle
from tests.e2e.raw import Ended, Raw, cancel, tell, wait_until
from tests.e2e.traps.clients import SERVERS, WORK, ask, on_each_server, run, whole, words
from tests.harness import Doorman, Postgres
from tests.harness.clients import worker_of
from tests.torture.wire import FLUSH, SYNC, bind, close_statement, describe_statement, execute, parse, query

Address = tuple[str, int]
SLEEP = "SELECT pg_sleep($1::float8)"


def hit(address: Address, raw: Raw) -> None:
    assert cancel(address, raw.pid, raw.secret) == b""


def sleepers(postgres: Postgres) -> int:
    return sum(row["wait_event"] == "PgSleep" for row in postgres.activity(usename="app"))


def locked(postgres: Postgres) -> int:
    return sum(row["wait_event_type"] == "Lock" for row in postgres.activity(usename="app"))


@pytest.mark.parametrize("by", ["sync", "flush", "pipeline", "transaction"])
@pytest.mark.parametrize("database", ["keeps_0", "postgres"])
def test_a_running_prepared_statement(
    connect: Connect, address: Address, postgres: Postgres, database: str, by: str
) -> None:
    raw, other = connect(database), connect(database)
    for one in (raw, other):
        ask(one, parse(SLEEP, "sleep"), parse("SELECT 'kept'", "kept"))
    if by == "transaction":
        raw.ask(WORK)
    other.send(run("sleep", [b"0.4"]), run("kept"), SYNC)
    wait_until(lambda: sleepers(postgres) == 1, "the other runs")
    raw.send(parse("SELECT 'before'", "before"), run("sleep", [b"20"]), parse("SELECT 'behind'", "behind"))
    raw.send({"flush": FLUSH, "pipeline": SYNC + run("kept") + SYNC + whole("SELECT 'last'") + SYNC}.get(by, SYNC))
    wait_until(lambda: sleepers(postgres) == 2, "both run")
    hit(address, raw)
    assert words(raw.until("E")) == ["57014"]
    if by == "flush":
        raw.send(SYNC)
    raw.until("Z")
    if by == "pipeline":
        assert words(raw.until("Z") + raw.until("Z")) == ["kept", "last"]
    if by == "transaction":
        assert raw.status == "E"
        assert ask(raw, run("kept")) == ["25P02"]
        raw.ask(query("ROLLBACK"))
    assert words(other.until("Z")) == ["", "kept"]
    assert [ask(raw, run(name)) for name in ("kept", "before", "behind")] == [["kept"], ["before"], ["26000"]]
    assert ask(raw, run("sleep", [b"0"])) == [""]


@pytest.mark.parametrize("deferred", [False, True], ids=["", "BEGIN"])
def test_a_queued_batch(
    connect: Connect, address: Address, postgres: Postgres, pooler: Doorman, table: str, *, deferred: bool
) -> None:
    """None of it has happened: no row, no new name, no closed name. The batches behind it are served."""
    raw, other = connect(), connect()
    ask(raw, parse("SELECT 'old'", "old"), parse(f"INSERT INTO {table} VALUES (1, 'x')", "insert"))
    holders = connect.many(SERVERS)
    for holder in holders:
        holder.ask(WORK)
    if deferred:
        assert raw.ask(query("BEGIN")) == "C ZT"
    raw.send(parse("SELECT 'new'", "new"), close_statement("old"), run("insert"), whole("SELECT 1"), SYNC)
    other.send(whole("SELECT 'other'"), SYNC)
    pooler.wait_pool(cl_waiting=2)
    hit(address, raw)
    got = raw.until("Z")
    assert tell(got) == ("E:57014 ZE" if deferred else "E:57014 ZI")
    pooler.wait_pool(cl_waiting=1)
    for holder in holders:
        holder.ask(query("COMMIT"))
    if deferred:
        assert raw.ask(query("ROLLBACK")) == "C ZI"
    assert words(other.until("Z")) == ["other"]
    assert [ask(raw, run(name)) for name in ("old", "new")] == [["old"], ["26000"]]
    assert ask(raw, whole("SELECT 'new again'", "new")) == ["new again"]
    assert postgres.admin(f"SELECT count(*) FROM {table}") == [(0,)]


def test_the_first_of_several_queued_batches(connect: Connect, address: Address, pooler: Doorman) -> None:
    raw = connect()
    holders = connect.many(SERVERS)
    for holder in holders:
        holder.ask(WORK)
    raw.send(*[whole(f"SELECT {number}", f"n{number}") + SYNC for number in range(3)])
    pooler.wait_pool(cl_waiting=1)
    hit(address, raw)
    assert tell(raw.until("Z")) == "E:57014 ZI"
    for holder in holders:
        holder.ask(query("COMMIT"))
    assert words(raw.until("Z") + raw.until("Z")) == ["1", "2"]
    assert [ask(raw, run(f"n{number}")) for number in range(3)] == [["26000"], ["1"], ["2"]]


def test_a_finished_statement_while_others_use_its_server(connect: Connect, address: Address) -> None:
    """One server's worth of work for everybody: the late cancel must not hit the next client's statement."""
    quick, others = connect("keeps_1"), connect.many(SERVERS + 1, "keeps_1")
    for raw in (quick, *others):
        ask(raw, parse(SLEEP, "sleep"))
    for _ in range(20):
        assert ask(quick, run("sleep", [b"0"])) == [""]
        for raw in others:
            raw.send(run("sleep", [b"0.004"]), SYNC)
        hit(address, quick)
        hit(address, quick)
        for raw in others:
            assert words(raw.until("Z")) == [""]


def test_a_cancel_that_races_the_steps_of_a_pipeline(connect: Connect, address: Address) -> None:
    """Each batch is answered by its value or by 57014, in order; the statements survive; nobody else is hit."""
    raw, other = connect(), connect()
    for one in (raw, other):
        ask(one, parse(SLEEP, "sleep"), parse("SELECT $1::text", "echo"))
    for turn in range(15):
        tag = str(turn).encode()
        raw.send(run("sleep", [b"0.002"]), SYNC, run("echo", [tag]), SYNC, whole("SELECT 'unnamed'"), SYNC)
        other.send(run("sleep", [b"0.003"]), run("echo", [tag]), SYNC)
        hit(address, raw)
        answers = [words(raw.until("Z")) for _ in range(3)]
        for answer, wanted in zip(answers, ([""], [str(turn)], ["unnamed"]), strict=True):
            assert answer in (wanted, ["57014"])
        assert words(other.until("Z")) == ["", str(turn)]
    assert ask(raw, run("echo", [b"x"])) == ["x"]


def test_a_cancel_between_two_flushes_hits_nothing_later(connect: Connect, address: Address) -> None:
    """PostgreSQL ignores a cancel while it waits for its client."""
    raw = connect()
    raw.send(parse("SELECT 'bound'", "b"), bind(name="b", portal="p"), FLUSH)
    assert tell(raw.until("2")) == "1 2"
    hit(address, raw)
    raw.send(execute("p"), FLUSH)
    assert raw.next().kind in b"DE"  # an error, should the signal be that late
    raw.ask(SYNC)
    for _ in on_each_server(connect):
        assert ask(raw, run("b")) == ["bound"]


@pytest.mark.parametrize("how", ["cancel", "terminate", "vanish"])
@pytest.mark.parametrize("told", [False, True], ids=["", "described"])
@pytest.mark.parametrize("database", ["keeps_0"])
def test_a_known_statement_that_waits_while_it_is_prepared_on_a_server(
    connect: Connect,
    address: Address,
    pooler: Doorman,
    postgres: Postgres,
    table: str,
    database: str,
    how: str,
    *,
    told: bool,
) -> None:
    """What we put in front waits for a lock. Its error is the client's, and the statement is no ghost."""
    text, raw, other = f"SELECT count(*) FROM {table}", connect(database), connect(database)
    ask(raw, parse(text, "count"), describe_statement("count") if told else b"", parse("SELECT 'evicts'", "e"))
    replace_servers(pooler, postgres)
    with postgres.connect(user="postgres") as lock:
        lock.execute("BEGIN")
        lock.execute(f"LOCK TABLE {table}")
        raw.send(run("count"), SYNC, run("e"), SYNC)
        wait_until(lambda: locked(postgres) == 1, "it waits for the lock")
        if how == "cancel":
            hit(address, raw)
            assert tell(raw.until("Z") + raw.until("Z")) == "E:57014 ZI 2 D C ZI"
        elif how == "terminate":
            postgres.terminate_backends(user="app")
            assert raw.last_words()["C"] == "57P01"
        else:
            raw.reset()
            wait_until(lambda: is_idle(pooler), "it is cancelled")
    if how == "cancel":
        assert ask(raw, run("count"), run("e")) == ["0", "evicts"]
    assert ask(other, whole(text)) == ["0"]


def replace_servers(pooler: Doorman, postgres: Postgres) -> None:
    """End all idle backends; returns when the pooler knows."""
    postgres.terminate_backends(user="app")
    wait_until(lambda: backends(postgres) == [] and counts(pooler) == 0, "the pooler knows")


def test_a_server_that_was_held_for_a_cancel_is_listened_to_again(
    connect: Connect, pooler: Doorman, postgres: Postgres
) -> None:
    """The postmaster stands still while the cancel waits for it, so that the statement ends first."""
    holder, raw, waiter = connect("keeps_1"), connect("keeps_1"), connect("keeps_1")
    while worker_of(pooler, port_of(waiter)) == worker_of(pooler, port_of(raw)):
        waiter = connect("keeps_1")
    for one in (holder, raw):  # both servers are open: the postmaster is not needed for more
        one.ask(WORK)
    raw.ask(query("COMMIT"))
    raw.send(whole("SELECT pg_sleep(0.5)"), SYNC)
    wait_until(lambda: sleepers(postgres) == 1, "it runs")
    waiter.send(whole("SELECT 'served'"), SYNC)
    pooler.wait_pool("keeps_1", cl_waiting=1)
    os.kill(postgres.pid, signal.SIGSTOP)
    try:
        raw.reset()
        time.sleep(0.7)
        holder.ask(query("COMMIT"))
        assert words(waiter.until("Z")) == ["served"]
    finally:
        os.kill(postgres.pid, signal.SIGCONT)
    wait_until(lambda: is_idle(pooler), "all is idle")
    try:
        replace_servers(pooler, postgres)
    finally:
        others = connect.many(SERVERS, "keeps_1")  # who finds a dead server is told of its end, and it is gone
        for other in others:
            other.send(WORK)
        for other in others:
            with contextlib.suppress(Ended):
                other.until("Z")


def port_of(raw: Raw) -> int:
    port: int = raw.socket.getsockname()[1]
    return port
