"""What a client asked for at startup is true in each of its transactions, on whatever server, and for nobody else."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.conftest import MakeDoorman
from tests.e2e.conftest import POOL_SIZE, Connect, backends
from tests.e2e.lone import Lone, lone_pooler
from tests.e2e.raw import Ended, Raw
from tests.harness import Doorman, Postgres
from tests.torture.wire import query, startup

WISHES: list[dict[str, str]] = [
    {},
    {"TimeZone": "Asia/Tokyo"},
    {"TimeZone": "America/Lima"},
    {"TimeZone": "Asia/Tokyo", "DateStyle": "SQL, DMY"},
    {"DateStyle": "German"},
    {"client_encoding": "LATIN1"},
    {"extra_float_digits": "-3"},
    {"options": "-c search_path=pg_catalog,public -c TimeZone=Europe/Rome"},
    {"options": "-c statement_timeout=4321ms --IntervalStyle=iso_8601"},
    {"IntervalStyle": "sql_standard", "TimeZone": "Asia/Tokyo"},
]
NAMES = [
    "TimeZone",
    "DateStyle",
    "client_encoding",
    "extra_float_digits",
    "search_path",
    "statement_timeout",
    "IntervalStyle",
]
SHOW_ALL = "SELECT " + ", ".join(f"current_setting('{name}')" for name in NAMES)
REPORTED = ("TimeZone", "DateStyle", "client_encoding", "IntervalStyle")


def wish_id(wish: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in wish.items()) or "nothing"


def log_in_directly(postgres: Postgres, wish: dict[str, str]) -> Raw:
    return Raw((postgres.host, postgres.port)).log_in(**wish)


@pytest.mark.parametrize("database", ["postgres", "session"])
@pytest.mark.parametrize("wish", WISHES, ids=wish_id)
def test_a_login_is_greeted_as_postgresql_would_greet_it(
    connect: Connect, postgres: Postgres, wish: dict[str, str], database: str
) -> None:
    with log_in_directly(postgres, wish) as direct:
        for _ in range(4):  # whatever worker it is
            pooled = connect(database, **wish)
            for name in direct.parameters.keys() - {"application_name"}:
                assert pooled.parameters[name] == direct.parameters[name], name
            assert pooled.rows(SHOW_ALL) == direct.rows(SHOW_ALL)
            pooled.quit()


def test_the_greeting_does_not_depend_on_who_had_the_server_before(connect: Connect, postgres: Postgres) -> None:
    """PostgreSQL reports only what changes: a server that has the value already reports nothing."""
    expected = {}
    for number, wish in enumerate(WISHES):
        with log_in_directly(postgres, wish) as direct:
            expected[number] = {name: direct.parameters[name] for name in REPORTED}
    order = list(range(len(WISHES))) * 6
    random.Random(1).shuffle(order)
    for number in order:
        raw = connect(**WISHES[number])
        assert {name: raw.parameters[name] for name in REPORTED} == expected[number], WISHES[number]
        raw.quit()


def test_values_follow_their_client_from_server_to_server(connect: Connect, postgres: Postgres) -> None:
    expected = []
    for wish in WISHES:
        with log_in_directly(postgres, wish) as direct:
            expected.append(direct.rows(SHOW_ALL))
    clients = [connect(**wish) for wish in WISHES for _ in range(2)]
    dice = random.Random(2)
    for _ in range(15):
        chosen = dice.sample(range(len(clients)), 2 * POOL_SIZE)
        for at in chosen:
            clients[at].send(query(SHOW_ALL))
        for at in chosen:
            row = next(got.columns() for got in clients[at].until("Z") if got.kind == b"D")
            assert [[(value or b"").decode() for value in row]] == expected[at // 2], WISHES[at // 2]


def test_a_changed_setting_is_gone_for_others_and_a_reported_one_follows_its_client(connect: Connect) -> None:
    changer, others = connect(TimeZone="Asia/Tokyo"), connect.many(3)
    before = others[0].rows(SHOW_ALL)
    for statement in (
        "SET TimeZone = 'America/Lima'",
        "SET search_path = nowhere",
        "BEGIN; SET statement_timeout = 77; COMMIT",
        "SET SESSION AUTHORIZATION app; SET ROLE app",
    ):
        changer.ask(query(statement))
        for other in others * 2:
            assert other.rows(SHOW_ALL) == before, statement
        assert changer.rows(SHOW_ALL)[0][0] == "America/Lima"
    changer.ask(query("RESET ALL"))
    assert changer.rows(SHOW_ALL)[0][0] == "Asia/Tokyo"  # what it asked for at startup


def test_a_value_that_postgresql_refuses_ends_the_login_with_its_words(connect: Connect) -> None:
    for wish in ({"TimeZone": "Mars/Base"}, {"client_encoding": "KLINGON"}, {"no_such_setting": "1"}):
        raw = connect.bare()
        raw.send(startup("app", "postgres", **wish))
        fields = raw.last_words()
        assert fields["C"] in ("22023", "42704") and fields["V"] == "FATAL"
    assert connect().value("SELECT 1") == "1"


def test_a_refused_value_costs_no_server(connect: Connect, postgres: Postgres) -> None:
    connect(TimeZone="Asia/Tokyo").value("SELECT 1")
    before = {row["pid"] for row in backends(postgres)}
    for wish in ({"TimeZone": "Mars/Base"}, {"options": "-c work_mem=1MB -c no_such_setting=1"}) * 3:
        raw = connect.bare()
        raw.send(startup("app", "postgres", **wish))
        raw.last_words()
    plain = connect.many(2)
    for raw in plain * 4:
        assert raw.rows("SELECT current_setting('work_mem'), current_setting('TimeZone')") == [["4MB", "Etc/UTC"]]
    assert before & {row["pid"] for row in backends(postgres)} == before


def test_quotes_and_backslashes_in_values_are_only_text(connect: Connect) -> None:
    hostile = "a'; DROP TABLE x; --\\'\"\n"
    raw = connect(**{"myapp.label": hostile})
    for _ in range(5):
        assert raw.value("SELECT current_setting('myapp.label')") == hostile
    assert connect().value("SELECT coalesce(current_setting('myapp.label', true), '')") == ""


def test_the_clients_name_is_its_own(connect: Connect, pooler: Doorman) -> None:
    raw = connect(application_name="my tool")
    assert raw.parameters["application_name"] == "my tool"
    assert "my tool" in {row["application_name"] for row in pooler.console("SHOW CLIENTS")}


def test_values_of_several_hundred_sessions_never_mix(connect: Connect) -> None:
    zones = [f"Etc/GMT+{number}" for number in range(1, 13)]
    clients = list(zip(itertools.cycle(zones), [connect.bare() for _ in range(60)], strict=False))
    for zone, raw in clients:
        raw.send(startup("app", "postgres", TimeZone=zone))
    for zone, raw in clients:
        raw.until("Z")
        assert raw.parameters["TimeZone"] == zone
    for _ in range(3):
        for _, raw in clients:
            raw.send(query("SHOW TimeZone"))
        for zone, raw in clients:
            assert [got.columns() for got in raw.until("Z") if got.kind == b"D"] == [[zone.encode()]]


def test_the_name_follows_its_client_to_the_servers_where_that_is_wanted(
    make_doorman: MakeDoorman, postgres: Postgres
) -> None:
    doorman = make_doorman(general={"sync_server_parameters": True})
    for name in ("one", "two", "one", ""):
        with Raw((doorman.host, doorman.port)).log_in(application_name=name) as raw:
            assert raw.parameters["application_name"] == name
            assert raw.value("SELECT current_setting('application_name')") == name
    with Raw((doorman.host, doorman.port)).log_in() as raw:
        assert raw.value("SELECT current_setting('application_name')") == "pg_doorman"


def test_after_reconnect_the_servers_own_values_are_known_anew() -> None:
    with lone_pooler() as services, Lone(*services) as lone:
        lone.postgres.admin("ALTER DATABASE postgres SET TimeZone = 'Europe/Paris'")
        assert lone.client().value("SHOW TimeZone") == "Europe/Paris"
        lone.postgres.admin("ALTER DATABASE postgres SET TimeZone = 'Asia/Tokyo'")
        lone.doorman.console("RECONNECT")
        for _ in range(2):
            for zone in ("Europe/Paris", "Asia/Tokyo", None):
                raw = lone.client(**({"TimeZone": zone} if zone else {}))
                assert raw.parameters["TimeZone"] == raw.value("SHOW TimeZone") == (zone or "Asia/Tokyo")


@pytest.mark.parametrize(("schemas", "works"), [(120, True), (520, False)])
def test_servers_that_report_very_much(schemas: int, works: bool) -> None:
    """PostgreSQL 18 reports search_path, which may be as long as one likes."""
    path = ", ".join(f"tenant_{number:04d}_schema_with_a_name" for number in range(schemas))
    with lone_pooler() as services, Lone(*services) as lone:
        lone.postgres.admin(f"ALTER DATABASE postgres SET search_path = {path}")
        if works:
            assert lone.client().value("SHOW search_path") == path
        else:
            with pytest.raises(Ended) as caught:
                lone.client()
            assert caught.value.args[0]["C"] == "54000" and "bytes of parameters" in caught.value.args[0]["M"]


def test_who_comes_to_a_paused_pool_is_greeted_though_its_servers_are_to_be_replaced() -> None:
    with lone_pooler() as services, Lone(*services) as lone:
        lone.client(TimeZone="Asia/Tokyo").value("SELECT 1")
        lone.doorman.console("PAUSE")
        lone.doorman.console("RECONNECT")
        raws = [lone.client() for _ in range(4)]
        for raw in raws:
            raw.send(query("SELECT 'served'"))
        assert all(raw.is_silent(0.1) for raw in raws)
        lone.doorman.console("RESUME")
        for raw in raws:
            assert [got.columns() for got in raw.until("Z") if got.kind == b"D"] == [[b"served"]]
