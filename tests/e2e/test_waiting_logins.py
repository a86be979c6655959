"""A login that waits for a coroutine: others are served meanwhile, and the client may go, hurry or be drained.

What makes it wait here is real: a `password` rule against a verifier of a million iterations, derived in a thread.
"""

from __future__ import annotations

import contextlib
import signal
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256

import psycopg
import pytest

from doorman.auth.verifier import MAX_ITERATIONS, ScramVerifier, derive_keys, format_verifier
from tests.e2e.raw import Raw, wait_until
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import message, query, startup

PASSWORD = "slow secret"
HBA = "host slow all 127.0.0.1/32 password\nhost all all 127.0.0.1/32 trust\n"


def slow_verifier() -> str:
    """Checking a password against it takes a few tenths of a second."""
    salt = bytes(16)
    keys = derive_keys(PASSWORD, salt, MAX_ITERATIONS)
    stored_key = sha256(keys.client_key).digest()
    return format_verifier(ScramVerifier(MAX_ITERATIONS, b64encode(salt).decode(), stored_key, keys.server_key))


@pytest.fixture(scope="module")
def slow(postgres: Postgres) -> Iterator[Doorman]:
    """`slow` asks for the slow password, `postgres` for none; two workers."""
    user = user_of("slow", 3, password=slow_verifier(), server_username="app", server_password="")
    pools = {"slow": pool_of(postgres, users=[user]), "postgres": pool_of(postgres, users=[user_of("app", 3)])}
    with Doorman(postgres, pools=pools, general={"pg_hba": {"content": HBA}}) as doorman:
        yield doorman
        for words in ("Traceback", "internal error", "by an error", "never awaited", "was destroyed"):
            assert not doorman.log_contains(words), doorman.log_text()


def asking(doorman: Doorman, *more: bytes, password: str = PASSWORD) -> Raw:
    """A client that has just sent its password, and `more` in the same packet."""
    raw = Raw((doorman.host, doorman.port))
    raw.send(startup("slow", "slow"))
    assert raw.next().kind == b"R"
    raw.send(message(b"p", password.encode() + b"\0"), *more)
    return raw


def test_the_right_password_enters_and_the_wrong_one_does_not(slow: Doorman) -> None:
    for _ in range(4):
        with psycopg.connect(slow.dsn(user="slow", dbname="slow", password=PASSWORD)) as connection:
            assert connection.execute("SELECT current_user").fetchall() == [("app",)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(slow.dsn(user="slow", dbname="slow", password="wrong"))


def test_others_are_served_while_logins_wait(slow: Doorman) -> None:
    """Eight logins wait, on both workers; a query in between does not wait for the first of them."""
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(Raw((slow.host, slow.port))).log_in("app", "postgres") for _ in range(6)]
        waiting = [stack.enter_context(asking(slow)) for _ in range(8)]
        slowest = 0.0
        for other in others:
            began = time.monotonic()
            assert other.value("SELECT 1") == "1"
            slowest = max(slowest, time.monotonic() - began)
        assert all(raw.is_silent(0.001) for raw in waiting), "they were to be waiting still"
        assert slowest < 0.25, slowest
        for raw in waiting:
            raw.until("Z")


def test_what_is_sent_ahead_is_served_after_the_login(slow: Doorman) -> None:
    with asking(slow, query("SELECT 41 + 1")) as raw:
        raw.until("Z")
        assert [row.body[-2:] for row in raw.until("Z") if row.kind == b"D"] == [b"42"]


def test_a_client_that_sends_on_and_on_is_not_kept_in_memory(slow: Doorman) -> None:
    """It is read to a bound; the rest stays in its own socket until the login is over."""
    with asking(slow) as raw:
        raw.socket.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 << 20:
                sent += raw.socket.send(bytes(65536))
        assert sent < 64 << 20


def test_a_client_that_goes_meanwhile_is_forgotten_at_once(slow: Doorman) -> None:
    raws = [asking(slow) for _ in range(6)]
    for raw in raws:
        raw.close()
    wait_until(lambda: all_are_gone(slow), "they are gone", 5)
    with Raw((slow.host, slow.port)) as raw:
        assert raw.log_in("app", "postgres").value("SELECT 1") == "1"


def all_are_gone(doorman: Doorman) -> bool:
    """A client that is logging in has no database yet."""
    return len(doorman.console("SHOW CLIENTS")) == 1


def test_a_pooler_that_is_asked_to_go_does_not_wait_for_them(postgres: Postgres) -> None:
    user = user_of("slow", 3, password=slow_verifier(), server_username="app", server_password="")
    general = {"pg_hba": {"content": HBA}, "shutdown_timeout": 60_000}
    with Doorman(postgres, pools={"slow": pool_of(postgres, users=[user])}, general=general) as doorman:
        raws = [asking(doorman) for _ in range(20)]
        began = time.monotonic()
        doorman.signal(signal.SIGINT)
        assert {raw.last_words()["C"] for raw in raws} == {"57P01"}
        assert doorman.wait_exit() == 0 and time.monotonic() - began < 3
