"""A client's login as an object that takes `p` messages and answers bytes. The relay drives it, one per login.

Rules:
1. `start` gives what is sent first. Then each `p` body goes to `feed`, until `done`. AuthenticationOk is the caller's.
2. A refusal is a raised `ClientFault`; the exchange is over then, and a body after the end is a `ProtocolViolation`.
3. Wrong password, no password and unknown user end alike: same messages, same work, same text (28P01).
4. What must wait for somebody else (a directory, PAM, a look-up) is a `Wait` in the place of bytes; nothing blocks.
5. `client_key` is set when the client proved a SCRAM verifier that PostgreSQL holds too, so that it opens servers.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

from doorman.auth.blocking import compute_in_thread
from doorman.auth.md5 import SALT_BYTES, is_md5_hash, md5_answer, md5_hash
from doorman.auth.randomness import Random, draw
from doorman.auth.scram import SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramServer, wrong_password
from doorman.auth.verifier import (
    PREFIX,
    ScramVerifier,
    mock_verifier,
    parse_verifier,
    prove_password,
)
from doorman.config.tokens import SIGNER_PREFIX, TOKEN_PREFIXES
from doorman.errors import ClientFault, PeerFault, ProtocolViolation
from doorman.wire.backend import CLEARTEXT_REQUEST, md5_request, sasl_continue, sasl_final, sasl_request
from doorman.wire.codes import SqlState
from doorman.wire.frontend import parse_password, parse_sasl_initial, parse_sasl_response
from doorman.wire.text import encode

Judge = Callable[[bytes], Awaitable[None]]

_SASL_REQUEST: Final = sasl_request([SCRAM_SHA_256])
_SASL_REQUEST_WITH_BINDING: Final = sasl_request([SCRAM_SHA_256_PLUS, SCRAM_SHA_256])
_FILE_REFERENCES: Final = (*TOKEN_PREFIXES, SIGNER_PREFIX)
"""Stored "passwords" that name a key (spec: JWT). Knowing the file's name must never log anybody in."""
DERIVATION_SECONDS: Final = 30.0
"""For a key derivation of `MAX_ITERATIONS` on a machine that is busy with others."""
_INITIAL, _FIRST, _FINAL, _OVER = 0, 1, 2, 3
"""Which message `ScramExchange` is to get next."""


class Wait(NamedTuple):
    """Work that the exchange waits for: what `work()` comes to is the answer, as if `start` or `feed` had given it.

    It runs on the worker's event loop; it is cancelled when the client goes or after `seconds`, which is the fault
    `late`. A `PeerFault` that it raises refuses the client.
    """

    work: Callable[[], Awaitable[Answer]]
    seconds: float
    late: PeerFault


Answer: TypeAlias = bytes | Wait


class ClientExchange(Protocol):
    """One login. `client_key` is meaningful once `done`."""

    @property
    def done(self) -> bool: ...

    @property
    def client_key(self) -> bytes | None: ...

    def start(self) -> Answer:
        """What to send to the client first; may be empty."""

    def feed(self, body: bytes) -> Answer:
        """What to send for the body of a `p` message. Raises `ClientFault` to refuse."""


class TrustExchange:
    """No question asked."""

    __slots__ = ()
    done: Final = True
    client_key: Final[bytes | None] = None

    def again(self) -> TrustExchange:
        """For the next client."""
        return self

    def start(self) -> bytes:
        return b""

    def feed(self, body: bytes) -> bytes:
        raise _after_the_end()


class CleartextExchange:
    """Password in clear, judged by a coroutine that raises the refusal, or returns."""

    __slots__ = ("_is_over", "_judge", "_late", "_seconds", "client_key", "done")

    def __init__(self, judge: Judge, seconds: float, late: PeerFault) -> None:
        self.client_key: bytes | None = None
        self._judge = judge
        self._seconds = seconds
        self._late = late
        self._is_over = False
        self.done = False

    def start(self) -> bytes:
        return CLEARTEXT_REQUEST

    def feed(self, body: bytes) -> Wait:
        if self._is_over:
            raise _after_the_end()
        self._is_over = True
        password = parse_password(body)
        return Wait(lambda: self._ask(password), self._seconds, self._late)

    async def _ask(self, password: bytes) -> bytes:
        await self._judge(password)
        self.done = True
        return b""


