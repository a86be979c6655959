"""SCRAM verifiers: read, written, made up."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.auth.verifier import (
    ScramVerifier,
    derive_keys,
    format_verifier,
    mock_verifier,
    parse_verifier,
    prove_password,
    verifier_of_password,
)

KEY = b64encode(bytes(32)).decode()
SALT = b64encode(bytes(range(16))).decode()


def test_a_stored_verifier_is_read() -> None:
    assert parse_verifier(f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}") == ScramVerifier(4096, SALT, bytes(32), bytes(32))


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "SCRAM-SHA-256$",
        f"SCRAM-SHA-1$4096:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$0:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$-1:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$4_0:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$²:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$1000001:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256${'9' * 5000}:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:???${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:é${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:{SALT}${KEY}",
        f"SCRAM-SHA-256$4096:{SALT}${KEY}:",
        f"SCRAM-SHA-256$4096:{SALT}${SALT}:{KEY}",
        f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}$",
    ],
)
def test_other_texts_are_no_verifiers(stored: str) -> None:
    assert parse_verifier(stored) is None


@given(st.text(max_size=30) | st.text(max_size=60).map("SCRAM-SHA-256$".__add__))
def test_random_texts_are_no_verifiers(stored: str) -> None:
    assert parse_verifier(stored) is None


def test_what_is_written_is_read() -> None:
    verifier = verifier_of_password("app", "secret")
    assert parse_verifier(format_verifier(verifier)) == verifier


def test_a_cleartext_password_is_judged() -> None:
    verifier = verifier_of_password("app", "secret")
    assert sha256(prove_password(verifier, b"secret") or b"").digest() == verifier.stored_key
    assert prove_password(verifier, b"Secret") is None
    assert prove_password(mock_verifier("app"), b"secret") is None


def test_an_unknown_users_salt_looks_like_a_known_ones_and_stays() -> None:
    known, unknown = verifier_of_password("app", "secret"), mock_verifier("app")
    assert (unknown.salt, unknown.iterations) == (known.salt, known.iterations)
    assert mock_verifier("app").salt == unknown.salt != mock_verifier("other").salt


def test_no_key_is_printed() -> None:
    keys = derive_keys("secret", b"salt", 1)
    verifier = verifier_of_password("app", "secret")
    assert (repr(keys), repr(verifier)) == ("ScramKeys(…)", "ScramVerifier(…)")
