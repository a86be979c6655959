"""Which exchange a rule and an account come to, and whom a stranger resembles."""

from __future__ import annotations

import socket
from base64 import b64decode, b64encode

import pytest

from doorman.auth import pam
from doorman.auth.decoy import MOST_KINDS, KindsFound, resemble
from doorman.auth.exchange import CleartextExchange, Md5Exchange, ScramExchange
from doorman.auth.md5 import is_md5_hash, md5_hash
from doorman.auth.methods import Applicant, exchange_for, kind_of
from doorman.auth.verifier import (
    ScramVerifier,
    format_verifier,
    mock_verifier,
    parse_verifier,
    verifier_of_password,
)
from doorman.config.hba import Admission
from doorman.errors import ClientFault
from tests.unit.auth.waiting import settle

SCRAM = format_verifier(verifier_of_password("ann", "secret"))
MD5 = md5_hash("secret", "ann")


class Account:
    def __init__(self, password: str = "", pam: str | None = None) -> None:
        self.password = password
        self.auth_pam_service = pam
        self.jwt_issuer = self.jwt_audience = None


def ask(method: str | None, account: Account | None, *others: Account, **options: str) -> object:
    applicant = Applicant("ann", "127.0.0.1", 5.0)
    return exchange_for(Admission(method, options), applicant, account, [account, *others] if account else others)


@pytest.mark.parametrize(
    ("method", "account", "kind", "exchange"),
    [
        (None, Account(SCRAM), "password", ScramExchange),
        (None, Account(MD5), "password", Md5Exchange),
        ("md5", Account("clear"), "password", Md5Exchange),
        ("scram-sha-256", Account("clear"), "password", ScramExchange),
        ("password", Account(SCRAM), "password", CleartextExchange),
        ("md5", Account(SCRAM, pam="x"), "pam", CleartextExchange),
        (None, Account("", pam="x"), "pam", CleartextExchange),
        ("scram-sha-256", Account("jwt-pkey-fpath:/k"), "jwt", CleartextExchange),
        ("scram-sha-256", Account("jwt-pkey-fpath:/k", pam="x"), "pam", CleartextExchange),
        ("pam", Account(SCRAM), "pam", CleartextExchange),
        ("pam", Account("jwt-pkey-fpath:/k"), "pam", CleartextExchange),
    ],
)
def test_what_is_asked(method: str | None, account: Account, kind: str, exchange: type) -> None:
    assert kind_of(Admission(method), account) == kind
    assert type(ask(method, account)) is exchange
    assert type(ask(method, None, account)) is exchange, "a stranger is asked something else"


def test_trust_asks_nothing_whatever_is_stored() -> None:
    for account in (Account(SCRAM), Account("", pam="x"), Account("jwt-pkey-fpath:/k")):
        assert ask("trust", account).done  # type: ignore[attr-defined]


def test_a_stranger_is_refused_although_the_judge_says_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pam, "check_password", lambda *arguments: asked.append(arguments))
    known, stranger = ask("pam", Account()), ask("pam", None, Account())
    assert settle(known.feed(b"secret\0")) == b""  # type: ignore[attr-defined]
    with pytest.raises(ClientFault) as refused:
        settle(stranger.feed(b"secret\0"))  # type: ignore[attr-defined]
    assert refused.value.sqlstate == "28P01" and "no such user" in (refused.value.for_log or "")
    assert asked == [("postgresql", "ann", b"secret", "127.0.0.1")] * 2


def test_a_host_without_a_name_keeps_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pam, "check_password", lambda *arguments: asked.append(arguments[-1]))

    def fail(*arguments: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getnameinfo", fail)
    settle(ask("pam", Account(), pam_use_hostname="1").feed(b"secret\0"))  # type: ignore[attr-defined]
    assert asked == ["127.0.0.1"]


def test_strangers_are_spread_over_the_accounts() -> None:
    accounts = ["a", "b", "c", "c"]
    seen = [resemble(f"user{n}", accounts) for n in range(400)]
    assert {name: 50 < seen.count(name) < 300 for name in "abc"} == dict.fromkeys("abc", True)
    assert seen == [resemble(f"user{n}", accounts) for n in range(400)]
    assert resemble("anybody", []) is None


def test_a_mock_looks_like_its_model() -> None:
    model = parse_verifier("SCRAM-SHA-256$12345:" + "QUFBQUFBQUFBQUFBQUFBQUFBQUE=" + SCRAM[SCRAM.rindex("$") :])
    assert model is not None
    mock = mock_verifier("nobody", model)
    assert (mock.iterations, len(mock.salt)) == (model.iterations, len(model.salt))
    assert mock.salt != model.salt and mock == mock_verifier("nobody", model)


def test_what_strangers_look_like_is_made_up_of_the_kinds_that_were_found() -> None:
    kinds = KindsFound()
    assert kinds.password_for("bob") == ""
    stored = md5_hash("secret", "ann")
    for _ in range(2):
        kinds.note(stored)
    made_up = kinds.password_for("bob")
    assert is_md5_hash(made_up) and made_up != stored and kinds.password_for("eve") == made_up
    verifier = ScramVerifier(15_000, b64encode(bytes(20)).decode(), bytes(32), bytes(32))
    kinds.note(format_verifier(verifier))
    kinds.note("in clear")
    seen = {kinds.password_for(f"user {number}") for number in range(100)}
    assert len(seen) == 3 and "in clear" not in seen
    [shown] = [found for text in seen if (found := parse_verifier(text)) is not None]
    assert (shown.iterations, len(b64decode(shown.salt))) == (15_000, 20)
    assert shown.stored_key != verifier.stored_key and shown.salt != verifier.salt


def test_verifiers_of_many_kinds_take_no_more_memory_than_some() -> None:
    kinds = KindsFound()
    for iterations in range(1, 100):
        kinds.note(
            f"SCRAM-SHA-256${iterations}:c2FsdA==${b64encode(bytes(32)).decode()}:{b64encode(bytes(32)).decode()}"
        )
    kinds.note("SCRAM-SHA-256$broken")
    assert len({kinds.password_for(f"user {number}") for number in range(1000)}) == MOST_KINDS
