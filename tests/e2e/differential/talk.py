"""One side's conversation: says a script in pieces, reads meanwhile, and gives back everything that was answered.

Rules
1. On the reference side (`marks` is None) a pause lasts until PostgreSQL has nothing to say any more; how many of its
   messages it is certain to have sent by then becomes the pause's mark. A mark taken too early only asks for less.
2. On the other side a pause lasts until as many messages are there as the mark says. HANG_SECONDS without them: `hang`.
3. Others speak only where the reference side's session was idle, which PostgreSQL itself is asked (`is_idle`): what has
   not been answered for a while may be late, and the server of a pool of one is not to be had then.
4. A conversation ends with Sync, ROLLBACK and a Query whose row tells that everything before it has been answered.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tests.e2e.differential.script import SYNC, is_pause, query, rival_number
from tests.e2e.raw import Raw
from tests.torture.wire import TERMINATE, Message

LAST_WORD = b"end of script"
CLOSING = [SYNC, query("ROLLBACK"), query(f"SELECT '{LAST_WORD.decode()}'")]
PATIENCE_SECONDS = 20.0  # of the reference side: it never hangs, but the machine may be busy
HANG_SECONDS = 5.0
QUIET_AFTER_FLUSH = 0.008  # seconds of silence that end a pause of the reference side
QUIET_IN_DOUBT = 0.015
MOST_PIECES = 300  # in one run between two pauses; what is left then goes out whole
FLUSHED = b"ZGE"  # PostgreSQL sends what it has with these: ReadyForQuery, CopyInResponse, ErrorResponse


class Mark(NamedTuple):
    """What the reference side had said at a pause; is_idle: no transaction open, nothing owed, and others may speak."""

    messages: int
    is_idle: bool


@dataclass
class Transcript:
    """What one side said; `is_ended`: it closed the connection before the last word."""

    messages: list[Message] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    is_ended: bool = False
    hang: str = ""


class Hung(Exception):
    """Less came than was due."""


def converse(
    address: tuple[str, int],
    database: str,
    script: Sequence[bytes],
    pieces: Sequence[int],
    marks: Sequence[Mark] | None = None,
    at_rival: Callable[[int], None] | None = None,
    patience: float = HANG_SECONDS,
    is_idle: Callable[[int], bool] = lambda pid: False,
) -> Transcript:
    """Say the script on a connection of its own. `marks`: those of the reference side, None when this is it;
    `is_idle(pid)` then tells of PostgreSQL's process (rule 3)."""
    with Raw(address).log_in(database=database, application_name="differential") as raw:
        talk = Talk(raw.socket, pieces, patience if marks is not None else PATIENCE_SECONDS)
        try:
            for number, (said, pause) in enumerate(runs(script)):
                talk.say(said)
                if pause is None:
                    break
                if marks is None:
                    talk.settle(rival_number(pause) is not None and is_idle, raw.pid)
                else:
                    talk.wait(lambda number=number: len(talk.got.messages) >= marks[number].messages)  # type: ignore[misc]
                    who = rival_number(pause)
                    if who is not None and at_rival is not None and marks[number].is_idle:
                        at_rival(who)
            talk.say(CLOSING)
            talk.wait(talk.has_last_word)
            talk.say([TERMINATE])
        except Hung as hung:
            talk.got.hang = str(hung)
        return talk.got


def runs(script: Sequence[bytes]) -> Iterator[tuple[list[bytes], bytes | None]]:
    """What is said up to each pause, and the pause; None behind what follows the last one."""
    said: list[bytes] = []
    for step in script:
        if is_pause(step):
            yield said, step
            said = []
        else:
            said.append(step)
    yield said, None


