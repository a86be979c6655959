"""Commands of the console against a real table whose rows the pool's own doors brought into their states."""

from __future__ import annotations

import pytest

from doorman.admin.command import Sources
from doorman.admin.console import Console
from doorman.config.schema import Config
from doorman.shm.orders import is_enabled
from doorman.shm.rows import pool_rows
from doorman.shm.table import Table, monotonic_us
from doorman.shm.trial import Trial
from doorman.wire import frontend
from tests.unit.admin.client import BOUND, NO_DATA, PARSED, READY, SYNC, Session, bind, describe, error, execute, parse
from tests.unit.admin.client import tell as tell_messages

WRITER, APP, BOOKS = 0, 1, 2


class Recorder:
    """Stands for the process: remembers what it was asked to do."""

    def __init__(self) -> None:
        self.woken = 0
        self.orders: list[str] = []

    def config(self) -> Config:
        raise NotImplementedError

    def wake(self, processes: int) -> None:
        self.woken |= processes

    def known_statements(self) -> list[tuple[int, bytes]]:
        return []

    def forget_statements(self) -> None:
        self.orders.append("forget")

    def log_level(self) -> str:
        return "info"

    def server_addresses(self) -> dict[tuple[str, int], set[str]]:
        return {}


@pytest.fixture
def host() -> Recorder:
    return Recorder()


@pytest.fixture
def session(table: Table, host: Recorder) -> Session:
    return Session(Console(Sources(table, [], "9.8.7", host)))


@pytest.fixture
def worker(table: Table) -> Trial:
    return Trial(table, process=1)


def done(tag: str) -> list[tuple[str | None, ...]]:
    return [("C", tag), READY]


def run(session: Session, sql: str) -> list[tuple[str | None, ...]]:
    return session.send(frontend.query(sql))


def poll(session: Session) -> list[tuple[str | None, ...]]:
    return tell_messages(session.console.poll().output)


def busy(worker: Trial, pool: int) -> tuple[int, int]:
    """A client of a pool and the server that it holds."""
    client = worker.admit(monotonic_us())
    worker.log_in(client, pool)
    _, slot = worker.take(pool, client, monotonic_us())
    assert worker.give_back(slot, monotonic_us()) == client
    return client, slot


def paused(table: Table) -> set[int]:
    return {pool.number for pool in pool_rows(table) if pool.paused}


@pytest.mark.parametrize(
    ("words", "pools"),
    [
        ("", {WRITER, APP, BOOKS}),
        (" shop", {WRITER, APP}),
        (" books", {BOOKS}),
        (" app@shop", {APP}),
        (' "shop"', {0, 1}),
    ],
)
def test_pause_and_resume_mean_all_a_database_or_a_pool(
    session: Session, table: Table, words: str, pools: set[int]
) -> None:
    assert run(session, f"PAUSE{words}") == done("PAUSE")
    assert paused(table) == pools
    assert run(session, f"RESUME{words};") == done("RESUME")
    assert paused(table) == set()


@pytest.mark.parametrize(
    "order", ["PAUSE", "RESUME", "RECONNECT", "KILL", "DISABLE", "ENABLE", "WAIT_CLOSE", "PAUSE NOWAIT"]
)
def test_what_does_not_exist_is_named(session: Session, table: Table, order: str) -> None:
    verb, *options = order.split()
    assert run(session, " ".join([verb, "nowhere", *options])) == [error("3D000"), READY]
    assert run(session, " ".join([verb, "app@nowhere", *options])) == [error("3D000"), READY]
    assert paused(table) == set()


NONSENSE = ["PAUSE shop now", "RESUME a b", "DISABLE", "ENABLE", "KILL CLIENT x", "KILL_CLIENT", "KILL CLIENT 1 2"]


@pytest.mark.parametrize("sql", NONSENSE)
def test_what_cannot_be_understood_changes_nothing(session: Session, table: Table, host: Recorder, sql: str) -> None:
    assert run(session, sql) == [error("42601"), READY]
    assert paused(table) == set() and host.orders == []


def test_pause_answers_when_no_server_is_lent(session: Session, worker: Trial, table: Table) -> None:
    client, slot = busy(worker, APP)
    assert run(session, "PAUSE shop; SHOW VERSION") == []
    assert paused(table) == {WRITER, APP} and poll(session) == []
    assert session.console.feed(b"").waiting and poll(session) == []
    worker.give_back(slot, monotonic_us())
    assert poll(session) == [("C", "PAUSE")]
    answer = session.console.feed(b"")  # the statement behind it
    assert tell_messages(answer.output)[-1] == READY and not answer.waiting
    assert worker.take(APP, client, monotonic_us()) == (-1, -1), "a paused pool lends nothing"


def test_pause_nowait_answers_at_once(session: Session, worker: Trial, table: Table) -> None:
    busy(worker, APP)
    assert run(session, "PAUSE shop NOWAIT") == done("PAUSE")
    assert run(session, "PAUSE nowait") == done("PAUSE") and paused(table) == {0, 1, 2}