class Md5Exchange:
    """Challenge and answer over a stored `md5…` hash; `None` refuses every answer."""

    __slots__ = ("_is_over", "_salt", "_stored", "_user", "done")
    client_key: Final[bytes | None] = None

    def __init__(self, user: str, stored: str | None, rng: Random | None = None) -> None:
        self._user = user
        self._stored = stored
        self._salt = draw(rng, SALT_BYTES)
        self._is_over = False
        self.done = False

    def again(self, stored: str) -> Md5Exchange:
        """The same challenge against another hash: for an answer that has come already."""
        return Md5Exchange(self._user, stored, lambda _: self._salt)

    def start(self) -> bytes:
        return md5_request(self._salt)

    def feed(self, body: bytes) -> bytes:
        if self._is_over:
            raise _after_the_end()
        self._is_over = True
        answer = parse_password(body)
        expected = md5_answer(self._stored or md5_hash(b"", self._user), self._salt)
        if not hmac.compare_digest(answer, expected.encode("ascii")) or self._stored is None:
            raise wrong_password(self._user)
        self.done = True
        return b""


class ScramExchange:
    """SASL around `ScramServer`: SASLInitialResponse, then SASLResponse (manual, "SASL Authentication")."""

    __slots__ = ("_binding", "_is_plus", "_keeps_key", "_rng", "_scram", "_step", "client_key", "done")

    def __init__(
        self,
        user: str,
        verifier: ScramVerifier | None,
        *,
        keeps_key: bool = False,
        binding: bytes | None = None,
        model: ScramVerifier | None = None,
        password: str | None = None,
        rng: Random | None = None,
    ) -> None:
        """`verifier` and `password` None refuse at the end, after an exchange that looks like one with `model`."""
        is_doomed = verifier is None and password is None
        shown = verifier or mock_verifier(user, None if password is not None else model)
        self._begin(ScramServer(user, shown, is_doomed, binding, password), keeps_key, binding, rng)

    def _begin(self, scram: ScramServer, keeps_key: bool, binding: bytes | None, rng: Random | None) -> None:
        self._scram = scram
        self._keeps_key = keeps_key
        self._binding = binding
        self._rng = rng
        self._is_plus = False
        self._step = _INITIAL
        self.client_key: bytes | None = None
        self.done = False

    def again(self) -> ScramExchange:
        """The same for the next client."""
        new = ScramExchange.__new__(ScramExchange)
        new._begin(self._scram.again(), self._keeps_key, self._binding, self._rng)
        return new

    def start(self) -> bytes:
        return _SASL_REQUEST if self._binding is None else _SASL_REQUEST_WITH_BINDING

    def feed(self, body: bytes) -> bytes:
        step, self._step = self._step, _OVER
        if step == _INITIAL:
            return self._on_initial(body)
        if step == _FIRST:
            return self._on_first(body)
        if step == _FINAL:
            return self._on_final(body)
        raise _after_the_end()

    def _on_initial(self, body: bytes) -> bytes:
        mechanism, data = parse_sasl_initial(body)
        self._is_plus = self._binding is not None and mechanism == SCRAM_SHA_256_PLUS
        if not self._is_plus and mechanism != SCRAM_SHA_256:
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        self._step = _FIRST
        # Without an initial response an empty challenge asks for it (RFC 4422 section 3.3).
        return sasl_continue(b"") if data is None else self._on_first(data)

    def _on_first(self, body: bytes) -> bytes:
        answer = self._scram.first(parse_sasl_response(body), self._is_plus, self._rng)
        self._step = _FINAL
        return sasl_continue(answer)

    def _on_final(self, body: bytes) -> bytes:
        answer = self._scram.final(parse_sasl_response(body))
        if self._keeps_key:
            self.client_key = self._scram.client_key
        self.done = True
        return sasl_final(answer)


TRUSTED: Final = TrustExchange()


