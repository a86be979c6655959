"""The extended protocol, as drivers speak it."""

from __future__ import annotations

import pytest

from doorman.admin.console import MAX_PORTALS, MAX_STATEMENTS
from doorman.wire import backend, frontend
from tests.unit.admin.client import (
    BOUND,
    CLOSED,
    EMPTY,
    FLUSH,
    NO_DATA,
    NO_PARAMETERS,
    PARSED,
    READY,
    SHOWN,
    SUSPENDED,
    SYNC,
    Session,
    bind,
    close,
    describe,
    error,
    execute,
    parse,
)

COLUMNS = ("T", "version")
ROW = ("D", "PgDoorman 9.8.7")


def test_an_unnamed_statement_goes_through_in_one_batch(chopped: Session) -> None:
    batch = parse("SHOW VERSION"), bind(), describe(), execute(), SYNC
    assert chopped.send(*batch) == [PARSED, BOUND, COLUMNS, ROW, SHOWN, READY]


def test_flush_brings_what_there_is(chopped: Session) -> None:
    """As asyncpg prepares: Parse, Describe, Flush; then Bind, Execute, Sync."""
    assert chopped.send(parse("SHOW VERSION", "s"), describe("S", "s"), FLUSH) == [PARSED, NO_PARAMETERS, COLUMNS]
    assert chopped.send(bind("s"), execute(), SYNC) == [BOUND, ROW, SHOWN, READY]


def test_a_named_statement_lives_until_it_is_closed(chopped: Session) -> None:
    assert chopped.send(parse("SHOW VERSION", "s"), SYNC) == [PARSED, READY]
    chopped.send(frontend.query("SHOW HELP"))
    for _ in range(2):
        assert chopped.send(bind("s"), execute(), SYNC) == [BOUND, ROW, SHOWN, READY]
    assert chopped.send(close("S", "s"), close("S", "never was"), SYNC) == [CLOSED, CLOSED, READY]
    assert chopped.send(bind("s"), execute(), SYNC) == [error("26000"), READY]


def test_a_named_statement_cannot_be_replaced(chopped: Session) -> None:
    assert chopped.send(parse("SHOW VERSION", "s"), parse("SHOW HELP", "s"), SYNC) == [PARSED, error("42P05"), READY]


def test_the_unnamed_statement_is_replaced_and_a_query_drops_it(chopped: Session) -> None:
    chopped.send(parse("SHOW HELP"), parse("SHOW VERSION"), SYNC)
    assert chopped.send(bind(), execute(), SYNC) == [BOUND, ROW, SHOWN, READY]
    chopped.send(frontend.query(""))
    assert chopped.send(bind(), SYNC) == [error("26000"), READY]


def test_portals_end_with_sync_and_with_a_query(chopped: Session) -> None:
    chopped.send(parse("SHOW VERSION", "s"))
    assert chopped.send(bind("s", "p"), SYNC, execute("p"), SYNC) == [BOUND, READY, error("34000"), READY]
    chopped.send(bind("s", "p"), frontend.query(""))
    assert chopped.send(execute("p"), SYNC) == [error("34000"), READY]


def test_portals_have_names(chopped: Session) -> None:
    batch = parse("SHOW VERSION", "s"), bind("s", "a"), bind("s", "b"), execute("b"), execute("a"), SYNC
    assert chopped.send(*batch) == [PARSED, BOUND, BOUND, ROW, SHOWN, ROW, SHOWN, READY]
    assert chopped.send(bind("s", "a"), bind("s", "a"), SYNC) == [BOUND, error("42P03"), READY]
    closing = bind("s", "a"), close("P", "a"), close("P", "b"), execute("a"), SYNC
    assert chopped.send(*closing) == [BOUND, CLOSED, CLOSED, error("34000"), READY]


def test_an_empty_statement_has_no_rows(chopped: Session) -> None:
    batch = parse("-- nothing"), describe("S"), bind(), describe(), execute(), SYNC
    assert chopped.send(*batch) == [PARSED, NO_PARAMETERS, NO_DATA, BOUND, NO_DATA, EMPTY, READY]


def test_rows_come_as_many_as_asked_for(chopped: Session) -> None:
    begun = chopped.send(parse("SHOW POOLS"), bind(), execute(max_rows=2), FLUSH)
    assert [answer[0] for answer in begun] == ["1", "2", "D", "D", "s"]
    assert begun[-1] == SUSPENDED
    ended = chopped.send(execute(max_rows=2), execute(max_rows=2), SYNC)
    assert [answer[0] for answer in ended] == ["D", "C", "C", "Z"]


def test_a_limit_of_exactly_all_rows_suspends_as_in_postgresql(chopped: Session) -> None:
    batch = parse("SHOW VERSION"), bind(), execute(max_rows=1), execute(max_rows=1), SYNC
    assert chopped.send(*batch) == [PARSED, BOUND, ROW, SUSPENDED, SHOWN, READY]


@pytest.mark.parametrize("limit", [-1, -(2**31)])
def test_a_negative_limit_means_all_rows(session: Session, limit: int) -> None:
    answers = session.send(parse("SHOW POOLS"), bind(), execute(max_rows=limit), SYNC)
    assert [answer[0] for answer in answers] == ["1", "2", "D", "D", "D", "C", "Z"]


