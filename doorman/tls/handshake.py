"""One handshake by OpenSSL without a socket: bytes in, bytes out, and at the end a `Session` that is plain data.

Rules
1. OpenSSL is given one record at a time, and none after the one that ends the handshake: bytes behind it (`rest`)
   belong to the record layer.
2. A handshake has at most MOST_BYTES of the peer's. It ends in `session` or in a `HandshakeFault`, whose `alert` is
   what OpenSSL wants to be sent; then the OpenSSL objects are gone.
3. Records that OpenSSL wrote under the application's keys count into the outbound sequence number: the session tickets
   of TLS 1.3, the Finished message of TLS 1.2.
"""

from __future__ import annotations

import ipaddress

from cryptography import x509
from OpenSSL import SSL

from doorman.errors import DoormanError
from doorman.tls.contexts import Acceptor, Connector, end_point_hash
from doorman.tls.faults import Fault
from doorman.tls.host_name import is_for_host
from doorman.tls.schedule import Keys, Session, key_block, traffic_keys
from doorman.tls.suites import BY_NAME, TLS_1_3, Suite

MOST_BYTES = 131_072
MOST_RECORD = 16_384 + 2_048
HEADER = 5
CCS, ALERT, HANDSHAKE = 20, 21, 22
READ_SIZE = 16_384

VERIFICATION = {
    2: "unable to get issuer certificate",
    3: "unable to get certificate revocation list",
    9: "certificate is not yet valid",
    10: "certificate has expired",
    12: "certificate revocation list has expired",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    23: "certificate revoked",
    24: "invalid certificate authority",
    26: "unsuitable certificate purpose",
}
"""OpenSSL's X509_V_ERR codes (openssl-verification-options(1)), those that operators meet."""

FAULT_OF_VERIFICATION = {9: Fault.CERTIFICATE_EXPIRED, 10: Fault.CERTIFICATE_EXPIRED, 23: Fault.CERTIFICATE_REVOKED}

FAULT_OF_REASON = {
    "peer did not return a certificate": Fault.CERTIFICATE_MISSING,
    "no shared cipher": Fault.NO_SHARED_CIPHER,
    "unsupported protocol": Fault.PROTOCOL_VERSION,
    "wrong version number": Fault.PROTOCOL_VERSION,
    "no application protocol": Fault.NO_ALPN,
}


class HandshakeFault(DoormanError):
    """Why there is no encrypted connection. `alert`: bytes to send before the end; may be empty."""

    def __init__(self, fault: Fault, reason: str, alert: bytes = b"") -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason
        self.alert = alert


