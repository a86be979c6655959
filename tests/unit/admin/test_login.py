"""Who gets into the console."""

from __future__ import annotations

import pytest

from doorman.admin.login import console_exchange
from doorman.auth.exchange import ClientExchange
from doorman.auth.md5 import md5_answer, md5_hash
from doorman.auth.methods import Applicant
from doorman.auth.scram import ScramClient
from doorman.auth.verifier import ScramVerifier, format_verifier, verifier_of_password
from doorman.config.hba import Admission
from doorman.errors import ClientFault
from doorman.wire import backend, frontend
from doorman.wire.framing import Frames
from tests.unit.auth.waiting import settle

PASSWORD = "sécret"
VERIFIER = verifier_of_password("boss", PASSWORD)
STORED = {"clear": PASSWORD, "md5": md5_hash(PASSWORD, "boss"), "scram": format_verifier(VERIFIER)}
MD5_REQUEST, SASL_REQUEST, CLEARTEXT_REQUEST = 5, 10, 3


def exchange_of(method: str | None, user: str, admin: str, password: str) -> ClientExchange:
    return console_exchange(Admission(method), Applicant(user, "127.0.0.1", 30.0), admin, password)


def request_of(exchange: ClientExchange) -> tuple[int, bytes]:
    """Code and data of the first message."""
    frames = Frames(1 << 16)
    frames.feed(settle(exchange.start()))
    frame = frames.take()
    assert frame is not None
    return backend.parse_authentication(frame[1])


def log_in(exchange: ClientExchange, user: str, password: str) -> bool:
    """Play the client to the end. Raises what the exchange raises."""
    code, data = request_of(exchange)
    if code == MD5_REQUEST:
        settle(exchange.feed(frontend.password(md5_answer(md5_hash(password, user), data))[5:]))
    elif code == CLEARTEXT_REQUEST:
        settle(exchange.feed(frontend.password(password)[5:]))
    else:
        client = ScramClient(password=password)
        answer = settle(exchange.feed(frontend.sasl_initial("SCRAM-SHA-256", client.first())[5:]))
        answer = settle(exchange.feed(frontend.sasl_response(client.final(answer[9:]))[5:]))
        client.finish(answer[9:])
    return exchange.done


@pytest.mark.parametrize(
    ("method", "kind", "code"),
    [
        (None, "clear", MD5_REQUEST),
        (None, "md5", MD5_REQUEST),
        (None, "scram", SASL_REQUEST),
        ("md5", "clear", MD5_REQUEST),
        ("md5", "md5", MD5_REQUEST),
        ("md5", "scram", SASL_REQUEST),
        ("scram-sha-256", "clear", SASL_REQUEST),
        ("scram-sha-256", "scram", SASL_REQUEST),
        ("password", "clear", CLEARTEXT_REQUEST),
        ("password", "md5", CLEARTEXT_REQUEST),
        ("password", "scram", CLEARTEXT_REQUEST),
    ],
)
def test_the_administrator_gets_in_and_others_are_asked_alike(method: str | None, kind: str, code: int) -> None:
    for user in ("boss", "guest"):
        assert request_of(exchange_of(method, user, "boss", STORED[kind]))[0] == code
    assert log_in(exchange_of(method, "boss", "boss", STORED[kind]), "boss", PASSWORD)
    for user, password in [("boss", "wrong"), ("guest", PASSWORD), ("Boss", PASSWORD), ("guest", "wrong")]:
        with pytest.raises(ClientFault) as caught:
            log_in(exchange_of(method, user, "boss", STORED[kind]), user, password)
        assert (caught.value.sqlstate, str(caught.value)) == (
            "28P01",
            f'password authentication failed for user "{user}"',
        )


def test_trust_admits_only_the_administrator() -> None:
    exchange = exchange_of("trust", "boss", "boss", PASSWORD)
    assert exchange.done and settle(exchange.start()) == b""
    with pytest.raises(ClientFault) as caught:
        exchange_of("trust", "guest", "boss", PASSWORD)
    assert caught.value.sqlstate == "28P01"


@pytest.mark.parametrize("method", ["reject", "gss"])
@pytest.mark.parametrize("user", ["boss", "guest"])
def test_methods_that_cannot_be_are_refused(method: str, user: str) -> None:
    with pytest.raises(ClientFault) as caught:
        exchange_of(method, user, "boss", STORED["scram"])
    assert caught.value.sqlstate == "28000"


@pytest.mark.parametrize("method", [None, "md5", "scram-sha-256", "password"])
def test_without_a_password_nobody_gets_in(method: str | None) -> None:
    for password in ("", "x"):
        with pytest.raises(ClientFault):
            log_in(exchange_of(method, "boss", "boss", ""), "boss", password)


def test_a_strangers_challenge_has_the_administrators_iterations() -> None:
    stored = format_verifier(ScramVerifier(1234, VERIFIER.salt, VERIFIER.stored_key, VERIFIER.server_key))
    first = ScramClient(password="x").first()
    for user in ("boss", "guest"):
        exchange = exchange_of(None, user, "boss", stored)
        exchange.start()
        assert settle(exchange.feed(frontend.sasl_initial("SCRAM-SHA-256", first)[5:])).endswith(b",i=1234")
