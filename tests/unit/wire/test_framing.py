"""Messages out of a stream, however it is chopped."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.wire import backend
from doorman.wire.framing import BadLength, Frames

STREAM = backend.AUTHENTICATION_OK + backend.parameter_status("a", "b") + backend.READY_IDLE
MESSAGES = [(ord("R"), bytes(4)), (ord("S"), b"a\0b\0"), (ord("Z"), b"I")]


def read_all(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], bytes]:
    frames = Frames(1000)
    taken = []
    for piece in pieces:
        frames.feed(piece)
        while (frame := frames.take()) is not None:
            taken.append(frame)
    return taken, frames.rest()


def test_whole() -> None:
    assert read_all([STREAM]) == (MESSAGES, b"")


def test_byte_by_byte() -> None:
    assert read_all([STREAM[i : i + 1] for i in range(len(STREAM))]) == (MESSAGES, b"")


def test_with_trailing_data() -> None:
    assert read_all([STREAM + b"Z\0\0"]) == (MESSAGES, b"Z\0\0")


@given(st.lists(st.integers(0, len(STREAM))))
def test_chopped_anywhere(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in pairwise(edges)]
    assert read_all(pieces) == (MESSAGES, b"")


@given(st.lists(st.tuples(st.sampled_from(b"SK"), st.binary(max_size=9))), st.integers(0, 60))
def test_a_run_is_what_would_be_taken_one_by_one(messages: list[tuple[int, bytes]], cut: int) -> None:
    stream = b"".join(bytes([letter]) + (4 + len(body)).to_bytes(4, "big") + body for letter, body in messages)
    frames, single = Frames(1000), Frames(1000)
    for piece in (stream[:cut], stream[cut:]):
        frames.feed(piece)
        single.feed(piece)
        run, expected = frames.take_run(ord("S")), b""
        while single.rest()[:1] == b"S" and (frame := single.take()) is not None:
            expected += b"S" + (4 + len(frame[1])).to_bytes(4, "big") + frame[1]
        assert run == expected
        assert frames.rest() == single.rest()
        while (frame := frames.take()) is not None:
            assert single.take() == frame


@pytest.mark.parametrize("length", [0, 3, 1001, 2**24, 2**32 - 1])
def test_a_run_ends_before_a_bad_length(length: int) -> None:
    frames = Frames(1000)
    frames.feed(b"S\0\0\0\x05a" + b"S" + length.to_bytes(4, "big"))
    assert frames.take_run(ord("S")) == b"S\0\0\0\x05a"
    with pytest.raises(BadLength):
        frames.take()


@pytest.mark.parametrize("length", [0, 3, 1001, 2**31, 2**32 - 1])
def test_bad_lengths_are_found_in_the_header(length: int) -> None:
    frames = Frames(1000)
    frames.feed(b"R" + length.to_bytes(4, "big"))
    with pytest.raises(BadLength) as caught:
        frames.take()
    assert (caught.value.letter, caught.value.length) == (ord("R"), length)


@pytest.mark.parametrize("length", [4, 1000])
def test_the_limits_are_inclusive(length: int) -> None:
    frames = Frames(1000)
    frames.feed(b"R" + length.to_bytes(4, "big") + bytes(length - 4))
    assert frames.take() == (ord("R"), bytes(length - 4))
