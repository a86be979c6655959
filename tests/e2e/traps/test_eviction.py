"""Servers that hold fewer statements than clients use: what was evicted is prepared anew, whenever it is needed.

trap: pg_doorman 3.3.4, 3.3.5, 3.10.0; Odyssey #1361.
"""

from __future__ import annotations

import random

import pytest

from tests.e2e.conftest import Connect
from tests.e2e.raw import Raw, tell
from tests.e2e.traps.clients import KEEPS, SERVERS, WORK, ask, held, on_each_server, run, whole, words
from tests.harness import Postgres
from tests.torture.wire import (
    FLUSH,
    SYNC,
    bind,
    close_statement,
    describe_portal,
    describe_statement,
    execute,
    parse,
    query,
)

every_size = pytest.mark.parametrize("database", KEEPS)


def pair(tag: str) -> bytes:
    """Parse A, Parse B, Bind A, Bind B."""
    return parse(f"SELECT 'A{tag}'", "a") + parse(f"SELECT 'B{tag}'", "b") + run("a") + run("b")


FORGET = close_statement("a") + close_statement("b")


@every_size
def test_parse_a_parse_b_bind_a_bind_b_in_one_batch(connect: Connect, database: str) -> None:
    clients = connect.many(6, database)
    for turn in range(3):
        for number, raw in enumerate(clients):
            raw.send(pair(f"{turn}.{number}"), SYNC, run("a"), run("b"), FORGET, SYNC)
        for number, raw in enumerate(clients):
            first, second = raw.until("Z"), raw.until("Z")
            assert tell(first + second) == "1 1 2 D C 2 D C ZI 2 D C 2 D C 3 3 ZI"
            assert words(first) == words(second) == [f"A{turn}.{number}", f"B{turn}.{number}"]


@every_size
def test_the_same_message_by_message(connect: Connect, database: str) -> None:
    raw = connect(database)
    for data, answer in (
        (parse("SELECT 'A'", "a"), "1"),
        (parse("SELECT 'B'", "b"), "1"),
        (describe_statement("a"), "t T"),
        (bind(name="a", portal="pa"), "2"),
        (bind(name="b", portal="pb"), "2"),
        (describe_portal("pa"), "T"),
        (execute("pa"), "D C"),
        (execute("pb"), "D C"),
    ):
        raw.send(data, FLUSH)
        assert tell([raw.next() for _ in answer.split()]) == answer
    assert raw.ask(SYNC) == "ZI"
    raw.trickle(run("a") + run("b") + FORGET + SYNC)
    assert words(raw.until("Z")) == ["A", "B"]


@every_size
def test_a_portal_outlives_the_eviction_of_its_statement(connect: Connect, database: str) -> None:
    raw = connect(database)
    data = parse("SELECT generate_series(1, 3)", "a") + bind(name="a", portal="p") + execute("p", 1)
    data += b"".join(whole(f"SELECT 'other {number}'") for number in range(4)) + execute("p", 1) + execute("p", 0)
    assert ask(raw, data) == ["1", "other 0", "other 1", "other 2", "other 3", "2", "3"]


@every_size
def test_an_evicted_statement_in_a_failed_transaction(connect: Connect, database: str) -> None:
    raw = connect(database)
    ask(raw, parse("SELECT 'A'", "a"), parse("ROLLBACK", "back"), parse("SELECT 'B'", "b"))
    raw.ask(WORK)
    assert ask(raw, run("a"), run("b"), whole("SELECT 1/0"), run("a")) == ["A", "B", "22012"]
    for name in ("a", "b"):
        assert ask(raw, run(name)) == ["25P02"]
    assert raw.ask(run("back"), SYNC) == "2 C ZI"
    assert ask(raw, run("a"), run("b")) == ["A", "B"]


