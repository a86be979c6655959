"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both roles (RFC 5802, RFC 7677, RFC 5929 tls-server-end-point).

`ScramServer` faces our clients, `ScramClient` faces PostgreSQL. Both see bare SCRAM messages; the caller frames them.

Rules:
1. A message that breaks the grammar is `ProtocolViolation` from a client, `ServerFault` 08P01 from a server.
2. Secrets are compared in constant time, after the lengths were checked.
3. The server side answers the same messages with the same work whether or not the user exists.
4. The client side is not finished until the server has proved that it knows the password too.
"""

from __future__ import annotations

from typing import Final

from doorman.auth.digest import base64, hmac_sha256, is_equal, sha256, xor
from doorman.auth.randomness import Random, draw
from doorman.auth.verifier import (
    KEY_BYTES,
    MAX_ITERATIONS,
    ScramKeys,
    ScramVerifier,
    decode_base64,
    derive_keys,
    verifier_of_password,
)
from doorman.errors import ClientFault, ProtocolViolation, ServerFault
from doorman.wire.codes import SqlState
from doorman.wire.packing import is_nonce, joined, part, place_of, rest_from
from doorman.wire.text import encode

SCRAM_SHA_256: Final = "SCRAM-SHA-256"
SCRAM_SHA_256_PLUS: Final = "SCRAM-SHA-256-PLUS"
NONCE_BYTES: Final = 18
"""Random bytes in a nonce, as PostgreSQL's SCRAM_RAW_NONCE_LEN; 24 characters of base64."""
MAX_MESSAGE_BYTES: Final = 4096
"""Longest SCRAM message taken from either side. PostgreSQL's own have about 100 bytes."""
MAX_NONCE_BYTES: Final = 1024

_END_POINT: Final = b"p=tls-server-end-point"

# What libpq and most drivers say: no binding, no name, no extensions. It is read at a glance.
_USUAL_GS2: Final = b"n,,"
_USUAL_FIRST: Final = b"n,,n=,r="
_USUAL_HEADER: Final = 3
_USUAL_START: Final = len(_USUAL_FIRST)
_COMMA: Final = ord(",")
_USUAL_BINDING: Final = b"c=biws,r="
_PROOF_CHARS: Final = 44


