"""SCRAM and its packets under arbitrary bytes: a client's, towards our exchange, and a server's, towards our login.

The first byte of an input chooses the role, the rest are messages, each with a length of two bytes before it. `{n}` in
a message stands for the nonce of the other side, so that the bytes behind it are looked at, too.

Rules: only `PeerFault`s come out; nobody is logged in without the proof; what is answered is a whole message.
"""

from __future__ import annotations

from hashlib import sha256

from doorman.auth.digest import hmac_sha256
from doorman.auth.exchange import ScramExchange, Wait
from doorman.auth.md5 import md5_hash
from doorman.auth.scram import ScramClient
from doorman.auth.server_login import Credentials, ServerLogin
from doorman.auth.verifier import ScramVerifier, parse_verifier
from doorman.errors import PeerFault
from doorman.wire.startup import parse_startup_packet, startup_length

CLIENT_KEY = sha256(b"key").digest()
VERIFIER = ScramVerifier(4096, "c2FsdHNhbHRzYWx0c2FsdA==", sha256(CLIENT_KEY).digest(), hmac_sha256(b"s", b"k"))
ROLES = 6


def play(data: bytes) -> None:
    """One input."""
    role, messages = (data[0] % ROLES if data else 0), split(data[1:])
    try:
        if role < 2:
            be_a_client(messages, binding=b"end point" if role else None)
        elif role == 2:
            open_a_session(data[1:])
        elif role == 3:
            assert parse_verifier(data[1:].decode("latin-1")) is None or data[1:].startswith(b"SCRAM-SHA-256$")
        else:
            be_a_server(data[1:], knows_key=role == 5)
    except PeerFault as fault:
        assert len(fault.sqlstate) == 5, fault


def split(data: bytes) -> list[bytes]:
    """The messages of an input."""
    messages = []
    while len(data) >= 2:
        length = int.from_bytes(data[:2], "big") % 512
        messages.append(data[2 : 2 + length])
        data = data[2 + length :]
    return messages


def be_a_client(messages: list[bytes], binding: bytes | None) -> None:
    """Messages go to the exchange; it must not be done, for nobody knows the key."""
    exchange = ScramExchange("ann", VERIFIER, keeps_key=True, binding=binding)
    answer = exchange.start()
    for body in messages:
        nonce = answer[9:].partition(b",")[0].removeprefix(b"r=")
        answer = exchange.feed(body.replace(b"{n}", nonce))
        assert not isinstance(answer, Wait) and int.from_bytes(answer[1:5], "big") == len(answer) - 1
        assert not exchange.done and exchange.client_key is None, "logged in without a proof"


def open_a_session(packet: bytes) -> None:
    """A first packet."""
    length = startup_length(packet)
    if 0 < length <= len(packet):
        parse_startup_packet(packet[:length])


def be_a_server(data: bytes, *, knows_key: bool) -> None:
    """What a server says, in two pieces; it cannot know the key, so no SCRAM login of ours ends well."""
    key = (
        Credentials(client_key=CLIENT_KEY, verifier=VERIFIER)
        if knows_key
        else Credentials(md5_hash=md5_hash("x", "ann"))
    )
    login = ServerLogin("ann", key, "db", {}, encrypted_or_local=True, rng=lambda count: b"n" * count)
    login.start()
    middle = len(data) // 2
    for piece in (data[:middle], data[middle:]):
        if piece and not login.done:
            login.feed(piece.replace(b"{n}", ScramClient(client_key=CLIENT_KEY).first(lambda count: b"n" * count)[8:]))