@pytest.mark.parametrize(
    ("message", "directly"),
    [(bind([b"x"], "a"), "08P01"), (describe_statement("a"), "t n ZE")],
    ids=["Bind with wrong parameters", "Describe of what returns nothing"],
)
def test_what_is_not_at_hand_in_a_failed_transaction_is_25p02_and_nothing_else(
    connect: Connect, postgres: Postgres, message: bytes, directly: str
) -> None:
    """docs/prepared-statements.md: it cannot be prepared there, so nothing can be said of it (a direct connection has
    the statement, and still runs nothing)."""
    raw = connect("keeps_1")
    with Raw((postgres.host, postgres.port)).log_in(database="postgres") as direct:
        for one in (raw, direct):
            one.ask(parse("DELETE FROM pg_class WHERE false", "a"), SYNC)
            one.ask(parse("SELECT 'B'", "b"), SYNC)
            one.ask(query("BEGIN; SELECT 1/0"))
        assert directly in direct.ask(message, SYNC)
    assert raw.ask(message, SYNC) == "E:25P02 ZE"
    assert raw.ask(query("ROLLBACK")) == "C ZI"
    assert raw.ask(describe_statement("a"), SYNC) == "t n ZI"


@every_size
def test_an_error_between_evictions_undoes_nothing_that_was_confirmed(connect: Connect, database: str) -> None:
    raw, other = connect(database), connect(database)
    batch = [
        parse("SELECT 'A'", "a"),
        run("a"),
        parse("SELECT 'B'", "b"),
        whole("SELECT 1/0", "c"),
        parse("SELECT 'D'", "d"),
    ]
    assert ask(raw, *batch) == ["A", "22012"]
    assert ask(other, whole("SELECT 'D'"), whole("SELECT 'B'")) == ["D", "B"]
    assert [ask(raw, run(name)) for name in "abcd"] == [["A"], ["B"], ["22012"], ["26000"]]


@pytest.mark.parametrize("database", ["keeps_1", "keeps_2"])
def test_close_of_an_evicted_statement_and_its_return(connect: Connect, database: str) -> None:
    raw = connect(database)
    for turn in "xyz":
        batch = [pair(turn), FORGET, parse(f"SELECT 'C{turn}'", "a"), run("a"), close_statement("a")]
        assert raw.ask(*batch, SYNC) == "1 1 2 D C 2 D C 3 3 1 2 D C 3 ZI"
        assert raw.ask(run("a"), SYNC) == "E:26000 ZI"


@pytest.mark.parametrize(("database", "limit"), [("keeps_0", 0), ("keeps_1", 1), ("keeps_2", 2)])
def test_a_server_never_holds_more_than_its_limit(connect: Connect, database: str, limit: int) -> None:
    clients = connect.many(6, database)
    for turn in range(10):
        for number, raw in enumerate(clients):
            raw.send(whole(f"SELECT 'limit {turn} {number}'"), SYNC)
        for raw in clients:
            raw.until("Z")
    for _ in on_each_server(connect, database):
        assert len(held(clients[0])) <= limit


def test_the_least_recently_used_goes_first(connect: Connect) -> None:
    """trap: pg_doorman 3.3.5: looking a name up must promote it."""
    raw = connect("keeps_2")
    raw.ask(WORK)
    for text in "abac":
        ask(raw, whole(f"SELECT 'lru {text}'"))
    assert held(raw) == ["SELECT 'lru a'", "SELECT 'lru c'"]
    raw.ask(query("COMMIT"))


def test_the_same_unnamed_statement_again_and_again_evicts_nothing(connect: Connect) -> None:
    raw = connect("keeps_2")
    raw.ask(WORK)
    ask(raw, parse("SELECT 'kept by name'", "k"), run("k"))
    for _ in range(5):
        ask(raw, whole("SELECT 'unnamed'"))
    assert held(raw) == ["SELECT 'kept by name'", "SELECT 'unnamed'"]
    raw.ask(query("COMMIT"))


