"""Reads a script of steps out of a fuzz input; what is missing at its end reads as zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Script:
    """The bytes of an input, from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def is_over(self) -> bool:
        return self.at >= len(self.data)

    def byte(self) -> int:
        value = self.data[self.at] if self.at < len(self.data) else 0
        self.at += 1
        return value

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.byte() % len(choices)]

    def bytes(self, length: int) -> bytes:
        taken = self.data[self.at : self.at + length]
        self.at += length
        return taken


def message(kind: int | bytes, body: bytes) -> bytes:
    """A protocol message."""
    letter = bytes([kind]) if isinstance(kind, int) else kind
    return letter + (len(body) + 4).to_bytes(4, "big") + body
