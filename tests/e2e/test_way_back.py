"""RESET and SET … TO DEFAULT lead to what was asked for at startup, and do nothing else to the transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.lone import Lone, extended, lone_pooler
from tests.e2e.raw import Raw, cancel
from tests.harness import Doorman, Postgres
from tests.torture.wire import SYNC, bind, execute, parse, query

PLACES = {"transaction": {}, "session": {"pool_mode": "session"}, "own names": {"prepared_statements": False}}
SERVER_ZONE = "Etc/UTC"  # what `lone_pooler` makes the servers' own
SEND = pytest.mark.parametrize("send", [query, extended], ids=["simple", "extended"])
Encode = Callable[[str], bytes]


@pytest.fixture(scope="module", params=PLACES)
def services(request: pytest.FixtureRequest) -> Iterator[tuple[Postgres, Doorman]]:
    pool = dict(PLACES[request.param])
    general = {"prepared_statements": pool.pop("prepared_statements")} if "prepared_statements" in pool else None
    with lone_pooler(general=general, pool=pool) as services:
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone


def zone(raw: Raw) -> str | None:
    """What holds is what the client was told."""
    shown = raw.value("SHOW TimeZone")
    assert shown == raw.parameters["TimeZone"]
    return shown


WISH = {
    "options": "-c TimeZone=Europe/Paris -c search_path=nowhere -c my.own=mine",
    "statement_timeout": "54321",
    "role": "other",
}
LED_BACK = [
    "RESET ROLE",
    "RESET work_mem",
    "RESET TimeZone",
    "RESET my.own",
    "RESET ALL",
    "SET TimeZone TO DEFAULT",
    "SET LOCAL search_path TO DEFAULT",
]
SHOW = "SELECT " + ", ".join(
    f"current_setting('{name}')" for name in ("TimeZone", "search_path", "my.own", "statement_timeout", "role")
)


@SEND
@pytest.mark.parametrize("sql", LED_BACK)
def test_the_way_back_takes_no_snapshot(lone: Lone, sql: str, send: Encode) -> None:
    raw = lone.client(**WISH)
    raw.ask(query("BEGIN"))
    assert "E:" not in raw.ask(send(sql))
    assert raw.ask(query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")) == "C ZT"
    assert raw.rows(SHOW) == [["Europe/Paris", "nowhere", "mine", "54321ms", "other"]]
    raw.ask(query("COMMIT"))
    assert raw.rows(SHOW) == [["Europe/Paris", "nowhere", "mine", "54321ms", "other"]]


@SEND
@pytest.mark.parametrize("text", ["RESET TimeZone", "RESET ALL", "EXECUTE 'SET TimeZone TO DEFAULT'"])
def test_the_way_back_within_a_do(lone: Lone, text: str, send: Encode) -> None:
    raw = lone.client(TimeZone="Europe/Paris")
    assert "E:" not in raw.ask(send(f"DO $$BEGIN {text}; END$$"))
    assert zone(raw) == "Europe/Paris"
    raw.ask(query("BEGIN; SELECT 1"))
    assert "E:" not in raw.ask(send(f" DO $$BEGIN {text}; END$$"))
    assert zone(raw) == "Europe/Paris"
    raw.ask(query("COMMIT"))
    assert zone(raw) == "Europe/Paris"


def test_all_in_one_query(lone: Lone) -> None:
    raw = lone.client(TimeZone="Europe/Paris")
    assert "E:" not in raw.ask(query("BEGIN; SET TimeZone = 'Asia/Tokyo'; RESET TimeZone"))
    assert raw.ask(query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")) == "C ZT"
    assert zone(raw) == "Europe/Paris"
    raw.ask(query("COMMIT"))


@pytest.mark.parametrize("sql", ["RESET work_mem", "RESET ROLE", "SET DateStyle TO DEFAULT", "RESET DateStyle"])
def test_a_choice_of_the_servers_own_value_outlives_the_way_back_of_something_else(lone: Lone, sql: str) -> None:
    raw = lone.client(TimeZone="Europe/Paris")
    raw.ask(query(f"SET TimeZone = '{SERVER_ZONE}'"))
    raw.ask(query(f"BEGIN; SET DateStyle = 'German'; {sql}; COMMIT"))
    assert zone(raw) == SERVER_ZONE
    raw.ask(query("BEGIN"), query(sql), query("COMMIT"), ready=3)
    assert zone(raw) == SERVER_ZONE
    raw.ask(query("RESET TimeZone"))
    assert zone(raw) == "Europe/Paris"


def test_a_choice_of_it_outlives_a_way_back_that_fails(lone: Lone) -> None:
    raw = lone.client(TimeZone="Europe/Paris")
    raw.ask(query(f"SET TimeZone = '{SERVER_ZONE}'"))
    raw.ask(query("RESET TimeZone; SELECT 1/0"))
    assert zone(raw) == SERVER_ZONE
    raw.ask(query("BEGIN"), query("RESET TimeZone; SELECT 1/0"), query("ROLLBACK"), ready=3)
    assert zone(raw) == SERVER_ZONE


@SEND
@pytest.mark.parametrize("sql", ["SET LOCAL TimeZone TO DEFAULT", "SET LOCAL TIME ZONE LOCAL"])
def test_a_local_way_back_ends_with_its_transaction(lone: Lone, sql: str, send: Encode) -> None:
    raw = lone.client(TimeZone="Europe/Paris")
    raw.ask(query("SET TimeZone = 'Asia/Tokyo'"))
    for end in ("COMMIT", "ROLLBACK"):
        raw.ask(query("BEGIN"))
        raw.ask(send(sql))
        assert zone(raw) == "Europe/Paris"
        raw.ask(query(end))
        assert raw.parameters["TimeZone"] == "Asia/Tokyo"
        assert zone(raw) == "Asia/Tokyo"
    raw.ask(query(f"BEGIN; {sql}; COMMIT"))
    assert zone(raw) == "Asia/Tokyo"


@SEND
@pytest.mark.parametrize("sql", ["SET TimeZone TO DEFAULT", " SET TIME ZONE DEFAULT", "RESET TimeZone", "DISCARD ALL"])
def test_the_way_back_outside_of_a_transaction(lone: Lone, sql: str, send: Encode) -> None:
    raw = lone.client(TimeZone="Europe/Paris")
    raw.ask(query("SET TimeZone = 'Asia/Tokyo'"))
    raw.ask(send(sql))
    assert zone(raw) == "Europe/Paris"


def test_a_way_back_that_is_refused_is_the_clients_error(lone: Lone) -> None:
    raw = lone.client(role="other")
    pid = raw.value("SELECT pg_backend_pid()")
    lone.postgres.admin("REVOKE other FROM app")
    try:
        raw.ask(query("BEGIN"))
        answer = raw.ask(query("RESET ROLE"))
        assert answer.startswith("C ") and answer.endswith("E:42501 ZE")
        assert raw.ask(query("SELECT 1")) == "E:25P02 ZE"
    finally:
        lone.postgres.admin("GRANT other TO app")
    raw.ask(query("ROLLBACK"))
    assert raw.rows("SELECT pg_backend_pid(), current_setting('role')") == [[pid, "other"]]


def test_what_strikes_while_it_is_set_again_does_not_end_the_session(lone: Lone) -> None:
    raw = lone.client(work_mem="8MB", TimeZone="Europe/Paris")
    pid = raw.value("SELECT pg_backend_pid()")
    for _ in range(60):
        raw.ask(query("BEGIN"))
        raw.ask(query("SET LOCAL statement_timeout = 1"))
        raw.send(query("RESET ALL"))
        cancel((lone.doorman.host, lone.doorman.port), raw.pid, raw.secret)
        raw.until("Z")
        raw.ask(query("ROLLBACK"))
        raw.send(query("RESET ALL"))
        cancel((lone.doorman.host, lone.doorman.port), raw.pid, raw.secret)
        raw.until("Z")
        raw.converse(query("SELECT 1"))
    assert zone(raw) == "Europe/Paris"
    assert raw.value("SELECT pg_backend_pid()") == pid


@SEND
def test_what_is_pipelined_behind_it_is_read_under_what_was_asked_for(lone: Lone, send: Encode) -> None:
    if lone.doorman.config["pools"]["one"].get("pool_mode") == "session":
        pytest.skip("in session mode it still finds the server's own value (docs/prepared-statements.md)")
    raw = lone.client(TimeZone="Europe/Paris")
    raw.ask(query("BEGIN"))
    for number in range(3):  # the text is new each time: it is parsed while the settings are set again
        raw.send(send("RESET TimeZone"), send(f"SELECT '2024-01-01 0{number}:30'::timestamptz AT TIME ZONE 'UTC'"))
        raw.until("Z")
        got = raw.until("Z")
        hour = (23 + number) % 24
        assert [one.columns()[0][11:13] for one in got if one.kind == b"D"] == [f"{hour:02}".encode()]


LASTING = {
    "DISCARD ALL": [[parse("DISCARD ALL"), bind(), execute(), bind([], "nosuch"), SYNC]],
    "PREPARE TRANSACTION": [
        [query("BEGIN; RESET TimeZone; PREPARE TRANSACTION 'way back'; SELECT 1/0")],
        [query("ROLLBACK PREPARED 'way back'")],
    ],
}


@pytest.mark.parametrize("kind", LASTING)
def test_a_way_back_that_no_error_behind_it_takes_back(lone: Lone, kind: str) -> None:
    raw = lone.client(TimeZone="Asia/Tokyo", extra_float_digits="2")
    for batch in LASTING[kind]:
        raw.converse(*batch)
    for _ in range(2):
        assert zone(raw) == "Asia/Tokyo"
        assert raw.value("SHOW extra_float_digits") == "2"
    raw.quit()
    assert lone.client().value("SHOW TimeZone") == SERVER_ZONE
