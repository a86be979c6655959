"""What a user who does not exist looks like from outside: like one of those who do, and always the same.

Rules
1. The choice and the salt depend on the name and on a secret, so that nobody can tell them from real ones by asking
   twice, or by asking every worker. The secret comes from `/etc/machine-id`, and so is the same after a restart.
2. The model is drawn among the accounts of the same database: what is rare among them is as rare among strangers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from doorman.auth.digest import hmac_sha256
from doorman.auth.verifier import stranger_secret
from doorman.wire.text import encode

T = TypeVar("T")


def resemble(user: str, accounts: Sequence[T]) -> T | None:
    """The one of `accounts` that `user`, who has none, is treated like; None when there are no accounts."""
    if not accounts:
        return None
    digest = hmac_sha256(stranger_secret(), b"model\0" + encode(user))
    return accounts[int.from_bytes(digest[:8], "big") % len(accounts)]
