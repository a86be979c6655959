"""Messages from client to server: builders for those that we send to PostgreSQL, parsers for a client's login answers.

Builders return whole messages. Parsers take a body (without letter and length) and raise `ProtocolViolation` when it
is none. Source: PostgreSQL manual, "Message Formats".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from doorman.errors import ClientFault, ProtocolViolation
from doorman.wire.codes import (
    CANCEL_REQUEST,
    MAX_AUTH_MESSAGE_BYTES,
    PROTOCOL_3_0,
    SSL_REQUEST,
    Frontend,
    SqlState,
)
from doorman.wire.packing import counted, joined, message, number_at, part, place_of, rest_from
from doorman.wire.text import cstring, decode, encode

_INT16: Final = struct.Struct("!H")
_INT32: Final = struct.Struct("!I")
_PACKET: Final = struct.Struct("!II")
_CANCEL: Final = struct.Struct("!III")

SSL_REQUEST_PACKET: Final = _PACKET.pack(8, SSL_REQUEST)
SYNC: Final = b"S\0\0\0\x04"
FLUSH: Final = b"H\0\0\0\x04"
TERMINATE: Final = b"X\0\0\0\x04"

AUTH_HEADER_BYTES: Final = 5
_PASSWORD: Final = int(Frontend.PASSWORD)
_USUAL_MECHANISM: Final = "SCRAM-SHA-256"
_USUAL_NAME: Final = b"SCRAM-SHA-256\0"
_NO_BYTES: Final = b"\xff\xff\xff\xff"
_NOTHING: Final = 0xFFFFFFFF
"""-1 as a length."""


def ssl_request() -> bytes:
    """SSLRequest; the answer is one byte, `S` or `N`."""
    return SSL_REQUEST_PACKET


def startup_message(parameters: Mapping[str, str], minor: int = 0) -> bytes:
    """StartupMessage of protocol 3.`minor`; the pairs keep the mapping's order. `ValueError` for a NUL in one."""
    pairs = b"".join(cstring(name) + cstring(value) for name, value in parameters.items())
    return _PACKET.pack(9 + len(pairs), PROTOCOL_3_0 | minor) + pairs + b"\0"


def cancel_request(pid: int, secret: bytes) -> bytes:
    """CancelRequest for the session with this key, to be sent on a connection of its own."""
    return _CANCEL.pack(12 + len(secret), CANCEL_REQUEST, pid & 0xFFFFFFFF) + secret


def password(text: str) -> bytes:
    """PasswordMessage: a cleartext password or an MD5 answer."""
    return message(b"p", cstring(text))


def sasl_initial(mechanism: str, data: bytes | None) -> bytes:
    """SASLInitialResponse; `None` means that there is no initial response."""
    name = _USUAL_NAME if mechanism == _USUAL_MECHANISM else cstring(mechanism)
    return message(b"p", joined(name, _NO_BYTES if data is None else counted(data)))


def sasl_response(data: bytes) -> bytes:
    """SASLResponse."""
    return message(b"p", data)


def query(sql: str) -> bytes:
    """Query (simple protocol)."""
    return message(b"Q", cstring(sql))


def parse(sql: str, name: str = "") -> bytes:
    """Parse; PostgreSQL infers the types of the parameters."""
    return message(b"P", cstring(name) + cstring(sql) + b"\0\0")


def bind(values: Sequence[str | None], statement: str = "", portal: str = "") -> bytes:
    """Bind with parameters and results in text format; `None` is NULL."""
    fields = b"".join(_field(value) for value in values)
    return message(b"B", cstring(portal) + cstring(statement) + b"\0\0" + _INT16.pack(len(values)) + fields + b"\0\0")


def describe_portal(name: str = "") -> bytes:
    """Describe of a portal; the answer is a RowDescription or NoData."""
    return message(b"D", b"P" + cstring(name))


def execute(portal: str = "", most_rows: int = 0) -> bytes:
    """Execute; 0 is all rows."""
    return message(b"E", cstring(portal) + _INT32.pack(most_rows))


def _field(value: str | None) -> bytes:
    return _NO_BYTES if value is None else counted(encode(value))


def sync() -> bytes:
    """Sync."""
    return SYNC


def terminate() -> bytes:
    """Terminate."""
    return TERMINATE


def copy_fail(reason: str) -> bytes:
    """CopyFail with the reason that PostgreSQL will quote."""
    return message(b"f", cstring(reason))


# A client's answers during its login


def auth_message_length(buf: bytes) -> int:
    """Size of the `p` message that starts `buf`, letter included; 0 while its header is incomplete.

    `ProtocolViolation` for another message or for a length outside 4…64 KiB, found before any of it is kept.
    """
    if buf and buf[0] != _PASSWORD:
        raise ProtocolViolation(f"expected password response, got message type {buf[0]}")
    if len(buf) < AUTH_HEADER_BYTES:
        return 0
    length = number_at(buf, 1)
    if not 4 <= length <= MAX_AUTH_MESSAGE_BYTES:
        raise ProtocolViolation("invalid length of password message")
    return 1 + length


def parse_password(body: bytes) -> bytes:
    """Password of a PasswordMessage, without its NUL. An empty one is refused as PostgreSQL does (28P01)."""
    _check_size(body)
    if body.find(b"\0") != len(body) - 1 or not body:
        raise ProtocolViolation("invalid password packet size")
    if len(body) == 1:
        raise ClientFault(SqlState.INVALID_PASSWORD, "empty password returned by client")
    return body[:-1]


def parse_sasl_initial(body: bytes) -> tuple[str, bytes | None]:
    """Mechanism and initial response of a SASLInitialResponse; `None` when the client sent no response (-1)."""
    _check_size(body)
    name_end = place_of(body, 0)
    if name_end <= 0 or len(body) < name_end + 5:
        raise ProtocolViolation("malformed SASLInitialResponse message")
    length = number_at(body, name_end + 1)
    data = rest_from(body, name_end + 5)
    if (0 if length == _NOTHING else length) != len(data):
        raise ProtocolViolation("malformed SASLInitialResponse message")
    name = _USUAL_MECHANISM if body.startswith(_USUAL_NAME) else decode(part(body, 0, name_end))
    return name, None if length == _NOTHING else data


def parse_sasl_response(body: bytes) -> bytes:
    """Data of a SASLResponse."""
    _check_size(body)
    return body


def _check_size(body: bytes) -> None:
    if len(body) > MAX_AUTH_MESSAGE_BYTES - 4:
        raise ProtocolViolation("invalid length of password message")
