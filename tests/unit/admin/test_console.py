"""The console's protocol but for the extended messages: queries, errors, the end, and what is no message."""

from __future__ import annotations

import struct

import pytest

from doorman.admin import console as console_module
from doorman.admin.console import Console, ConsoleAnswer
from doorman.wire import backend, frontend
from tests.unit.admin.client import EMPTY, PARSED, READY, SHOWN, SYNC, Session, error, parse

VERSION_ROWS = [("T", "version"), ("D", "PgDoorman 9.8.7"), SHOWN]


def test_the_greeting_says_what_the_session_is_like(console: Console) -> None:
    assert console.greeting_parameters("psql") == [
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "Etc/UTC"),
        ("server_version", "9.8.7"),
        ("server_encoding", "UTF-8"),
        ("standard_conforming_strings", "on"),
        ("application_name", "psql"),
    ]
    assert ("application_name", "pg_doorman") in console.greeting_parameters()


def test_a_query_is_answered(chopped: Session) -> None:
    assert chopped.send(frontend.query("SHOW VERSION")) == [*VERSION_ROWS, READY]
    assert not chopped.rest


@pytest.mark.parametrize("sql", ["show version;", "Show Version ; ", "SHOW VERSION x", 'SHOW /* x */ "version"--'])
def test_case_ends_comments_and_surplus_words_do_not_matter(session: Session, sql: str) -> None:
    assert session.send(frontend.query(sql)) == [*VERSION_ROWS, READY]


def test_several_statements_are_answered_in_turn(chopped: Session) -> None:
    assert chopped.send(frontend.query("SHOW VERSION; SHOW VERSION;")) == [*VERSION_ROWS, *VERSION_ROWS, READY]


def test_the_first_failing_statement_ends_a_query(chopped: Session) -> None:
    answers = chopped.send(frontend.query("SHOW VERSION; SHOW ME; SHOW VERSION"))
    assert answers == [*VERSION_ROWS, error("58000"), READY]
    assert chopped.send(frontend.query("SHOW VERSION")) == [*VERSION_ROWS, READY]


@pytest.mark.parametrize("sql", ["", ";", " \n;; ", "-- only a comment"])
def test_an_empty_query_is_answered_as_postgresql_does(session: Session, sql: str) -> None:
    assert session.send(frontend.query(sql)) == [EMPTY, READY]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SELECT 1", "58000"),
        ("BEGIN", "58000"),
        ("SHOW", "58000"),
        ("SHOW SECRETS", "58000"),
        ("RESTART", "58000"),
        ("SHOW 'VERSION", "42601"),
        ("SHOW VERSION /* ", "42601"),
    ],
)
def test_an_error_leaves_the_session_open(chopped: Session, sql: str, sqlstate: str) -> None:
    assert chopped.send(frontend.query(sql)) == [error(sqlstate), READY]
    assert chopped.send(frontend.query("SHOW VERSION")) == [*VERSION_ROWS, READY]
    assert not chopped.ended


def test_an_unknown_command_is_told_where_to_look(session: Session) -> None:
    fields = backend.parse_error_fields(session.raw(frontend.query("SHOW ME"))[5:])
    assert fields["V"] == "ERROR" and "SHOW HELP" in fields["H"]


