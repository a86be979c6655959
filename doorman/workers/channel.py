"""What master and workers say to each other: small msgspec messages over a SOCK_SEQPACKET pair, with file descriptors.

Rules
1. One message is one packet, a long one (a configuration) several `Part`s in a row. A packet that cannot be sent now
   is queued with its own duplicates of the descriptors. Messages arrive in the order in which they were sent.
2. End of the stream means that the peer is gone.
3. What nobody waits for is deposited: it lies in the kernel's buffer of a second pair, which wakes no process, and the
   peer collects it when it reads for another reason. Descriptors live on there even when their sender is killed.
   Deposits are in order among themselves alone.
4. Descriptors are close-on-exec on arrival. One that did not fit (EMFILE) is missing: `Want` asks for it again.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from doorman.admin.orders import Order, OrderResult
from doorman.auth.auth_query import Found
from doorman.config.schema import Config
from doorman.wire.packing import joined, number
from doorman.workers.dial import send_descriptor
from doorman.workers.encryption import Materials
from doorman.workers.roster import PoolEntry

MAX_PACKET = 16384
MAX_DESCRIPTORS = 16


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Worker to master: I can take clients."""


class Publish(msgspec.Struct, tag=True, frozen=True):
    """This descriptor is the server connection (slot, generation). Who opened it to master, master to who wants it."""

    slot: int
    generation: int


class Forget(msgspec.Struct, tag=True, frozen=True):
    """These server connections, by slot and generation, are over: close your duplicates."""

    servers: list[tuple[int, int]]


class Deposited(msgspec.Struct, tag=True, frozen=True):
    """To master: something has lain among the deposits for a while."""


class Want(msgspec.Struct, tag=True, frozen=True):
    """To master: I have no descriptor of that connection, send it. Master to who opened it: send it again."""

    slot: int
    generation: int


class Drain(msgspec.Struct, tag=True, frozen=True):
    """Master to worker: take no more clients, let transactions end, then leave."""


class Leave(msgspec.Struct, tag=True, frozen=True):
    """Master to worker: tell the clients that this is the end, and leave at once."""


class Configure(msgspec.Struct, tag=True, frozen=True):
    """Master to everyone: from now on this holds, all of it. `pools` are all live pools. Answered by `Configured`."""

    number: int
    config: Config
    pools: list[PoolEntry]
    materials: Materials


class Configured(msgspec.Struct, tag=True, frozen=True):
    """Everyone to master: I work by that configuration."""

    number: int


class PoolAdded(msgspec.Struct, tag=True, frozen=True):
    """Master to everyone: there is this pool too, or it has changed."""

    pool: PoolEntry


class PoolRemoved(msgspec.Struct, tag=True, frozen=True):
    """Master to everyone: this pool takes no more clients, those that it has are to go."""

    row: int
    generation: int


class Obtain(msgspec.Struct, tag=True, frozen=True):
    """Worker to master: I need this user's pool on demand. Answered by `Obtained`, after `PoolAdded` if it is new."""

    request: int
    database: str
    user: str
    found: Found


class Obtained(msgspec.Struct, tag=True, frozen=True):
    """Master to worker: it is in this row, in every process; or why there is none (`row` -1)."""

    request: int
    row: int
    problem: str = ""


class Collect(msgspec.Struct, tag=True, frozen=True):
    """Keeper to master: nobody seems to use this pool. The master removes it if that is so."""

    row: int
    generation: int


class Ask(msgspec.Struct, tag=True, frozen=True):
    """Worker to master: the administrator orders this. Answered by `Answered`, perhaps much later."""

    request: int
    order: Order


class Answered(msgspec.Struct, tag=True, frozen=True):
    """Master to worker: what came of an order."""

    request: int
    result: OrderResult


class SetLogLevel(msgspec.Struct, tag=True, frozen=True):
    """Master to everyone: log by this filter from now on (log.py)."""

    wanted: str


class LookUp(msgspec.Struct, tag=True, frozen=True):
    """Worker to keeper, through the master: what does auth_query say of this user? Answered by `LookedUp`.

    process: row of the asker. failed: `Found.mark` of a password that a client did not meet, or "".
    """

    request: int
    process: int
    database: str
    user: str
    failed: str


class LookedUp(msgspec.Struct, tag=True, frozen=True):
    """Keeper to worker, through the master: the user, None if there is none; or a problem."""

    request: int
    process: int
    found: Found | None
    problem: str = ""


class Part(msgspec.Struct, tag=True, frozen=True):
    """A piece of a message that is too long for one packet."""

    data: bytes
    is_last: bool


Message = (
    Ready
    | Publish
    | Forget
    | Want
    | Ask
    | Answered
    | SetLogLevel
    | Drain
    | Leave
    | Configure
    | Configured
    | PoolAdded
    | PoolRemoved
    | Obtain
    | Obtained
    | Collect
    | Deposited
    | LookUp
    | LookedUp
)

_encoder = msgspec.msgpack.Encoder()
# A Publish as the encoder would write it, but with numbers of a fixed width; every server that is opened needs one.
_PUBLISH: Final = b"\x83\xa4type\xa7Publish\xa4slot\xce"
_GENERATION: Final = b"\xaageneration\xce"
_decoder: msgspec.msgpack.Decoder[Message | Part] = msgspec.msgpack.Decoder(Message | Part)
PART_BYTES = MAX_PACKET - 64