class ScramServer:
    """One client's exchange: `first`, then `final`. `is_doomed` refuses at the end, whatever the proof says.

    `binding` is the tls-server-end-point hash of our certificate when the client came by TLS and was offered PLUS.
    `password`: what `verifier` has only salt and iterations of (`mock_verifier`). Its keys are derived when they are
    asked for: a challenge costs the same for those who are known and for strangers, who cost no derivation at all.
    """

    __slots__ = (
        "_binding",
        "_client_first_bare",
        "_gs2_header",
        "_is_doomed",
        "_nonce",
        "_password",
        "_server_first",
        "_user",
        "_verifier",
        "client_key",
    )

    def __init__(
        self,
        user: str,
        verifier: ScramVerifier,
        is_doomed: bool = False,
        binding: bytes | None = None,
        password: str | None = None,
    ) -> None:
        self._user = user
        self._verifier = verifier
        self._is_doomed = is_doomed
        self._binding = binding
        self._password = password
        self._gs2_header = self._client_first_bare = self._server_first = self._nonce = b""
        self.client_key: bytes | None = None

    def again(self) -> ScramServer:
        """For the next client, which has said nothing yet."""
        return ScramServer(self._user, self._verifier, self._is_doomed, self._binding, self._password)

    def first(self, data: bytes, is_plus: bool, rng: Random | None = None) -> bytes:
        """server-first-message for a client-first-message."""
        is_usual = not is_plus and self._binding is None and data.startswith(_USUAL_FIRST)
        if is_usual and place_of(data, _COMMA, _USUAL_START) < 0:
            bare, client_nonce = rest_from(data, _USUAL_HEADER), rest_from(data, _USUAL_START)
            _check_nonce(client_nonce)
        else:
            bare = self._read_first(data, is_plus)
            client_nonce = _client_nonce(bare)
        self._gs2_header = part(data, 0, len(data) - len(bare))
        self._client_first_bare = bare
        self._nonce = joined(client_nonce, base64(draw(rng, NONCE_BYTES)))
        self._server_first = joined(b"r=", self._nonce, self._verifier.announcement)
        return self._server_first

    def _read_first(self, data: bytes, is_plus: bool) -> bytes:
        """The client-first-message-bare of a message that may have a binding, a name, an identity."""
        _check_message(data)
        flag, authzid, bare = _split_client_first(data)
        self._check_binding_flag(flag, is_plus)
        if authzid and authzid != _as_saslname(self._user):
            raise ClientFault(
                SqlState.FEATURE_NOT_SUPPORTED, "client uses authorization identity, but it is not supported"
            )
        return bare

    def final(self, data: bytes) -> bytes:
        """server-final-message for a client-final-message. `ClientFault` 28P01 for a wrong proof."""
        _check_message(data)
        at = len(data) - _PROOF_CHARS
        without_proof = joined(_USUAL_BINDING, self._nonce)
        is_usual = at > 0 and self._gs2_header == _USUAL_GS2
        is_usual = is_usual and is_equal(part(data, 0, at), joined(without_proof, b",p="))
        proof = decode_base64(rest_from(data, at)) if is_usual else None
        if proof is None or len(proof) != KEY_BYTES:
            without_proof, proof = self._read_final(data)
        message = joined(self._client_first_bare, b",", self._server_first, b",", without_proof)
        if self._password is not None:
            self._verifier = verifier_of_password(self._user, self._password)
        self._check_proof(message, proof)
        return joined(b"v=", base64(hmac_sha256(self._verifier.server_key, message)))

    def _read_final(self, data: bytes) -> tuple[bytes, bytes]:
        """client-final-message-without-proof, and the proof, of a message that may have a binding and extensions."""
        without_proof, _, proof_text = data.partition(b",p=")
        proof = decode_base64(proof_text)
        fields = without_proof.split(b",")
        if proof is None or len(proof) != KEY_BYTES or len(fields) < 2 or not fields[1].startswith(b"r="):
            raise _malformed("Malformed client-final-message.")
        self._check_binding(fields[0])
        if not is_equal(fields[1][2:], self._nonce):
            raise ProtocolViolation("invalid SCRAM response", detail="Nonce does not match.")
        return without_proof, proof

    def _check_binding_flag(self, flag: bytes, is_plus: bool) -> None:
        """Flag against mechanism (RFC 5802 section 6): "y" from a client that was offered PLUS is a downgrade."""
        if is_plus and flag[:1] != b"p":
            raise _malformed("The client selected SCRAM-SHA-256-PLUS, but sent no channel binding data.")
        if is_plus and flag != _END_POINT:
            raise ProtocolViolation("unsupported SCRAM channel-binding type")
        if not is_plus and flag[:1] == b"p":
            raise _malformed("The client selected SCRAM-SHA-256 and sent channel binding data.")
        if flag == b"y" and self._binding is not None:
            raise ClientFault(
                SqlState.INVALID_AUTHORIZATION,
                "SCRAM channel binding negotiation error",
                detail="The client supports SCRAM channel binding but thinks the server does not.",
            )

    def _check_binding(self, field: bytes) -> None:
        """`c=` must repeat the GS2 header, and with PLUS the end point that the client sees must be ours."""
        expected = self._gs2_header
        if expected[:1] == b"p":
            expected += self._binding or b""
        if not is_equal(field, b"c=" + base64(expected)):
            if expected[:1] == b"p":
                raise ClientFault(SqlState.INVALID_AUTHORIZATION, "SCRAM channel binding check failed")
            raise ProtocolViolation("unexpected SCRAM channel-binding attribute in client-final-message")

    def _check_proof(self, message: bytes, proof: bytes) -> None:
        client_key = xor(proof, hmac_sha256(self._verifier.stored_key, message))
        is_right = is_equal(sha256(client_key), self._verifier.stored_key)
        if not is_right or self._is_doomed:
            raise wrong_password(self._user)
        self.client_key = client_key


