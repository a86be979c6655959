"""A client of the console in memory: messages to send, and answers told in a few readable words."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from doorman.admin.console import Console
from doorman.wire import backend, frontend
from doorman.wire.framing import Frames
from tests.unit.auth.chopping import Chop, whole

SYNC = frontend.SYNC
FLUSH = frontend.FLUSH

READY = ("Z", "I")
PARSED = ("1",)
BOUND = ("2",)
CLOSED = ("3",)
NO_DATA = ("n",)
SUSPENDED = ("s",)
EMPTY = ("I",)
SHOWN = ("C", "SHOW")
NO_PARAMETERS = ("t", "0000")

Answer = tuple[str | None, ...]


class Session:
    """Feeds a console piece by piece and keeps what it left, as a worker does."""

    def __init__(self, console: Console, chop: Chop = whole) -> None:
        self.console = console
        self.chop = chop
        self.rest = b""
        self.ended = False

    def raw(self, *messages: bytes) -> bytes:
        output = b""
        for piece in self.chop(b"".join(messages)):
            self.rest += piece
            while True:
                answer = self.console.feed(self.rest)
                self.rest = self.rest[answer.consumed :]
                self.ended = answer.ended
                output += answer.output
                if not answer.has_more:
                    break
        return output

    def send(self, *messages: bytes) -> list[Answer]:
        return tell(self.raw(*messages))

    def rows(self, sql: str) -> list[dict[str, str | None]]:
        """Rows of one SHOW over the simple protocol."""
        columns, *rows, tag, ready = self.send(frontend.query(sql))
        assert (columns[0], tag, ready) == ("T", SHOWN, READY)
        names = [name or "" for name in columns[1:]]
        return [dict(zip(names, row[1:], strict=True)) for row in rows]


def tell(output: bytes) -> list[Answer]:
    """Messages of the console as tuples: letter first, then what matters."""
    frames = Frames(1 << 30)
    frames.feed(output)
    answers = []
    while frame := frames.take():
        answers.append(_tell_one(chr(frame[0]), frame[1]))
    assert not frames.rest()
    return answers


def _tell_one(letter: str, body: bytes) -> Answer:
    if letter == "T":
        return ("T", *(column.name for column in backend.parse_row_description(body)))
    if letter == "D":
        return ("D", *backend.parse_data_row(body))
    if letter == "E":
        fields = backend.parse_error_fields(body)
        return ("E", fields["S"], fields["C"])
    if letter == "t":
        return ("t", body.hex())
    return (letter, body.rstrip(b"\0").decode()) if body else (letter,)


def error(sqlstate: str) -> Answer:
    return ("E", "ERROR", sqlstate)


# Messages that nothing else of ours sends


def parse(sql: str, name: str = "", oids: Iterable[int] = ()) -> bytes:
    types = list(oids)
    return backend.message(b"P", _text(name) + _text(sql) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(name: str = "", portal: str = "", formats: Iterable[int] = (), parameters: Iterable[bytes] = ()) -> bytes:
    values, codes = list(parameters), list(formats)
    fields = b"".join(struct.pack("!i", len(value)) + value for value in values)
    tail = struct.pack(f"!H{len(codes)}H", len(codes), *codes)
    return backend.message(b"B", _text(portal) + _text(name) + struct.pack("!HH", 0, len(values)) + fields + tail)


def describe(kind: str = "P", name: str = "") -> bytes:
    return backend.message(b"D", kind.encode() + _text(name))


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    return backend.message(b"E", _text(portal) + struct.pack("!i", max_rows))


def close(kind: str, name: str = "") -> bytes:
    return backend.message(b"C", kind.encode() + _text(name))


def _text(text: str) -> bytes:
    return text.encode() + b"\0"