def packets_of(message: Message) -> list[bytes]:
    """A message as it travels: one packet, or parts if it is too long for one."""
    packet = _encoder.encode(message)
    if len(packet) <= MAX_PACKET:
        return [packet]
    starts = range(0, len(packet), PART_BYTES)
    return [_encoder.encode(Part(packet[at : at + PART_BYTES], at + PART_BYTES >= len(packet))) for at in starts]


class Channel:
    """One end of the pair. `receive` and `flush` never block."""

    __slots__ = ("_deposits_fd", "_parts", "_queue", "deposits", "socket")

    def __init__(self, end: socket.socket, deposits: socket.socket) -> None:
        end.setblocking(False)
        deposits.setblocking(False)
        self.socket = end
        self.deposits = deposits
        self._deposits_fd = deposits.fileno()
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._parts: list[bytes] = []

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Both ends."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            deposits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            close_all(end.detach() for end in ends)
            raise
        return Channel(ends[0], deposits[0]), Channel(ends[1], deposits[1])

    def fileno(self) -> int:
        """The descriptor to watch; -1 when closed."""
        return self.socket.fileno()

    @property
    def has_queue(self) -> bool:
        """Something waits for the peer to read: watch for writability and call `flush`."""
        return bool(self._queue)

    def send(self, message: Message, descriptors: Iterable[int] = ()) -> None:
        """Send now or as soon as the peer reads; raises BrokenPipeError when it is gone. A long message has none."""
        packets = packets_of(message)
        self.send_packets(packets, descriptors if len(packets) == 1 else ())

    def send_packets(self, packets: list[bytes], descriptors: Iterable[int] = ()) -> None:
        """`send` for what goes to many: `packets_of` it once."""
        for packet in packets:
            self._send_packet(packet, list(descriptors))

    def deposit(self, message: Message) -> bool:
        """Leave a message for the peer to collect; False when it is too long or there is no room. Raises OSError."""
        packet = _encoder.encode(message)
        if len(packet) > MAX_PACKET:
            return False
        return self._try(self.deposits, packet, [])

    def deposit_server(self, slot: int, generation: int, fd: int) -> bool:
        """`deposit` of a Publish."""
        packet = joined(_PUBLISH, number(slot), _GENERATION, number(generation))
        return not may_wait(send_descriptor(self._deposits_fd, packet, fd))

    def collect(self) -> tuple[Message, list[int]] | None:
        """The next deposit, None when there is none. Raises EOFError when the peer is gone and no more is there."""
        received = self._receive_packet(self.deposits)
        if received is None:
            return None
        message, descriptors = received
        assert not isinstance(message, Part)
        return message, descriptors

    def _send_packet(self, packet: bytes, descriptors: list[int]) -> None:
        if self._queue or not self._try(self.socket, packet, descriptors):
            self._queue.append((packet, [os.dup(fd) for fd in descriptors]))

    def flush(self) -> None:
        """Send what is queued, as far as the peer reads."""
        while self._queue:
            packet, descriptors = self._queue[0]
            if not self._try(self.socket, packet, descriptors):
                return
            self._queue.popleft()
            close_all(descriptors)

    def _try(self, sock: socket.socket, packet: bytes, descriptors: list[int]) -> bool:
        if len(descriptors) == 1:
            return not may_wait(send_descriptor(sock.fileno(), packet, descriptors[0]))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            sock.sendmsg([packet], rights)
        except BlockingIOError:
            return False
        except OSError as error:
            return not may_wait(error.errno or errno.EIO)
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message with its descriptors, None when there is none now. Raises EOFError when the peer is gone."""
        while (received := self._receive_packet(self.socket)) is not None:
            message, descriptors = received
            if not isinstance(message, Part):
                return message, descriptors
            self._parts.append(message.data)
            if message.is_last:
                whole = _decoder.decode(b"".join(self._parts))
                self._parts.clear()
                assert not isinstance(whole, Part)
                return whole, []
        return None

    def _receive_packet(self, sock: socket.socket) -> tuple[Message | Part, list[int]] | None:
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
        try:
            packet, ancillary, _, _ = sock.recvmsg(MAX_PACKET, room, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError:
            raise EOFError from None
        descriptors: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.extend(array.array("i", data[: len(data) - len(data) % 4]))
        if not packet:
            close_all(descriptors)
            raise EOFError
        return _decoder.decode(packet), descriptors

    def close(self) -> None:
        """Close this end and what is queued."""
        for _, descriptors in self._queue:
            close_all(descriptors)
        self._queue.clear()
        self._deposits_fd = -1
        self.socket.close()
        self.deposits.close()


def may_wait(code: int) -> bool:
    """What became of sending, 0 or an errno: is it to be tried again? Raises OSError when that would not help."""
    if not code:
        return False
    if code in (errno.EAGAIN, errno.EINTR, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM):
        return True
    raise OSError(code, os.strerror(code))


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in descriptors:
        os.close(fd)