class ScramClient:
    """Our exchange with a server: `first`, `final`, `finish`. Give `password`, or a `client_key`.

    With the `verifier` that a `client_key` belongs to, the server's verifier and its signature are checked too.
    `binding` is the tls-server-end-point hash of the server's certificate: with it the mechanism is PLUS.
    """

    __slots__ = (
        "_binding",
        "_client_key",
        "_first_bare",
        "_gs2_header",
        "_message",
        "_nonce",
        "_password",
        "_server_key",
        "_verifier",
        "is_finished",
        "mechanism",
    )

    def __init__(
        self,
        password: str | None = None,
        client_key: bytes | None = None,
        verifier: ScramVerifier | None = None,
        binding: bytes | None = None,
        could_bind: bool = False,
    ) -> None:
        self._password = password
        self._client_key = client_key
        self._verifier = verifier
        self._server_key: bytes | None = None
        self._binding = binding or b""
        self.mechanism = SCRAM_SHA_256 if binding is None else SCRAM_SHA_256_PLUS
        self._gs2_header = b"n,," if not could_bind else b"y,,"
        if binding is not None:
            self._gs2_header = _END_POINT + b",,"
        self._nonce = self._first_bare = self._message = b""
        self.is_finished = False

    def first(self, rng: Random | None = None) -> bytes:
        """client-first-message. The name is empty, as libpq's: PostgreSQL knows it from the StartupMessage."""
        self._nonce = base64(draw(rng, NONCE_BYTES))
        self._first_bare = joined(b"n=,r=", self._nonce)
        return joined(self._gs2_header, self._first_bare)

    def final(self, server_first: bytes) -> bytes:
        """client-final-message for a server-first-message."""
        nonce = self._expected_nonce(server_first)
        if nonce is not None:
            assert self._verifier is not None and self._client_key is not None
            client_key, stored_key = self._client_key, self._verifier.stored_key
            self._server_key = self._verifier.server_key
        else:
            nonce, salt, iterations = _parse_server_first(server_first)
            keys = self._keys(salt, iterations)
            client_key, stored_key = keys.client_key, sha256(keys.client_key)
            self._server_key = keys.server_key or None
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise _server_fault("SCRAM nonce from server does not extend ours")
        without_proof = joined(b"c=", base64(joined(self._gs2_header, self._binding)), b",r=", nonce)
        self._message = joined(self._first_bare, b",", server_first, b",", without_proof)
        return joined(without_proof, b",p=", base64(xor(client_key, hmac_sha256(stored_key, self._message))))

    def _expected_nonce(self, server_first: bytes) -> bytes | None:
        """The nonce of a server-first-message that says of salt and iterations what the verifier of our key has: then
        nothing else of it need be read."""
        known = self._verifier
        if known is None or self._client_key is None or not server_first.endswith(known.announcement):
            return None
        end = len(server_first) - len(known.announcement)
        if end < 2 or end > MAX_NONCE_BYTES or not server_first.startswith(b"r="):
            return None
        nonce = part(server_first, 2, end)
        return nonce if is_nonce(nonce) else None

    def finish(self, server_final: bytes) -> None:
        """Check the server-final-message: the server knows the password too, or `ServerFault`."""
        expected = None if self._server_key is None else hmac_sha256(self._server_key, self._message)
        if expected is None or not is_equal(server_final, joined(b"v=", base64(expected))):
            self._judge(server_final, expected)
        self.is_finished = True

    @staticmethod
    def _judge(server_final: bytes, expected: bytes | None) -> None:
        """One that is not letter for letter what it should be: what is wrong, if anything."""
        if server_final.startswith(b"e="):
            raise ServerFault(SqlState.INVALID_PASSWORD, "server reported an error in the SCRAM exchange")
        signature = decode_base64(server_final[2:].partition(b",")[0])
        if not server_final.startswith(b"v=") or signature is None or len(signature) != KEY_BYTES:
            raise _server_fault("malformed SCRAM message from server (server-final-message)")
        if expected is not None and not is_equal(signature, expected):
            raise ServerFault(SqlState.INVALID_AUTHORIZATION, "incorrect SCRAM server signature")

    def _keys(self, salt: bytes, iterations: int) -> ScramKeys:
        if self._client_key is not None:
            self._check_verifier(salt, iterations)
            return ScramKeys(self._client_key, self._verifier.server_key if self._verifier else b"")
        return derive_keys(self._password or "", salt, iterations)

    def _check_verifier(self, salt: bytes, iterations: int) -> None:
        """A ClientKey belongs to one verifier; towards another it proves nothing, and PostgreSQL would not say why."""
        known = self._verifier
        if known is not None and (decode_base64(known.salt), known.iterations) != (salt, iterations):
            raise ServerFault(
                SqlState.INVALID_PASSWORD,
                "PostgreSQL has another SCRAM verifier for this role than pg_doorman has for this user "
                "(has the password been changed, or has it expired?)",
            )


