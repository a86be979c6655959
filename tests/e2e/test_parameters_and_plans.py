"""Literals are read when a statement is parsed, by the settings of that moment: clients with other settings share the
text of a statement, never its plan. trap: pg_doorman 3.10.0 had to widen the key of its cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.lone import Lone, again, extended, first_value, lone_pooler
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.torture.wire import SYNC, bind, execute, function_call, parse, query

LITERAL = "SELECT '2020-01-01 00:00'::timestamptz AT TIME ZONE 'UTC'"
BY_ZONE = {
    "Asia/Tokyo": "2019-12-31 15:00:00",
    "America/Lima": "2020-01-01 05:00:00",
    "Etc/UTC": "2020-01-01 00:00:00",
}
DATE = "SELECT extract(month FROM '02/03/2020'::date)"
TEXT = "SELECT octet_length('\u00e9')"


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler() as services:
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone
        lone.replace_servers()


def ask(raw: Raw, sql: str, name: str = "") -> str | None:
    return first_value(raw.converse(extended(sql, name)))


def on_both(lone: Lone, raw: Raw, *sent: bytes) -> list[str | None]:
    """The answer while another client keeps one server, then the other."""
    answers = []
    first, second = lone.client("two"), lone.client("two")
    first.ask(query("BEGIN; SELECT 1"))
    answers.append(first_value(raw.converse(*sent)))
    kept = first.value("SELECT pg_backend_pid()")
    second.ask(query("BEGIN; SELECT 1"))
    first.ask(query("COMMIT"))
    answers.append(first_value(raw.converse(*sent)))
    assert second.value("SELECT pg_backend_pid()") != kept
    second.ask(query("COMMIT"))
    return answers


@pytest.mark.parametrize("how", ["startup", "SET"])
@pytest.mark.parametrize("pool", ["one", "two"])
def test_two_clients_share_a_text_and_read_its_literal_each_in_its_own_zone(lone: Lone, pool: str, how: str) -> None:
    clients = {}
    for zone in ("Asia/Tokyo", "America/Lima"):
        clients[zone] = lone.client(pool, **({"TimeZone": zone} if how == "startup" else {}))
        if how == "SET":
            clients[zone].ask(query(f"SET TimeZone = '{zone}'"))
    clients["Etc/UTC"] = lone.client(pool)
    for _ in range(3):
        for zone, raw in clients.items():
            assert ask(raw, LITERAL) == BY_ZONE[zone]
    for zone, raw in clients.items():
        assert ask(raw, LITERAL, "p") == BY_ZONE[zone]
    for _ in range(3):
        for zone, raw in clients.items():
            assert first_value(raw.converse(again("p"))) == BY_ZONE[zone]


def test_the_order_of_a_date(lone: Lone) -> None:
    american, european = lone.client(DateStyle="ISO, MDY"), lone.client(DateStyle="ISO, DMY")
    for _ in range(3):
        assert (ask(american, DATE), ask(european, DATE)) == ("2", "3")


def test_the_encoding_of_a_text(lone: Lone) -> None:
    """Two bytes that are one letter for one client, two letters for the other."""
    unicode, latin = lone.client(), lone.client(client_encoding="LATIN1")
    for _ in range(3):
        assert (ask(unicode, TEXT), ask(latin, TEXT)) == ("2", "4")


def test_a_backslash(lone: Lone) -> None:
    plain, old = lone.client(), lone.client(options="-c standard_conforming_strings=off")
    for _ in range(3):
        assert (ask(plain, "SELECT length('\\t')"), ask(old, "SELECT length('\\t')")) == ("2", "1")


def test_the_path(lone: Lone) -> None:
    lone.postgres.admin("CREATE SCHEMA aside CREATE TABLE kept (id int, name text)")
    lone.postgres.admin("GRANT ALL ON SCHEMA aside TO app; GRANT ALL ON aside.kept TO app; TRUNCATE aside.kept")
    here, aside = lone.client(), lone.client(options="-c search_path=aside")
    for _ in range(3):
        assert (ask(here, "SELECT count(*) FROM kept"), ask(aside, "SELECT count(*) FROM kept")) == ("1", "0")
    local = lone.client()
    local.ask(query("BEGIN; SET LOCAL search_path = aside"))
    assert ask(local, "SELECT count(*) FROM kept", "p") == "0"
    local.ask(query("COMMIT"))
    assert first_value(local.converse(again("p"))) == "1"
    assert ask(here, "SELECT count(*) FROM kept") == "1"


def test_a_setting_of_one_transaction(lone: Lone) -> None:
    local, other = lone.client(), lone.client()
    for _ in range(3):
        local.ask(query("BEGIN"))
        local.ask(query("SET LOCAL TimeZone = 'Asia/Tokyo'"))
        assert ask(local, LITERAL) == BY_ZONE["Asia/Tokyo"]
        local.ask(query("COMMIT"))
        assert (ask(other, LITERAL), ask(local, LITERAL)) == (BY_ZONE["Etc/UTC"], BY_ZONE["Etc/UTC"])


@pytest.mark.parametrize("sync", [b"", SYNC], ids=["one batch", "several"])
def test_a_setting_and_a_statement_in_one_packet(lone: Lone, sync: bytes) -> None:
    local, other = lone.client(), lone.client()
    sets = [parse("BEGIN"), bind(), execute(), parse("SET LOCAL TimeZone = 'Asia/Tokyo'"), bind(), execute(), sync]
    asks = [parse(LITERAL), bind(), execute(), sync, parse("COMMIT"), bind(), execute(), SYNC]
    for _ in range(2):
        local.send(*sets, *asks)
        got = [one for _ in range(3 if sync else 1) for one in local.until("Z")]
        assert first_value(got) == BY_ZONE["Asia/Tokyo"]
        assert ask(other, LITERAL) == BY_ZONE["Etc/UTC"]


def test_a_simple_set_and_a_statement_in_one_packet(lone: Lone) -> None:
    local, other = lone.client(), lone.client()
    for zone in ("Asia/Tokyo", "America/Lima"):
        local.send(query(f"SET TimeZone = '{zone}'"), extended(LITERAL))
        assert first_value([one for _ in range(2) for one in local.until("Z")]) == BY_ZONE[zone]
        assert ask(other, LITERAL) == BY_ZONE["Etc/UTC"]


def test_a_statement_that_outlives_the_setting_it_was_parsed_under(lone: Lone) -> None:
    mover = lone.client("two", TimeZone="Asia/Tokyo")
    assert ask(mover, LITERAL, "p") == BY_ZONE["Asia/Tokyo"]
    mover.ask(query("SET TimeZone = 'America/Lima'"))
    on_both(lone, mover, again("p"))  # it may read Tokyo or Lima, but what it has prepared is nobody else's
    tokyo = lone.client("two", TimeZone="Asia/Tokyo")
    assert on_both(lone, tokyo, extended(LITERAL)) == [BY_ZONE["Asia/Tokyo"]] * 2


UNREPORTED = [
    ("transform_null_equals = on", "SELECT (NULL = NULL) IS TRUE", "t", "f"),
    ("array_nulls = off", "SELECT ('{NULL}'::text[])[1] IS NULL", "f", "t"),
]


def by_set(setting: str) -> bytes:
    return query(f"SET LOCAL {setting}")


def by_several(setting: str) -> bytes:
    return query(f"SELECT 1; /* now */ SET LOCAL {setting}; SELECT 2")


def by_extended(setting: str) -> bytes:
    return extended(f"SET LOCAL {setting}")


def by_function(setting: str) -> bytes:
    return query("SELECT set_config('{}', '{}', true)".format(*setting.split(" = ")))


def by_parameters(setting: str) -> bytes:
    return extended("SELECT set_config($1, $2, true)", values=[part.encode() for part in setting.split(" = ")])


def by_call(setting: str) -> bytes:
    return function_call(2078, [*(part.encode() for part in setting.split(" = ")), b"\1"])


@pytest.mark.parametrize("how", [by_set, by_several, by_extended, by_function, by_parameters, by_call])
@pytest.mark.parametrize(("setting", "sql", "inside", "outside"), UNREPORTED)
def test_a_setting_that_postgresql_does_not_report(
    lone: Lone, how: Callable[[str], bytes], setting: str, sql: str, inside: str, outside: str
) -> None:
    local, other = lone.client(), lone.client()
    for _ in range(2):
        local.ask(query("BEGIN"))
        assert "E:" not in local.ask(how(setting))
        assert ask(local, sql) == inside
        local.ask(query("COMMIT"))
        assert ask(other, sql) == ask(local, sql) == outside


def test_what_a_savepoint_takes_back_is_not_set(lone: Lone) -> None:
    [(setting, sql, inside, outside), _] = UNREPORTED
    for _ in range(2):
        local, other = lone.client(), lone.client()
        local.ask(query("BEGIN"), query("SAVEPOINT s"), by_set(setting), query("ROLLBACK TO s"), ready=4)
        assert ask(local, sql) == outside
        local.ask(query("COMMIT"))
        other.ask(query("BEGIN"), query("SAVEPOINT s"), by_set(setting), ready=3)
        assert ask(other, sql) == inside
        other.ask(query("COMMIT AND CHAIN"))
        assert ask(other, sql) == outside
        other.ask(query("COMMIT"))


def test_settings_that_matter_to_no_plan_do_not_hinder_sharing(lone: Lone) -> None:
    """One server: it prepares the text once, whatever time-outs and labels the transactions set."""
    counted = "SELECT 'shared', count(*) FROM pg_prepared_statements WHERE statement LIKE '%''shared''%'"
    for number in range(4):
        raw = lone.client()
        raw.ask(query("BEGIN"), query(f"SET LOCAL statement_timeout = {number + 1000}"), ready=2)
        raw.ask(query(f"SELECT set_config('app.user', 'u{number}', true)"))
        raw.ask(extended("SELECT set_config('app.tenant', $1, true)", values=[b"t%d" % number]))
        assert raw.rows(counted) == [["shared", "1" if number else "0"]]
        assert ask(raw, counted) == "shared"
        assert raw.rows(counted) == [["shared", "1"]]
        raw.ask(query("COMMIT"))


def test_a_name_that_is_parsed_again_under_other_settings(lone: Lone) -> None:
    """PostgreSQL is to say that there is one: for that the server gets it, which must not spoil it for others."""
    raw, other = lone.client("two"), lone.client("two")
    raw.ask(query("BEGIN; SELECT 1"))
    here = raw.value("SELECT pg_backend_pid()")
    raw.ask(parse(LITERAL, "p"), SYNC)
    other.ask(query("BEGIN; SELECT 1"))
    raw.ask(query("COMMIT"))
    raw.ask(query("SET TimeZone = 'Asia/Tokyo'"))
    lone.client("two").ask(query("SELECT 1"))
    holder = lone.client("two")
    holder.ask(query("BEGIN; SELECT 1"))
    assert holder.value("SELECT pg_backend_pid()") == here
    other.ask(query("COMMIT"))
    error = raw.error(parse("SELECT 2", "p"), SYNC)
    assert (error["C"], error["M"]) == ("42P05", 'prepared statement "p" already exists')
    assert ask(lone.client("two"), LITERAL) == BY_ZONE["Etc/UTC"]
    holder.ask(query("COMMIT"))


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT", "ROLLBACK TO here"])
def test_what_is_parsed_behind_the_end_of_a_setting_in_one_batch(lone: Lone, end: str) -> None:
    start = "BEGIN; SAVEPOINT here; SET LOCAL TimeZone = 'Asia/Tokyo'"
    raw = lone.client()
    raw.ask(query(start))
    got = raw.converse(parse(end), bind(), execute(), parse(LITERAL), bind(), execute(), SYNC)
    assert first_value(got) == BY_ZONE["Etc/UTC"]
    raw.ask(query("ROLLBACK"))
    other = lone.client()
    other.ask(query(start))
    assert ask(other, LITERAL) == BY_ZONE["Asia/Tokyo"]
    other.ask(query("ROLLBACK"))


@pytest.mark.parametrize("syncs", [1, 2])
def test_a_function_that_sets_what_the_next_statement_is_parsed_under(lone: Lone, syncs: int) -> None:
    """That shows when the next statement has been sent already: it is not kept for others."""
    lone.postgres.query(
        "CREATE OR REPLACE FUNCTION move() RETURNS void SET search_path = public AS "
        "$$ BEGIN PERFORM set_config('TimeZone', 'Asia/Tokyo', false); END $$ LANGUAGE plpgsql"
    )
    raw, other = lone.client(), lone.client()
    sync = SYNC if syncs == 2 else b""
    batch = (parse("SELECT move()") + bind() + execute() + sync, parse(LITERAL) + bind() + execute() + SYNC)
    raw.converse(*batch, ready=syncs)
    assert ask(other, LITERAL) == BY_ZONE["Etc/UTC"]


@pytest.mark.parametrize("setting", ["application_name = 'mine'", "TimeZone = 'Asia/Tokyo'"])
def test_a_setting_behind_a_begin_by_extended_protocol_does_not_end_the_sharing(lone: Lone, setting: str) -> None:
    """As pgjdbc sends them without autocommit."""
    raw, other = lone.client(), lone.client()
    ask(other, "SELECT 'kept'")
    for _ in range(3):
        begin = parse("BEGIN") + bind() + execute() + parse(f"SET {setting}") + bind() + execute() + SYNC
        raw.converse(begin)
        raw.converse(extended("COMMIT"))
    assert "SELECT 'kept'" in [row[0] for row in other.rows("SELECT statement FROM pg_prepared_statements")]