def choose_exchange(
    method: str | None,
    user: str,
    stored_password: str | None,
    rng: Random | None = None,
    *,
    binding: bytes | None = None,
    model: str | None = None,
) -> ClientExchange:
    """The exchange that an HBA method and a stored password ask for.

    `method`: `trust`, `md5`, `scram-sha-256`, `password`, `reject`, or `None` to go by the stored password's kind.
    `stored_password`: an md5 hash, a SCRAM verifier or a password; `""` has none and `None` is an unknown user: both
    are asked like others and refused, a stranger like somebody with the stored password `model`. `binding` is the
    certificate's end-point hash for a TLS client: offers PLUS.
    """
    if method == "trust":
        return TRUSTED
    choose = _CHOOSERS.get(method)
    if choose is None:
        raise ClientFault(
            SqlState.INVALID_AUTHORIZATION, f'connection of user "{user}" is not permitted by HBA configuration'
        )
    stored = _without_reference(stored_password)
    return choose(Asked(user, stored, stored or _without_reference(model), rng, binding))


class Asked(NamedTuple):
    """What a chooser goes by: `stored` is "" for whoever cannot get in; `shown` is what to look like."""

    user: str
    stored: str
    shown: str
    rng: Random | None
    binding: bytes | None

    def __repr__(self) -> str:
        return f"Asked({self.user!r}, …)"


def _without_reference(stored: str | None) -> str:
    return "" if stored is None or stored.startswith(_FILE_REFERENCES) else stored


def _by_stored_password(asked: Asked) -> ClientExchange:
    if is_md5_hash(asked.shown):
        return Md5Exchange(asked.user, asked.stored or None, asked.rng)
    return _scram(asked)


def _md5(asked: Asked) -> ClientExchange:
    """PostgreSQL's upgrade path: a user with a SCRAM verifier gets SCRAM under `md5` rules."""
    if asked.shown.startswith(PREFIX):
        return _scram(asked)
    if not asked.stored:
        return Md5Exchange(asked.user, None, asked.rng)
    stored = asked.stored if is_md5_hash(asked.stored) else md5_hash(asked.stored, asked.user)
    return Md5Exchange(asked.user, stored, asked.rng)


def _scram(asked: Asked) -> ClientExchange:
    """A client key proved against a verifier of our own making fits no server, so only a stored one is kept."""
    user, stored = asked.user, asked.stored
    if stored.startswith(PREFIX):
        return ScramExchange(user, parse_verifier(stored), keeps_key=True, binding=asked.binding, rng=asked.rng)
    is_usable = stored and not is_md5_hash(stored)
    model = parse_verifier(asked.shown) if asked.shown.startswith(PREFIX) else None
    password = stored if is_usable else None
    return ScramExchange(user, None, binding=asked.binding, model=model, password=password, rng=asked.rng)


def _cleartext(asked: Asked) -> ClientExchange:
    async def judge(password: bytes) -> None:
        is_right, exchange.client_key = await compute_in_thread(judge_password, asked, password)
        if not is_right:
            raise wrong_password(asked.user)

    exchange = CleartextExchange(judge, DERIVATION_SECONDS, wrong_password(asked.user))
    return exchange


def judge_password(asked: Asked, password: bytes) -> tuple[bool, bytes | None]:
    """Whether a password in clear is what is stored, and the ClientKey where that is a SCRAM verifier.

    Costs a key derivation whatever is stored: time tells nothing.
    """
    user, stored = asked.user, asked.stored
    model = parse_verifier(asked.shown) if asked.shown.startswith(PREFIX) else None
    verifier = model if stored else None
    client_key = prove_password(verifier or mock_verifier(user, model), password)
    if is_md5_hash(stored):
        return hmac.compare_digest(md5_hash(password, user), stored), None
    if stored and not stored.startswith(PREFIX):
        return hmac.compare_digest(password, encode(stored)), None
    return client_key is not None, client_key


def _after_the_end() -> ProtocolViolation:
    return ProtocolViolation("unexpected password message after authentication")


_CHOOSERS: Final[dict[str | None, Callable[[Asked], ClientExchange]]] = {
    None: _by_stored_password,
    "md5": _md5,
    "scram-sha-256": _scram,
    "password": _cleartext,
}
