"""A client's login, driven as the relay does: `p` messages cut out of a stream, answers sent back."""

from __future__ import annotations

import asyncio
import gc
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.auth.exchange import TRUSTED, CleartextExchange, ClientExchange, ScramExchange, choose_exchange
from doorman.auth.md5 import md5_hash
from doorman.auth.server_login import Credentials, ServerLogin
from doorman.auth.verifier import format_verifier, verifier_of_password
from doorman.errors import ClientFault, ProtocolViolation, ServerFault
from doorman.wire import backend, frontend
from tests.unit.auth.chopping import Chop, each_way, whole
from tests.unit.auth.waiting import settle

USER, PASSWORD = "app", "sécret"
MD5 = md5_hash(PASSWORD, USER)
SCRAM = format_verifier(verifier_of_password(USER, PASSWORD))
WRONG = ("28P01", 'password authentication failed for user "app"')


class Peer:
    """The relay's part: keeps what is incomplete, feeds whole bodies, hands back what the exchange says."""

    def __init__(self, exchange: ClientExchange) -> None:
        self.exchange = exchange
        self.unread = b""

    def receive(self, data: bytes) -> bytes:
        self.unread += data
        size = frontend.auth_message_length(self.unread)
        if self.exchange.done or not size or len(self.unread) < size:
            return b""
        body, self.unread = self.unread[5:size], self.unread[size:]
        return settle(self.exchange.feed(body))


def log_in(
    exchange: ClientExchange, password: str = PASSWORD, chop: Chop = whole, *, binding: bytes | None = None
) -> Peer:
    """Join `exchange` with our own client side (`ServerLogin`), both streams chopped."""
    client = ServerLogin(USER, Credentials(password=password), "db", {}, encrypted_or_local=True, binding=binding)
    client.start()
    peer = Peer(exchange)
    to_client = settle(exchange.start())
    while to_client:
        to_exchange = b"".join(client.feed(piece) for piece in chop(to_client))
        to_client = b"".join([peer.receive(piece) for piece in chop(to_exchange)])
    assert exchange.done
    client.feed(backend.AUTHENTICATION_OK + backend.READY_IDLE)
    return peer


WAYS = [
    (None, MD5), (None, SCRAM), (None, PASSWORD),
    ("md5", MD5), ("md5", SCRAM), ("md5", PASSWORD),
    ("scram-sha-256", SCRAM), ("scram-sha-256", PASSWORD),
    ("password", MD5), ("password", SCRAM), ("password", PASSWORD),
]  # fmt: skip


@each_way
@pytest.mark.parametrize(("method", "stored"), WAYS)
def test_the_right_password_enters(method: str | None, stored: str, chop: Chop) -> None:
    exchange = choose_exchange(method, USER, stored)
    log_in(exchange, chop=chop)
    assert (exchange.client_key is not None) == (stored == SCRAM)


@each_way
@pytest.mark.parametrize(
    ("method", "stored"),
    [*WAYS, ("scram-sha-256", MD5)]
    + [
        (method, stored)
        for method in (None, "md5", "scram-sha-256", "password")
        for stored in (None, "", "SCRAM-SHA-256$x")
    ],
)
def test_a_wrong_password_an_absent_one_and_an_unknown_user_are_refused_alike(
    method: str | None, stored: str | None, chop: Chop
) -> None:
    exchange = choose_exchange(method, USER, stored)
    with pytest.raises(ClientFault) as caught:
        log_in(exchange, "wrong", chop)
    assert (caught.value.sqlstate, caught.value.message) == WRONG
    assert not exchange.done
    assert exchange.client_key is None


def test_an_unknown_users_scram_challenge_looks_real() -> None:
    first = frontend.sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abc")[5:]
    challenges = [choose_exchange(None, USER, stored, bytes).feed(first) for stored in (PASSWORD, None, None)]
    assert challenges[0] == challenges[1] == challenges[2]


@pytest.mark.parametrize("method", [None, "md5", "scram-sha-256", "password"])
def test_the_name_of_a_key_file_is_no_password(method: str | None) -> None:
    reference = "jwt-pkey-fpath:/etc/key.pem"
    with pytest.raises(ClientFault) as caught:
        log_in(choose_exchange(method, USER, reference), reference)
    assert caught.value.sqlstate == "28P01"


def test_md5_is_not_taken_by_a_scram_rule() -> None:
    assert choose_exchange("scram-sha-256", USER, MD5).start() == backend.sasl_request(["SCRAM-SHA-256"])


@pytest.mark.parametrize("stored", [MD5, SCRAM, PASSWORD, "", None])
def test_trust_asks_nothing(stored: str | None) -> None:
    exchange = choose_exchange("trust", USER, stored)
    assert (exchange.start(), exchange.done, exchange.client_key) == (b"", True, None)
    with pytest.raises(ProtocolViolation):
        exchange.feed(b"x\0")


@pytest.mark.parametrize("method", ["reject", "gss"])
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(ClientFault) as caught:
        choose_exchange(method, USER, PASSWORD)
    assert caught.value.sqlstate == "28000"


def test_what_follows_the_last_answer_is_left_alone() -> None:
    exchange = choose_exchange("password", USER, PASSWORD)
    peer = Peer(exchange)
    query = frontend.query("select 1")
    assert peer.receive(frontend.password(PASSWORD) + query) == b""
    assert (exchange.done, peer.unread) == (True, query)


