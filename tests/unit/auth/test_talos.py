"""Which role a Talos token gives (spec/auth.md section 9)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from doorman.auth.jwt import TokenRefused
from doorman.auth.talos import TalosLogin, check_token
from doorman.config.schema import Talos
from tests.unit.auth.tokens import KEYS, OTHER_RSA, sign, write_public


@pytest.fixture(scope="module")
def talos(tmp_path_factory: pytest.TempPathFactory) -> Talos:
    directory = tmp_path_factory.mktemp("talos")
    keys = [write_public(KEYS["RS256"], directory / "k2026.pem"), write_public(KEYS["EdDSA"], directory / "ed.pem")]
    return Talos(keys=tuple(map(str, keys)), databases=("shop", "stock"))


def token(access: Any, **more: Any) -> bytes:
    headers = more.pop("headers", {"kid": "k2026"})
    return sign(**{"headers": headers, "clientId": "billing", "resource_access": access, **more})


def roles(*names: str) -> dict[str, list[str]]:
    return {"roles": list(names)}


@pytest.mark.parametrize(
    ("access", "role"),
    [
        ({"postgres.stg:shop": roles("read_only")}, "read_only"),
        ({"postgres.stg:shop": roles("read_only", "owner", "read_write")}, "owner"),
        ({"a:shop": roles("read_only"), "b:stock": roles("read_write")}, "read_write"),
        ({"a:shop": roles("read_only"), "b:elsewhere": roles("owner"), "shop": roles("owner")}, "read_only"),
        ({"a:shop": roles("read_only"), "b:elsewhere": roles("astronaut")}, "read_only"),
    ],
)
def test_the_strongest_role_of_our_databases_counts(talos: Talos, access: Any, role: str) -> None:
    assert check_token(talos, token(access)) == TalosLogin(role, "billing")


REFUSED = {
    "no role": {"a:shop": roles()},
    "other database": {"a:elsewhere": roles("owner")},
    "unknown role": {"a:shop": roles("owner", "astronaut")},
    "unknown role elsewhere among ours": {"a:shop": roles("owner"), "b:stock": roles("superuser")},
    "second colon": {"a:b:shop": roles("owner")},
    "roles as text": {"a:shop": {"roles": "owner"}},
    "roles of numbers": {"a:shop": {"roles": [1]}},
    "no roles": {"a:shop": {}},
    "text": {"a:shop": "owner"},
    "access as list": ["a:shop"],
    "none": None,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_gives_no_role(talos: Talos, kind: str) -> None:
    with pytest.raises(TokenRefused):
        check_token(talos, token(REFUSED[kind]))


@pytest.mark.parametrize(
    "more",
    [
        {"headers": {}},
        {"headers": {"kid": ""}},
        {"headers": {"kid": "k2025"}},
        {"headers": {"kid": "ed"}},
        {"headers": {"kid": "ed"}, "algorithm": "EdDSA"},
        {"key": OTHER_RSA},
        {"exp": int(time.time()) - 1},
        {"exp": None},
        {"nbf": int(time.time()) + 3000},
        {"clientId": None},
        {"clientId": 7},
    ],
)
def test_what_is_no_valid_token(talos: Talos, more: dict[str, Any]) -> None:
    with pytest.raises(TokenRefused):
        check_token(talos, token({"a:shop": roles("owner")}, **more))


def test_a_key_file_that_is_missing_refuses(tmp_path: Path) -> None:
    gone = Talos(keys=(str(tmp_path / "k2026.pem"),), databases=("shop",))
    with pytest.raises(TokenRefused, match="No such file"):
        check_token(gone, token({"a:shop": roles("owner")}))
