"""A backend that is terminated at any step of a prepared batch: the client is told, nothing is silently sent again.

trap: ProxySQL PR #5654; pg_doorman's stale-server detection.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import Connect
from tests.e2e.raw import Ended, Raw, tell, wait_until
from tests.e2e.traps.clients import KEEPS, SERVERS, WORK, ask, backend, on_each_server, run, whole, words
from tests.harness import Doorman, Postgres
from tests.torture.wire import COPY_DONE, FLUSH, SYNC, bind, copy_data, execute, parse, query

every_size = pytest.mark.parametrize("database", KEEPS)
COPY_ROWS = copy_data(b"1\t" + b"x" * 1_000_000 + b"\n")
SUICIDE = "SELECT pg_terminate_backend(pg_backend_pid())"


def terminate(postgres: Postgres, pid: str) -> None:
    """And wait until it is gone."""
    assert postgres.admin("SELECT pg_terminate_backend(%s, 5000)", [int(pid)]) == [(True,)]


def rows_of(postgres: Postgres, table: str) -> int:
    return int(postgres.admin(f"SELECT count(*) FROM {table}")[0][0])


STEPS: list[tuple[str, list[Callable[[str], bytes]], str]] = [
    ("before Parse", [], ""),
    ("after Parse", [lambda table: parse(f"INSERT INTO {table} VALUES (2, 'x')", "new")], "1"),
    ("after Bind", [lambda table: bind(name="insert")], "2"),
    ("after Execute", [lambda table: run("insert")], "2 C"),
    ("after an error", [lambda table: run("insert") + whole("SELECT 1/0")], "2 C 1 E:22012"),
]


@pytest.mark.parametrize(("step", "sent", "answer"), STEPS, ids=[step[0] for step in STEPS])
@pytest.mark.parametrize("block", ["transaction", "batch"])
def test_nothing_is_sent_again(
    connect: Connect,
    postgres: Postgres,
    table: str,
    step: str,
    sent: list[Callable[[str], bytes]],
    answer: str,
    block: str,
) -> None:
    """The rest of the batch must not run on another server, whether with the earlier part or alone."""
    raw, other = connect(), connect()
    ask(raw, parse(f"INSERT INTO {table} VALUES (1, 'x')", "insert"))
    if block == "transaction":
        raw.ask(WORK)
        assert raw.ask(run("insert"), SYNC) == "2 C ZT"
    else:
        raw.send(run("insert"), FLUSH)
        raw.until("C")
    pid = next(str(row["pid"]) for row in postgres.activity(usename="app") if row["state"] != "idle")
    raw.send(*[part(table) for part in sent], FLUSH)
    assert tell([raw.next() for _ in answer.split()]) == answer
    terminate(postgres, pid)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        raw.send(run("insert"), SYNC, query("COMMIT"), run("insert"), SYNC)
    error = raw.last_words()
    assert (error["C"], error["V"]) == ("57P01", "FATAL")
    assert rows_of(postgres, table) == 0, step
    assert ask(other, whole(f"SELECT count(*) FROM {table}")) == ["0"]


@every_size
def test_a_batch_whose_backend_ends_in_the_middle_of_it(
    connect: Connect, postgres: Postgres, table: str, database: str
) -> None:
    """The batch ends its own backend: before, between and behind what it inserts. Nothing of it is there."""
    insert = f"INSERT INTO {table} VALUES (1, 'x')"
    for parts in (
        [whole(SUICIDE), whole(insert)],
        [whole(insert), whole(SUICIDE), whole(insert)],
        [whole(insert, "i"), whole(SUICIDE, "s"), run("i"), SYNC, run("i")],
        [parse(insert, "i"), parse(SUICIDE, "s"), SYNC, run("s"), run("i")],
    ):
        raw = connect(database)
        raw.send(*parts, SYNC)
        error = raw.last_words()
        assert (error["C"], error["V"]) == ("57P01", "FATAL")
    assert rows_of(postgres, table) == 0
    assert ask(connect(database), whole(insert)) == []
    assert rows_of(postgres, table) == 1


def test_what_was_committed_before_is_there_once_and_what_follows_is_not(
    connect: Connect, postgres: Postgres, table: str
) -> None:
    """A pipeline of batches of which the third ends the backend."""
    raw = connect()
    batches = [whole(f"INSERT INTO {table} VALUES ({number}, 'x')") + SYNC for number in range(6)]
    batches[2] = whole(SUICIDE) + SYNC
    raw.send(*batches)
    answers = raw.until("Z") + raw.until("Z")
    assert tell(answers) == "1 2 C ZI 1 2 C ZI"
    assert raw.last_words()["C"] == "57P01"
    assert postgres.admin(f"SELECT id FROM {table} ORDER BY id") == [(0,), (1,)]


@every_size
def test_statements_outlive_their_servers_between_transactions(
    connect: Connect, postgres: Postgres, database: str
) -> None:
    """Named, unnamed, used and never used: no client notices, nobody is told that a statement does not exist."""
    clients = connect.many(4, database)
    for number, raw in enumerate(clients):
        ask(
            raw,
            parse(f"SELECT 'named {number}'", "n"),
            parse(f"SELECT 'unnamed {number}'"),
            parse("SELECT 'idle'", "i"),
        )
    for turn in range(3):
        for pid in list(on_each_server(connect, database)):
            terminate(postgres, pid)
        for raw in clients:
            raw.send(run("n"), run(), run("i"), SYNC)
        for number, raw in enumerate(clients):
            assert words(raw.until("Z")) == [f"named {number}", f"unnamed {number}", "idle"], turn


@pytest.mark.parametrize("state", ["in a transaction", "in a failed transaction", "in a batch"])
def test_a_dead_backend_of_an_idle_client_is_noticed_and_its_place_is_free(
    connect: Connect, postgres: Postgres, pooler: Doorman, state: str
) -> None:
    holders = connect.many(SERVERS)
    for raw in holders:
        if state == "in a batch":
            raw.send(whole("SELECT 1"), FLUSH)
            raw.until("C")
        else:
            raw.ask(WORK)
            raw.ask(query("SELECT 1/0" if "failed" in state else "SELECT 1"))
    waiting = connect.many(3)
    for raw in waiting:
        raw.send(whole("SELECT 'served'"), SYNC)
    pooler.wait_pool(cl_waiting=3)
    postgres.terminate_backends(user="app")
    for raw in waiting:
        assert words(raw.until("Z")) == ["served"]
    for raw in holders:
        assert raw.last_words()["C"] == "57P01"


@pytest.fixture
def session(connect: Connect) -> Iterator[Raw]:
    raw = connect("session")
    yield raw
    raw.quit()


def test_an_error_in_session_mode_keeps_the_backend(session: Raw) -> None:
    """trap: pg_doorman 3.3.2, by Flush as well."""
    pid = backend(session)
    assert session.ask(query("SELECT 1/0")) == "E:22012 ZI"
    assert session.ask(parse("SELEC", "x"), SYNC) == "E:42601 ZI"
    session.send(parse("SELECT 'kept'", "k"), parse("TABLE nowhere"), FLUSH)
    assert tell(session.until("E")) == "1 E:42P01"
    assert session.ask(SYNC) == "ZI"
    assert (backend(session), ask(session, run("k"))) == (pid, ["kept"])


def test_a_failed_transaction_is_its_clients_to_end(connect: Connect) -> None:
    """trap: pg_doorman 2.4.1, 3.2.2: COMMIT is PostgreSQL's ROLLBACK, savepoints are nobody's business but its own."""
    raw = connect()
    for end, tag in (("COMMIT", b"ROLLBACK\0"), ("ROLLBACK", b"ROLLBACK\0"), ("END", b"ROLLBACK\0")):
        raw.ask(WORK)
        raw.ask(query("SAVEPOINT s"))
        assert ask(raw, whole("SELECT 1/0"), execute()) == ["22012"]
        assert ask(raw, whole("SELECT 1")) == ["25P02"]
        assert raw.ask(whole("ROLLBACK TO s"), SYNC) == "1 2 C ZT"
        assert ask(raw, whole("SELECT 'rescued'")) == ["rescued"]
        assert ask(raw, whole("TABLE nowhere")) == ["42P01"]
        got = raw.converse(whole(end), SYNC)
        assert (tell(got), got[2].body) == ("1 2 C ZI", tag)


# --- clients that go away --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_its_answer_unread_does_not_condemn_the_server(
    connect: Connect, pooler: Doorman, how: str
) -> None:
    """trap: pg_doorman 2.5.0: what is left of a prepared result is read and dropped."""
    pids = set(on_each_server(connect))
    for _ in range(6):
        raw = connect()
        raw.send(parse("SELECT repeat('x', 1000) FROM generate_series(1, 300)", "s"), run("s"), SYNC)
        raw.reset() if how == "reset" else raw.close()
    wait_until(lambda: pooler.pool_row()["sv_active"] == 0, "the servers are back")
    assert set(on_each_server(connect)) == pids


def test_a_client_that_leaves_in_the_middle_of_a_large_row(connect: Connect) -> None:
    """trap: pg_doorman 3.6.5: the rest of the row is not the next client's answer."""
    for turn in range(4):
        raw = connect()
        raw.send(whole("SELECT repeat('x', 20000000)", "s"), whole("SELECT 'behind'"), SYNC)
        raw.read_bytes(1000 * turn + 30)
        raw.reset() if turn % 2 else raw.close()
        for other in connect.many(3):
            assert ask(other, whole("SELECT 'own answer'")) == ["own answer"]


