"""Parameters that a client sets while it runs are its own: on every server, in each transaction, and nobody else's.

What a client is told by ParameterStatus agrees at any time with what SHOW would answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.lone import Lone, extended, first_value, lone_pooler
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.torture.wire import query

# With two values that are nobody's default.
REPORTED = {
    "TimeZone": ("Asia/Tokyo", "America/Lima"),
    "DateStyle": ("German, DMY", "SQL, MDY"),
    "client_encoding": ("LATIN1", "SQL_ASCII"),
    "IntervalStyle": ("iso_8601", "sql_standard"),
    "standard_conforming_strings": ("off", "off"),
    "search_path": ("pg_catalog", "nowhere"),
    "default_transaction_read_only": ("on", "on"),
}
Encode = Callable[[str], bytes]

SERVER_ZONE = "Etc/UTC"  # what `lone_pooler` makes the servers' own
SHOW = "SELECT " + ", ".join(f"current_setting('{name}')" for name in REPORTED)


@pytest.fixture(scope="module", params=[False, True], ids=["name stays", "name follows"])
def services(request: pytest.FixtureRequest) -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler(general={"sync_server_parameters": request.param}) as services:
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone


def assert_agrees(raw: Raw) -> list[str | None]:
    """What it was told is what is so."""
    row = raw.rows(SHOW)[0]
    told = [raw.parameters[name] for name in REPORTED]
    assert told == row, dict(zip(REPORTED, zip(told, row, strict=True), strict=True))
    return row


def on_each_server(lone: Lone, raw: Raw, sql: str) -> set[str | None]:
    """The answers of both servers of pool `two`."""
    answers = {}
    for _ in range(20):
        holder = lone.client("two")
        holder.ask(query("BEGIN; SELECT 1"))
        answers[raw.value("SELECT pg_backend_pid()")] = raw.value(sql)
        other = lone.client("two")
        holder.ask(query("COMMIT"))
        other.value("SELECT 1")
        if len(answers) == 2:
            return set(answers.values())
    pytest.fail("the two servers were not both found")


@pytest.mark.parametrize("send", [query, extended], ids=["simple", "extended"])
@pytest.mark.parametrize("name", REPORTED)
def test_a_reported_parameter_follows_its_client_and_nobody_else(lone: Lone, name: str, send: Encode) -> None:
    raw, other = lone.client("two"), lone.client("two")
    before = assert_agrees(other)
    for value in REPORTED[name]:
        raw.ask(send(f"SET {name} = {quoted(name, value)}"))
        assert raw.parameters[name] == value
        assert on_each_server(lone, raw, f"SHOW {name}") == {value}
        assert_agrees(raw)
        assert on_each_server(lone, other, f"SHOW {name}") == {other.parameters[name]}
        assert assert_agrees(other) == before


def quoted(name: str, value: str) -> str:
    return value if name in ("DateStyle", "search_path") else f"'{value}'"


def test_by_set_config_and_in_a_block_too(lone: Lone) -> None:
    raw = lone.client("two")
    raw.ask(query("SELECT set_config('TimeZone', 'Asia/Tokyo', false)"))
    assert on_each_server(lone, raw, "SHOW TimeZone") == {"Asia/Tokyo"}
    raw.ask(query("DO $$BEGIN SET TimeZone = 'America/Lima'; END$$"))
    assert on_each_server(lone, raw, "SHOW TimeZone") == {"America/Lima"}
    raw.ask(query("BEGIN"), query("SET TimeZone = 'Europe/Rome'"), query("COMMIT"), ready=3)
    assert on_each_server(lone, raw, "SHOW TimeZone") == {"Europe/Rome"} == {raw.parameters["TimeZone"]}


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT"])
def test_a_transaction_that_fails_sets_nothing(lone: Lone, end: str) -> None:
    raw = lone.client("two", TimeZone="Asia/Tokyo")
    raw.ask(query("BEGIN"))
    raw.ask(query("SET TimeZone = 'America/Lima'; SET DateStyle = German"))
    assert (raw.parameters["TimeZone"], raw.parameters["DateStyle"]) == ("America/Lima", "German, DMY")
    raw.ask(query("SELECT 1/0"))
    raw.ask(query(end))
    assert raw.parameters["TimeZone"] == "Asia/Tokyo"
    assert_agrees(raw)
    assert on_each_server(lone, raw, "SHOW TimeZone") == {"Asia/Tokyo"}


def test_set_local_ends_with_its_transaction(lone: Lone) -> None:
    raw = lone.client("two", TimeZone="Asia/Tokyo")
    for end in ("COMMIT", "ROLLBACK"):
        raw.ask(query("BEGIN"))
        raw.ask(query("SET LOCAL TimeZone = 'America/Lima'"))
        assert raw.parameters["TimeZone"] == "America/Lima" == raw.value("SHOW TimeZone")
        raw.ask(query(end))
        assert raw.parameters["TimeZone"] == "Asia/Tokyo"
        assert on_each_server(lone, raw, "SHOW TimeZone") == {"Asia/Tokyo"}
    assert_agrees(raw)


def test_a_savepoint_takes_back_what_was_set_behind_it(lone: Lone) -> None:
    raw = lone.client("two")
    raw.ask(query("BEGIN"))
    raw.ask(query("SET TimeZone = 'Asia/Tokyo'; SAVEPOINT s; SET TimeZone = 'America/Lima'; ROLLBACK TO s"))
    raw.ask(query("COMMIT"))
    assert raw.parameters["TimeZone"] == "Asia/Tokyo"
    assert on_each_server(lone, raw, "SHOW TimeZone") == {"Asia/Tokyo"}


RETURNS = ["RESET TimeZone", "RESET ALL", "DISCARD ALL", "SET TimeZone TO DEFAULT", "SET TIME ZONE LOCAL"]


@pytest.mark.parametrize("send", [query, extended], ids=["simple", "extended"])
@pytest.mark.parametrize("sql", RETURNS)
def test_the_way_back_leads_to_what_was_asked_for_at_startup(lone: Lone, sql: str, send: Encode) -> None:
    raw = lone.client("two", options="-c TimeZone=Asia/Tokyo -c statement_timeout=54321")
    raw.ask(query("SET TimeZone = 'America/Lima'"))
    assert "E:" not in raw.ask(send(sql))
    assert on_each_server(lone, raw, "SHOW TimeZone") == {"Asia/Tokyo"} == {raw.parameters["TimeZone"]}
    assert on_each_server(lone, raw, "SHOW statement_timeout") == {"54321ms"}
    assert_agrees(raw)


@pytest.mark.parametrize("sql", RETURNS)
def test_the_way_back_of_a_client_that_asked_for_nothing(lone: Lone, sql: str) -> None:
    raw = lone.client("two")
    raw.ask(query("SET TimeZone = 'America/Lima'"))
    raw.ask(query(sql))
    assert on_each_server(lone, raw, "SHOW TimeZone") == {SERVER_ZONE} == {raw.parameters["TimeZone"]}


@pytest.mark.parametrize("send", [query, extended], ids=["simple", "extended"])
@pytest.mark.parametrize("sql", [sql for sql in RETURNS if sql != "DISCARD ALL"])
def test_the_way_back_inside_a_transaction(lone: Lone, sql: str, send: Encode) -> None:
    raw = lone.client("two", options="-c TimeZone=Asia/Tokyo -c statement_timeout=54321 -c my.own=mine")
    raw.ask(query("BEGIN"), query("SET TimeZone = 'America/Lima'; SET DateStyle = German"), ready=2)
    raw.ask(send(sql))
    assert_agrees(raw)
    shown = raw.rows(
        "SELECT "
        + ", ".join(f"current_setting('{name}')" for name in ("TimeZone", "statement_timeout", "my.own", "DateStyle"))
    )
    raw.ask(query("COMMIT"))
    assert shown == [["Asia/Tokyo", "54321ms", "mine", "ISO, MDY" if sql == "RESET ALL" else "German, DMY"]]
    assert on_each_server(lone, raw, "SHOW TimeZone") == {"Asia/Tokyo"} == {raw.parameters["TimeZone"]}


def test_the_way_back_of_what_is_not_reported(lone: Lone) -> None:
    raw = lone.client("two", options="-c statement_timeout=54321 -c my.own=mine -c role=other")
    for name, other, own in (("statement_timeout", "5", "54321ms"), ("my.own", "x", "mine"), ("role", "app", "other")):
        raw.send(query("BEGIN"), query(f"SET {name} = '{other}'"), query(f"RESET {name}"), query(f"SHOW {name}"))
        assert [first_value(raw.until("Z")) for _ in range(4)] == [None, None, None, own]
        raw.ask(query("ROLLBACK"))


def test_the_way_back_is_taken_back_with_its_transaction(lone: Lone) -> None:
    raw = lone.client("two", TimeZone="Asia/Tokyo")
    raw.ask(query("BEGIN; SET TimeZone = 'America/Lima'; SAVEPOINT s"))
    raw.ask(query("RESET TimeZone"))
    assert raw.value("SHOW TimeZone") == "Asia/Tokyo" == raw.parameters["TimeZone"]
    raw.ask(query("ROLLBACK TO s"))
    assert raw.value("SHOW TimeZone") == "America/Lima" == raw.parameters["TimeZone"]
    raw.ask(query("COMMIT"))
    assert on_each_server(lone, raw, "SHOW TimeZone") == {"America/Lima"}


def test_the_servers_own_value_can_be_chosen(lone: Lone) -> None:
    raw = lone.client("two", TimeZone="Asia/Tokyo")
    raw.ask(query(f"SET TimeZone = '{SERVER_ZONE}'"))
    assert on_each_server(lone, raw, "SHOW TimeZone") == {SERVER_ZONE}
    assert_agrees(raw)


def test_the_way_back_is_told_also_when_the_next_server_has_the_value_already(lone: Lone) -> None:
    raw, other = (lone.client("one", TimeZone="Asia/Tokyo") for _ in range(2))
    raw.ask(query("RESET TimeZone"))
    other.value("SELECT 1")
    assert raw.value("SHOW TimeZone") == "Asia/Tokyo"
    assert raw.parameters["TimeZone"] == "Asia/Tokyo"


@pytest.mark.parametrize("sql", ["SET ROLE app", "SET SESSION AUTHORIZATION app", "BEGIN; SET ROLE app; COMMIT"])
def test_what_the_clean_up_takes_back_is_told(lone: Lone, sql: str) -> None:
    raw = lone.client("super")
    for _ in range(2):
        raw.ask(query(sql))
        assert raw.value("SHOW is_superuser") == raw.parameters["is_superuser"] == "on"
        assert raw.value("SELECT session_user") == raw.parameters["session_authorization"] == "postgres"


def test_what_is_not_reported_holds_for_its_transaction(lone: Lone) -> None:
    """decisions.md: only what PostgreSQL reports, and what was asked for at startup, follows."""
    raw = lone.client("two", statement_timeout="54321")
    raw.ask(query("BEGIN; SET statement_timeout = 1234"))
    assert raw.value("SHOW statement_timeout") == "1234ms"
    raw.ask(query("COMMIT"))
    assert on_each_server(lone, raw, "SHOW statement_timeout") == {"54321ms"}
    assert on_each_server(lone, lone.client("two"), "SHOW statement_timeout") == {"0"}


def test_the_path_at_startup_is_a_list(lone: Lone) -> None:
    raw = lone.client("two", options='-c search_path=nowhere,"$user",public')
    assert on_each_server(lone, raw, "SHOW search_path") == {'nowhere,"$user",public'}
    assert on_each_server(lone, raw, "SELECT array_to_string(current_schemas(false), ' ')") == {"public"}
    assert_agrees(raw)
    assert lone.client("two").value("SHOW search_path") == '"$user", public'


def test_the_clients_name(lone: Lone) -> None:
    follows = lone.doorman.config["general"]["sync_server_parameters"]
    raw = lone.client("two", application_name="tool")
    assert raw.parameters["application_name"] == "tool"
    assert on_each_server(lone, raw, "SHOW application_name") == {"tool" if follows else "pg_doorman"}
    for sql in (
        ("RESET application_name", "SET application_name = 'other'; DISCARD ALL", "RESET ALL") if follows else ()
    ):
        for text in sql.split("; "):
            raw.ask(query(text))
        assert on_each_server(lone, raw, "SHOW application_name") == {"tool"}
        assert raw.parameters["application_name"] == "tool"
    assert lone.client("two").value("SHOW application_name") == "pg_doorman"


def test_many_clients_at_random_always_agree_with_what_they_were_told(lone: Lone) -> None:
    dice = random.Random(3)
    zones = ["Asia/Tokyo", "America/Lima", "Europe/Rome", None]
    wishes = [{"TimeZone": zone} if zone else {} for zone in zones]
    clients = [(lone.client("two", **wish), wish.get("TimeZone", SERVER_ZONE)) for wish in wishes * 2]
    expected = dict(clients)
    for _ in range(150):
        raw, first = dice.choice(clients)
        zone = dice.choice(["Asia/Seoul", "Africa/Cairo", "Europe/Oslo"])
        sql, after = dice.choice(
            [
                (f"SET TimeZone = '{zone}'", zone),
                (f"BEGIN; SET TimeZone = '{zone}'; ROLLBACK", expected[raw]),
                (f"BEGIN; SET LOCAL TimeZone = '{zone}'; COMMIT", expected[raw]),
                ("SET DateStyle = German; SET DateStyle = ISO", expected[raw]),
                ("SELECT 1", expected[raw]),
            ]
        )
        assert "E:" not in raw.ask(query(sql))
        expected[raw] = after
        asked, _ = dice.choice(clients)
        assert asked.value("SHOW TimeZone") == expected[asked] == asked.parameters["TimeZone"], first


WAYS_BACK = {
    "DISCARD ALL": query("DISCARD ALL"),
    "RESET ALL": query("RESET ALL"),
    "extended RESET ALL": extended("RESET ALL"),
    "extended DISCARD ALL": extended("DISCARD ALL"),
    "extended SET to the default": extended("SET TimeZone TO DEFAULT"),
}


@pytest.mark.parametrize("back", WAYS_BACK.values(), ids=WAYS_BACK)
def test_the_way_back_leads_to_the_startup_also_for_what_is_sent_right_behind_it(lone: Lone, back: bytes) -> None:
    raw = lone.client(TimeZone="Asia/Tokyo")
    for _ in range(3):
        assert raw.converse(back, query("SHOW TimeZone"), ready=2)[-3].columns() == [b"Asia/Tokyo"]
    assert_agrees(raw)
