"""Messages put together and read without `struct` are what `struct` makes and reads."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.wire.packing import counted, message, number_at, numbered

LETTERS = st.binary(min_size=1, max_size=1)
NUMBERS = st.integers(0, 2**32 - 1)


@given(letter=LETTERS, number=NUMBERS, data=st.binary(max_size=600))
def test_it_agrees_with_struct(letter: bytes, number: int, data: bytes) -> None:
    assert message(letter, data) == letter + struct.pack("!I", 4 + len(data)) + data
    assert numbered(letter, number, data) == letter + struct.pack("!II", 8 + len(data), number) + data
    assert counted(data) == struct.pack("!I", len(data)) + data
    assert number_at(data + struct.pack("!I", number), len(data)) == number


@pytest.mark.parametrize(("data", "at"), [(b"", 0), (b"abc", 0), (b"abcd", 1), (b"abcd", -1), (b"abcdefgh", 5)])
def test_no_number_is_read_from_beyond_the_bytes(data: bytes, at: int) -> None:
    with pytest.raises(ValueError, match="no number"):
        number_at(data, at)


@pytest.mark.parametrize("letter", [b"", b"RR"])
def test_a_letter_is_one_byte(letter: bytes) -> None:
    with pytest.raises(ValueError, match="one byte"):
        message(letter, b"")
    with pytest.raises(ValueError, match="one byte"):
        numbered(letter, 1, b"")


@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_number_has_four_bytes(number: int) -> None:
    with pytest.raises(OverflowError):
        numbered(b"R", number, b"")


def test_none_is_no_bytes() -> None:
    nothing: Any = None
    for build in (lambda: message(b"R", nothing), lambda: message(nothing, b""), lambda: numbered(b"R", 1, nothing)):
        with pytest.raises(TypeError):
            build()
    for read in (lambda: counted(nothing), lambda: number_at(nothing, 0)):
        with pytest.raises(TypeError):
            read()