class Handshake:
    """`start` (the client's side speaks first), then `feed` with whatever came, until `session` is there."""

    def __init__(self, side: Acceptor | Connector, *, host: str = "", needs_alpn: bool = False) -> None:
        """`host`: the server that was connected to, for SNI and verification. `needs_alpn`: end without ALPN."""
        self.side = side
        self.is_client = isinstance(side, Connector)
        self.host = host
        self.needs_alpn = needs_alpn
        self.session: Session | None = None
        self.peer_certificate: x509.Certificate | None = None
        self.rest = b""
        self._data = b""
        self._received = 0
        self._secrets: dict[bytes, bytes] = {}
        self._verification: int | None = None
        self._has_refused_protocol = False
        self._own_ccs = False
        self._sealed = 0
        self._explicit_base = 0
        self._connection: SSL.Connection | None = SSL.Connection(side.context, None)
        self._connection.set_app_data(self)
        self._set_role(self._connection)

    @property
    def done(self) -> bool:
        """The session is there."""
        return self.session is not None

    @property
    def binding(self) -> bytes | None:
        """`tls-server-end-point` of the server's certificate, as this side knows it."""
        if isinstance(self.side, Acceptor):
            return self.side.binding
        return None if self.peer_certificate is None else end_point_hash(self.peer_certificate)

    def start(self) -> bytes:
        """The first flight of a client."""
        return self._step()

    def feed(self, data: bytes) -> bytes:
        """What to send for the peer's next bytes, chopped anywhere. Raises `HandshakeFault`."""
        self._data += data
        self._received += len(data)
        answers = []
        while not self.done and (record := self._take_record()):
            answers.append(self._on_record(record))
        if self.done:
            self.rest, self._data = self._data, b""
        elif self._received > MOST_BYTES:
            raise self._fail(Fault.HANDSHAKE, "the handshake takes too many bytes")
        return b"".join(answers)

    def give_up(self) -> None:
        """Free what OpenSSL holds for a handshake that nobody goes on with."""
        if self._connection is not None:
            self._connection.set_app_data(None)
            self._connection = None
        self._secrets.clear()

    # --- called by the context's callbacks ---------------------------------------------------------------------------

    def note_secret(self, line: bytes) -> None:
        """A line of the key log: label, client random, secret."""
        label, _, secret = line.split()
        self._secrets[label] = bytes.fromhex(secret.decode("ascii"))

    def note_verification(self, code: int, depth: int) -> None:
        """Why a certificate of the peer's was not accepted; the first reason counts."""
        if self._verification is None:
            self._verification = code

    def refuse_protocol(self) -> bytes:
        """The client offered protocols (ALPN), and PostgreSQL's is not among them."""
        self._has_refused_protocol = True
        raise NoProtocol

    # --- records -----------------------------------------------------------------------------------------------------

    def _set_role(self, connection: SSL.Connection) -> None:
        if not self.is_client:
            connection.set_accept_state()
            return
        connection.set_connect_state()
        if self.host and not _is_address(self.host):
            connection.set_tlsext_host_name(self.host.encode("idna" if not self.host.isascii() else "ascii"))

    def _take_record(self) -> bytes:
        """The record at the front, b"" while it is not whole (rule 1)."""
        if len(self._data) < HEADER:
            return b""
        length = int.from_bytes(self._data[3:5], "big")
        if length > MOST_RECORD or not CCS <= self._data[0] <= HANDSHAKE + 1 or self._data[1] != 3:
            raise self._fail(Fault.HANDSHAKE, "the peer does not speak TLS")
        if len(self._data) < HEADER + length:
            return b""
        record, self._data = self._data[: HEADER + length], self._data[HEADER + length :]
        return record

    def _on_record(self, record: bytes) -> bytes:
        connection = self._connection
        assert connection is not None
        connection.bio_write(record)
        if record[0] == CCS:  # never the last one
            return b""
        return self._step()

    def _step(self) -> bytes:
        """Let OpenSSL go on; what it wants to be sent."""
        connection = self._connection
        assert connection is not None
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            out = _drain(connection)
            self._note_sent(out)
            return out
        except NoProtocol:
            raise self._fail(Fault.NO_ALPN, "the client offers no ALPN protocol that is spoken here") from None
        except SSL.Error as error:
            raise self._fail(*self._explain(error)) from None
        out = _drain(connection)
        self._note_sent(out)
        self._finish(connection, out)
        return out

    def _note_sent(self, out: bytes) -> None:
        """Rule 3 for TLS 1.2: what goes out behind our ChangeCipherSpec is encrypted."""
        at = 0
        while at < len(out):
            if self._own_ccs:
                self._sealed += 1
                if self._sealed == 1:
                    self._explicit_base = int.from_bytes(out[at + HEADER : at + HEADER + 8], "big")
            elif out[at] == CCS:
                self._own_ccs = True
            at += HEADER + int.from_bytes(out[at + 3 : at + 5], "big")

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, connection: SSL.Connection, last_flight: bytes) -> None:
        suite = BY_NAME[connection.get_cipher_name() or ""]
        self.peer_certificate = connection.get_peer_certificate(as_cryptography=True)
        if isinstance(self.side, Connector) and self.side.verifies_host:
            self._check_host()
        if self.needs_alpn and not connection.get_alpn_proto_negotiated():
            raise self._fail(Fault.NO_ALPN, "a direct TLS connection needs ALPN with the protocol postgresql")
        if suite.version == TLS_1_3:
            self.session = self._session_13(suite, 0 if self.is_client else _count_records(last_flight))
        else:
            self.session = self._session_12(suite, connection)
        self.give_up()

    def _check_host(self) -> None:
        if self.peer_certificate is None or not is_for_host(self.peer_certificate, self.host):
            raise self._fail(
                Fault.HOST_MISMATCH, f'the server\'s certificate is not for host "{self.host}" (verify-full)'
            )

    def _session_13(self, suite: Suite, written: int) -> Session:
        client = traffic_keys(suite, self._secrets[b"CLIENT_TRAFFIC_SECRET_0"])
        server = traffic_keys(suite, self._secrets[b"SERVER_TRAFFIC_SECRET_0"], written)
        return self._session(suite, client, server)

    def _session_12(self, suite: Suite, connection: SSL.Connection) -> Session:
        """Each side has sent one record under these keys: Finished."""
        master, server_random, client_random = (
            connection.master_key(),
            connection.server_random(),
            connection.client_random(),
        )
        assert master is not None and server_random is not None and client_random is not None
        pair = key_block(suite, master, server_random, client_random)
        base = self._explicit_base if suite.salt_bytes == 4 else 0
        client, server = (Keys(keys.key, keys.iv, sequence=1, explicit_base=base) for keys in pair)
        return self._session(suite, client, server)

    def _session(self, suite: Suite, client: Keys, server: Keys) -> Session:
        inbound, outbound = (server, client) if self.is_client else (client, server)
        return Session(suite.version, suite.number, inbound, outbound)

    def _explain(self, error: SSL.Error) -> tuple[Fault, str]:
        """What went wrong, in words for the log."""
        if self._verification is not None:
            reason = VERIFICATION.get(self._verification, f"verification error {self._verification}")
            fault = FAULT_OF_VERIFICATION.get(self._verification, Fault.CERTIFICATE_UNTRUSTED)
            return fault, f"certificate verify failed: {reason}"
        words = error.args[0] if error.args and isinstance(error.args[0], list) else []
        reason = words[0][-1] if words else "unexpected end"
        is_alert = "alert" in reason
        return FAULT_OF_REASON.get(reason, Fault.PEER_ALERT if is_alert else Fault.HANDSHAKE), reason

    def _fail(self, fault: Fault, reason: str) -> HandshakeFault:
        """Rule 2."""
        alert = _drain(self._connection) if self._connection is not None else b""
        self.give_up()
        return HandshakeFault(fault, reason, alert)


class NoProtocol(Exception):
    """Raised through OpenSSL's callback to have it send no_application_protocol."""


def _drain(connection: SSL.Connection) -> bytes:
    """Everything that OpenSSL wants to be sent."""
    parts = []
    try:
        while True:
            parts.append(connection.bio_read(READ_SIZE))
            if len(parts[-1]) < READ_SIZE:
                break
    except SSL.WantReadError:
        pass
    return b"".join(parts)


def _count_records(data: bytes) -> int:
    count = at = 0
    while at < len(data):
        at += HEADER + int.from_bytes(data[at + 3 : at + 5], "big")
        count += 1
    return count


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