@pytest.mark.parametrize("database", ["postgres", "session"])
@pytest.mark.parametrize("end", ["backend", "garbage", "length"])
def test_nothing_is_said_behind_half_a_row(connect: Connect, postgres: Postgres, database: str, end: str) -> None:
    """An error of ours would be read as a part of the row: whoever got half of one is told by the end of the stream."""
    raw = connect(database)
    raw.send(query("SELECT repeat('x', 30000000)"))
    raw.until("T")
    raw.read_bytes(1000)
    if end == "backend":
        terminate(postgres, next(str(row["pid"]) for row in postgres.activity(usename="app", state="active")))
    else:
        raw.send(b"\xff\0\0\0\4" if end == "garbage" else b"Q\xff\xff\xff\xff")
    with contextlib.suppress(ConnectionResetError):
        raw.read_to_end()
    assert len(raw.buffer) < 29_999_000
    assert raw.buffer.count(b"x") == len(raw.buffer)
    assert ask(connect(database), whole("SELECT 'served'")) == ["served"]


def test_terminate_in_the_middle_of_everything(connect: Connect, postgres: Postgres, table: str) -> None:
    """trap: PgDog PR #848, PgBouncer #953: a Terminate inside a transaction or a batch ends it, without a deadlock."""
    terminate_message = b"X\0\0\0\4"
    insert = whole(f"INSERT INTO {table} VALUES (1, 'x')", "i")
    for data in (
        [WORK, insert, SYNC],
        [WORK, insert],
        [insert],
        [insert, whole("SELECT 1/0")],
        [WORK, whole("SELECT pg_sleep(20)")],
        [parse("SELECT 1")],
    ):
        raw = connect()
        raw.send(*data, terminate_message)
        with contextlib.suppress(Ended, ConnectionResetError):
            raw.read_to_end()
    assert ask(connect(), whole(f"SELECT count(*) FROM {table}")) == ["0"]


