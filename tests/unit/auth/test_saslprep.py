"""SASLprep: the examples of RFC 4013 and PostgreSQL's exceptions from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.auth.saslprep import saslprep


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013 section 3, example 1: soft hyphen is mapped to nothing
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),  # NFKC
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("a\u200bb", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_prepared(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared.encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x07",  # RFC 4013 prohibits it; PostgreSQL takes ASCII as it is
        b"",
        b"caf\xe9",  # not UTF-8
        "\u0627\u0031".encode(),  # bidirectional check
        "\u0627a".encode(),
        "a\u0627".encode(),
        "\u00e9\x07".encode(),
        "\u00ad".encode(),  # nothing is left
        "\ue000".encode(),  # private use
        "\U0001f600".encode(),  # unassigned in Unicode 3.2
    ],
)
def test_what_cannot_be_prepared_is_used_as_it_is(raw: bytes) -> None:
    assert saslprep(raw) == raw


@given(st.binary(max_size=30) | st.text(max_size=20))
def test_every_password_has_an_outcome(password: bytes | str) -> None:
    assert isinstance(saslprep(password), bytes)
