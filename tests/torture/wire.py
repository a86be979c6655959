"""The raw protocol of one torture client: builds frontend messages, splits what comes back, cancels.

No driver, so that packets can be chopped, pipelined and left unfinished. Chapter 55 of PostgreSQL's manual
("Frontend/Backend Protocol") describes each message.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, cast

PROTOCOL_3_0 = 196608
CANCEL_REQUEST = 80877102
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
HANG_TIMEOUT = 40.0  # seconds without the expected message: longer than every time-out that the run configures


class Message(NamedTuple):
    """One backend message: its type byte and its body without the length."""

    kind: bytes
    body: bytes

    def fields(self) -> dict[str, str]:
        """Fields of an ErrorResponse or NoticeResponse by their letter (C is the SQLSTATE, M the message)."""
        parts = self.body.rstrip(b"\0").split(b"\0")
        return {part[:1].decode(): part[1:].decode(errors="replace") for part in parts if part}

    def columns(self) -> list[bytes | None]:
        """Values of a DataRow."""
        values: list[bytes | None] = []
        (count,), at = struct.unpack_from("!h", self.body), 2
        for _ in range(count):
            (length,) = struct.unpack_from("!i", self.body, at)
            at += 4
            values.append(None if length < 0 else self.body[at : at + length])
            at += max(length, 0)
        return values

    def brief(self) -> str:
        shown = self.body[:160]
        return f"{self.kind.decode()} {shown!r}{'…' if len(self.body) > 160 else ''}"


class ConnectionEnded(Exception):
    """The pooler closed the connection, or it was reset."""


class Hang(Exception):
    """No message for `HANG_TIMEOUT` seconds although one was due."""


# -- frontend messages


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def query(sql: str) -> bytes:
    return message(b"Q", sql.encode() + b"\0")


def parse(sql: str, name: str = "", types: Sequence[int] = ()) -> bytes:
    return message(b"P", _text(name) + _text(sql) + struct.pack(f"!h{len(types)}I", len(types), *types))


def bind(values: Sequence[bytes | None] = (), name: str = "", portal: str = "", *, binary: bool = False) -> bytes:
    """Bind with all parameters in one format; results come as text."""
    body = [_text(portal), _text(name), struct.pack("!hhh", 1, int(binary), len(values))]
    for value in values:
        body.append(struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value)
    return message(b"B", b"".join(body) + struct.pack("!h", 0))


def describe_statement(name: str = "") -> bytes:
    return message(b"D", b"S" + _text(name))


def describe_portal(name: str = "") -> bytes:
    return message(b"D", b"P" + _text(name))


def execute(portal: str = "", limit: int = 0) -> bytes:
    return message(b"E", _text(portal) + struct.pack("!i", limit))


def close_statement(name: str) -> bytes:
    return message(b"C", b"S" + _text(name))


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


def copy_fail(reason: str) -> bytes:
    return message(b"f", _text(reason))


def function_call(oid: int, arguments: Sequence[bytes]) -> bytes:
    """FunctionCall with binary arguments and a binary result."""
    body = struct.pack("!ihhh", oid, 1, 1, len(arguments))
    body += b"".join(struct.pack("!i", len(argument)) + argument for argument in arguments)
    return message(b"F", body + struct.pack("!h", 1))


SYNC, FLUSH, COPY_DONE, TERMINATE = message(b"S"), message(b"H"), message(b"c"), message(b"X")


def startup(user: str, dbname: str, **parameters: str) -> bytes:
    pairs = {"user": user, "database": dbname, **parameters}
    body = struct.pack("!i", PROTOCOL_3_0) + b"".join(_text(k) + _text(v) for k, v in pairs.items()) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


# -- the connection


class Wire(asyncio.Protocol):
    """One connection. `next` gives the messages in order; ParameterStatus is noted and left out."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.parameters: dict[str, str] = {}
        self.pid, self.secret = 0, b""
        self.status = b"?"
        self.is_lost = False
        self.local_port = 0
        self.received = 0
        self.endings = 0  # ErrorResponse and ReadyForQuery messages so far
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def open(cls, host: str, port: int, first_packet: bytes, tls: ssl.SSLContext | None = None) -> Wire:
        """Connect, encrypted if there is a context, and send the startup packet; the caller reads the answer."""
        loop = asyncio.get_running_loop()
        if tls is None:
            _, wire = await loop.create_connection(cls, host, port)
        else:
            sock = await request_tls(host, port)
            _, wire = await loop.create_connection(cls, sock=sock, ssl=tls, server_hostname="")
        wire.transport.write(first_packet)
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is of a class of its own
        self.local_port = transport.get_extra_info("sockname")[1]

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._buffer += data
        self._split()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def next(self) -> Message:
        """The next message. Raises ConnectionEnded or Hang."""
        while not self.messages:
            if self.is_lost:
                raise ConnectionEnded
            await self._wait()
        return self.messages.popleft()

    async def send(self, data: bytes, chop: random.Random | None = None) -> None:
        """Send; with `chop` in pieces that end anywhere, so that the pooler sees unfinished messages.

        On a lost connection nothing is sent: `next` first gives what the pooler said before it closed.
        """
        pieces = [data] if chop is None or len(data) < 2 else _chopped(data, chop)
        for piece in pieces:
            if self.is_lost or self.transport.is_closing():
                return
            self.transport.write(piece)
            if chop is not None:
                await asyncio.sleep(chop.choice((0, 0, 0.001)))
        await self._writable.wait()

    async def read_nothing(self, seconds: float) -> None:
        """Leave everything in the socket for so long."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
            await asyncio.sleep(seconds)
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def mark(self) -> tuple[int, int]:
        """Where `wait_bytes` counts from; taken before the question is sent, since a quick answer may overtake that."""
        return self.received, self.endings

    async def wait_bytes(self, count: int, mark: tuple[int, int]) -> None:
        """Wait until so many bytes have come since `mark`, or the answer has ended before that (it may be an error)."""
        received, endings = mark
        while self.received < received + count and self.endings == endings and not self.is_lost:
            await self._wait()

    def close_kindly(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(TERMINATE)
            self.transport.close()

    def close_abruptly(self, *, reset: bool) -> None:
        """Vanish: with RST (linger 0), or with FIN while replies are still coming."""
        if reset:
            sock = self.transport.get_extra_info("socket")
            if sock is not None and not self.transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _split(self) -> None:
        buffer, at, end = self._buffer, 0, len(self._buffer)
        while end - at >= 5:
            length = int.from_bytes(buffer[at + 1 : at + 5], "big")
            if end - at < 1 + length:
                break
            self._accept(Message(bytes(buffer[at : at + 1]), bytes(buffer[at + 5 : at + 1 + length])))
            at += 1 + length
        del buffer[:at]

    def _accept(self, got: Message) -> None:
        if got.kind == b"S":  # ParameterStatus
            name, value, *_ = got.body.split(b"\0")
            self.parameters[name.decode()] = value.decode()
            return
        self.endings += got.kind in b"EZ"
        if got.kind == b"K":  # BackendKeyData
            self.pid, self.secret = int.from_bytes(got.body[:4], "big"), got.body[4:]
        elif got.kind == b"Z":  # ReadyForQuery
            self.status = got.body
        self.messages.append(got)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(HANG_TIMEOUT, _give_up, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None


def _give_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(Hang())


async def request_tls(host: str, port: int) -> socket.socket:
    """A connection on which the pooler waits for a ClientHello. Raises ConnectionEnded if it closed it instead."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, (host, port))
        await loop.sock_sendall(sock, SSL_REQUEST)
        if await loop.sock_recv(sock, 1) != b"S":
            raise ConnectionEnded
    except BaseException:
        sock.close()
        raise
    return sock


async def send_cancel(host: str, port: int, pid: int, secret: bytes, tls: ssl.SSLContext | None = None) -> None:
    """A CancelRequest on a connection of its own; returns when the pooler has closed it."""
    try:
        if tls is None:
            reader, writer = await asyncio.open_connection(host, port)
        else:
            sock = await request_tls(host, port)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname="")
    except (OSError, ConnectionEnded):
        return
    try:
        writer.write(struct.pack("!iiI", 12 + len(secret), CANCEL_REQUEST, pid) + secret)
        await asyncio.wait_for(reader.read(1), 5)
    except (OSError, TimeoutError):
        pass
    finally:
        writer.close()


def _chopped(data: bytes, rng: random.Random) -> list[bytes]:
    cuts = sorted({rng.randrange(1, len(data)) for _ in range(rng.randint(1, 4))})
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