@pytest.mark.parametrize("database", ["postgres", "session"])
def test_a_backend_that_takes_nothing_is_given_up_and_the_client_told(
    connect: Connect, pooler: Doorman, postgres: Postgres, database: str
) -> None:
    """trap: pg_doorman 3.2.4, a write time-out that closed without a word. One that is busy with something before is
    waited for."""
    raw, patient = connect(database), connect(database)
    pid = int(backend(raw, begin=True))
    patient.send(query("SELECT pg_sleep(7)") + query(f"SELECT length('{'y' * 30_000_000}')"))
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        with contextlib.suppress(ConnectionError):
            raw.send(query(f"SELECT length('{'x' * 30_000_000}')"))
        assert raw.last_words()["C"] == "58006"
        assert 4.5 < time.monotonic() - began < 8
    finally:
        os.kill(pid, signal.SIGCONT)
    assert words([*patient.until("Z"), *patient.until("Z")]) == ["", "30000000"]


@pytest.mark.parametrize("database", ["postgres", "session"])
def test_a_copy_whose_rows_wait_for_a_lock_is_waited_for(
    connect: Connect, postgres: Postgres, table: str, database: str
) -> None:
    raw = connect(database)
    with postgres.connect(user="postgres", autocommit=False) as holder:
        holder.execute(f"LOCK TABLE {table}")
        sender = threading.Thread(target=raw.send, args=[query(f"COPY {table} FROM STDIN"), COPY_ROWS * 20, COPY_DONE])
        sender.start()
        time.sleep(7.5)
        holder.rollback()
    sender.join()
    assert tell(raw.until("Z")).split()[-2:] == ["C", "ZI"]


@pytest.mark.parametrize("database", ["postgres", "session"])
def test_what_ends_a_copy_whose_sync_is_sent_is_told(
    connect: Connect, postgres: Postgres, table: str, database: str
) -> None:
    raw = connect(database)
    raw.ask(query("BEGIN"))
    pid = raw.value("SELECT pg_backend_pid()")
    raw.send(parse(f"COPY {table} FROM STDIN"), bind(), execute(), SYNC, copy_data(b"1\tone\n"))
    raw.until("G")
    assert pid is not None
    terminate(postgres, pid)
    assert raw.last_words()["C"] == "57P01"
