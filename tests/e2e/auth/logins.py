"""One login at a pooler: who we are then, or with what words and SQLSTATE we are refused."""

from __future__ import annotations

import psycopg
import pytest

from tests.e2e.raw import Raw
from tests.harness import Doorman
from tests.harness.doorman import user_of
from tests.torture.wire import message, startup

OPEN = {"server_username": "app", "server_password": ""}
NOT_IN_LOGS = ("Traceback", "internal error", "by an error", "fault of ours", "never awaited")


def guest(name: str, **keys: object) -> dict[str, object]:
    """A user whose servers are opened as `app`."""
    return dict(user_of(name, 3, **OPEN, **keys))  # type: ignore[arg-type]


def whoami(doorman: Doorman, user: str, password: str, dbname: str = "shop") -> str:
    """libpq logs in, asks, and leaves."""
    with psycopg.connect(doorman.dsn(user=user, password=password, dbname=dbname), connect_timeout=15) as connection:
        return str(connection.execute("SELECT current_user").fetchall()[0][0])


def assert_enters(doorman: Doorman, user: str, password: str, dbname: str = "shop") -> None:
    """Several times, so that both workers are met."""
    for _ in range(4):
        assert whoami(doorman, user, password, dbname) == "app"


def refusal(doorman: Doorman, user: str, password: str, dbname: str = "shop") -> str:
    """What libpq says when the login fails."""
    with pytest.raises(psycopg.OperationalError) as refused:
        whoami(doorman, user, password, dbname)
    return str(refused.value)


def assert_refused(doorman: Doorman, user: str, password: str, dbname: str = "shop", *, log: str = "") -> None:
    """The client is told nothing but the usual words; the log has `log` (a regular expression)."""
    mark = doorman.log_mark()
    assert f'password authentication failed for user "{user}"' in refusal(doorman, user, password, dbname)
    if log:
        doorman.wait_log(log, since=mark)


def send_password(doorman: Doorman, user: str, password: bytes, dbname: str = "shop") -> Raw:
    """A client that has answered the request for a password in clear."""
    raw = Raw((doorman.host, doorman.port))
    raw.send(startup(user, dbname))
    request = raw.next()
    assert (request.kind, request.body) == (b"R", b"\0\0\0\x03"), request
    raw.send(message(b"p", password + b"\0"))
    return raw


def assert_clean_log(doorman: Doorman) -> None:
    for words in NOT_IN_LOGS:
        assert not doorman.log_contains(words), doorman.log_text()