@pytest.mark.parametrize("formats", [(1,), (0, 1, 1) + (0,) * 15])
def test_binary_results_are_described_and_sent_as_such(session: Session, formats: tuple[int, ...]) -> None:
    output = session.raw(parse("SHOW POOLS"), bind(formats=formats), describe(), execute(), SYNC)
    head = backend.PARSE_COMPLETE + backend.BIND_COMPLETE
    assert output.startswith(head + b"T")
    described = output[len(head) :]
    name_end = described.index(b"user\0") + 5
    assert described[name_end + 16 : name_end + 18] == b"\0\1"
    assert b"\0\0\0\x04shop" in output


def test_one_binary_number(session: Session) -> None:
    output = session.raw(parse("SHOW POOLS"), bind(formats=(1,)), execute(), SYNC)
    pool_size = bytes.fromhex("0000000a 0001 0000 0000 0000 000c")
    assert pool_size in output  # 12, of books


@pytest.mark.parametrize(
    ("broken", "sqlstate"),
    [
        (parse("SELECT 1"), "58000"),
        (parse("SHOW $1"), "58000"),
        (parse("SHOW VERSION; SHOW HELP"), "42601"),
        (parse("SHOW 'VERSION"), "42601"),
        (bind("nobody"), "26000"),
        (bind("s", parameters=[b"1"]), "08P01"),
        (bind("s", formats=(0, 0)), "08P01"),
        (bind("s", formats=(2,)), "22023"),
        (describe("S", "nobody"), "26000"),
        (describe("P", "nobody"), "34000"),
        (describe("X"), "08P01"),
        (execute("nobody"), "34000"),
        (close("X"), "08P01"),
    ],
)
def test_after_an_error_everything_is_skipped_to_sync(chopped: Session, broken: bytes, sqlstate: str) -> None:
    chopped.send(parse("SHOW VERSION", "s"), SYNC)
    skipped = bind("s"), execute(), frontend.query("SHOW HELP"), backend.message(b"?", b""), FLUSH
    assert chopped.send(broken, *skipped) == [error(sqlstate)]
    assert chopped.send(SYNC, bind("s"), execute(), SYNC) == [READY, BOUND, ROW, SHOWN, READY]


def test_terminate_ends_the_session_also_while_skipping(chopped: Session) -> None:
    assert chopped.send(bind("nobody"), frontend.terminate()) == [error("26000")]
    assert chopped.ended


def test_a_query_in_the_middle_of_a_batch_is_answered(chopped: Session) -> None:
    batch = parse("SHOW VERSION", "s"), frontend.query("SHOW ME"), bind("s"), execute(), SYNC
    assert chopped.send(*batch) == [PARSED, error("58000"), READY, BOUND, ROW, SHOWN, READY]


def test_declared_parameter_types_are_not_needed(session: Session) -> None:
    batch = parse("SHOW VERSION", oids=(23, 25)), describe("S"), bind(), execute(), SYNC
    assert session.send(*batch) == [PARSED, NO_PARAMETERS, COLUMNS, BOUND, ROW, SHOWN, READY]


def _cut(message: bytes) -> list[bytes]:
    """The message with its body cut at every place, and with a byte too many."""
    bodies = [message[5:end] for end in range(5, len(message))] + [message[5:] + b"x"]
    return [backend.message(message[:1], body) for body in bodies]


@pytest.mark.parametrize(
    "broken",
    [
        *_cut(parse("SHOW VERSION", "t", oids=(23,))),
        *_cut(bind("s", "p", formats=(0,), parameters=[b"ab"])),
        *_cut(describe("S", "s")),
        *_cut(execute("p")),
        *_cut(close("S", "s")),
    ],
)
def test_a_malformed_message_is_an_error(session: Session, broken: bytes) -> None:
    session.send(parse("SHOW VERSION", "s"), SYNC)
    assert session.send(broken, SYNC) == [error("08P01"), READY]


def test_statements_are_bounded(session: Session) -> None:
    for number in range(MAX_STATEMENTS):
        assert session.send(parse("SHOW VERSION", f"s{number}")) == [PARSED]
    assert session.send(parse("SHOW VERSION", "more"), SYNC) == [error("53400"), READY]
    assert session.send(close("S", "s0"), parse("SHOW VERSION", "more"), SYNC) == [CLOSED, PARSED, READY]


def test_portals_are_bounded(session: Session) -> None:
    session.send(parse("SHOW VERSION"))
    for number in range(MAX_PORTALS):
        assert session.send(bind("", f"p{number}")) == [BOUND]
    assert session.send(bind("", "more"), SYNC) == [error("53400"), READY]
    assert session.send(parse("SHOW VERSION"), bind("", "more"), SYNC) == [PARSED, BOUND, READY]


def test_pgjdbcs_first_execution(session: Session) -> None:
    """Parse, Bind, Describe, Execute with no limit, Sync; text because it has not seen the types yet."""
    answers = session.send(parse("SHOW VERSION"), bind(), describe(), execute(max_rows=0), SYNC)
    assert answers == [PARSED, BOUND, COLUMNS, ROW, SHOWN, READY]
