"""Startup parameters: what a client asked for is true for it alone on every server; what the operator set stays set.

trap: pg_doorman 1.8.1, 3.9.0, 3.9.1, 3.10.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeDoorman
from tests.e2e.conftest import Connect
from tests.e2e.raw import Raw
from tests.e2e.traps.clients import WORK, ask, on_each_server, whole
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import query, startup

ASKED = {
    "search_path": "pg_catalog, public",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_text_search_config": "pg_catalog.german",
}
SHOW = "SELECT " + " || '; ' || ".join(f"current_setting('{name}')" for name in (*ASKED, "transaction_isolation"))


def test_what_was_asked_for_at_startup_is_replayed_on_every_server_and_reset_for_others(connect: Connect) -> None:
    asking, plain = connect(**ASKED), connect()
    wanted, default = asking.value(SHOW), plain.value(SHOW)
    assert wanted == "pg_catalog, public; serializable; on; pg_catalog.german; serializable"
    assert default is not None and default.endswith("read committed")
    for _ in range(2):
        for _ in on_each_server(connect):
            for raw, expected in ((asking, wanted), (plain, default), (asking, wanted)):
                assert ask(raw, whole(SHOW)) == [expected]
                assert raw.value(SHOW) == expected
    asking.ask(WORK)
    assert asking.error(query("CREATE TABLE never ()"))["C"] == "25006"
    asking.ask(query("ROLLBACK"))


@pytest.fixture(scope="module")
def managed(postgres: Postgres) -> Iterator[Doorman]:
    users = [user_of("app", 2)]
    pools = {
        "postgres": pool_of(postgres, users=users, startup_parameters={"timezone": "Asia/Tokyo", "work_mem": "5MB"}),
        "refused": pool_of(postgres, users=users, startup_parameters={"work_mem": "a lot"}),
    }
    with Doorman(postgres, pools=pools, general={"startup_parameters": {"DateStyle": "German"}}) as doorman:
        yield doorman


def test_what_the_operator_manages_no_client_overrides_nor_is_shown_otherwise(managed: Doorman) -> None:
    address = managed.host, managed.port
    wishes: list[dict[str, str]] = [
        {},
        {"TimeZone": "America/Lima"},
        {"DateStyle": "ISO"},
        {"options": "-c work_mem=7MB -c TimeZone=UTC"},
    ]
    clients = [Raw(address).log_in(**wish) for wish in wishes * 2]
    for raw in clients * 2:
        assert (raw.parameters["TimeZone"], raw.parameters["DateStyle"]) == ("Asia/Tokyo", "German, DMY")
        assert raw.rows("SHOW TimeZone") + raw.rows("SHOW DateStyle") == [["Asia/Tokyo"], ["German, DMY"]]
        assert raw.value("SHOW work_mem") == "5MB"
        raw.ask(query("SET TimeZone = 'Europe/Rome'"))
        raw.ask(query("RESET ALL"))
    for raw in clients:
        raw.close()


def test_a_parameter_that_postgresql_refuses_is_told_in_its_words_each_time(managed: Doorman) -> None:
    for _ in range(3):
        with Raw((managed.host, managed.port)) as raw:
            raw.send(startup("app", "refused"))
            error = raw.last_words()
            assert (error["C"], error["V"]) == ("22023", "FATAL")
            assert 'invalid value for parameter "work_mem": "a lot"' in error["M"]


def test_a_value_that_is_refused_at_the_first_login_of_a_pool_and_later(
    make_doorman: MakeDoorman, postgres: Postgres
) -> None:
    doorman = make_doorman(pools={"postgres": pool_of(postgres, users=[user_of("app", 2)])})
    address = doorman.host, doorman.port
    for _ in range(3):
        with Raw(address) as raw:
            raw.send(startup("app", "postgres", TimeZone="Mars/Base"))
            error = raw.last_words()
            assert (error["C"], error["V"]) == ("22023", "FATAL")
            assert 'invalid value for parameter "TimeZone": "Mars/Base"' in error["M"]
        with Raw(address).log_in(TimeZone="Asia/Tokyo") as raw:
            assert raw.value("SHOW TimeZone") == "Asia/Tokyo"


def test_too_many_clients_at_a_unix_socket_are_told(
    make_doorman: MakeDoorman, postgres: Postgres, tmp_path: Path
) -> None:
    doorman = make_doorman(general={"max_connections": 2, "unix_socket_dir": str(tmp_path)})
    path = tmp_path / f".s.PGSQL.{doorman.port}"
    with Raw(path).log_in(), Raw(path).log_in(), Raw(path) as third:
        third.send(startup("app", "postgres"))
        assert third.last_words()["C"] == "53300"