def wrong_password(user: str) -> ClientFault:
    """The one answer to wrong passwords, users without one and users that do not exist."""
    return ClientFault(SqlState.INVALID_PASSWORD, f'password authentication failed for user "{user}"')


def _check_message(data: bytes) -> None:
    if not data or len(data) > MAX_MESSAGE_BYTES or 0 in data:
        raise _malformed("The message is empty, too long or contains a NUL byte.")


def _split_client_first(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Channel-binding flag, authorization identity and client-first-message-bare."""
    flag, comma, rest = data.partition(b",")
    authzid, second_comma, bare = rest.partition(b",")
    if not comma or not second_comma or not (flag in (b"n", b"y") or flag.startswith(b"p=")):
        raise _malformed("Malformed GS2 header.")
    if authzid and not authzid.startswith(b"a="):
        raise _malformed("Malformed GS2 header.")
    return flag, authzid[2:], bare


def _client_nonce(bare: bytes) -> bytes:
    """Nonce of a client-first-message-bare; its user name and its optional extensions are ignored."""
    if bare.startswith(b"m="):
        raise ClientFault(SqlState.FEATURE_NOT_SUPPORTED, "client requires an unsupported SCRAM extension")
    fields = bare.split(b",")
    if len(fields) < 2 or not fields[0].startswith(b"n=") or not fields[1].startswith(b"r="):
        raise _malformed("Malformed client-first-message.")
    nonce = fields[1][2:]
    _check_nonce(nonce)
    return nonce


def _check_nonce(nonce: bytes) -> None:
    if not nonce or len(nonce) > MAX_NONCE_BYTES or not is_nonce(nonce):
        raise _malformed("Non-printable characters in SCRAM nonce, or its length is wrong.")


def _as_saslname(user: str) -> bytes:
    """A name as SCRAM writes it (RFC 5802 section 5.1)."""
    return encode(user.replace("=", "=3D").replace(",", "=2C"))


def _parse_server_first(data: bytes) -> tuple[bytes, bytes, int]:
    """Nonce, salt and iteration count of a server-first-message."""
    fields = data.split(b",")
    if len(data) > MAX_MESSAGE_BYTES or len(fields) < 3:
        raise _server_fault("malformed SCRAM message from server (server-first-message)")
    nonce, salt_text, count = fields[:3]
    salt = decode_base64(salt_text[2:])
    if not (nonce.startswith(b"r=") and salt_text.startswith(b"s=") and count.startswith(b"i=") and salt):
        raise _server_fault("malformed SCRAM message from server (server-first-message)")
    if len(nonce) > MAX_NONCE_BYTES or not is_nonce(nonce):
        raise _server_fault("malformed SCRAM message from server (nonce)")
    if not count[2:].isdigit() or len(count) > 11 or not 1 <= int(count[2:]) <= MAX_ITERATIONS:
        raise _server_fault("SCRAM iteration count from server is out of range")
    return nonce[2:], salt, int(count[2:])


def _malformed(detail: str) -> ProtocolViolation:
    return ProtocolViolation("malformed SCRAM message", detail=detail)


def _server_fault(text: str) -> ServerFault:
    return ServerFault(SqlState.PROTOCOL_VIOLATION, text)
