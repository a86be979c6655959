"""The `cert` method of pg_hba: who a certificate says that its holder is."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from doorman.auth.cert import parse_user_map
from tests.harness import Doorman
from tests.harness.certificates import Authority, Pair
from tests.tls.conftest import MakePooler

RULES = "hostssl all app 127.0.0.1/32 cert{}\nhost all all 127.0.0.1/32 trust\n"


def enter(pooler: Doorman, pair: Pair | None) -> bool:
    words = pair.client_parameters() if pair else {"sslcert": "/none", "sslkey": "/none"}
    with pooler.connect(sslmode="require", **words) as client:
        return bool(client.execute("SELECT current_user").fetchone() == ("app",))


def test_the_common_name_is_the_user(make_pooler: MakePooler, authority: Authority) -> None:
    pooler = make_pooler(tls_ca_cert=str(authority.path), pg_hba={"content": RULES.format("")})
    assert enter(pooler, authority.issue("app", label="cert-app"))
    for pair in (authority.issue("somebody", label="cert-somebody"), None):
        with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
            enter(pooler, pair)


def test_a_user_map(make_pooler: MakePooler, authority: Authority, tmp_path: Path) -> None:
    maps = tmp_path / "ident"
    maps.write_text('# comment\nothers mary app\nours "john smith" app\nours /^(.*)@example$ \\1\n')
    pooler = make_pooler(
        tls_ca_cert=str(authority.path), auth_ident_file=str(maps), pg_hba={"content": RULES.format(" map=ours")}
    )
    assert enter(pooler, authority.issue("john smith", label="cert-john"))
    assert enter(pooler, authority.issue("app@example", label="cert-regex"))
    for name in ("mary", "app", "other@example"):
        with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
            enter(pooler, authority.issue(name, label=f"cert-{name}"))


def test_clientcert_beside_another_method(make_pooler: MakePooler, authority: Authority) -> None:
    rules = "hostssl all app 127.0.0.1/32 trust clientcert=verify-full\n"
    pooler = make_pooler(tls_ca_cert=str(authority.path), pg_hba={"content": rules + "host all admin all trust\n"})
    assert enter(pooler, authority.issue("app", label="cert-beside"))
    with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
        enter(pooler, None)


@pytest.mark.parametrize("text", ["one two", "a b c d", "m /( x"])
def test_a_map_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse_user_map("\n" + text)


@pytest.mark.parametrize(
    ("line", "name", "users"),
    [
        ("m /^(.*)@example$ \\1", "ann@example", {"ann"}),
        ("m /^(.*)@example$ \\1", "all@example", {"all"}),
        ("m /^(.*)@example$ all", "ann@example", {"ann", "bob", "all", ""}),
        ("m /^(x)?.*$ \\1", "ann", set()),
        ("m /^.*$ ann\\1", "ann", set()),
        ("m /^(x)?.*$ ann", "ann", {"ann"}),
    ],
)
def test_a_certificate_cannot_name_everybody(line: str, name: str, users: set[str]) -> None:
    """What it puts in place of \\1 is a name and no keyword; nothing is not the empty name."""
    [entry] = parse_user_map(line)
    assert {user for user in ("ann", "bob", "all", "") if entry.fits(name, user)} == users
