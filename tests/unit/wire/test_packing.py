"""Messages put together and read without `struct` are what `struct` makes and reads."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.wire.packing import (
    counted,
    is_nonce,
    joined,
    message,
    number_at,
    numbered,
    part,
    part_of_buffer,
    place_of,
    refill,
    rest_from,
    statuses_without,
)

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
    for take in (joined, lambda data, _: rest_from(data, 0), lambda data, _: place_of(data, 0)):
        with pytest.raises(TypeError):
            take(nothing, b"")
    for look in (is_nonce, lambda data: statuses_without(data, b""), lambda data: refill(bytearray(), 0, data)):
        with pytest.raises(TypeError):
            look(nothing)


@given(parts=st.lists(st.binary(max_size=40), min_size=2, max_size=5))
def test_parts_are_joined(parts: list[bytes]) -> None:
    assert joined(*parts) == b"".join(parts)


@given(data=st.binary(max_size=20), start=st.integers(-3, 25), end=st.integers(-3, 25), byte=st.integers(0, 255))
def test_a_part_is_a_slice_or_is_not_there(data: bytes, start: int, end: int, byte: int) -> None:
    if 0 <= start <= end <= len(data):
        assert part(data, start, end) == part_of_buffer(bytearray(data), start, end) == data[start:end]
    else:
        with pytest.raises(ValueError, match="no such part"):
            part(data, start, end)
        with pytest.raises(ValueError, match="no such part"):
            part_of_buffer(bytearray(data), start, end)
    if 0 <= start <= len(data):
        assert rest_from(data, start) == data[start:]
        assert place_of(data, byte, start) == data.find(bytes([byte]), start)
    else:
        for look in (lambda: rest_from(data, start), lambda: place_of(data, byte, start)):
            with pytest.raises(ValueError, match="no such part"):
                look()


@given(steps=st.lists(st.tuples(st.integers(-1, 30), st.binary(max_size=40)), max_size=12))
def test_a_buffer_is_refilled(steps: list[tuple[int, bytes]]) -> None:
    buffer, model = bytearray(), b""
    for taken, data in steps:
        if 0 <= taken <= len(model):
            refill(buffer, taken, data)
            model = model[taken:] + data
        else:
            with pytest.raises(ValueError, match="so many"):
                refill(buffer, taken, data)
        assert buffer == model


def test_a_buffer_that_is_looked_at_cannot_be_refilled() -> None:
    buffer = bytearray(b"abc")
    with memoryview(buffer), pytest.raises(BufferError):
        refill(buffer, 1, b"defg")


def test_what_a_nonce_may_have() -> None:
    assert [byte for byte in range(256) if is_nonce(b"a%cz" % byte)] == [*range(0x21, 0x2C), *range(0x2D, 0x7F)]
    assert is_nonce(b"")


def status(name: bytes, value: bytes) -> bytes:
    return message(b"S", name + b"\0" + value + b"\0")


WORDS = st.binary(max_size=12).map(lambda word: word.replace(b"\0", b""))


@given(pairs=st.lists(st.tuples(WORDS.filter(bool), WORDS), max_size=6), hidden=WORDS.filter(bool))
def test_statuses_lose_what_is_hidden(pairs: list[tuple[bytes, bytes]], hidden: bytes) -> None:
    pairs = [*pairs, (hidden, b"secret"), *pairs]
    kept = b"".join(status(name, value) for name, value in pairs if name != hidden)
    assert statuses_without(b"".join(status(*pair) for pair in pairs), hidden + b"\0") == kept


@given(
    before=st.lists(st.tuples(WORDS.filter(bool), WORDS), max_size=2),
    bad=st.sampled_from(
        [
            b"S", b"S\0\0\0", b"S\0\0\0\x03", b"S\0\0\0\x04", b"S\0\0\0\x06a\0", b"S\0\0\0\x06\0\0", b"S\0\0\0\x07a\0b",
            b"S\0\0\0\x08a\0\0\0", b"S\0\0\0\x09a\0b\0", b"S\0\0\0\x07ab\0", b"S\xff\xff\xff\xffa\0b\0",
            b"S\0\0\0\x07\0b\0",
        ]
    ),
)  # fmt: skip
def test_malformed_statuses_are_none(before: list[tuple[bytes, bytes]], bad: bytes) -> None:
    assert statuses_without(b"".join(status(*pair) for pair in before) + bad, b"a\0") is None
