"""Runs a login three ways, as h11's tests do: in one piece, byte by byte, with trailing data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

Chop = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        yield data[position : position + 1]


each_way = pytest.mark.parametrize("chop", [whole, byte_by_byte])
