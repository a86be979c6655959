"""Cutting a stream into messages for the slow paths (login, look-ups). The relay has its own framing, compiled.

Rules:
1. A message is a letter, an int32 length that counts itself, and the body.
2. A length below 4 or above the limit is found as soon as the header is there; nothing is allocated for it.
3. `take` answers `None` when more bytes are needed and can be asked again at no cost.
"""

from __future__ import annotations

import struct
from typing import Final

from doorman.wire.packing import part_of_buffer, refill

HEADER: Final = struct.Struct("!BI")


class BadLength(ValueError):
    """A length field that no message may have. The owner of the stream turns it into the fault of its peer."""

    def __init__(self, letter: int, length: int) -> None:
        super().__init__(f"message {chr(letter)!r} with length {length}")
        self.letter = letter
        self.length = length


class Frames:
    """Bytes as they come in, whole messages out. `limit` bounds a message's length field."""

    __slots__ = ("_buffer", "_limit", "_start")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._limit = limit

    def feed(self, data: bytes) -> None:
        """Add bytes from the peer; what was taken before is forgotten first."""
        refill(self._buffer, self._start, data)
        self._start = 0

    def take(self) -> tuple[int, bytes] | None:
        """Next message as (letter, body), `None` when it is not complete. Raises `BadLength`."""
        buffer, start = self._buffer, self._start
        if len(buffer) - start < 5:
            return None
        length = buffer[start + 1]
        length = (length << 24) + (buffer[start + 2] << 16) + (buffer[start + 3] << 8) + buffer[start + 4]
        if not 4 <= length <= self._limit:
            raise BadLength(buffer[start], length)
        end = start + 1 + length
        if len(buffer) < end:
            return None
        self._start = end
        return buffer[start], part_of_buffer(buffer, start + 5, end)

    def take_run(self, letter: int) -> bytes:
        """All whole messages at the front that have this letter, as they came; there may be none."""
        buffer, start = self._buffer, self._start
        at, there = start, len(buffer)
        while there - at >= 5 and buffer[at] == letter and not buffer[at + 1]:
            length = (buffer[at + 2] << 16) + (buffer[at + 3] << 8) + buffer[at + 4]
            if not 4 <= length <= self._limit or there - at < 1 + length:
                break
            at += 1 + length
        self._start = at
        return part_of_buffer(buffer, start, at)

    def rest(self) -> bytes:
        """What was fed and not taken."""
        return part_of_buffer(self._buffer, self._start, len(self._buffer))
