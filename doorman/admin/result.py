"""Rows of the console as protocol messages, in text or binary format. Used for both protocols; asyncpg asks for binary.

Text and binary of `text` are the same bytes. Binary `numeric` is base 10000 (numeric_send, numeric.c).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final

from doorman.wire.backend import TEXT_OID, Column
from doorman.wire.packing import message
from doorman.wire.text import cstring, encode

Value = str | int | Decimal
Row = tuple[Value, ...]
Formats = tuple[int, ...]

INT4_OID: Final = 23
NUMERIC_OID: Final = 1700
TEXT_FORMAT: Final = 0
BINARY_FORMAT: Final = 1

_COUNT: Final = struct.Struct("!H")
_LENGTH: Final = struct.Struct("!i")
_COLUMN: Final = struct.Struct("!IhIhih")
_INT4_MAX: Final = 2**31 - 1
_NUMERIC_BASE: Final = 10_000
_NUMERIC_NEGATIVE: Final = 0x4000


def text(name: str) -> Column:
    """A column of type text."""
    return Column(name)


def numeric(name: str) -> Column:
    """A column of type numeric, holding whole numbers or decimal fractions."""
    return Column(name, NUMERIC_OID)


def int4(name: str) -> Column:
    """A column of type int4; what is larger is shown as the largest."""
    return Column(name, INT4_OID, 4)


def describe_row(columns: Sequence[Column], formats: Formats) -> bytes:
    """RowDescription of columns that belong to no table, `formats` being one for each."""
    fields = [
        cstring(column.name) + _COLUMN.pack(0, 0, column.oid, column.typlen, -1, code)
        for column, code in zip(columns, formats, strict=True)
    ]
    return message(b"T", _COUNT.pack(len(fields)) + b"".join(fields))


def encode_rows(columns: Sequence[Column], formats: Formats, rows: Sequence[Row]) -> bytes:
    """DataRow messages."""
    encoders = [_ENCODERS[column.oid, code] for column, code in zip(columns, formats, strict=True)]
    return b"".join([_encode_row(encoders, row) for row in rows])


def _encode_row(encoders: Sequence[Callable[[Value], bytes]], row: Row) -> bytes:
    fields = [encoder(value) for encoder, value in zip(encoders, row, strict=True)]
    return message(b"D", _COUNT.pack(len(fields)) + b"".join(fields))


def _encode_text(value: Value) -> bytes:
    return _field(encode(str(value)))


def _encode_numeric(value: Value) -> bytes:
    """Digits of base 10000, `weight` of the first; a fraction has whole groups of four decimals behind the point."""
    exact = Decimal(value)
    scale = max(0, -int(exact.as_tuple().exponent))
    groups = (scale + 3) // 4
    number = abs(int(exact.scaleb(4 * groups)))
    digits: list[int] = []
    while number:
        number, digit = divmod(number, _NUMERIC_BASE)
        digits.insert(0, digit)
    weight = len(digits) - 1 - groups if digits else 0
    while digits and not digits[-1]:
        digits.pop()
    sign = _NUMERIC_NEGATIVE if exact < 0 else 0
    return _field(struct.pack(f"!hhHh{len(digits)}h", len(digits), weight, sign, scale, *digits))


def _encode_int4_text(value: Value) -> bytes:
    return _field(encode(str(min(int(value), _INT4_MAX))))


def _encode_int4(value: Value) -> bytes:
    return _field(_LENGTH.pack(min(int(value), _INT4_MAX)))


def _field(raw: bytes) -> bytes:
    return _LENGTH.pack(len(raw)) + raw


_ENCODERS: Final[dict[tuple[int, int], Callable[[Value], bytes]]] = {
    (TEXT_OID, TEXT_FORMAT): _encode_text,
    (TEXT_OID, BINARY_FORMAT): _encode_text,
    (NUMERIC_OID, TEXT_FORMAT): _encode_text,
    (NUMERIC_OID, BINARY_FORMAT): _encode_numeric,
    (INT4_OID, TEXT_FORMAT): _encode_int4_text,
    (INT4_OID, BINARY_FORMAT): _encode_int4,
}
