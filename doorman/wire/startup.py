"""The first packets of a connection: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage. Called on each login.

Rules:
1. The length is checked (8…8192) before anything is read for it; a packet is parsed only when it is whole.
2. Pairs are positional: an empty value is a value, a later duplicate wins, and the empty name is the terminator that
   must be the last byte.
3. Text is UTF-8 with surrogateescape: names and values in any encoding come back byte for byte.
4. What PostgreSQL would refuse is refused with its SQLSTATE and words (ProcessStartupPacket in backend_startup.c).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

import msgspec

from doorman.errors import ClientFault, ProtocolViolation
from doorman.wire.codes import (
    CANCEL_REQUEST,
    GSSENC_REQUEST,
    LATEST_MINOR,
    MAX_SECRET_BYTES,
    MAX_STARTUP_BYTES,
    MIN_SECRET_BYTES,
    MIN_STARTUP_BYTES,
    PROTOCOL_MAJOR,
    SSL_REQUEST,
    TLS_HANDSHAKE_RECORD,
    SqlState,
)
from doorman.wire.options import parse_options

_LENGTH_AND_CODE: Final = struct.Struct("!II")
_LENGTH: Final = struct.Struct("!I")
_CANCEL_HEAD: Final = struct.Struct("!III")
REMEMBERED_BYTES: Final = 512
"""Longer packets are rare, and would make the memory of them worth filling."""


class SslRequest(msgspec.Struct, frozen=True):
    """The client asks whether it may start TLS; the answer is one byte, `S` or `N`."""


class GssEncRequest(msgspec.Struct, frozen=True):
    """The client asks whether it may start GSSAPI encryption; the answer is `N`."""


class CancelRequest(msgspec.Struct, frozen=True):
    """Cancel the statement of the session with this key. `pid` is unsigned, `secret` has 4…256 bytes."""

    pid: int
    secret: bytes


class StartupMessage(msgspec.Struct, frozen=True):
    """A session's opening. `parameters` always holds `user` and `database`; `options` is already taken apart into it.

    `replication` (false) and `_pq_.` names are not in `parameters`; the latter are `unknown_options`, in packet order.
    """

    major: int
    minor: int
    parameters: dict[str, str]
    unknown_options: list[str]

    @property
    def user(self) -> str:
        return self.parameters["user"]

    @property
    def database(self) -> str:
        return self.parameters["database"]

    @property
    def spoken_minor(self) -> int:
        """The minor version that both sides go on with."""
        return min(self.minor, LATEST_MINOR)

    @property
    def needs_negotiation(self) -> bool:
        """Whether NegotiateProtocolVersion must precede the authentication request."""
        return self.minor > LATEST_MINOR or bool(self.unknown_options)


FirstPacket = SslRequest | GssEncRequest | CancelRequest | StartupMessage

_SSL_REQUEST: Final = SslRequest()
_GSSENC_REQUEST: Final = GssEncRequest()


def is_direct_tls(buf: bytes | bytearray | memoryview) -> bool:
    """Whether a new connection's first bytes are a TLS ClientHello. Ask before `startup_length`."""
    return len(buf) > 0 and buf[0] == TLS_HANDSHAKE_RECORD


def startup_length(buf: bytes | bytearray | memoryview) -> int:
    """Length of the packet that starts `buf`, its length field included; 0 while that field is incomplete.

    `ProtocolViolation` when no startup packet may have that length.
    """
    if len(buf) < 4:
        return 0
    length: int = _LENGTH.unpack_from(buf)[0]
    if not MIN_STARTUP_BYTES <= length <= MAX_STARTUP_BYTES:
        raise ProtocolViolation("invalid length of startup packet")
    return length


def parse_startup_packet(packet: bytes) -> FirstPacket:
    """The first packet, from its length field to its last byte. What comes back is not to be changed.

    Raises `ProtocolViolation` for a packet that is none, `ClientFault` for one that PostgreSQL or we refuse.
    """
    if len(packet) < MIN_STARTUP_BYTES or startup_length(packet) != len(packet):
        raise ProtocolViolation("invalid length of startup packet")
    code: int = _LENGTH_AND_CODE.unpack_from(packet)[1]
    if code >> 16 == PROTOCOL_MAJOR:
        parse = _remembered if len(packet) <= REMEMBERED_BYTES else _parse_startup_message
        return parse(code & 0xFFFF, packet)
    if code == CANCEL_REQUEST:
        return _parse_cancel_request(packet)
    if code == SSL_REQUEST:
        return _check_bare(_SSL_REQUEST, packet)
    if code == GSSENC_REQUEST:
        return _check_bare(_GSSENC_REQUEST, packet)
    raise ClientFault(
        SqlState.FEATURE_NOT_SUPPORTED,
        f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: "
        f"server supports {PROTOCOL_MAJOR}.0 to {PROTOCOL_MAJOR}.{LATEST_MINOR}",
    )


def _check_bare(request: FirstPacket, packet: bytes) -> FirstPacket:
    """Both encryption requests end with their code; more bytes would be an attempt to smuggle some past TLS."""
    if len(packet) != MIN_STARTUP_BYTES:
        raise ProtocolViolation("invalid length of startup packet")
    return request


def _parse_cancel_request(packet: bytes) -> CancelRequest:
    if not MIN_SECRET_BYTES <= len(packet) - _CANCEL_HEAD.size <= MAX_SECRET_BYTES:
        raise ProtocolViolation("invalid length of query cancel packet")
    return CancelRequest(_CANCEL_HEAD.unpack_from(packet)[2], packet[_CANCEL_HEAD.size :])


def _parse_startup_message(minor: int, packet: bytes) -> StartupMessage:
    parameters = _parse_pairs(packet)
    unknown_options = [name for name in parameters if name.startswith("_pq_.")]
    for name in unknown_options:
        del parameters[name]
    if "replication" in parameters:
        _refuse_replication(parameters.pop("replication"))
    if "options" in parameters:
        # As in PostgreSQL's process_startup_options, a parameter of the packet itself comes last and wins.
        options = parse_options(parameters.pop("options"))
        parameters = {**options, **parameters}
    if not parameters.get("user"):
        raise ClientFault(SqlState.INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet")
    if not parameters.get("database"):
        parameters["database"] = parameters["user"]
    return StartupMessage(PROTOCOL_MAJOR, minor, parameters, unknown_options)


_remembered = lru_cache(maxsize=1024)(_parse_startup_message)
"""An application's connections all begin with the same packet."""


def _parse_pairs(packet: bytes) -> dict[str, str]:
    """Name/value pairs of a StartupMessage. A whole one is `name NUL value NUL … NUL`: the split ends in two blanks."""
    fields = str(packet[_LENGTH_AND_CODE.size :], "utf-8", "surrogateescape").split("\0")
    names = fields[0:-2:2]
    if len(fields) & 1 or fields[-1] or fields[-2] or "" in names:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    return dict(zip(names, fields[1:-2:2], strict=True))


def _refuse_replication(value: str) -> None:
    """Let `replication=false` pass, in every spelling that PostgreSQL's parse_bool takes."""
    word = value.lower()
    if word and ("false".startswith(word) or "no".startswith(word) or word in ("of", "off", "0")):
        return
    raise ClientFault(
        SqlState.FEATURE_NOT_SUPPORTED,
        "replication connections are not supported by this pooler",
        hint="Connect to the PostgreSQL server directly for replication.",
    )
