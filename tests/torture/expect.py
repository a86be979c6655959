"""Transcripts: what each message of a reply must be. No I/O; `Client.exchange` compares them with what came.

An action lists the exact messages that PostgreSQL sends, since it knows all data. Whatever differs is a wrong answer,
unless it is an ErrorResponse that an injected fault explains (`ledger`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.torture.wire import Message

# Every text that a client makes carries such a mark: run, client, number of the action.
TAG = re.compile(rb"~([0-9a-f]+)\.(\d+)\.(\d+)~")


@dataclass(frozen=True)
class Expected:
    """One message: its type, and for the types where it matters what is in it."""

    kind: bytes
    values: tuple[bytes | None, ...] = ()
    sqlstate: str = ""
    text: str = ""
    otherwise: tuple[bytes | None, ...] | None = None  # a second row that would be right too

    def matches(self, got: Message) -> bool:
        return got.kind == self.kind and self._matches_body(got)

    def _matches_body(self, got: Message) -> bool:
        match self.kind:
            case b"D":  # DataRow
                return self.text == "any" or tuple(got.columns()) in (self.values, self.otherwise)
            case b"C":  # CommandComplete
                return got.body == self.text.encode() + b"\0"
            case b"Z" | b"d" | b"V":  # ReadyForQuery, CopyData, FunctionCallResponse
                return got.body == self.values[0]
            case b"E" | b"N":  # ErrorResponse, NoticeResponse
                fields = got.fields()
                return fields.get("C") == self.sqlstate and self.text in fields.get("M", "")
            case b"T":  # RowDescription
                return self.text.encode() in got.body
            case _:
                return True

    def __str__(self) -> str:
        content = [str(part)[:200] for part in (self.values, self.sqlstate, self.text) if part]
        return f"{self.kind.decode()} {' '.join(content)}"


def row(*values: str | bytes | int | None) -> Expected:
    return Expected(b"D", tuple(_bytes(value) for value in values))


def row_or(first: Expected, second: Expected) -> Expected:
    """Either of two rows."""
    return Expected(b"D", first.values, otherwise=second.values)


def described(column: str = "") -> Expected:
    """RowDescription in which this column name stands."""
    return Expected(b"T", text=column)


def done(tag: str) -> Expected:
    return Expected(b"C", text=tag)


def ready(status: str = "I") -> Expected:
    return Expected(b"Z", (status.encode(),))


def error(sqlstate: str, text: str = "") -> Expected:
    return Expected(b"E", sqlstate=sqlstate, text=text)


def notice(sqlstate: str, text: str) -> Expected:
    return Expected(b"N", sqlstate=sqlstate, text=text)


def copied(line: str) -> Expected:
    """CopyData with one line."""
    return Expected(b"d", (line.encode() + b"\n",))


def function_result(value: bytes) -> Expected:
    """FunctionCallResponse."""
    return Expected(b"V", (len(value).to_bytes(4, "big") + value,))


ANY_ROW = Expected(b"D", text="any")
PARSED, BOUND, CLOSED = Expected(b"1"), Expected(b"2"), Expected(b"3")
PARAMETERS_DESCRIBED, NO_DATA, SUSPENDED, EMPTY = Expected(b"t"), Expected(b"n"), Expected(b"s"), Expected(b"I")
COPY_IN, COPY_OUT, COPY_END = Expected(b"G"), Expected(b"H"), Expected(b"c")


def selected(*rows: Expected, column: str = "") -> list[Expected]:
    """RowDescription, rows, CommandComplete: the reply of a simple SELECT without ReadyForQuery."""
    return [described(column), *rows, done(f"SELECT {len(rows)}")]


def foreign_tag(got: Message, run: bytes, client: int, allowed: set[int]) -> bytes | None:
    """The first mark in the message that this client did not put there in this action."""
    for found in TAG.finditer(got.body):
        if found[1] != run or int(found[2]) != client or int(found[3]) not in allowed:
            return found[0]
    return None


def _bytes(value: str | bytes | int | None) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode()
