"""`ClientExchange` and the startup parser against a real libpq (psycopg's)."""

from __future__ import annotations

import psycopg
import pytest

from doorman.auth.exchange import choose_exchange
from doorman.auth.md5 import md5_hash
from doorman.auth.verifier import format_verifier, verifier_of_password
from tests.unit.auth.conftest import Listener

PASSWORD = "sécret"
STORED = {
    "plain": PASSWORD,
    "md5": md5_hash(PASSWORD, "app"),
    "scram": format_verifier(verifier_of_password("app", PASSWORD)),
}


def greeting(listener: Listener, password: str = PASSWORD, words: str = "") -> object:
    dsn = f"host=127.0.0.1 port={listener.port} user=app dbname=shop password={password} connect_timeout=10 {words}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = psycopg.ClientCursor(connection).execute("SELECT 1").fetchall()
    return rows[0][0]


@pytest.mark.parametrize("version", ["3.0", "latest"])
@pytest.mark.parametrize("method", [None, "trust", "password"])
@pytest.mark.parametrize("kind", STORED)
def test_libpq_logs_in(kind: str, method: str | None, version: str) -> None:
    with Listener(lambda startup: choose_exchange(method, startup.user, STORED[kind])) as listener:
        assert greeting(listener, words=f"max_protocol_version={version}") == "hello"
    assert (listener.exchanges[0].client_key is not None) == (kind == "scram" and method != "trust")


@pytest.mark.parametrize("stored", [*STORED.values(), "", None])
def test_libpq_shows_our_refusal(stored: str | None) -> None:
    with (
        Listener(lambda startup: choose_exchange(None, startup.user, stored)) as listener,
        pytest.raises(psycopg.OperationalError, match='FATAL:  password authentication failed for user "app"'),
    ):
        greeting(listener, "wrong")


def test_libpqs_options_arrive_as_parameters() -> None:
    seen = {}

    with Listener(lambda startup: seen.update(startup.parameters) or choose_exchange("trust", "app", None)) as listener:
        greeting(
            listener, words=r"options='-c search_path=a\\ b --geqo=off' application_name=tést client_encoding=utf8"
        )
    assert seen == {
        "search_path": "a b",
        "geqo": "off",
        "user": "app",
        "database": "shop",
        "application_name": "tést",
        "client_encoding": "utf8",
    }


def test_libpq_shows_why_a_startup_was_refused() -> None:
    with (
        Listener(lambda startup: choose_exchange("trust", "app", None)) as listener,
        pytest.raises(psycopg.OperationalError, match=r'unsupported switch "-e" in startup parameter "options"'),
    ):
        greeting(listener, words="options=-e")
