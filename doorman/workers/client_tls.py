"""The TLS part of a client's login: from its SSLRequest (or a ClientHello at once) to the first encrypted byte.

Rules
1. Bytes that come with an SSLRequest, before its answer, are refused: they would be taken for encrypted ones
   (CVE-2021-43766 and its kin). What the handshake does not take belongs to the record layer.
2. A client that may not start yet (`tls_rate_limit_per_second`) is suspended: its bytes wait, the places are given out
   in order over all processes.
3. A handshake that fails ends in OpenSSL's alert and the end of the connection, never in words in clear
   (`Refusals.end_handshake`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from doorman.shm.tls import count_client_handshake, reserve_handshake
from doorman.tls.contexts import Acceptor
from doorman.tls.handshake import Handshake

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from doorman.workers.process import Process
    from doorman.workers.relay.engine import Client

CLIENT_HELLO = 0x16
"""First byte of a handshake record; a startup packet that began like this would be 369 MB long."""


class ClientTls:
    """One client's handshake, and what is known from it."""

    __slots__ = ("binding", "certificate", "client", "handshake", "must_wait", "process", "started")

    def __init__(self, process: Process, client: Client, acceptor: Acceptor, *, is_direct: bool) -> None:
        self.process = process
        self.client = client
        self.handshake: Handshake | None = Handshake(acceptor, needs_alpn=is_direct)
        self.certificate: Certificate | None = None
        self.binding = acceptor.binding
        self.must_wait = False
        self.started = time.monotonic()
        self.wait()

    @property
    def is_done(self) -> bool:
        """The connection is encrypted."""
        return self.handshake is None

    def wait(self) -> None:
        """Rule 2."""
        per_second = self.process.encryption.per_second
        delay_us = reserve_handshake(self.process.table, per_second) if per_second else 0
        if delay_us:
            self.must_wait = True
            self.process.relay.suspend(self.client)
            self.process.later(delay_us / 1e6, self.process.relay.resume, self.client, self.begin)

    def begin(self) -> None:
        """Its turn has come."""
        self.must_wait = False
        self.started = time.monotonic()

    def feed(self, data: bytes) -> None:
        """Bytes of the handshake. All of them are used. Raises `HandshakeFault`."""
        handshake = self.handshake
        assert handshake is not None
        answer = handshake.feed(data)
        if answer:
            self.process.relay.send(self.client, answer)
        if handshake.session is not None and not self.client.is_gone:
            self.certificate = handshake.peer_certificate
            took = int((time.monotonic() - self.started) * 1e6)
            count_client_handshake(self.process.table, handshake.session.version, took)
            self.handshake = None
            self.process.relay.start_tls(self.client, handshake.session, handshake.rest)
