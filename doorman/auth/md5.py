"""MD5 password hashes and answers (manual, "Password Authentication"). Old and weak, but what many users still have."""

from __future__ import annotations

from hashlib import md5
from typing import Final

from doorman.wire.text import encode

_HEX: Final = frozenset("0123456789abcdef")
SALT_BYTES: Final = 4


def is_md5_hash(stored: str) -> bool:
    """Whether a stored password is a hash as in `pg_authid`: `md5` and 32 lower-case hexadecimal digits."""
    return len(stored) == 35 and stored.startswith("md5") and _HEX.issuperset(stored[3:])


def md5_hash(password: str | bytes, user: str) -> str:
    """The hash that PostgreSQL stores for `user`."""
    raw = password if isinstance(password, bytes) else encode(password)
    return "md5" + md5(raw + encode(user), usedforsecurity=False).hexdigest()


def md5_answer(stored: str, salt: bytes) -> str:
    """The answer to a challenge with `salt`, from the stored hash (`md5…`)."""
    return "md5" + md5(stored[3:].encode("ascii") + salt, usedforsecurity=False).hexdigest()
