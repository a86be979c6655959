"""A blocking client that speaks the raw protocol, for tests that care about single bytes.

The messages are built by tests/torture/wire.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.torture.wire import CANCEL_REQUEST, Message, message, query, startup

TIMEOUT = 15.0  # seconds that any single read may take

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSSENC_REQUEST = struct.pack("!ii", 8, 80877104)

Address = tuple[str, int] | Path


class Ended(Exception):
    """The other side closed the connection."""


def dial(address: Address) -> socket.socket:
    """A connected socket to a TCP address or a Unix socket's path."""
    if isinstance(address, Path):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT)
        sock.connect(str(address))
        return sock
    return socket.create_connection(address, timeout=TIMEOUT)


class Raw:
    """One connection: `send` bytes, `next` message, `until` a message; `log_in` where the login is not the point."""

    def __init__(self, address: Address) -> None:
        self.socket = dial(address)
        self.socket.settimeout(TIMEOUT)
        self.buffer = bytearray()
        self.parameters: dict[str, str] = {}
        self.pid, self.secret = 0, b""
        self.status = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def log_in(self, user: str = "app", database: str = "postgres", **parameters: str) -> Self:
        """As a user who needs no password."""
        self.send(startup(user, database, **parameters))
        self.until("Z")
        return self

    # -- bytes

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def trickle(self, data: bytes) -> None:
        """One byte a packet."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            self.socket.sendall(data[at : at + 1])

    def read_bytes(self, count: int) -> bytes:
        """Exactly so many; raises Ended."""
        while len(self.buffer) < count:
            self._receive()
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def read_to_end(self) -> bytes:
        """Everything until the other side closes."""
        try:
            while True:
                self._receive()
        except Ended:
            return bytes(self.buffer)

    def is_silent(self, seconds: float = 0.15) -> bool:
        """Nothing comes for so long."""
        if self.buffer:
            return False
        self.socket.settimeout(seconds)
        try:
            self._receive()
        except (TimeoutError, Ended) as reason:
            return isinstance(reason, TimeoutError)
        finally:
            self.socket.settimeout(TIMEOUT)
        return False

    # -- messages

    def next(self) -> Message:
        """The next message, whatever it is."""
        head = self.read_bytes(5)
        length: int = struct.unpack("!I", head[1:])[0]
        got = Message(head[:1], self.read_bytes(length - 4))
        self._note(got)
        return got

    def until(self, kind: str) -> list[Message]:
        """All messages up to and with the first of this kind. An ErrorResponse that ends the session raises Ended."""
        taken = []
        while True:
            taken.append(self.next())
            if taken[-1].kind == kind.encode():
                return taken
            if taken[-1].kind == b"E" and taken[-1].fields()["V"] == "FATAL":
                raise Ended(taken[-1].fields())

    def ask(self, *data: bytes, ready: int = 1) -> str:
        """Send, read so many ReadyForQuery; the letters that came, the status behind each Z: `1 2 D C ZI`."""
        return tell(self.converse(*data, ready=ready))

    def converse(self, *data: bytes, ready: int = 1) -> list[Message]:
        """Send, read so many ReadyForQuery."""
        self.send(*data)
        return [got for _ in range(ready) for got in self.until("Z")]

    def value(self, sql: str) -> str | None:
        """First column of the first row of a simple query; raises AssertionError for an error."""
        rows = self.rows(sql)
        return rows[0][0] if rows else None

    def rows(self, sql: str) -> list[list[str | None]]:
        """All rows of a simple query as text."""
        answers = self.converse(query(sql))
        errors = [got.fields() for got in answers if got.kind == b"E"]
        assert not errors, errors
        return [decoded(got.columns()) for got in answers if got.kind == b"D"]

    def error(self, *data: bytes) -> dict[str, str]:
        """Send; the fields of the one error that comes before ReadyForQuery."""
        errors = [got.fields() for got in self.converse(*data) if got.kind == b"E"]
        assert len(errors) == 1, errors
        return errors[0]

    def last_words(self) -> dict[str, str]:
        """The ErrorResponse with which the other side closes; everything before it is skipped."""
        got = Message(b"?", b"")
        try:
            while True:
                got = self.next()
        except (Ended, ConnectionResetError):
            assert got.kind == b"E", f"closed after {got.brief()}"
            return got.fields()

    # -- the end

    def close(self) -> None:
        """Without Terminate."""
        self.socket.close()

    def quit(self) -> None:
        """With Terminate; returns when the other side has closed."""
        self.send(message(b"X"))
        assert self.read_to_end() == b""
        self.close()

    def reset(self) -> None:
        """With RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _receive(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise Ended
        self.buffer += data

    def _note(self, got: Message) -> None:
        if got.kind == b"S":  # ParameterStatus
            name, value, *_ = got.body.split(b"\0")
            self.parameters[name.decode()] = value.decode("utf-8", "surrogateescape")
        elif got.kind == b"K":  # BackendKeyData
            self.pid, self.secret = int.from_bytes(got.body[:4], "big"), got.body[4:]
        elif got.kind == b"Z":  # ReadyForQuery
            self.status = got.body.decode()


def decoded(columns: Sequence[bytes | None]) -> list[str | None]:
    return [None if column is None else column.decode() for column in columns]


def tell(messages: Sequence[Message]) -> str:
    """Letters of messages; status behind Z, SQLSTATE behind E, tag behind C."""
    return " ".join(_tell_one(got) for got in messages)


def _tell_one(got: Message) -> str:
    letter = got.kind.decode()
    if got.kind == b"Z":
        return letter + got.body.decode()
    if got.kind == b"E":
        return f"{letter}:{got.fields()['C']}"
    return letter


def packet(code: int, body: bytes = b"") -> bytes:
    """A packet without type byte, as they stand at the begin of a connection."""
    return struct.pack("!ii", len(body) + 8, code) + body


def cancel_packet(pid: int, secret: bytes) -> bytes:
    return struct.pack("!iiI", 12 + len(secret), CANCEL_REQUEST, pid) + secret


def cancel(address: Address, pid: int, secret: bytes) -> bytes:
    """A CancelRequest on a connection of its own; everything that was answered (nothing, we hope)."""
    with Raw(address) as raw:
        raw.send(cancel_packet(pid, secret))
        return raw.read_to_end()


def wait_until(condition: Callable[[], object], what: str | Callable[[], str], timeout: float = 5.0) -> None:
    """Poll a callable until it is true. what: for the failure, as text or as something that looks then."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.01)