@pytest.mark.parametrize("stored", [MD5, SCRAM, PASSWORD])
def test_an_exchange_is_used_once(stored: str) -> None:
    for exchange in (choose_exchange(None, USER, stored), choose_exchange("password", USER, stored)):
        log_in(exchange)
        with pytest.raises(ProtocolViolation):
            exchange.feed(b"again\0")


@pytest.mark.parametrize("method", ["md5", "password"])
def test_nobody_guesses_twice(method: str) -> None:
    exchange = choose_exchange(method, USER, PASSWORD)
    with pytest.raises(ClientFault, match="password authentication failed"):
        settle(exchange.feed(b"wrong\0"))
    with pytest.raises(ProtocolViolation):
        exchange.feed(PASSWORD.encode() + b"\0")


@each_way
def test_channel_binding_is_offered_and_used(chop: Chop) -> None:
    exchange = choose_exchange(None, USER, SCRAM, binding=b"hash")
    assert exchange.start() == backend.sasl_request(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])
    log_in(exchange, chop=chop, binding=b"hash")


def test_a_client_without_channel_binding_is_served_over_tls() -> None:
    log_in(choose_exchange(None, USER, SCRAM, binding=b"hash"))


def test_a_client_that_sends_no_initial_response_is_asked_for_it() -> None:
    exchange = choose_exchange(None, USER, SCRAM)
    assert exchange.feed(frontend.sasl_initial("SCRAM-SHA-256", None)[5:]) == backend.sasl_continue(b"")
    assert exchange.feed(b"n,,n=,r=abc").startswith(b"R")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "PLAIN"])
def test_mechanisms_that_were_not_offered_are_refused(mechanism: str) -> None:
    with pytest.raises(ProtocolViolation, match="invalid SASL authentication mechanism"):
        choose_exchange(None, USER, SCRAM).feed(frontend.sasl_initial(mechanism, b"")[5:])


def test_a_judge_may_wait_and_then_refuse_or_not() -> None:
    async def judge(password: bytes) -> None:
        await asyncio.sleep(0.001)
        if password != b"token":
            raise ClientFault("28P01", "no")

    def exchange() -> CleartextExchange:
        return CleartextExchange(judge, 10, ClientFault("28P01", "too late"))

    right, wrong = exchange(), exchange()
    answer = right.feed(b"token\0")
    assert not right.done
    assert (settle(answer), right.done) == (b"", True)
    with pytest.raises(ClientFault, match="no"):
        settle(wrong.feed(b"other\0"))
    assert not wrong.done


def test_an_empty_password_never_enters() -> None:
    for stored in (MD5, SCRAM, PASSWORD, "", None):
        with pytest.raises(ClientFault, match="empty password"):
            choose_exchange("password", USER, stored).feed(b"\0")


@given(st.sampled_from([None, "md5", "scram-sha-256", "password"]), st.sampled_from([MD5, SCRAM, PASSWORD, "", None]),
       st.lists(st.binary(max_size=80), max_size=4))  # fmt: skip
def test_random_bodies_never_raise_anything_but_client_faults(
    method: str | None, stored: str | None, bodies: list[bytes]
) -> None:
    exchange = choose_exchange(method, USER, stored)
    for body in bodies:
        try:
            settle(exchange.feed(body))
        except ClientFault as fault:
            assert len(fault.sqlstate) == 5
    assert not exchange.done


def test_a_server_that_forgets_its_signature_is_refused() -> None:
    exchange = choose_exchange(None, USER, SCRAM)
    client = ServerLogin(USER, Credentials(password=PASSWORD), "db", {}, encrypted_or_local=False)
    answer = exchange.feed(client.feed(exchange.start())[5:])
    exchange.feed(client.feed(answer)[5:])
    with pytest.raises(ServerFault, match="unexpected authentication message 0"):
        client.feed(backend.AUTHENTICATION_OK)


def test_the_trusting_exchange_is_shared() -> None:
    assert choose_exchange("trust", USER, None) is cast(object, TRUSTED)


@pytest.mark.parametrize("stored", [SCRAM, PASSWORD])
@pytest.mark.parametrize("binding", [None, b"end point"])
def test_a_model_begins_as_many_logins_as_are_wanted(stored: str, binding: bytes | None) -> None:
    """None of them knows of another: two at once, one fails, and the model has not moved."""
    model = choose_exchange(None, USER, stored, binding=binding)
    assert isinstance(model, ScramExchange)
    first, second, third = model.again(), model.again(), model.again()
    assert first.start() == model.start()
    with pytest.raises(ClientFault):
        log_in(second, "wrong", binding=binding)
    log_in(first, binding=binding)
    log_in(third, binding=binding)
    assert (first.client_key is not None) == (stored == SCRAM)
    assert first.client_key == third.client_key
    assert second.client_key is None and not model.done


def test_a_stranger_begins_again_as_a_stranger() -> None:
    model = choose_exchange(None, "nobody", None, model=SCRAM)
    assert isinstance(model, ScramExchange)
    for _ in range(2):
        with pytest.raises(ClientFault) as refused:
            log_in(model.again())
        assert refused.value.sqlstate == "28P01"


def test_an_exchange_leaves_nothing_to_the_garbage_collector() -> None:
    """A cycle in each login would have its collections traverse the heap all the time."""
    model = choose_exchange(None, USER, SCRAM)
    assert isinstance(model, ScramExchange)
    log_in(model.again())
    gc.collect()
    gc.disable()
    try:
        exchange = model.again()
        body = b"SCRAM-SHA-256\0\0\0\0\x0fn,,n=,r=nnnnnnnn"
        assert exchange.feed(body[:-1]).startswith(b"R")
        del exchange
        assert gc.collect() == 0
    finally:
        gc.enable()
