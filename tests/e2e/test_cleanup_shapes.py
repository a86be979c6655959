"""Traces left by several statements at once, by parameters, pipelines, function calls; and traces that may stay."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.commands import EXCEPTIONS
from tests.e2e.lone import Lone, difference, extended, first_value, lone_pooler, snapshot
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.torture.wire import SYNC, TERMINATE, bind, execute, function_call, parse, query

STRINGS = [
    "SET work_mem = '7MB'; LISTEN news; PREPARE a AS SELECT 1; CREATE TEMP TABLE mine (); SELECT pg_advisory_lock(7)",
    "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT 1; SET ROLE app; COMMIT; SET TimeZone = 'Asia/Tokyo'",
    "SELECT pg_advisory_lock(7); SELECT 1/0; SELECT 1",
    "PREPARE a AS SELECT 1; SELECT 1/0",
    "SET work_mem = '7MB'; SELECT 1/0",
    "BEGIN; SET work_mem = '7MB'; COMMIT; BEGIN; SELECT 1/0; COMMIT",
    "BEGIN; CREATE TEMP TABLE mine (); SAVEPOINT s; SELECT 1/0",
    "BEGIN; SET TimeZone = 'Asia/Tokyo'; SELECT 1/0",
    "SELECT 1; SELECT set_config('search_path', 'nowhere', false)",
    "CREATE TEMP TABLE mine AS SELECT 1 AS x; SELECT x INTO TEMP more FROM mine; DROP TABLE mine",
    "SET SESSION AUTHORIZATION app; SET ROLE other; SET default_transaction_read_only = on; LISTEN news",
    "SET default_transaction_read_only = on; CREATE TEMP TABLE mine (); DECLARE held CURSOR WITH HOLD FOR TABLE mine",
    "SET standard_conforming_strings = off; SET search_path = ''; SET check_function_bodies = off",
]


PREPARED = [
    "SELECT set_config('work_mem', '3333kB', false), set_config('statement_timeout', '77s', false)",
    "SELECT pg_advisory_lock(42)",
    "SET work_mem = '3333kB'",
    "CREATE TEMP TABLE mine AS SELECT 1 AS x",
    "SELECT set_config('search_path', 'pg_temp', false)",
    "LISTEN news",
    "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
]


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler() as services:
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone
        lone.replace_servers()


@pytest.fixture(scope="module")
def plain_services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler(general={"prepared_statements": False}) as services:
        yield services


@pytest.fixture
def plain(plain_services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*plain_services) as lone:
        yield lone
        lone.replace_servers()


def left_after(lone: Lone, *sent: bytes, ready: int = 1, vanishes: bool = False) -> object:
    """What another client finds after these messages."""
    other, actor = lone.client("super"), lone.client("super")
    before = snapshot(other)
    actor.converse(*sent, ready=ready)
    if vanishes:
        actor.close()
    elif actor.status != "I":
        actor.ask(query("ROLLBACK"))
    return difference(before, snapshot(other))


@pytest.mark.parametrize("vanishes", [False, True], ids=["stays", "vanishes"])
@pytest.mark.parametrize("sql", STRINGS)
def test_several_statements_in_one_string(lone: Lone, sql: str, vanishes: bool) -> None:
    assert left_after(lone, query(sql), vanishes=vanishes) == {}


def test_a_batch_of_many_statements(lone: Lone) -> None:
    parts = [parse(sql) + bind() + execute() for sql in STRINGS[0].split("; ")]
    assert left_after(lone, *parts, SYNC) == {}


def test_an_error_in_the_middle_of_a_batch(lone: Lone) -> None:
    """Session-level locks and SQL-level PREPARE outlive the rollback."""
    parts = [
        parse(sql) + bind() + execute() for sql in ("SELECT pg_advisory_lock(7)", "PREPARE a AS SELECT 1", "x", "y")
    ]
    assert left_after(lone, *parts, SYNC) == {}


def test_set_config_with_parameters(lone: Lone) -> None:
    setting = parse("SELECT set_config($1, $2, $3)", "s")
    batch = [setting, bind([b"work_mem", b"7MB", b"f"], "s"), execute(), SYNC]
    assert left_after(lone, *batch) == {}
    actor = lone.client("super")
    before = snapshot(lone.client("super"))
    actor.converse(setting, SYNC)
    actor.converse(bind([b"search_path", b"nowhere", b"f"], "s"), execute(), SYNC)  # without a text in sight
    actor.converse(bind([b"TimeZone", b"Asia/Tokyo", b"t"], "s"), execute(), SYNC)
    assert difference(before, snapshot(lone.client("super"))) == {}


@pytest.mark.parametrize("how", ["EXECUTE p", "EXPLAIN ANALYZE EXECUTE p", "CREATE TABLE pg_temp.made AS EXECUTE p"])
@pytest.mark.parametrize("encode", [query, extended], ids=["simple", "extended"])
@pytest.mark.parametrize("sql", PREPARED)
def test_a_statement_of_the_protocol_that_sql_executes(
    lone: Lone, sql: str, encode: Callable[[str], bytes], how: str
) -> None:
    """Its text is not in what is executed."""
    prepared = parse(sql, "p") + SYNC
    assert left_after(lone, prepared, encode(how), ready=2) == {}
    assert left_after(lone, prepared, query("BEGIN; SELECT 1"), encode(how), query("COMMIT"), ready=4) == {}


@pytest.mark.parametrize("encode", [query, extended], ids=["simple", "extended"])
def test_what_is_set_by_a_statement_that_sql_executes_is_read_by_no_other(
    lone: Lone, encode: Callable[[str], bytes]
) -> None:
    """It is not reported: what is parsed behind it is of this transaction alone."""
    actor, other = lone.client("super"), lone.client("super")
    actor.ask(parse("SELECT set_config('array_nulls', 'off', true)", "p"), SYNC)
    actor.ask(query("BEGIN"))
    actor.ask(encode("EXECUTE p"))
    assert first_value(actor.converse(extended("SELECT '{NULL}'::text[]"))) == '{"NULL"}'
    actor.ask(query("COMMIT"))
    assert first_value(other.converse(extended("SELECT '{NULL}'::text[]"))) == "{NULL}"


def test_a_portal_that_is_left_open(lone: Lone) -> None:
    assert left_after(lone, parse("SELECT generate_series(1, 9)"), bind(portal="p"), execute("p", 2), SYNC) == {}
    block = [query("BEGIN"), parse("SELECT generate_series(1, 9)"), bind(portal="p"), execute("p", 2), SYNC]
    assert left_after(lone, *block, ready=2, vanishes=True) == {}


def test_a_batch_without_sync_whose_client_vanishes(lone: Lone) -> None:
    other, actor = lone.client("super"), lone.client("super")
    before = snapshot(other)
    for sql in ("SET work_mem = '7MB'", "PREPARE a AS SELECT 1", "SELECT pg_advisory_lock(7)"):
        actor.send(parse(sql), bind(), execute())
    actor.send(TERMINATE)
    actor.read_to_end()
    assert difference(before, snapshot(other)) == {}


def test_what_follows_a_discard_in_the_pipeline(lone: Lone) -> None:
    sent = [query("SELECT 1"), query("DISCARD ALL"), query("SELECT pg_advisory_lock(7)")]
    assert left_after(lone, *sent, ready=3) == {}


def test_a_function_call_that_locks(lone: Lone) -> None:
    assert left_after(lone, function_call(2880, [struct.pack("!q", 7)])) == {}


def test_a_function_call_that_sets(lone: Lone) -> None:
    assert left_after(lone, function_call(2078, [b"work_mem", b"7MB", b"\0"])) == {}


@pytest.mark.parametrize("size", [70_000, 300_000])
def test_a_large_query_that_locks_at_its_end(lone: Lone, size: int) -> None:
    assert left_after(lone, query(f"SELECT length('{'x' * size}'), pg_advisory_lock(7)")) == {}


@pytest.mark.parametrize("send", [query, extended], ids=["simple", "extended"])
def test_a_large_message_where_statements_are_not_renamed(plain: Lone, send: Callable[[str], bytes]) -> None:
    assert left_after(plain, send(f"SELECT length('{'x' * 300_000}'), pg_advisory_lock(7)")) == {}


def test_several_statements_where_statements_are_not_renamed(plain: Lone) -> None:
    for sql in STRINGS:
        assert left_after(plain, query(sql)) == {}
    assert left_after(plain, extended("SELECT 1", "a")) == {}


def test_a_large_statement_that_locks_at_its_end(lone: Lone) -> None:
    assert left_after(lone, extended(f"SELECT length('{'x' * 300_000}'), pg_advisory_lock(7)")) == {}


@pytest.mark.parametrize("how", ["at startup", "by SET", "by a parameter"])
def test_a_client_whose_path_begins_with_its_temporary_schema(lone: Lone, how: str) -> None:
    """CREATE TABLE … AS says no more than SELECT in its tag."""
    other = lone.client("super")
    before = snapshot(other)
    actor = lone.client("super", **({"options": "-c search_path=pg_temp"} if how == "at startup" else {}))
    if how == "by SET":
        actor.ask(query("SET search_path = pg_temp"))
    elif how == "by a parameter":
        actor.ask(extended("SELECT set_config('search_path', $1, false)", values=[b"pg_temp"]))
    assert actor.ask(query("CREATE TABLE mine AS SELECT 1")) == "C ZI"
    assert difference(before, snapshot(other)) == {}


def test_a_role_at_startup_is_its_clients_alone(lone: Lone) -> None:
    other = lone.client()
    assert lone.client(options="-c role=other").value("SELECT current_user") == "other"
    assert other.value("SELECT current_user") == "app"


def test_a_role_at_startup_is_not_for_others_with_settings_of_their_own(lone: Lone) -> None:
    assert lone.client(role="other").value("SELECT current_user") == "other"
    assert lone.client(TimeZone="Asia/Tokyo").value("SELECT current_user") == "app"


@pytest.mark.parametrize("reason", EXCEPTIONS)
def test_what_may_stay_does_stay(lone: Lone, reason: str) -> None:
    """Should one of these fail, the exception is no longer needed."""
    for sql in (
        "CREATE SEQUENCE IF NOT EXISTS numbers",
        "CREATE OR REPLACE FUNCTION change_work_mem() RETURNS void LANGUAGE plpgsql"
        " AS $$BEGIN PERFORM set_config('work_mem', '7MB', false); END$$",
        "CREATE OR REPLACE PROCEDURE change_work_mem_too() LANGUAGE plpgsql AS $$BEGIN SET work_mem = '7MB'; END$$",
    ):
        lone.postgres.admin(sql)
    statement, question, answer = EXCEPTIONS[reason]
    lone.client("super").ask(query(statement))
    other: Raw = lone.client("super")
    assert other.value(question) == answer
