"""The TLS record layer under arbitrary records: authentic ones of any type, spoilt ones, bytes that are none.

An input chooses suite and role, then steps. The peer (`Sender`) seals by hand, with `cryptography` alone, and `Model`
says what a receiver must make of that. Rules: nothing comes out that was not authenticated, everything that was comes
out in order up to the first fault, whatever the pieces; what our side writes the peer can open (`Receiver`).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from doorman.tls.cipher import use_libcrypto
from doorman.tls.faults import Fault
from doorman.tls.record import RecordLayer, private_layer
from doorman.tls.schedule import Keys, Session, next_secret, traffic_keys
from doorman.tls.suites import SUITES, TLS_1_3, Suite
from tests.fuzz.script import Script

ALERT, HANDSHAKE, DATA = 21, 22, 23
PLAIN_MOST = 16_384
MOST_EMPTY = 32
MOST_HANDSHAKE = 131_072
EXPLICIT_BASE = 7
UPDATE = b"\x18\x00\x00\x01\x00"


class Way:
    """One direction: its keys, and the number of the next record."""

    def __init__(self, suite: Suite, seed: int, sequence: int) -> None:
        self.suite = suite
        self.is_13 = suite.version == TLS_1_3
        self.secret = bytes((seed,)) * (48 if suite.digest == "sha384" else 32)
        self.sequence = sequence
        self.use(self.first_keys(seed))

    def first_keys(self, seed: int) -> Keys:
        if self.is_13:
            return traffic_keys(self.suite, self.secret, self.sequence)
        key, salt = bytes((seed,)) * self.suite.key_bytes, bytes((seed,)) * self.suite.salt_bytes
        return Keys(key, salt, self.sequence, b"", EXPLICIT_BASE)

    def use(self, keys: Keys) -> None:
        self.keys = keys
        self.aead = (ChaCha20Poly1305 if self.suite.is_chacha else AESGCM)(keys.key)

    def update(self) -> None:
        """The next generation of keys."""
        self.secret = next_secret(self.suite.number, self.secret)
        self.use(traffic_keys(self.suite, self.secret))
        self.sequence = 0

    def nonce(self, number: int) -> bytes:
        return (int.from_bytes(self.keys.iv, "big") ^ number).to_bytes(12, "big")

    @property
    def has_explicit_nonces(self) -> bool:
        return not self.is_13 and not self.suite.is_chacha


class Sender(Way):
    """Seals a record of any type with any padding."""

    def seal(self, kind: int, content: bytes, padding: int) -> bytes:
        number, self.sequence = self.sequence, self.sequence + 1
        if self.is_13:
            inner = content + bytes((kind,)) + bytes(padding)
            head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
            return head + self.aead.encrypt(self.nonce(number), inner, head)
        aad = number.to_bytes(8, "big") + bytes((kind, 3, 3)) + len(content).to_bytes(2, "big")
        explicit = (99 + number).to_bytes(8, "big") if self.has_explicit_nonces else b""
        nonce = self.keys.iv + explicit if explicit else self.nonce(number)
        sealed = explicit + self.aead.encrypt(nonce, content, aad)
        return bytes((kind, 3, 3)) + len(sealed).to_bytes(2, "big") + sealed


class Receiver(Way):
    """Opens what our side wrote: types and contents of whole records."""

    def open(self, data: bytes) -> list[tuple[int, bytes]]:
        records = []
        while data:
            size = int.from_bytes(data[3:5], "big")
            record, data = data[: 5 + size], data[5 + size :]
            assert len(record) == 5 + size, "half a record was written"
            kind, content = self.open_one(record)
            if self.is_13 and (kind, content) == (HANDSHAKE, UPDATE):
                self.update()
            records.append((kind, content))
        return records

    def open_one(self, record: bytes) -> tuple[int, bytes]:
        number, self.sequence = self.sequence, self.sequence + 1
        head, body = record[:5], record[5:]
        if self.is_13:
            inner = self.aead.decrypt(self.nonce(number), body, head)
            return inner[-1], inner[:-1]
        explicit, body = (body[:8], body[8:]) if self.has_explicit_nonces else (b"", body)
        aad = number.to_bytes(8, "big") + head[:3] + (len(body) - 16).to_bytes(2, "big")
        return head[0], self.aead.decrypt(self.keys.iv + explicit if explicit else self.nonce(number), body, aad)


class Model:
    """What a receiver must make of authentic records, and of the first that is none."""

    def __init__(self, sender: Sender, *, is_client: bool) -> None:
        self.sender = sender
        self.is_client = is_client
        self.data = bytearray()
        self.fault = 0
        self.ended = False
        self.is_spoilt = False  # a fault must come, or more bytes are waited for
        self.owes_update = False
        self.empties = 0
        self.handshake = b""

    @property
    def is_over(self) -> bool:
        return bool(self.fault or self.ended or self.is_spoilt)

    def take(self, kind: int, content: bytes, padding: int) -> None:
        if self.is_over:
            return
        if self.sender.is_13:
            inner = (content + bytes((kind,)) + bytes(padding)).rstrip(b"\0")
            if not inner:
                self.fault = Fault.UNEXPECTED_MESSAGE
                return
            kind, content = inner[-1], inner[:-1]
        elif not 20 <= kind <= DATA:
            self.fault = Fault.UNEXPECTED_MESSAGE
            return
        if len(content) > PLAIN_MOST:
            self.fault = Fault.RECORD_OVERFLOW
        elif kind == DATA and content and not self.handshake:
            self.data += content
            self.empties = 0
        else:
            self.take_other(kind, content)

    def take_other(self, kind: int, content: bytes) -> None:
        self.empties += 1
        if self.empties > MOST_EMPTY:
            self.fault = Fault.TOO_MANY_EMPTY
        elif kind == ALERT and not self.handshake:
            self.take_alert(content)
        elif kind == HANDSHAKE and content:
            self.take_handshake(content)
        elif kind != DATA or self.handshake:
            self.fault = Fault.UNEXPECTED_MESSAGE

    def take_alert(self, content: bytes) -> None:
        if len(content) != 2:
            self.fault = Fault.DECODE_ERROR
        elif content[1] == 0:
            self.ended = True
        elif content[1] != 90 and (self.sender.is_13 or content[0] != 1):
            self.fault = Fault.PEER_ALERT

    def take_handshake(self, content: bytes) -> None:
        self.handshake += content
        while not self.fault and len(self.handshake) >= 4:
            size = int.from_bytes(self.handshake[1:4], "big")
            if size > MOST_HANDSHAKE:
                self.fault = Fault.DECODE_ERROR
                return
            if len(self.handshake) < 4 + size:
                return
            kind, body = self.handshake[0], self.handshake[4 : 4 + size]
            self.handshake = self.handshake[4 + size :]
            self.take_message(kind, body)

    def take_message(self, kind: int, body: bytes) -> None:
        if kind == 24 and self.sender.is_13 and not self.handshake:
            if body not in (b"\0", b"\1"):
                self.fault = Fault.DECODE_ERROR
                return
            self.owes_update = self.owes_update or body == b"\1"
            self.sender.update()
        elif not self.is_client or kind != (4 if self.sender.is_13 else 0):
            self.fault = Fault.UNEXPECTED_MESSAGE


class Play:
    """One input."""

    def __init__(self, script: Script) -> None:
        head = script.byte()
        suite = SUITES[head % len(SUITES)]
        choose_library(bool(head & 128))
        self.is_client = bool(head & 64)
        self.script = script
        sender, self.receiver = Sender(suite, 1, script.byte()), Receiver(suite, 2, script.byte())
        self.model = Model(sender, is_client=self.is_client)
        session = Session(suite.version, suite.number, sender.keys, self.receiver.keys)
        self.layer: RecordLayer = private_layer(session, is_client=self.is_client)
        self.sent = bytearray()  # and not delivered yet
        self.got = bytearray()

    def run(self) -> None:
        steps = (self.send_data, self.send_record, self.send_spoilt, self.send_bytes, self.deliver, self.chop,
                 self.speak, self.move)  # fmt: skip
        while not self.script.is_over:
            self.script.pick(steps)()
        self.deliver()
        model, layer = self.model, self.layer
        assert self.got == model.data, "what came out is not what was sealed"
        if not model.is_spoilt:
            assert (layer.fault, layer.ended) == (model.fault, model.ended)
            assert layer.is_between == (model.is_over or not model.handshake) or layer.fault or layer.ended
        self.say_farewell()

    def send_data(self) -> None:
        length = self.script.byte()
        if length >= 250:
            length = PLAIN_MOST + self.script.byte() - 250
        self.send(DATA, bytes(at * 7 & 255 for at in range(length)), 0)

    def send_record(self) -> None:
        kind, length, padding = self.script.byte(), self.script.byte() % 32, self.script.byte() % 4
        self.send(20 + kind % 4 if kind & 64 else kind, self.script.bytes(length), padding)

    def send(self, kind: int, content: bytes, padding: int) -> None:
        self.sent += self.model.sender.seal(kind, content, padding)
        self.model.take(kind, content, padding)

    def send_spoilt(self) -> None:
        record = bytearray(self.model.sender.seal(DATA, b"spoilt", 0))
        record[self.script.byte() % len(record)] ^= 1 << self.script.byte() % 8
        self.sent += record
        self.model.is_spoilt |= not self.model.is_over

    def send_bytes(self) -> None:
        junk = self.script.bytes(self.script.byte() % 16)
        self.sent += junk
        self.model.is_spoilt |= bool(junk) and not self.model.is_over

    def deliver(self) -> None:
        self.got += self.layer.open_bytes(bytes(self.sent))
        self.sent.clear()
        assert self.got == self.model.data or self.model.is_over, "sealed bytes did not come out"

    def chop(self) -> None:
        size = self.script.byte() % 40 + 1
        for at in range(0, len(self.sent), size):
            self.got += self.layer.open_bytes(bytes(self.sent[at : at + size]))
        self.sent.clear()

    def speak(self) -> None:
        """What we write, the peer opens; an update that it asked for comes first."""
        self.deliver()
        length = self.script.byte() * 100
        written = self.layer.seal_bytes(bytes(length))
        if self.layer.fault:
            assert not written, "something was written after a fault"
            return
        records = self.receiver.open(written)
        if self.receiver.is_13 and self.model.owes_update:
            assert records.pop(0) == (HANDSHAKE, UPDATE), "no KeyUpdate although the peer asked for one"
            self.model.owes_update = False
        assert all(kind == DATA for kind, _ in records) and b"".join(part for _, part in records) == bytes(length)

    def move(self) -> None:
        """Another process goes on."""
        self.deliver()
        if self.layer.is_between and not self.model.is_over and not self.model.owes_update:
            self.layer = private_layer(self.layer.export(), is_client=self.is_client)
            self.model.empties = 0

    def say_farewell(self) -> None:
        """An alert, or nothing where none fits."""
        ended, fault = self.layer.ended, self.layer.fault
        records = self.receiver.open(self.layer.farewell())
        assert all(kind == ALERT and len(content) == 2 for kind, content in records)
        assert records or fault == Fault.PEER_ALERT
        if records and not fault:
            assert records[0][1] == b"\x01\x00", ended


def choose_library(wanted: bool) -> None:
    """Of the two that can seal; `use_libcrypto` proves each time that they agree, which takes longer than an input."""
    if CHOSEN[0] != wanted:
        CHOSEN[0] = wanted
        use_libcrypto(wanted)


CHOSEN = [True]


def play(data: bytes) -> None:
    """One input."""
    Play(Script(data)).run()
