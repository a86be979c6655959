"""The TLS part of a server's opening: SSLRequest, its answer, the handshake. No I/O: bytes in, bytes out.

Rules
1. Exactly one byte answers an SSLRequest. More than that is refused: it came before the handshake, so anybody may have
   put it there (CVE-2021-43767 and its kin).
2. After `S` there is no way back to plain text. After `N` there is one under `prefer` alone.
"""

from __future__ import annotations

import time

from doorman.errors import ServerFault
from doorman.tls.contexts import Connector
from doorman.tls.faults import Fault
from doorman.tls.handshake import Handshake, HandshakeFault
from doorman.tls.schedule import Session

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
FIRST_REQUESTS = frozenset({"prefer", "require", "verify-ca", "verify-full"})
"""Modes that ask for TLS at once; `allow` asks when the server refused a login in plain text."""


class TlsFault(ServerFault):
    """No encrypted connection to a server. `fault` is the reason for counters."""

    def __init__(self, fault: Fault, message: str, alert: bytes = b"") -> None:
        super().__init__("08006", message)
        self.fault = fault
        self.alert = alert


class ServerTls:
    """One attempt. Send `start()`, then what `feed` answers, until `session` is there or `is_declined`."""

    def __init__(self, connector: Connector, host: str, mode: str) -> None:
        self.handshake = Handshake(connector, host=host)
        self.mode = mode
        self.is_answered = False
        self.is_declined = False
        self.started = time.monotonic()

    @property
    def session(self) -> Session | None:
        """The handshake is over: go on with this."""
        return self.handshake.session

    @property
    def binding(self) -> bytes | None:
        """For SCRAM-SHA-256-PLUS."""
        return self.handshake.binding

    @property
    def rest(self) -> bytes:
        """Bytes behind the handshake."""
        return self.handshake.rest

    @property
    def took_us(self) -> int:
        """Microseconds since the request."""
        return int((time.monotonic() - self.started) * 1e6)

    def start(self) -> bytes:
        """SSLRequest."""
        return SSL_REQUEST

    def feed(self, data: bytes) -> bytes:
        """What to send next. Raises `TlsFault`."""
        if not self.is_answered:
            return self._on_answer(data)
        try:
            return self.handshake.feed(data)
        except HandshakeFault as fault:
            raise TlsFault(fault.fault, f"TLS handshake with the server failed: {fault.reason}", fault.alert) from None

    def _on_answer(self, data: bytes) -> bytes:
        self.is_answered = True
        if data[:1] in b"SN" and len(data) != 1:
            raise TlsFault(Fault.STUFFED, "the server sent unencrypted data after its answer to SSLRequest")
        if data == b"S":
            return self.handshake.start()
        self.handshake.give_up()
        if data == b"N" and self.mode == "prefer":
            self.is_declined = True
            return b""
        reason = "does not support TLS" if data == b"N" else "gave no valid answer to SSLRequest"
        raise TlsFault(Fault.NOT_OFFERED, f"the server {reason}, but server_tls_mode is {self.mode}")
