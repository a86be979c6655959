"""Logins by JWT (key file and key set) and by Talos token, with two workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.auth.logins import assert_clean_log, assert_enters, assert_refused, guest, send_password, whoami
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.unit.auth.test_jwt import Jwks
from tests.unit.auth.tokens import KEYS, OTHER_RSA, sign, write_public

HBA = """
host open all 127.0.0.1/32 trust
host pgdoorman all 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
"""


@pytest.fixture(scope="module")
def jwks() -> Iterator[Jwks]:
    served = Jwks()
    served.serve(a=KEYS["ES256"])
    yield served
    served.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    for name, key in KEYS.items():
        write_public(key, directory / f"{name}.pem")
    return directory


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, jwks: Jwks, directory: Path) -> Iterator[Doorman]:
    users = [
        guest("ann", password=f"jwt-pkey-fpath:{directory}/RS256.pem"),
        guest("ed", password=f"jwt-pkey-fpath:{directory}/EdDSA.pem"),
        guest("set", password=f"jwt-jwks-url:{jwks.url}"),
        guest("strict", password=f"jwt-pkey-fpath:{directory}/RS256.pem", jwt_issuer="https://i", jwt_audience="db"),
        guest("plain", password="plain"),
        guest("read_only", password=None),
        guest("read_write", password=None),
    ]
    pools = {name: pool_of(postgres, users=users) for name in ("shop", "open")}
    pools["nothing"] = pool_of(postgres, users=[user_of("app", 3)])
    with Doorman(
        postgres, pools=pools, general={"pg_hba": {"content": HBA}, "auth_failure_log_interval": 0}
    ) as doorman:
        doorman.config["talos"] = {"keys": [f"{directory}/RS256.pem"], "databases": ["shop"]}
        doorman.update_config()
        doorman.stop()
        yield doorman.start()
        assert_clean_log(doorman)
        assert not doorman.log_contains("eyJ"), "a token in the log"


def test_a_token_is_a_password(pooler: Doorman) -> None:
    assert_enters(pooler, "ann", sign().decode())
    assert_enters(pooler, "ed", sign("EdDSA", preferred_username="ed").decode())
    assert_enters(pooler, "set", sign("ES256", headers={"kid": "a"}, preferred_username="set").decode())
    strict = sign(preferred_username="strict", iss="https://i", aud=["db"])
    assert_enters(pooler, "strict", strict.decode())


def test_other_tokens_are_none(pooler: Doorman) -> None:
    assert_refused(pooler, "ann", sign(exp=int(time.time()) - 1).decode(), log="JWT: it has expired")
    assert_refused(pooler, "ann", sign(preferred_username="ed").decode(), log="JWT: preferred_username")
    assert_refused(pooler, "ann", sign(key=OTHER_RSA).decode(), log="JWT: its signature")
    assert_refused(pooler, "ann", "no token", log="JWT: this is no token")
    assert_refused(pooler, "ed", sign(preferred_username="ed").decode(), log="JWT: it is signed with another algorithm")
    assert_refused(pooler, "strict", sign(preferred_username="strict").decode(), log="JWT: a claim is missing")


def test_the_name_of_the_key_file_opens_nothing(pooler: Doorman, directory: Path) -> None:
    assert_refused(pooler, "ann", f"jwt-pkey-fpath:{directory}/RS256.pem")


def test_a_long_token_is_taken_whole(pooler: Doorman) -> None:
    assert_enters(pooler, "ann", sign(groups=[f"group-{n}" for n in range(600)]).decode())


def test_trust_trusts(pooler: Doorman) -> None:
    assert whoami(pooler, "ann", "", "open") == "app"


def talos_token(*roles: str, database: str = "shop", **more: Any) -> str:
    access = {f"postgres.stg:{database}": {"roles": list(roles)}}
    claims = {"headers": {"kid": "RS256"}, "clientId": "billing-svc", "resource_access": access, **more}
    return sign(**claims).decode()


def test_talos_logs_in_as_the_role_of_its_token(pooler: Doorman) -> None:
    for _ in range(4):
        dsn = pooler.dsn(user="talos", dbname="shop", password=talos_token("read_only", "read_write"))
        with psycopg.connect(dsn, application_name="ignored") as connection:
            assert connection.execute("SELECT current_user").fetchall() == [("app",)]
            [row] = [row for row in pooler.console("SHOW CLIENTS") if row["database"] == "shop"]
            assert (row["user"], row["application_name"]) == ("read_write", "billing-svc")


@pytest.mark.parametrize(
    ("database", "token", "words"),
    [
        ("shop", "junk", "invalid token"),
        ("shop", talos_token("astronaut"), "invalid token"),
        ("shop", talos_token("read_only", database="stock"), "invalid token"),
        ("shop", talos_token("read_only", exp=int(time.time()) - 5), "invalid token"),
        ("shop", talos_token("owner"), "database: shop, user: owner"),
        ("nothing", talos_token("read_only"), "database: nothing, user: read_only"),
    ],
)
def test_talos_refusals(pooler: Doorman, database: str, token: str, words: str) -> None:
    with send_password(pooler, "talos", token.encode(), database) as raw:
        fault = raw.last_words()
    assert fault["C"] == "3D000" and words in fault["M"], fault


def test_a_talos_role_has_no_other_way_in(pooler: Doorman) -> None:
    assert_refused(pooler, "read_only", "x")