@every_size
def test_evictions_between_flushes_do_not_end_the_transaction(connect: Connect, table: str, database: str) -> None:
    """trap: pg_doorman 3.2.4; a Sync sent for an eviction would commit the row."""
    raw = connect(database)
    raw.send(parse(f"INSERT INTO {table} VALUES (1, 'x')", "i"), run("i"), FLUSH)
    assert tell(raw.until("C")) == "1 2 C"
    for number in range(4):
        raw.send(whole(f"SELECT 'flush {number}', count(*) FROM {table}"), FLUSH)
        assert tell(raw.until("C")) == "1 2 D C"
    assert words(raw.converse(whole("SELECT 1/0"), SYNC)) == ["22012"]
    assert connect(database).value(f"SELECT count(*) FROM {table}") == "0"


@every_size
def test_a_named_statement_is_never_lost_to_others(connect: Connect, database: str) -> None:
    """More texts than a worker remembers, more than a server holds: the client's own stays."""
    owner, others = connect(database), connect.many(5, database)
    assert ask(owner, parse("SELECT 'mine', $1::text", "mine")) == []
    for turn in range(20):
        for number, raw in enumerate(others):
            raw.send(whole(f"SELECT 'other {turn} {number}'"), SYNC)
        owner.send(run("mine", [b"x"]), SYNC)
        for raw in (*others, owner):
            heard = words(raw.until("Z"))
            assert (heard == ["mine"]) == (raw is owner)


class Actor:
    """A client with fifty statements of its own, which it prepares, and often describes, when it comes to them."""

    def __init__(self, raw: Raw, number: int, seed: int) -> None:
        self.raw, self.number = raw, number
        self.random = random.Random(seed * 100 + number)
        self.known: set[str] = set()
        self.expected: list[list[str]] = []

    def batch(self) -> bytes:
        """One batch; what must answer it is noted. An error ends it, and so may a failed transaction."""
        data, expected = [], []
        for _ in range(self.random.randint(1, 4)):
            name = f"s{self.random.randrange(50)}"
            dice = self.random.random()
            if dice < 0.08:
                data.append(whole("SELECT 1/0"))
                expected.append("22012")
                break
            if dice < 0.14 and name not in self.known:
                data.append(run(name, [b"?"]))
                expected.append("26000")
                break
            if name not in self.known:
                data.append(parse(f"SELECT '{self.number} {name} ' || $1::text", name))
                self.known.add(name)
                if dice > 0.5:
                    data.append(describe_statement(name))
            data.append(run(name, [b"v"]))
            expected.append(f"{self.number} {name} v")
            if dice > 0.8:
                data.append(FLUSH)
            if dice > 0.9:
                data.append(close_statement(name))
                self.known.remove(name)
        self.expected.append(expected)
        return b"".join(data) + SYNC

    def transaction(self) -> bytes:
        """A transaction that fails: what is prepared before stays, what comes after does not count."""
        self.expected += [[], ["1"], ["42P01"], ["25P02"], []]
        name = self.random.choice(sorted(self.known)) if self.known else ""
        late = run(name, [b"v"]) if name else whole("SELECT 1")
        parts = [query("BEGIN"), query("SELECT 1"), whole("TABLE nowhere"), SYNC, late, SYNC, query("ROLLBACK")]
        return b"".join(parts)

    def speak(self) -> None:
        """A few batches, now and then all in one write."""
        self.expected.clear()
        parts = [self.batch() for _ in range(self.random.randint(1, 3))]
        if self.random.random() < 0.2:
            parts.append(self.transaction())
        if self.random.random() < 0.5:
            parts = [b"".join(parts)]
        for part in parts:
            self.raw.send(part)

    def listen(self) -> None:
        heard = [words(self.raw.until("Z")) for _ in self.expected]
        assert heard == self.expected


@every_size
def test_three_hundred_statements_of_six_clients_on_two_servers(connect: Connect, database: str) -> None:
    assert SERVERS == 2
    actors = [Actor(connect(database), number, seed=len(database)) for number in range(6)]
    for _ in range(60):
        for actor in actors:
            actor.speak()
        for actor in actors:
            actor.listen()