def test_an_unknown_command_is_logged_on_one_line(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    session.send(frontend.query("drop '\n\x1b[2J" + "x" * 500 + "'"))
    (line,) = caplog.messages
    assert "DROP" in line and "\n" not in line and "\x1b" not in line and len(line) < 150


def test_bytes_that_are_no_utf8_are_an_unknown_command(session: Session) -> None:
    assert session.send(backend.message(b"Q", b"SHOW \xff\0")) == [error("58000"), READY]


def test_only_whole_messages_are_consumed(console: Console) -> None:
    query = frontend.query("SHOW VERSION")
    assert console.feed(query[:-1]) == ConsoleAnswer(0, b"", False)
    answer = console.feed(query + query[:3])
    assert answer.consumed == len(query) and answer.output.endswith(backend.READY_IDLE)


def test_a_pipeline_of_queries_is_answered_at_once(console: Console) -> None:
    query = frontend.query("SHOW VERSION")
    once = console.feed(query).output
    assert console.feed(query * 50) == ConsoleAnswer(50 * len(query), 50 * once, False)


def test_terminate_ends_the_session(chopped: Session) -> None:
    assert chopped.send(frontend.query("SHOW VERSION") + frontend.terminate()) == [*VERSION_ROWS, READY]
    assert chopped.ended


def test_nothing_after_terminate_counts(console: Console) -> None:
    data = frontend.terminate() + frontend.query("SHOW VERSION")
    assert console.feed(data) == ConsoleAnswer(len(data), b"", True)
    assert console.feed(data) == ConsoleAnswer(len(data), b"", True)


@pytest.mark.parametrize("letter", [b"p", b"Z", b"\0", b"\xff"])
def test_an_unknown_message_is_an_error(chopped: Session, letter: bytes) -> None:
    assert chopped.send(backend.message(letter, b"body"), frontend.query("SHOW VERSION")) == [
        error("08P01"),
        READY,
        *VERSION_ROWS,
        READY,
    ]


def test_an_unknown_message_in_a_batch_is_skipped_over_to_sync(chopped: Session) -> None:
    batch = parse("SHOW VERSION") + backend.message(b"?", b"") + parse("SHOW VERSION") + SYNC
    assert chopped.send(batch) == [PARSED, error("08P01"), READY]


def test_a_function_call_is_refused(chopped: Session) -> None:
    call = backend.message(b"F", b"\0\0\0\1\0\0\0\0\0\0")
    assert chopped.send(call, frontend.query("SHOW VERSION")) == [error("0A000"), READY, *VERSION_ROWS, READY]


def test_what_is_left_of_a_copy_is_ignored(chopped: Session) -> None:
    copy = backend.message(b"d", b"1\t2\n") + backend.message(b"c", b"") + frontend.copy_fail("no")
    assert chopped.send(copy, frontend.query("SHOW VERSION")) == [*VERSION_ROWS, READY]


@pytest.mark.parametrize("body", [b"", b"SHOW VERSION", b"SHOW VERSION\0x\0", b"\0\0"])
def test_a_malformed_query_is_an_error(chopped: Session, body: bytes) -> None:
    assert chopped.send(backend.message(b"Q", body)) == [error("08P01"), READY]


@pytest.mark.parametrize(("length", "sqlstate"), [(0, "08P01"), (3, "08P01"), (65_537, "53200"), (2**31, "53200")])
def test_an_impossible_length_ends_the_session(chopped: Session, length: int, sqlstate: str) -> None:
    header = b"Q" + struct.pack("!I", length)
    assert chopped.send(frontend.query("SHOW VERSION"), header) == [*VERSION_ROWS, READY, ("E", "FATAL", sqlstate)]
    assert chopped.ended and not chopped.rest


def test_the_longest_query_is_taken(session: Session) -> None:
    sql = "SHOW VERSION".ljust(65_536 - 5)
    assert session.send(frontend.query(sql)) == [*VERSION_ROWS, READY]


@pytest.mark.parametrize("pause", [1, 100, 1000])
def test_a_long_output_comes_in_portions(session: Session, monkeypatch: pytest.MonkeyPatch, pause: int) -> None:
    asked = [frontend.query("SHOW VERSION; SHOW POOLS; SHOW HELP"), frontend.query("SHOW POOLS"), parse("SHOW HELP")]
    expected = session.raw(*asked, SYNC)
    monkeypatch.setattr(console_module, "OUTPUT_PAUSE_BYTES", pause)
    first = session.console.feed(b"".join(asked))
    assert first.has_more == (pause < 1000 or len(first.output) < len(expected) - 11)
    rest = b"".join(asked)[first.consumed :]
    assert first.output + session.raw(rest, SYNC) == expected