class Talk:
    """A socket, what was sent of which kind, and what came."""

    def __init__(self, sock: socket.socket, pieces: Sequence[int], patience: float) -> None:
        self.socket = sock
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.patience = patience
        self.pieces = list(pieces)
        self.got = Transcript()
        self.buffer = bytearray()
        self.asked = 0  # Sync, Query and FunctionCall sent: no more ReadyForQuery than these can come
        self.ready = 0  # ReadyForQuery that came
        self.last_said = b""

    def say(self, messages: Sequence[bytes]) -> None:
        """Send in pieces, reading meanwhile; to a side that has gone nothing is sent."""
        for step in messages:
            self.asked += step[:1] in b"SQF"
            self.last_said = step[:1]
        for piece in cut(b"".join(messages), self.pieces):
            deadline, view = time.monotonic() + self.patience, memoryview(piece)
            while view and not self.got.is_ended:
                if time.monotonic() > deadline:
                    raise Hung(f"does not take what is sent for {self.patience:g} s")
                view = view[self._exchange(view) :]

    def wait(self, is_enough: Callable[[], bool]) -> None:
        """Read until enough is there or the side has closed."""
        deadline = time.monotonic() + self.patience
        while not is_enough() and not self.got.is_ended:
            if not self._read(max(0.0, deadline - time.monotonic())):
                raise Hung(f"silent for {self.patience:g} s after {len(self.got.messages)} messages")

    def settle(self, is_idle: Callable[[int], bool] | Literal[False] = False, pid: int = 0) -> None:
        """Rule 1: read until nothing more can come, or nothing has come for a while."""
        while not self.got.is_ended and not (self.ready == self.asked and self.last_said in b"SQF"):
            if not self._read(QUIET_AFTER_FLUSH if self.last_said == b"H" else QUIET_IN_DOUBT):
                break
        messages = self.got.messages
        rests = is_idle and not self.got.is_ended and self.last_said in b"SQF" and is_idle(pid)
        while rests and self._read(0.0) and not self.got.is_ended:
            pass
        certain = len(messages)
        if not rests and self.last_said not in (b"S", b"Q", b"F", b"H"):
            while certain and messages[certain - 1].kind not in FLUSHED:
                certain -= 1
        self.got.marks.append(Mark(certain, rests and messages[-1:] == [Message(b"Z", b"I")]))
        self.asked = self.ready  # what has not been answered by now was skipped

    def has_last_word(self) -> bool:
        last = self.got.messages[-4:]
        return bool(last) and last[-1].kind == b"Z" and any(one.kind == b"D" and LAST_WORD in one.body for one in last)

    # -- the socket

    def _exchange(self, view: memoryview) -> int:
        """Send what it takes now and read what is there; how much was sent."""
        readable, writable, _ = select.select([self.socket], [self.socket], [], 0.5)
        if readable:
            self._receive()
        if not writable or self.got.is_ended:
            return 0
        try:
            return self.socket.send(view)
        except (BrokenPipeError, ConnectionResetError):
            return len(view)  # what it said before it closed is still to be read
        except BlockingIOError:
            return 0

    def _read(self, seconds: float) -> bool:
        """Whether anything came (or the end) in this time."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return False
        self._receive()
        return True

    def _receive(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        self.got.is_ended = not data
        self.buffer += data
        self._split()

    def _split(self) -> None:
        buffer, at, end = self.buffer, 0, len(self.buffer)
        while end - at >= 5:
            stop = at + 1 + int.from_bytes(buffer[at + 1 : at + 5], "big")
            if stop > end:
                break
            self.got.messages.append(Message(bytes(buffer[at : at + 1]), bytes(buffer[at + 5 : stop])))
            self.ready += buffer[at] == ord("Z")
            at = stop
        del buffer[:at]


def cut(data: bytes, pieces: Sequence[int]) -> Iterator[bytes]:
    """Pieces of these sizes over and over; without sizes everything in one."""
    at = count = 0
    while pieces and at < len(data) and count < MOST_PIECES:
        size = pieces[count % len(pieces)]
        yield data[at : at + size]
        at, count = at + size, count + 1
    if at < len(data):
        yield data[at:]
