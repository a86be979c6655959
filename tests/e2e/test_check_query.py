"""`pooler_check_query`: PostgreSQL's own answer the first time, from memory then, even when PostgreSQL is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.conftest import MakeDoorman
from tests.e2e.lone import Lone, lone_pooler
from tests.e2e.raw import Raw, tell
from tests.harness import Doorman, Postgres
from tests.torture.wire import query

CHECK = "SELECT 42 AS answer, 'Grüße' AS words"


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler(general={"pooler_check_query": CHECK}) as services:
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone


def client(doorman: Doorman) -> Raw:
    return Raw((doorman.host, doorman.port)).log_in()


def each_worker(doorman: Doorman) -> list[Raw]:
    """Enough clients for each of the two workers to have some."""
    return [client(doorman) for _ in range(12)]


def test_the_answer_is_postgresqls(lone: Lone) -> None:
    with Raw((lone.postgres.host, lone.postgres.port)).log_in() as direct:
        expected = direct.converse(query(CHECK))
    raw = lone.client()
    for _ in range(3):
        assert raw.converse(query(CHECK)) == expected


def test_postgresql_is_asked_once_by_each_worker(lone: Lone) -> None:
    raws = [lone.client("two") for _ in range(12)]
    mark = lone.postgres.log_mark()
    for raw in raws * 5:
        raw.ask(query(CHECK))
    assert 1 <= lone.postgres.log_text(mark).count(CHECK) <= 2


def test_it_needs_no_server_once_it_is_known(lone: Lone) -> None:
    raw, holder = lone.client(), lone.client()
    raw.ask(query(CHECK))
    holder.ask(query("BEGIN; SELECT 1"))
    assert raw.ask(query(CHECK)) == "T D C ZI"
    assert lone.doorman.pool_row("one")["cl_waiting"] == 0


def test_its_answer_is_that_of_the_clients_settings(make_doorman: MakeDoorman) -> None:
    doorman = make_doorman(general={"pooler_check_query": "SHOW TimeZone"})
    zones = ["Asia/Tokyo", "Europe/Paris"]
    for zone in zones * 6:
        raw = Raw((doorman.host, doorman.port)).log_in(TimeZone=zone)
        assert [raw.rows("SHOW TimeZone") for _ in range(2)] == [[[zone]]] * 2
    raw.ask(query("SET TimeZone = 'UTC'"))
    assert raw.rows("SHOW TimeZone") == [["UTC"]]


def test_inside_a_transaction_it_is_asked_there(lone: Lone) -> None:
    raw = lone.client()
    raw.ask(query(CHECK))
    raw.ask(query("BEGIN; SELECT 1"))
    assert raw.ask(query(CHECK)) == "T D C ZT"
    raw.ask(query("SELECT 1/0"))
    assert raw.ask(query(CHECK)) == "E:25P02 ZE"
    assert raw.ask(query("ROLLBACK"), query(CHECK), ready=2) == "C ZI T D C ZI"


def test_what_is_learnt_inside_a_transaction_is_not_remembered(make_doorman: MakeDoorman) -> None:
    doorman = make_doorman(general={"pooler_check_query": "SELECT 7"})
    for raw in each_worker(doorman):
        raw.ask(query("BEGIN; SELECT 1"))
        assert raw.ask(query("SELECT 7")) == "T D C ZT"
        assert raw.ask(query("COMMIT"), query("SELECT 7"), query("BEGIN"), ready=3) == "C ZI T D C ZI C ZT"
        assert raw.ask(query("SELECT 7")) == "T D C ZT"
        raw.close()


def test_other_texts_are_other_queries(lone: Lone) -> None:
    raw = lone.client()
    raw.ask(query(CHECK))
    mark = lone.postgres.log_mark()
    for sql in (CHECK.lower(), CHECK + ";", " " + CHECK, CHECK + " "):
        assert raw.ask(query(sql)) == "T D C ZI"
    assert lone.postgres.log_text(mark).lower().count(CHECK.lower()) == 4


def test_in_a_pipeline_it_keeps_its_place(lone: Lone) -> None:
    raw = lone.client()
    values = ["SELECT 1", CHECK, CHECK, "SELECT 2", CHECK]
    got = raw.converse(*map(query, values), ready=5)
    assert [one.columns()[0] for one in got if one.kind == b"D"] == [b"1", b"42", b"42", b"2", b"42"]


def test_the_default_is_a_semicolon(make_doorman: MakeDoorman) -> None:
    raw = client(make_doorman())
    for _ in range(3):
        assert raw.ask(query(";")) == "I ZI"


def test_a_long_answer_is_remembered_whole(make_doorman: MakeDoorman) -> None:
    check = "SELECT repeat('x', 9000) FROM generate_series(1, 5)"
    raw = client(make_doorman(general={"pooler_check_query": check}))
    first = raw.converse(query(check))
    assert len(first) == 8
    for _ in range(3):
        assert raw.converse(query(check)) == first


def test_an_error_is_never_remembered(make_doorman: MakeDoorman, postgres: Postgres) -> None:
    check = "SELECT 8 FROM check_me"
    doorman = make_doorman(general={"pooler_check_query": check})
    raws = each_worker(doorman)
    for raw in raws:
        assert raw.ask(query(check)) == "E:42P01 ZI"
    postgres.query("CREATE TABLE check_me AS SELECT 1")
    try:
        for raw in raws:
            assert raw.ask(query(check)) == "T D C ZI"
    finally:
        postgres.query("DROP TABLE check_me")
    for raw in raws:
        assert raw.ask(query(check)) == "T D C ZI"
        raw.close()


def test_an_error_behind_a_result_is_never_remembered(make_doorman: MakeDoorman) -> None:
    check = "SELECT 1; SELECT 1/0"
    doorman = make_doorman(general={"pooler_check_query": check})
    raw = client(doorman)
    for _ in range(3):
        assert raw.ask(query(check)) == "T D C E:22012 ZI"


def test_it_is_answered_while_postgresql_is_stopped(own_postgres: Postgres, make_doorman: MakeDoorman) -> None:
    doorman = make_doorman(own_postgres, general={"pooler_check_query": CHECK, "query_wait_timeout": 500})
    raws = each_worker(doorman)
    expected = [raw.converse(query(CHECK)) for raw in raws]
    own_postgres.stop()
    for raw, answer in zip(raws, expected, strict=True):
        assert raw.converse(query(CHECK)) == answer
    assert "E:" in raws[0].ask(query("SELECT 1"))
    assert raws[0].converse(query(CHECK)) == expected[0]
    assert tell(raws[0].converse(query("BEGIN"), query(CHECK), ready=2)) == "C ZT T D C ZT"
    own_postgres.start()


def test_a_changed_query_is_asked_anew(make_doorman: MakeDoorman) -> None:
    doorman = make_doorman(general={"pooler_check_query": "SELECT 1"})
    old = each_worker(doorman)
    for raw in old:
        raw.ask(query("SELECT 1"))
    doorman.reload({"pooler_check_query": "SELECT 2"})
    for raw in each_worker(doorman) + old:
        assert [raw.value(f"SELECT {number}") for number in (1, 2, 2)] == ["1", "2", "2"]
        raw.close()


def test_a_changed_query_holds_for_those_who_were_there_before() -> None:
    """The old text is an ordinary query from then on, the new one is answered from memory."""
    with lone_pooler(general={"pooler_check_query": "SELECT 'old'"}) as services, Lone(*services) as lone:
        raws = [lone.client("two") for _ in range(12)]
        for raw in raws:
            raw.ask(query("SELECT 'old'"))
        lone.doorman.reload({"pooler_check_query": "SELECT 'new'"})
        mark = lone.postgres.log_mark()
        for raw in raws * 2:
            assert [raw.value("SELECT 'old'"), raw.value("SELECT 'new'")] == ["old", "new"]
        text = lone.postgres.log_text(mark)
        assert text.count("SELECT 'old'") == 24
        assert 1 <= text.count("SELECT 'new'") <= 2


def test_what_the_server_tells_its_client_beside_it_is_not_remembered() -> None:
    with lone_pooler(general={"pooler_check_query": CHECK}) as services, Lone(*services) as lone:
        one, other = lone.client(), lone.client()
        other.ask(query("SET TimeZone = 'Europe/Paris'"))
        one.ask(query("SELECT 1"))
        lone.postgres.admin("ALTER SYSTEM SET TimeZone = 'Asia/Tokyo'")
        lone.postgres.reload()
        time.sleep(0.3)
        for raw in (one, one, other, other):
            assert raw.value(CHECK) == "42"
        assert other.parameters["TimeZone"] == other.value("SHOW TimeZone") == "Europe/Paris"


def test_a_long_check_query_is_answered_from_memory_too() -> None:
    check = f"SELECT '{'x' * 700}'"
    with lone_pooler(general={"pooler_check_query": check}) as services, Lone(*services) as lone:
        raw, holder = lone.client(), lone.client()
        raw.ask(query(check))
        holder.ask(query("BEGIN; SELECT 1"))
        assert raw.ask(query(check)) == "T D C ZI"


def test_what_ends_a_transaction_is_no_check_query() -> None:
    """The end of a failed one, remembered, was everybody's: `ROLLBACK`, within a transaction."""
    with lone_pooler(general={"pooler_check_query": "COMMIT"}) as services, Lone(*services) as lone:
        raw = lone.client()
        assert raw.ask(query("BEGIN"), query("SELEC"), query("COMMIT"), ready=3) == "C ZT E:42601 ZE C ZI"
        assert raw.ask(query("BEGIN"), query("COMMIT"), ready=2) == "C ZT C ZI"
        assert raw.ask(query("BEGIN"), query("SELECT 1"), query("COMMIT"), ready=3) == "C ZT T D C ZT C ZI"