def test_pause_waits_in_the_extended_protocol_too(session: Session, worker: Trial) -> None:
    _, slot = busy(worker, APP)
    batch = parse("PAUSE"), bind(), describe(), execute(), SYNC
    assert session.send(*batch) == [PARSED, BOUND, NO_DATA]
    worker.give_back(slot, monotonic_us())
    assert poll(session) == [("C", "PAUSE")]
    assert session.send() == [READY]


def test_resume_wakes_who_waits(session: Session, worker: Trial, host: Recorder, table: Table) -> None:
    Trial(table, process=2, role=2)
    client, slot = busy(worker, APP)
    run(session, "PAUSE NOWAIT")
    waiter = worker.admit(1)
    worker.log_in(waiter, APP)
    worker.take(APP, waiter, monotonic_us())
    worker.give_back(slot, monotonic_us())
    host.woken = 0
    assert run(session, "RESUME") == done("RESUME")
    assert host.woken & 0b110 == 0b110, "the waiter's worker, and the keeper, which may have to open servers"
    assert worker.accept_grant(slot, waiter, monotonic_us())
    assert client != waiter


def test_reconnect_ends_idle_servers_and_outdates_others(
    session: Session, worker: Trial, table: Table, host: Recorder
) -> None:
    keeper = Trial(table, process=2, role=2)
    _, held = busy(worker, APP)
    _, idle = busy(worker, APP)
    worker.give_back(idle, monotonic_us())
    assert run(session, "RECONNECT shop") == done("RECONNECT")
    assert keeper.take_mail() == [idle] and host.woken & 0b100
    assert [worker.slot_row(slot)["state"] for slot in (held, idle)] == [3, 6]
    assert run(session, "WAIT_CLOSE shop") == []
    keeper.finish_close(idle)
    assert poll(session) == []
    assert worker.give_back(held, monotonic_us()) == -4, "outdated"
    worker.finish_close(held)
    assert poll(session) == done("WAIT_CLOSE")


def test_kill_client_marks_one_client_and_waits_for_its_end(session: Session, worker: Trial, host: Recorder) -> None:
    client, _ = busy(worker, APP)
    other, _ = busy(worker, APP)
    number = worker.client_row(client)["connection_id"]
    for spelling in (f"KILL CLIENT #c{number}", f"kill_client {number}"):
        assert run(session, spelling) == []
        assert worker.client_row(client)["condemned"] == number and worker.client_row(other)["condemned"] == 0
        assert host.woken == 0b10 and worker.attention_of(1) == 4
        session.console.__init__(session.console._sources)  # type: ignore[misc]
    assert run(session, "KILL CLIENT #c999") == [error("42704"), READY]


def test_kill_sends_all_clients_of_a_database_away(session: Session, worker: Trial, table: Table) -> None:
    client, slot = busy(worker, APP)
    stranger, _ = busy(worker, BOOKS)
    assert run(session, "KILL shop") == []
    assert worker.client_row(client)["condemned"] and not worker.client_row(stranger)["condemned"]
    assert paused(table) == {WRITER, APP}
    worker.start_close(slot)
    worker.dismiss(client)
    assert poll(session) == done("KILL")


def test_disable_and_enable(session: Session, table: Table) -> None:
    assert run(session, "DISABLE shop") == done("DISABLE")
    assert [is_enabled(table, pool) for pool in range(3)] == [False, False, True]
    assert [row["disabled"] for row in session.rows("SHOW DATABASES")] == ["0", "1", "1"]
    assert run(session, "ENABLE app@shop") == done("ENABLE")
    assert [is_enabled(table, pool) for pool in range(3)] == [False, True, True]


def test_who_may_only_look_changes_nothing(table: Table, host: Recorder, worker: Trial) -> None:
    session = Session(Console(Sources(table, [], "9.8.7", host), is_admin=False))
    busy(worker, APP)
    orders = ["PAUSE", "RESUME", "RECONNECT", "KILL", "KILL CLIENT #c1", "DISABLE shop", "ENABLE shop", "WAIT_CLOSE"]
    for order in [*orders, "SET log_level = debug", "RESET INTERNER", "RELOAD", "SHUTDOWN"]:
        assert run(session, order) == [error("42501"), READY], order
        assert session.send(parse(order), bind(), execute(), SYNC) == [PARSED, BOUND, error("42501"), READY], order
    assert host.orders == [] and host.woken == 0 and paused(table) == set()
    assert run(session, "SHOW POOLS")[-1] == READY


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("SELECT name FROM pg_catalog.pg_settings", "help"),
        ("SELECT unnest(enumvals) FROM pg_catalog.pg_settings", "error"),
    ],
)
def test_psqls_tab_completion(session: Session, query: str, first: str) -> None:
    answers = run(session, query)
    assert answers[1] == ("D", first) and answers[-2:] == [("C", "SELECT"), READY]
