"""How clients prove who they are: trust, md5, SCRAM from hash and from password, HBA; over TCP and the Unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from doorman.auth.md5 import md5_hash
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.harness.postgres import PASSWORDS
from tests.torture.wire import startup

HBA = """
local    all all                   trust
host     all rejected 127.0.0.1/32 reject
host     all app      127.0.0.1/32 trust
host     all asked_md5 127.0.0.1/32 md5
host     all asked_clear 127.0.0.1/32 password
hostssl  all tls_only 127.0.0.1/32 trust
host     all tls_only 127.0.0.1/32 reject
host     shop all     127.0.0.1/32 scram-sha-256
host     pgdoorman all 127.0.0.1/32 md5
"""  # the scram-sha-256 rule refuses from_md5, who has only an md5 hash

OPEN = {"server_username": "app", "server_password": ""}


def scram_verifier(postgres: Postgres) -> str:
    rows = postgres.admin("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram_user'")
    return str(rows[0][0])


@pytest.fixture(scope="module")
def guarded(postgres: Postgres) -> Iterator[Doorman]:
    users = [
        user_of("app", 3),
        user_of("from_hash", 3, password=scram_verifier(postgres), **OPEN),
        user_of("from_text", 3, password="плохой пароль", **OPEN),
        user_of("from_md5", 3, password=md5_hash("md5-secret", "from_md5"), **OPEN),
        user_of("asked_md5", 3, password="plain", **OPEN),
        user_of("asked_clear", 3, password="clear", **OPEN),
        user_of("rejected", 3, password="x", **OPEN),
        user_of("tls_only", 3, password="x", **OPEN),
    ]
    pools = {"postgres": pool_of(postgres, users=users), "shop": pool_of(postgres, users=users)}
    with Doorman(postgres, pools=pools, general={"pg_hba": {"content": HBA}}) as doorman:
        doorman.update_config(general={"unix_socket_dir": str(doorman.directory)})
        doorman.stop()
        yield doorman.start()


def whoami(doorman: Doorman, user: str, password: str, dbname: str = "shop") -> str:
    with psycopg.connect(doorman.dsn(user=user, password=password, dbname=dbname), connect_timeout=10) as connection:
        return str(connection.execute("SELECT current_user").fetchall()[0][0])


def refusal(doorman: Doorman, user: str, password: str, dbname: str = "shop") -> str:
    """The SQLSTATE with which a login ends; libpq shows only its text."""
    with pytest.raises(psycopg.OperationalError) as refused:
        whoami(doorman, user, password, dbname)
    return str(refused.value)


@pytest.mark.parametrize(
    ("user", "password", "dbname"),
    [
        ("app", "", "postgres"),
        ("from_hash", PASSWORDS["scram_user"], "shop"),
        ("from_text", "плохой пароль", "shop"),
        ("asked_md5", "plain", "shop"),
        ("asked_clear", "clear", "shop"),
    ],
)
def test_the_right_password_opens(guarded: Doorman, user: str, password: str, dbname: str) -> None:
    for _ in range(4):  # whatever worker it is
        assert whoami(guarded, user, password, dbname) == "app"


@pytest.mark.parametrize("user", ["from_hash", "from_text", "asked_md5", "asked_clear", "unknown", "from_md5"])
def test_the_wrong_password_and_the_unknown_user_are_told_the_same(guarded: Doorman, user: str) -> None:
    assert f'password authentication failed for user "{user}"' in refusal(guarded, user, "wrong")


def test_a_user_with_only_a_scram_hash_is_asked_for_scram_under_an_md5_rule(postgres: Postgres) -> None:
    users = [user_of("from_hash", 3, password=scram_verifier(postgres), **OPEN)]
    hba = {"content": "host all all 127.0.0.1/32 md5"}
    with Doorman(postgres, pools={"shop": pool_of(postgres, users=users)}, general={"pg_hba": hba}) as doorman:
        assert whoami(doorman, "from_hash", PASSWORDS["scram_user"]) == "app"


def test_without_rules_the_stored_password_decides_how_it_is_asked_for(postgres: Postgres) -> None:
    users = [
        user_of("from_hash", 3, password=scram_verifier(postgres), **OPEN),
        user_of("from_md5", 3, password=md5_hash("md5-secret", "from_md5"), **OPEN),
        user_of("from_text", 3, password="text", **OPEN),
    ]
    with Doorman(postgres, pools={"shop": pool_of(postgres, users=users)}, general={"pg_hba": None}) as doorman:
        assert whoami(doorman, "from_hash", PASSWORDS["scram_user"]) == "app"
        assert whoami(doorman, "from_md5", "md5-secret") == "app"
        assert whoami(doorman, "from_text", "text") == "app"
        for user in ("from_hash", "from_md5", "from_text", "unknown"):
            assert f'password authentication failed for user "{user}"' in refusal(doorman, user, "wrong")


def test_reject_says_that_the_rules_do_not_permit_it(guarded: Doorman) -> None:
    assert "rejected@shop" in refusal(guarded, "rejected", "x")


def test_a_rule_for_tls_connections_does_not_fit_a_plain_one(guarded: Doorman) -> None:
    assert "not permitted by HBA configuration" in refusal(guarded, "tls_only", "x")


def test_no_rule_means_no_entry(guarded: Doorman) -> None:
    assert "not permitted by HBA configuration" in refusal(guarded, "from_text", "плохой пароль", "postgres")


@pytest.mark.parametrize(
    ("user", "database", "sqlstate"),
    [("rejected", "shop", "28000"), ("app", "nowhere", "3D000"), ("tls_only", "shop", "28000")],
)
def test_refusals_have_their_sqlstate(guarded: Doorman, user: str, database: str, sqlstate: str) -> None:
    with Raw((guarded.host, guarded.port)) as raw:
        raw.send(startup(user, database))
        assert raw.last_words()["C"] == sqlstate


def test_the_unix_socket_admits_by_its_own_rule(guarded: Doorman) -> None:
    path = str(guarded.directory)
    for _ in range(6):
        with psycopg.connect(host=path, port=guarded.port, user="from_text", dbname="shop") as connection:
            assert connection.execute("SELECT 1").fetchall() == [(1,)]
    raw = Raw(Path(path) / f".s.PGSQL.{guarded.port}")
    with raw:
        assert raw.log_in("from_text", "shop").value("SELECT 2") == "2"


def test_many_logins_at_once_on_both_workers_all_get_through(guarded: Doorman) -> None:
    raws = [Raw((guarded.host, guarded.port)) for _ in range(60)]
    for raw in raws:
        raw.send(startup("app", "postgres"))
    for raw in raws:
        raw.until("Z")
    assert {row["database"] for row in guarded.console("SHOW CLIENTS")} == {"postgres", "pgdoorman"}
    for raw in raws:
        raw.quit()


def test_a_login_that_stops_in_the_middle_holds_nothing(guarded: Doorman) -> None:
    for _ in range(10):
        raw = Raw((guarded.host, guarded.port))
        raw.send(startup("from_text", "shop"))
        assert raw.next().kind == b"R"
        raw.close()
    assert whoami(guarded, "from_text", "плохой пароль") == "app"
