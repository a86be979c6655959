"""`query_wait_timeout` in the middle of a pipeline of prepared batches: nothing of the lost one happens anywhere.

trap: PgDog #759, PgCat PR #137; pg_doorman 1.8.3. tests/process/test_waiting.py has the batches without names.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.raw import Raw, tell
from tests.e2e.traps.clients import WORK, ask, run, whole, words
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import FLUSH, SYNC, bind, close_statement, describe_statement, execute, parse, query

WAIT = 0.25  # seconds


class Crowd:
    """Clients of a pool with one server, which `holder` can keep."""

    def __init__(self, doorman: Doorman) -> None:
        address = doorman.host, doorman.port
        self.doorman = doorman
        self.holder, self.raw, self.other = (Raw(address).log_in() for _ in range(3))

    def hold(self) -> None:
        self.holder.ask(WORK)

    def release(self) -> None:
        self.holder.ask(query("COMMIT"))

    def close(self) -> None:
        for raw in (self.holder, self.raw, self.other):
            raw.close()
        self.doorman.wait_pool(sv_active=0, cl_waiting=0)


@pytest.fixture(scope="module")
def hasty(postgres: Postgres) -> Iterator[Doorman]:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 1)])}
    general = {"query_wait_timeout": int(WAIT * 1000), "worker_threads": 2}
    with Doorman(postgres, pools=pools, general=general) as doorman:
        yield doorman


@pytest.fixture
def crowd(hasty: Doorman) -> Iterator[Crowd]:
    crowd = Crowd(hasty)
    yield crowd
    crowd.close()


def test_names_are_as_before_a_batch_that_timed_out(crowd: Crowd, postgres: Postgres, table: str) -> None:
    raw = crowd.raw
    ask(
        raw, parse("SELECT 'old'", "old"), parse(f"INSERT INTO {table} VALUES (1, 'x')", "insert"), parse("SELECT 'un'")
    )
    crowd.hold()
    batch = [
        run("insert"),
        close_statement("old"),
        parse("SELECT 'new'", "new"),
        parse("SELECT 'unnamed too'"),
        run("new"),
    ]
    assert raw.ask(*batch, SYNC) == "E:53300 ZI"
    crowd.release()
    assert ask(raw, run()) == ["un"]
    assert [ask(raw, run(name)) for name in ("old", "new")] == [["old"], ["26000"]]
    assert ask(raw, whole("SELECT 'new'", "new")) == ["new"]
    assert postgres.admin(f"SELECT count(*) FROM {table}") == [(0,)]


@pytest.mark.parametrize("at", range(3))
def test_a_time_out_in_the_middle_of_a_pipeline(crowd: Crowd, postgres: Postgres, table: str, at: int) -> None:
    """Batches before it were served, it is lost, those behind it wait for themselves; every answer is one's own."""
    raw, other = crowd.raw, crowd.other
    ask(raw, parse(f"INSERT INTO {table} VALUES ($1, 'x')", "insert"), parse("SELECT $1::text", "echo"))
    batches = [run("insert", [b"%d" % number]) + run("echo", [b"mine %d" % number]) + SYNC for number in range(4)]
    got: list[list[str]] = []
    for batch in batches[:at]:
        got.append(words(raw.converse(batch)))
    crowd.hold()
    raw.send(*batches[at:])
    got.append(words(raw.until("Z")))
    crowd.release()
    got += [words(raw.until("Z")) for _ in batches[at + 1 :]]
    assert got == [["53300"] if number == at else [f"mine {number}"] for number in range(4)]
    assert ask(other, whole("SELECT 'theirs'")) == ["theirs"]
    wanted = [(number,) for number in range(4) if number != at]
    assert postgres.admin(f"SELECT id FROM {table} ORDER BY id") == wanted


def test_a_batch_that_comes_piece_by_piece_around_its_time_out(crowd: Crowd, postgres: Postgres, table: str) -> None:
    """What comes behind the error, up to its Sync, is skipped, although there is a server again."""
    raw = crowd.raw
    ask(raw, parse(f"INSERT INTO {table} VALUES (1, 'x')", "insert"), parse("SELECT 'mine'", "mine"))
    crowd.hold()
    raw.send(run("insert"), describe_statement("mine"), FLUSH)
    assert tell([raw.next()]) == "E:53300"
    crowd.release()
    assert ask(crowd.other, whole("SELECT 'theirs'")) == ["theirs"]
    for late in (
        run("insert"),
        parse("SELECT 'late'", "late"),
        bind(name="mine"),
        execute(),
        FLUSH,
        close_statement("mine"),
    ):
        raw.send(late)
    assert raw.is_silent(0.1)
    assert raw.ask(SYNC) == "ZI"
    assert [ask(raw, run(name)) for name in ("mine", "late")] == [["mine"], ["26000"]]
    assert postgres.admin(f"SELECT count(*) FROM {table}") == [(0,)]


def test_many_time_outs_leave_every_client_in_step(crowd: Crowd, hasty: Doorman) -> None:
    clients = [Raw((hasty.host, hasty.port)).log_in() for _ in range(12)]
    for number, raw in enumerate(clients):
        ask(raw, parse(f"SELECT 'of {number} ' || $1::text", "own"))
    crowd.hold()
    for raw in clients:
        raw.send(run("own", [b"lost"]), parse("SELECT 1", "lost"), SYNC, run("own", [b"lost too"]), SYNC)
    began = time.monotonic()
    for raw in clients:
        assert words(raw.until("Z") + raw.until("Z")) == ["53300", "53300"]
    assert time.monotonic() - began < 4 * WAIT
    crowd.release()
    for turn in range(3):
        for raw in clients:
            raw.send(run("own", [b"%d" % turn]), SYNC)
        for number, raw in enumerate(clients):
            assert words(raw.until("Z")) == [f"of {number} {turn}"]
    for raw in clients:
        raw.close()


def test_a_large_parameter_that_times_out(crowd: Crowd) -> None:
    """trap: PgCat PR #137: the rest of what is streamed is dropped, not taken for messages."""
    raw = crowd.raw
    ask(raw, parse("SELECT length($1)", "length"))
    crowd.hold()
    value = (query("SELECT 'smuggled'") * 100_000)[: 2 << 20]
    raw.send(run("length", [value])[: 1 << 20])
    assert tell([raw.next()]) == "E:53300"
    raw.send(run("length", [value])[1 << 20 :], SYNC)
    crowd.release()
    assert tell(raw.until("Z")) == "ZI"
    assert ask(raw, run("length", [b"four"])) == ["4"]
