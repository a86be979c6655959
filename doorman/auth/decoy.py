"""What a user who does not exist looks like from outside: like one of those who do, and always the same.

Rules
1. The choice and the salt depend on the name and on a secret, so that nobody can tell them from real ones by asking
   twice, or by asking every worker. The secret comes from `/etc/machine-id`, and so is the same after a restart.
2. The model is drawn among the accounts of the same database: what is rare among them is as rare among strangers.
3. Users that auth_query finds are not known in advance. Strangers resemble the kinds of passwords that it has found.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Sequence
from typing import Final, TypeVar

from doorman.auth.digest import hmac_sha256
from doorman.auth.md5 import is_md5_hash
from doorman.auth.verifier import (
    DEFAULT_ITERATIONS,
    KEY_BYTES,
    PREFIX,
    SALT_BYTES,
    ScramVerifier,
    decode_base64,
    format_verifier,
    parse_verifier,
    stranger_secret,
)
from doorman.wire.text import encode

T = TypeVar("T")
MOST_KINDS: Final = 16


def resemble(user: str, accounts: Sequence[T]) -> T | None:
    """The one of `accounts` that `user`, who has none, is treated like; None when there are no accounts."""
    if not accounts:
        return None
    digest = hmac_sha256(stranger_secret(), b"model\0" + encode(user))
    return accounts[int.from_bytes(digest[:8], "big") % len(accounts)]


class KindsFound:
    """Rule 3, of one auth_query. Nothing of a password is kept but its kind."""

    def __init__(self) -> None:
        self._made_up: dict[tuple[int, int], str] = {}  # by iterations and bytes of salt, or _MD5, _CLEAR

    def note(self, stored: str) -> None:
        """A user was found who has this."""
        kind = _kind_of(stored)
        if kind not in self._made_up and len(self._made_up) < MOST_KINDS:
            self._made_up[kind] = _make_up(kind)

    def password_for(self, stranger: str) -> str:
        """Something of one of these kinds that nobody knows, "" while none was found."""
        return resemble(stranger, tuple(self._made_up.values())) or ""


_MD5: Final = (-1, 0)
_CLEAR: Final = (0, 0)


def _kind_of(stored: str) -> tuple[int, int]:
    if is_md5_hash(stored):
        return _MD5
    if not stored.startswith(PREFIX):
        return _CLEAR
    verifier = parse_verifier(stored)
    if verifier is None:  # its user cannot get in either, and is asked like others
        return DEFAULT_ITERATIONS, SALT_BYTES
    return verifier.iterations, len(decode_base64(verifier.salt) or b"")


def _make_up(kind: tuple[int, int]) -> str:
    iterations, salt_bytes = kind
    if kind == _MD5:
        return "md5" + os.urandom(16).hex()
    if kind == _CLEAR:
        return os.urandom(KEY_BYTES).hex()
    salt = b64encode(os.urandom(salt_bytes)).decode()
    return format_verifier(ScramVerifier(iterations, salt, os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)))
