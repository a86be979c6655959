"""MD5 hashes and answers, against the formula of the manual. `test_real_server` has PostgreSQL judge them."""

from __future__ import annotations

from hashlib import md5

import pytest

from doorman.auth.md5 import is_md5_hash, md5_answer, md5_hash


def test_the_hash_is_over_password_and_user() -> None:
    assert md5_hash("secret", "app") == "md5" + md5(b"secretapp").hexdigest()
    assert md5_hash(b"secret", "app") == md5_hash("secret", "app")


def test_the_answer_is_over_hash_and_salt() -> None:
    stored = md5_hash("secret", "app")
    assert md5_answer(stored, b"\x00\xff\x01\x02") == "md5" + md5(stored[3:].encode() + b"\x00\xff\x01\x02").hexdigest()


@pytest.mark.parametrize(
    ("stored", "is_hash"),
    [
        ("md5" + "0123456789abcdef" * 2, True),
        ("md5" + "0123456789ABCDEF" * 2, False),
        ("md5" + "0" * 31, False),
        ("md5" + "0" * 33, False),
        ("MD5" + "0" * 32, False),
        ("md5", False),
        ("", False),
    ],
)
def test_what_is_a_hash(stored: str, is_hash: bool) -> None:
    assert is_md5_hash(stored) is is_hash
