"""SCRAM keys and verifiers (RFC 5802 section 3): derived, parsed, made up for users that do not exist.

Rules:
1. A key derivation costs milliseconds, so each (password, salt, iterations) is derived once per process.
2. Salts that we choose are derived from the user name and one secret, so that processes agree, also after a restart,
   and an unknown user's salt looks like a known one's. The secret is made of the machine's id (see machine-id(5) on how
   not to give it away by that); without one it is drawn when this module is imported.
"""

from __future__ import annotations

import os
from base64 import b64encode
from binascii import a2b_base64
from functools import cache, lru_cache
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Final

import msgspec

from doorman.auth.digest import hmac_sha256, is_equal, sha256
from doorman.auth.saslprep import saslprep
from doorman.wire.text import encode

PREFIX: Final = "SCRAM-SHA-256$"
DEFAULT_ITERATIONS: Final = 4096
MAX_ITERATIONS: Final = 1_000_000
"""Above it a server makes us burn processor time, or a verifier is a mistake. Advice in use goes up to 600,000."""
KEY_BYTES: Final = 32
SALT_BYTES: Final = 16

MACHINE_ID: Final = Path("/etc/machine-id")


class ScramKeys(msgspec.Struct, frozen=True):
    """What a client derives from a password: `client_key` proves it, `server_key` checks the server's answer."""

    client_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        return "ScramKeys(…)"


class ScramVerifier:
    """What a server stores. `salt` is base64 text and is sent to the client exactly as stored. `announcement`: salt and
    iterations as a server-first-message ends with them."""

    __slots__ = ("announcement", "iterations", "salt", "server_key", "stored_key")

    def __init__(self, iterations: int, salt: str, stored_key: bytes, server_key: bytes) -> None:
        self.iterations = iterations
        self.salt = salt
        self.stored_key = stored_key
        self.server_key = server_key
        self.announcement = b",s=" + salt.encode("ascii") + b",i=%d" % iterations

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScramVerifier):
            return NotImplemented
        is_known = is_equal(self.stored_key, other.stored_key) and is_equal(self.server_key, other.server_key)
        return is_known and self.announcement == other.announcement

    def __hash__(self) -> int:
        return hash((self.announcement, self.stored_key, self.server_key))

    def __repr__(self) -> str:
        return "ScramVerifier(…)"


@lru_cache(maxsize=4096)
def derive_keys(password: str | bytes, salt: bytes, iterations: int) -> ScramKeys:
    """Keys of a password (RFC 5802: SaltedPassword, ClientKey, ServerKey). Slow the first time, see rule 1."""
    salted = pbkdf2_hmac("sha256", saslprep(password), salt, iterations)
    return ScramKeys(hmac_sha256(salted, b"Client Key"), hmac_sha256(salted, b"Server Key"))


@lru_cache(maxsize=4096)
def parse_verifier(stored: str) -> ScramVerifier | None:
    """A verifier as in `pg_authid`: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`; `None` if it is none."""
    parts = stored.split("$")
    if len(parts) != 3 or parts[0] + "$" != PREFIX:
        return None
    iterations, _, salt = parts[1].partition(":")
    stored_key, _, server_key = (decode_base64(text) or b"" for text in parts[2].partition(":"))
    if not (iterations.isascii() and iterations.isdigit() and len(iterations) <= 9 and decode_base64(salt)):
        return None
    if not 1 <= int(iterations) <= MAX_ITERATIONS or len(stored_key) != KEY_BYTES or len(server_key) != KEY_BYTES:
        return None
    return ScramVerifier(int(iterations), salt, stored_key, server_key)


def format_verifier(verifier: ScramVerifier) -> str:
    """The text that PostgreSQL stores for `verifier`."""
    keys = f"{b64encode(verifier.stored_key).decode()}:{b64encode(verifier.server_key).decode()}"
    return f"{PREFIX}{verifier.iterations}:{verifier.salt}${keys}"


@lru_cache(maxsize=4096)
def verifier_of_password(user: str, password: str) -> ScramVerifier:
    """Verifier of a user whose password is known in clear."""
    salt = _salt_of_user(user)
    keys = derive_keys(password, salt, DEFAULT_ITERATIONS)
    return ScramVerifier(DEFAULT_ITERATIONS, b64encode(salt).decode(), sha256(keys.client_key), keys.server_key)


def mock_verifier(user: str, model: ScramVerifier | None = None) -> ScramVerifier:
    """Verifier that no password meets, with the salt that `user` would have: hides which users exist.

    With a `model` it has that one's iterations and length of salt.
    """
    iterations = model.iterations if model is not None else DEFAULT_ITERATIONS
    size = len(decode_base64(model.salt) or b"") if model is not None else SALT_BYTES
    salt = b64encode(_salt_of_user(user, size)).decode()
    return ScramVerifier(iterations, salt, bytes(KEY_BYTES), bytes(KEY_BYTES))


def prove_password(verifier: ScramVerifier, password: bytes) -> bytes | None:
    """The ClientKey of a password sent in clear, `None` where it does not belong to `verifier`. Costs a derivation."""
    salt = decode_base64(verifier.salt) or b""
    keys = derive_keys.__wrapped__(password, salt, verifier.iterations)
    is_right = is_equal(sha256(keys.client_key), verifier.stored_key)
    return keys.client_key if is_right else None


def decode_base64(text: str | bytes) -> bytes | None:
    """Strict base64 (RFC 4648 section 4, padded); `None` if it is none."""
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError:
        return None


def _salt_of_user(user: str, size: int = SALT_BYTES) -> bytes:
    salt, at = b"", 0
    while len(salt) < size:
        salt += hmac_sha256(stranger_secret(), b"salt\0%d\0" % at + encode(user))
        at += 1
    return salt[:size]


@cache
def stranger_secret() -> bytes:
    """Rule 2. 32 bytes."""
    try:
        identity = MACHINE_ID.read_bytes().strip()
    except OSError:
        identity = b""
    if len(identity) < KEY_BYTES:
        return os.urandom(KEY_BYTES)
    return hmac_sha256(identity, b"pg_doorman: who is not a user")


STRANGER_SECRET: Final = stranger_secret()
"""Made before the first fork."""
