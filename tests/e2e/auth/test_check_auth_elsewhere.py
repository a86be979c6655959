"""`pg_doorman check-auth` where no stored password decides: client certificates and Talos tokens."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e.auth.logins import guest
from tests.e2e.auth.test_check_auth import Check
from tests.harness import Postgres
from tests.harness.certificates import Authority, Pair
from tests.harness.doorman import default_config, pool_of
from tests.harness.ports import free_port
from tests.unit.auth.tokens import KEYS, OTHER_RSA, sign, write_public

HBA = """
hostssl certs all all cert
hostssl mapped all all cert map=people
hostssl both all all scram-sha-256 clientcert=verify-full
host all all all scram-sha-256
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def check(postgres: Postgres, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Check:
    directory = tmp_path_factory.mktemp("check")
    key = write_public(KEYS["RS256"], directory / "RS256.pem")
    maps = directory / "ident.conf"
    maps.write_text('people "Ann Example" ann\n')
    server = authority.issue("localhost", addresses=("127.0.0.1",))
    config = default_config(free_port(), postgres)
    config["general"] |= {
        "pg_hba": {"content": HBA},
        "auth_ident_file": str(maps),
        "tls_certificate": str(server.certificate_path),
        "tls_private_key": str(server.key_path),
        "tls_ca_cert": str(authority.path),
        "tls_mode": "allow",
    }
    config["talos"] = {"keys": [str(key)], "databases": ["shop"]}
    users = [guest("ann", password="ann-secret"), guest("read_only", password="")]
    pools = {name: pool_of(postgres, users=users) for name in ("certs", "mapped", "both", "shop")}
    return Check(directory / "pg_doorman.yaml", {**config, "pools": pools})


@pytest.fixture(scope="module")
def ann(authority: Authority) -> Pair:
    return authority.issue("ann")


@pytest.fixture(scope="module")
def example(authority: Authority) -> Pair:
    return authority.issue("Ann Example")


def given(pair: Pair) -> tuple[str, str]:
    return "--certificate", str(pair.certificate_path)


def test_a_certificate_of_the_user(check: Check, ann: Pair, example: Pair) -> None:
    for database, pair in (("certs", ann), ("mapped", example)):
        code, text = check("ann", database, None, *given(pair))
        assert code == 0 and "ok     certificate: CN=" in text and "none is asked for (cert)" in text, text
        assert "logged in to 127.0.0.1:" in text
    code, text = check("ann", "both", "ann-secret", *given(ann))
    assert code == 0 and "ok     certificate" in text and "ok     password: it is right" in text, text


def test_a_certificate_of_somebody_else(check: Check, ann: Pair, example: Pair) -> None:
    for database, pair in (("certs", example), ("mapped", ann), ("both", example)):
        text = check.fails("ann", database, "ann-secret", "certificate", "does not take CN=", *given(pair))
        assert "general.auth_ident_file" in text
    check.fails("ann", "both", "wrong", "password", "password authentication failed", *given(ann))


def test_no_certificate(check: Check, tmp_path: Path) -> None:
    code, text = check("ann", "certs", None, "--tls")
    assert code == 0 and "note   certificate: the rule asks for one" in text, text
    check.fails("ann", "certs", None, "certificate", "cannot be read", "--certificate", str(tmp_path / "none.pem"))


def talos_token(*roles: str, database: str = "shop", **more: object) -> str:
    access = {f"postgres.stg:{database}": {"roles": list(roles)}}
    return sign(**{"headers": {"kid": "RS256"}, "clientId": "billing", "resource_access": access, **more}).decode()  # type: ignore[arg-type]


def test_talos(check: Check) -> None:
    code, text = check("talos", "shop", talos_token("read_only"))
    assert code == 0 and 'role "read_only" for the client "billing"' in text and "logged in to" in text, text
    code, text = check("talos", "shop")
    assert code == 0 and "no token was given" in text, text


@pytest.mark.parametrize(
    ("token", "step", "words"),
    [
        (talos_token("owner"), "user", 'has no user "owner"'),
        (talos_token("astronaut"), "password", "the token is refused: it has a role that is none of"),
        (talos_token("read_only", database="stock"), "password", "it has no role for a database"),
        (talos_token("read_only", exp=int(time.time()) - 5), "password", "it has expired"),
        (talos_token("read_only", key=OTHER_RSA), "password", "its signature"),
        ("junk", "password", "this is no token"),
    ],
)
def test_talos_refusals(check: Check, token: str, step: str, words: str) -> None:
    check.fails("talos", "shop", token, step, words)
