"""A BEGIN alone takes no server: it is answered here, and sent in front of what follows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.lone import Lone, extended, first_value, lone_pooler, tag_of
from tests.e2e.raw import Raw, cancel, tell
from tests.harness import Doorman, Postgres
from tests.torture.wire import FLUSH, SYNC, bind, execute, function_call, parse, query

PLAIN = [
    "BEGIN", "begin;", "Begin ; ", "BEGIN WORK", "BEGIN TRANSACTION;", "START TRANSACTION", "start\ttransaction;",
    " begin",
]  # fmt: skip
OTHERS = [
    "BEGIN READ ONLY", "BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN;;", "BEGIN; SELECT 1",
    "START TRANSACTION READ WRITE",
    "/* app */ BEGIN", "BEGIN -- now", "BEGIN DEFERRABLE", "start transaction isolation level repeatable read;",
]  # fmt: skip
WAIT_MS = 300


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler(general={"query_wait_timeout": WAIT_MS}) as services:
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone


def is_free(lone: Lone) -> bool:
    """No server of the pool is lent."""
    return bool(lone.doorman.pool_row("one")["sv_active"] == 0)


def direct_to(lone: Lone) -> Raw:
    return Raw((lone.postgres.host, lone.postgres.port)).log_in()


@pytest.mark.parametrize("sql", PLAIN)
def test_a_plain_begin_takes_no_server(lone: Lone, sql: str) -> None:
    raw = lone.client()
    with direct_to(lone) as direct:
        got = raw.converse(query(sql))
        assert got == direct.converse(query(sql))
        assert raw.status == "T" and is_free(lone)
        assert lone.client().value("SELECT 1") == "1"
        assert raw.converse(query("SELECT 1")) == direct.converse(query("SELECT 1"))
        assert raw.status == "T" and not is_free(lone)
        assert raw.converse(query("COMMIT")) == direct.converse(query("COMMIT"))
    assert raw.status == "I" and is_free(lone)


@pytest.mark.parametrize("sql", OTHERS)
def test_any_other_goes_to_the_server_at_once(lone: Lone, sql: str) -> None:
    raw = lone.client()
    with direct_to(lone) as direct:
        assert raw.converse(query(sql)) == direct.converse(query(sql))
    assert raw.status == "T" and not is_free(lone)
    assert raw.ask(query("ROLLBACK")) == "C ZI"


def test_by_extended_protocol_it_goes_to_the_server_at_once(lone: Lone) -> None:
    raw = lone.client()
    assert raw.ask(extended("BEGIN")) == "1 2 C ZT"
    assert not is_free(lone)
    assert raw.ask(query("END")) == "C ZI"


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "END", "ABORT", "COMMIT AND CHAIN", "ROLLBACK PREPARED 'no'"])
def test_an_empty_transaction_ends_as_postgresqls_does(lone: Lone, end: str) -> None:
    raw = lone.client()
    with direct_to(lone) as direct:
        for _ in range(3):
            assert raw.ask(query("BEGIN")) == "C ZT"
            direct.ask(query("BEGIN"))
            assert raw.converse(query(end)) == direct.converse(query(end))
            raw.ask(query("ROLLBACK"))
            direct.ask(query("ROLLBACK"))
    assert is_free(lone)
    other = lone.client()
    assert other.value("SELECT now() = statement_timestamp()") == "t"  # in no old transaction


FOLLOWERS = {
    "a second BEGIN": [query("BEGIN")],
    "an error": [query("SELECT 1/0")],
    "a syntax error": [query("SELEC")],
    "an empty query": [query("")],
    "a Sync": [SYNC],
    "a batch": [extended("SELECT 1")],
    "a batch that fails": [parse("SELEC"), bind(), execute(), SYNC],
    "a Flush before a batch": [FLUSH, extended("SELECT 1")],
    "a function call": [function_call(1598, [])],
    "a savepoint": [query("SAVEPOINT s")],
    "a command that refuses to run in a block": [query("VACUUM")],
    "SET TRANSACTION": [query("SET TRANSACTION READ ONLY")],
    "several statements": [query("SELECT 1; COMMIT; SELECT 2")],
    "DISCARD ALL": [query("DISCARD ALL")],
    "DEALLOCATE of nothing": [query("DEALLOCATE nothing")],
}


@pytest.mark.parametrize("together", [False, True], ids=["apart", "one packet"])
@pytest.mark.parametrize("sent", FOLLOWERS.values(), ids=FOLLOWERS)
def test_whatever_follows_is_answered_as_inside_a_transaction(lone: Lone, sent: list[bytes], together: bool) -> None:
    told = []
    for raw in (lone.client(), direct_to(lone)):
        packets = [[query("BEGIN"), *sent]] if together else [[query("BEGIN")], sent]
        told.append([raw.ask(*packet, ready=2 if together else 1) for packet in packets])
        told[-1].append(raw.ask(query("SELECT 1")))
        told[-1].append(raw.ask(query("ROLLBACK")))
        raw.close()
    assert told[0] == told[1]


def test_the_transaction_is_a_real_one(lone: Lone) -> None:
    raw, other = lone.client("two"), lone.client("two")
    before = other.value("SELECT count(*) FROM kept")
    raw.ask(query("BEGIN"))
    raw.ask(query("INSERT INTO kept VALUES (2, 'two')"))
    assert other.value("SELECT count(*) FROM kept") == before
    raw.ask(query("ROLLBACK"))
    assert other.value("SELECT count(*) FROM kept") == before


@pytest.mark.parametrize("how", ["close", "reset", "quit"])
@pytest.mark.parametrize("sent", [b"", query("SELECT 1")], ids=["pending", "begun"])
def test_clients_that_vanish_behind_it_leave_nothing(lone: Lone, how: str, sent: bytes) -> None:
    for _ in range(3):
        raw = lone.client()
        raw.ask(query("BEGIN"))
        if sent:
            raw.ask(sent)
        getattr(raw, how)()
    assert lone.client().value("SELECT now() = statement_timestamp()") == "t"
    lone.doorman.wait_pool("one", sv_active=0, cl_waiting=0)


def test_the_check_query_and_deallocate_say_that_a_transaction_is_open(lone: Lone) -> None:
    raw = lone.client()
    assert raw.ask(query(";")) == "I ZI"
    raw.ask(parse("SELECT 1", "p"), SYNC)
    raw.ask(query("BEGIN"))
    assert raw.ask(query(";")) == "I ZT"
    assert raw.ask(query("DEALLOCATE p")) == "C ZT"
    assert raw.ask(query("DEALLOCATE ALL")) == "C ZT"
    assert is_free(lone)
    assert raw.ask(query("SELECT 1")) == "T D C ZT"
    assert raw.ask(query(";")) == "I ZT"
    assert raw.ask(query("SELECT 1/0"), query(";"), ready=2) == "E:22012 ZE I ZE"
    assert raw.ask(query("ROLLBACK")) == "C ZI"


class TestExhausted:
    """The pool's only server is lent, so what follows BEGIN finds none in time."""

    @pytest.fixture
    def holder(self, lone: Lone) -> Raw:
        raw = lone.client()
        raw.ask(query("BEGIN; SELECT 1"))
        return raw

    @pytest.mark.parametrize("sent", [query("SELECT 1"), extended("SELECT 1")], ids=["simple", "extended"])
    def test_the_transaction_has_failed(self, lone: Lone, holder: Raw, sent: bytes) -> None:
        raw = lone.client()
        assert raw.ask(query("BEGIN")) == "C ZT"
        assert raw.ask(sent) == "E:53300 ZE"
        holder.ask(query("COMMIT"))
        assert raw.error(query("SELECT 1"))["C"] == "25P02" and raw.status == "E"
        assert raw.error(extended("SELECT 1"))["C"] == "25P02" and raw.status == "E"
        assert raw.ask(query("ROLLBACK")) == "C ZI"
        assert raw.value("SELECT 1") == "1"

    @pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "END"])
    def test_any_end_of_it_is_a_rollback(self, lone: Lone, holder: Raw, end: str) -> None:
        raw = lone.client()
        raw.ask(query("BEGIN"))
        assert raw.ask(query("INSERT INTO kept VALUES (9, 'never')")) == "E:53300 ZE"
        holder.ask(query("COMMIT"))
        assert tag_of(raw.converse(query(end))) == "ROLLBACK"
        assert raw.status == "I"
        assert raw.value("SELECT count(*) FROM kept WHERE id = 9") == "0"

    def test_what_is_answered_here_is_refused_too(self, lone: Lone, holder: Raw) -> None:
        raw = lone.client()
        holder.ask(query("COMMIT"))
        raw.ask(parse("SELECT 1", "p"), SYNC)
        holder.ask(query("BEGIN; SELECT 1"))
        raw.ask(query("BEGIN"))
        assert raw.ask(query("SELECT 1")) == "E:53300 ZE"
        holder.ask(query("COMMIT"))
        assert raw.ask(query("DEALLOCATE p")) == "E:25P02 ZE"
        assert raw.ask(query("ROLLBACK")) == "C ZI"
        assert first_value(raw.converse(bind(name="p"), execute(), SYNC)) == "1"

    def test_a_cancel_while_it_waits_fails_it(self, lone: Lone, holder: Raw) -> None:
        raw = lone.client()
        raw.ask(query("BEGIN"))
        raw.send(query("SELECT 1"))
        lone.doorman.wait_pool("one", cl_waiting=1)
        cancel((lone.doorman.host, lone.doorman.port), raw.pid, raw.secret)
        assert tell(raw.until("Z")) == "E:57014 ZE"
        holder.ask(query("COMMIT"))
        assert raw.ask(query("ROLLBACK"), query("SELECT 1"), ready=2) == "C ZI T D C ZI"

    def test_a_rollback_needs_no_server(self, lone: Lone, holder: Raw) -> None:
        raw = lone.client()
        raw.ask(query("BEGIN"))
        raw.ask(query("SELECT 1"))
        assert raw.ask(query("ROLLBACK")) == "C ZI"

    def test_a_vanishing_client_of_a_failed_transaction(self, lone: Lone, holder: Raw) -> None:
        raw = lone.client()
        raw.ask(query("BEGIN"))
        raw.ask(query("SELECT 1"))
        raw.close()
        holder.ask(query("COMMIT"))
        assert lone.client().value("SELECT now() = statement_timestamp()") == "t"
