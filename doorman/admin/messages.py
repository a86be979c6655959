"""What a logged-in client sends to the console: sizes of messages, and bodies of the extended protocol as structs.

Parsers raise `ProtocolViolation` (08P01) with PostgreSQL's own words when a body is not what its letter says.
Source: PostgreSQL manual, "Message Formats".
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from doorman.errors import ClientFault, ProtocolViolation
from doorman.wire.codes import SqlState
from doorman.wire.framing import HEADER
from doorman.wire.text import decode

MAX_MESSAGE_BYTES: Final = 65_536
"""Length field of the longest message that the console takes. Its commands are words, so this is plenty."""

_INT16: Final = struct.Struct("!H")
_INT32: Final = struct.Struct("!i")


class Parse(msgspec.Struct, frozen=True):
    """Parse, without the parameter types: no console command has parameters."""

    statement: str
    text: str


class Bind(msgspec.Struct, frozen=True):
    """Bind, with how many parameter values it has and the result formats as sent (none, one for all, or each)."""

    portal: str
    statement: str
    parameter_count: int
    formats: tuple[int, ...]


class Target(msgspec.Struct, frozen=True):
    """What Describe and Close are about: kind `S` (statement) or `P` (portal), and its name."""

    kind: str
    name: str


class Execute(msgspec.Struct, frozen=True):
    """Execute. `max_rows` 0 means all."""

    portal: str
    max_rows: int


def message_size(data: bytes, at: int) -> int:
    """Bytes of the message that begins at `at`, letter included; 0 while it is not all there.

    Raises `ClientFault` for a length that no message may have, as soon as the header is there.
    """
    if len(data) - at < HEADER.size:
        return 0
    length: int = HEADER.unpack_from(data, at)[1]
    if length < 4:
        raise ProtocolViolation("invalid message length")
    if length > MAX_MESSAGE_BYTES:
        raise ClientFault(
            SqlState.OUT_OF_MEMORY, f"message of {length} bytes is too long, the console takes {MAX_MESSAGE_BYTES}"
        )
    return 1 + length if len(data) - at >= 1 + length else 0


def parse_query(body: bytes) -> str:
    """Text of a Query."""
    reader = _Reader(body)
    text = reader.string()
    reader.end()
    return text


def parse_parse(body: bytes) -> Parse:
    """Parse."""
    reader = _Reader(body)
    message = Parse(reader.string(), reader.string())
    reader.bytes(4 * reader.int16())
    reader.end()
    return message


def parse_bind(body: bytes) -> Bind:
    """Bind. Parameter formats and values are only checked for their shape."""
    reader = _Reader(body)
    portal, statement = reader.string(), reader.string()
    reader.bytes(2 * reader.int16())
    count = reader.int16()
    for _ in range(count):
        reader.bytes(max(reader.int32(), 0))  # -1 is NULL
    message = Bind(portal, statement, count, tuple(reader.int16() for _ in range(reader.int16())))
    reader.end()
    return message


def parse_target(body: bytes, name: str) -> Target:
    """Describe or Close; `name` is which of them, for the error."""
    reader = _Reader(body)
    kind = decode(reader.bytes(1))
    if kind not in ("S", "P"):
        raise ProtocolViolation(f"invalid {name} message subtype {body[0]}")
    target = Target(kind, reader.string())
    reader.end()
    return target


def parse_execute(body: bytes) -> Execute:
    """Execute. A negative row limit means all, as in PostgreSQL."""
    reader = _Reader(body)
    message = Execute(reader.string(), max(reader.int32(), 0))
    reader.end()
    return message


class _Reader:
    """Takes the fields of one body, front to back."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def string(self) -> str:
        end = self._body.find(b"\0", self._at)
        if end < 0:
            raise ProtocolViolation("invalid string in message")
        text = decode(self._body[self._at : end])
        self._at = end + 1
        return text

    def int16(self) -> int:
        count: int = _INT16.unpack(self.bytes(2))[0]
        return count

    def int32(self) -> int:
        number: int = _INT32.unpack(self.bytes(4))[0]
        return number

    def bytes(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._body):
            raise ProtocolViolation("insufficient data left in message")
        return self._body[start : self._at]

    def end(self) -> None:
        if self._at != len(self._body):
            raise ProtocolViolation("invalid message format")
