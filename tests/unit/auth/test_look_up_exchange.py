"""The login of a user who has to be looked up, with a directory that changes under it."""

from __future__ import annotations

import asyncio

import pytest

from doorman.auth.auth_query import Found
from doorman.auth.exchange import Answer, ClientExchange, Wait, choose_exchange
from doorman.auth.look_up_exchange import LookUpExchange
from doorman.auth.md5 import md5_answer, md5_hash
from doorman.auth.scram import ScramClient
from doorman.auth.verifier import format_verifier, verifier_of_password
from doorman.errors import ClientFault, ServerFault
from doorman.wire import frontend

SCRAM = format_verifier(verifier_of_password("ann", "secret"))
OTHER_SCRAM = format_verifier(verifier_of_password("ann", "new"))

DECOY = Found(password="md5" + "0" * 32, is_decoy=True)


class Directory:
    """What PostgreSQL says, and what was asked."""

    def __init__(self, *passwords: str | None, method: str | None = None) -> None:
        self.passwords = list(passwords)
        self.asked: list[str] = []
        self.reported: list[str] = []
        self.entered: list[str] = []
        self.method = method

    async def ask(self, failed: str) -> Found | None:
        self.asked.append(failed)
        password = self.passwords.pop(0) if len(self.passwords) > 1 else self.passwords[0]
        return DECOY if password is None else Found(password=password)

    def choose(self, found: Found | None) -> ClientExchange:
        stored, model = (
            (None, found.password) if found and found.is_decoy else (found.password if found else None, None)
        )
        return choose_exchange(self.method, "ann", stored, model=model)

    async def enter(self, found: Found) -> None:
        self.entered.append(found.password)

    def exchange(self) -> LookUpExchange:
        return LookUpExchange(
            "ann", ask=self.ask, report=self.reported.append, choose=self.choose, enter=self.enter, seconds=1,
            late=ServerFault("58000", "late"),
        )  # fmt: skip


def settle(answer: Answer) -> bytes:
    """What a login does with an answer."""

    async def wait(wait: Wait) -> bytes:
        outcome = await wait.work()
        return await wait_again(outcome)

    async def wait_again(outcome: Answer) -> bytes:
        return await wait(outcome) if isinstance(outcome, Wait) else outcome

    return asyncio.run(wait_again(answer))


def prove(exchange: LookUpExchange, password: str) -> None:
    """A client's side, whatever it is asked for."""
    asked = settle(exchange.start())
    if exchange.done:
        return
    code = int.from_bytes(asked[5:9], "big")
    if code == 5:
        settle(exchange.feed(frontend.password(md5_answer(md5_hash(password, "ann"), asked[9:13]))[5:]))
    elif code == 3:
        settle(exchange.feed(frontend.password(password)[5:]))
    else:
        client = ScramClient(password=password)
        answer = settle(exchange.feed(frontend.sasl_initial(client.mechanism, client.first())[5:]))
        final = settle(exchange.feed(frontend.sasl_response(client.final(answer[9:]))[5:]))
        client.finish(final[9:])


@pytest.mark.parametrize("stored", [SCRAM, md5_hash("secret", "ann"), "secret"])
@pytest.mark.parametrize("method", [None, "password", "trust"])
def test_a_user_who_is_found_enters(stored: str, method: str | None) -> None:
    directory = Directory(stored, method=method)
    exchange = directory.exchange()
    prove(exchange, "secret")
    assert exchange.done and directory.entered == [stored] and directory.asked == [""]
    assert (exchange.client_key is not None) == (stored == SCRAM and method != "trust")


@pytest.mark.parametrize("method", [None, "md5", "password", "trust", "scram-sha-256"])
def test_a_stranger_is_refused(method: str | None) -> None:
    directory = Directory(None, method=method)
    exchange = directory.exchange()
    with pytest.raises(ClientFault, match='password authentication failed for user "ann"'):
        prove(exchange, "secret")
    waited = method in (None, "md5", "password")  # the decoy is asked for MD5 without a method
    assert directory.asked == (["", "nobody"] if waited else [""])
    assert directory.entered == [] and directory.reported == []


@pytest.mark.parametrize("method", [None, "md5", "password"])
def test_a_stranger_who_is_there_by_now_gets_in(method: str | None) -> None:
    directory = Directory(None, md5_hash("secret", "ann"), method=method)
    exchange = directory.exchange()
    prove(exchange, "secret")
    assert exchange.done and directory.entered == [md5_hash("secret", "ann")]


def test_a_name_that_nobody_can_have_is_refused_at_once() -> None:
    directory = Directory(None)

    async def nobody(failed: str) -> None:
        directory.asked.append(failed)

    directory.ask = nobody  # type: ignore[method-assign]
    with pytest.raises(ClientFault, match='password authentication failed for user "ann"'):
        prove(directory.exchange(), "secret")
    assert directory.asked == [""]


@pytest.mark.parametrize("stored", [SCRAM, md5_hash("secret", "ann")])
@pytest.mark.parametrize("method", [None, "password"])
def test_a_wrong_password_is_refused_and_the_user_looked_up_again(stored: str, method: str | None) -> None:
    directory = Directory(stored, method=method)
    exchange = directory.exchange()
    with pytest.raises(ClientFault, match="password authentication failed"):
        prove(exchange, "wrong")
    mark = Found(password=stored).mark
    waited = not (stored == SCRAM and method is None)
    assert directory.asked == (["", mark] if waited else [""])
    assert directory.reported == ([] if waited else [mark])


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        (None, md5_hash("secret", "ann"), md5_hash("new", "ann")),
        ("md5", md5_hash("secret", "ann"), md5_hash("new", "ann")),
        ("password", SCRAM, OTHER_SCRAM),
        ("password", md5_hash("secret", "ann"), OTHER_SCRAM),
        ("password", "secret", "new"),
    ],
)
def test_a_changed_password_is_judged_anew(method: str | None, before: str, after: str) -> None:
    directory = Directory(before, after, method=method)
    exchange = directory.exchange()
    prove(exchange, "new")
    assert exchange.done and directory.entered == [after]
    assert (exchange.client_key is not None) == after.startswith("SCRAM")


def test_a_password_that_was_changed_to_another_kind_helps_the_next_login_only() -> None:
    directory = Directory(md5_hash("secret", "ann"), OTHER_SCRAM)
    with pytest.raises(ClientFault, match="password authentication failed"):
        prove(directory.exchange(), "new")
    prove(directory.exchange(), "new")
    assert directory.entered == [OTHER_SCRAM]


def test_a_second_lie_is_no_better_than_the_first() -> None:
    directory = Directory(md5_hash("secret", "ann"), md5_hash("new", "ann"))
    with pytest.raises(ClientFault, match="password authentication failed"):
        prove(directory.exchange(), "wrong")
    assert directory.entered == []


def test_whoever_cannot_be_looked_up_is_told_so() -> None:
    directory = Directory("secret")

    async def fail(failed: str) -> Found | None:
        raise ServerFault("58000", "unavailable")

    directory.ask = fail  # type: ignore[method-assign]
    with pytest.raises(ServerFault, match="unavailable"):
        prove(directory.exchange(), "secret")
