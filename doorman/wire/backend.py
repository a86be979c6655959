"""Messages from server to client: builders for those that we send ourselves, parsers for those that a server sends us.

Builders return whole messages. Parsers take a body (without letter and length) and raise `ServerFault` 08P01 when it
is none: their input comes from PostgreSQL, or from something that says it is.
Source: PostgreSQL manual, "Message Formats" and "Error and Notice Message Fields".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from doorman.errors import PeerFault, ServerFault
from doorman.wire.codes import (
    MAX_SECRET_BYTES,
    MIN_SECRET_BYTES,
    PROTOCOL_MAJOR,
    Auth,
    SqlState,
)
from doorman.wire.packing import counted, message, number_at, numbered, rest_from, statuses_without
from doorman.wire.startup import StartupMessage
from doorman.wire.text import cstring, decode, encode

_INT32: Final = struct.Struct("!I")
_COUNT: Final = struct.Struct("!H")
_COLUMN: Final = struct.Struct("!IhIhih")
_FIELD_LENGTH: Final = struct.Struct("!i")
_NULL: Final = _FIELD_LENGTH.pack(-1)

AUTHENTICATION_OK: Final = b"R\0\0\0\x08\0\0\0\0"
CLEARTEXT_REQUEST: Final = b"R\0\0\0\x08\0\0\0\x03"
EMPTY_QUERY_RESPONSE: Final = b"I\0\0\0\x04"
PARSE_COMPLETE: Final = b"1\0\0\0\x04"
BIND_COMPLETE: Final = b"2\0\0\0\x04"
CLOSE_COMPLETE: Final = b"3\0\0\0\x04"
NO_DATA: Final = b"n\0\0\0\x04"
PORTAL_SUSPENDED: Final = b"s\0\0\0\x04"
READY_IDLE: Final = b"Z\0\0\0\x05I"
READY_IN_TRANSACTION: Final = b"Z\0\0\0\x05T"
READY_FAILED: Final = b"Z\0\0\0\x05E"

_READY: Final = {"I": READY_IDLE, "T": READY_IN_TRANSACTION, "E": READY_FAILED}

_SASL_CONTINUE: Final = int(Auth.SASL_CONTINUE)
_SASL_FINAL: Final = int(Auth.SASL_FINAL)

TEXT_OID: Final = 25
INT8_OID: Final = 20


class Column(msgspec.Struct, frozen=True):
    """One column of a RowDescription in text format."""

    name: str
    oid: int = TEXT_OID
    typlen: int = -1


# Login


def md5_request(salt: bytes) -> bytes:
    """AuthenticationMD5Password; `salt` has 4 bytes."""
    return numbered(b"R", Auth.MD5, salt)


def sasl_request(mechanisms: Iterable[str]) -> bytes:
    """AuthenticationSASL with the mechanisms in the order of our preference."""
    return numbered(b"R", Auth.SASL, b"".join(map(cstring, mechanisms)) + b"\0")


def sasl_continue(data: bytes) -> bytes:
    """AuthenticationSASLContinue."""
    return numbered(b"R", _SASL_CONTINUE, data)


def sasl_final(data: bytes) -> bytes:
    """AuthenticationSASLFinal."""
    return numbered(b"R", _SASL_FINAL, data)


def negotiate_protocol_version(minor: int, options: Sequence[str]) -> bytes:
    """NegotiateProtocolVersion: the newest minor version we speak (as 3.`minor`) and the options we do not know."""
    version = PROTOCOL_MAJOR << 16 | minor
    return message(b"v", _INT32.pack(version) + _INT32.pack(len(options)) + b"".join(map(cstring, options)))


def negotiation_answer(startup: StartupMessage) -> bytes:
    """What precedes the authentication request: NegotiateProtocolVersion where `startup` calls for it, else nothing."""
    if not startup.needs_negotiation:
        return b""
    return negotiate_protocol_version(startup.spoken_minor, startup.unknown_options)


def parameter_status(name: str, value: str) -> bytes:
    """ParameterStatus."""
    return message(b"S", cstring(name) + cstring(value))


def backend_key_data(pid: int, secret: bytes) -> bytes:
    """BackendKeyData. `pid` is taken modulo 2^32; `secret` has 4 bytes, up to 256 when protocol 3.2 is spoken."""
    return numbered(b"K", pid & 0xFFFFFFFF, secret)


def ready_for_query(status: str = "I") -> bytes:
    """ReadyForQuery with transaction status `I`, `T` or `E`."""
    return _READY[status]


# Errors and notices


def error_response(
    sqlstate: str, text: str, *, severity: str = "FATAL", detail: str | None = None, hint: str | None = None
) -> bytes:
    """ErrorResponse with fields S, V, C, M and, where given, D and H."""
    return message(b"E", _report_fields(severity, sqlstate, text, detail, hint))


def notice_response(
    sqlstate: str, text: str, *, severity: str = "WARNING", detail: str | None = None, hint: str | None = None
) -> bytes:
    """NoticeResponse, with the fields of an ErrorResponse."""
    return message(b"N", _report_fields(severity, sqlstate, text, detail, hint))


def fault_response(fault: PeerFault, severity: str = "FATAL") -> bytes:
    """ErrorResponse that tells a client about `fault`."""
    return error_response(fault.sqlstate, fault.message, severity=severity, detail=fault.detail, hint=fault.hint)


def _report_fields(severity: str, sqlstate: str, text: str, detail: str | None, hint: str | None) -> bytes:
    fields = [f"S{severity}", f"V{severity}", f"C{sqlstate}", f"M{_without_nul(text)}"]
    if detail:
        fields.append(f"D{_without_nul(detail)}")
    if hint:
        fields.append(f"H{_without_nul(hint)}")
    return encode("\0".join(fields)) + b"\0\0"


def _without_nul(text: str) -> str:
    """A report must reach the client whatever its text quotes, so a NUL is dropped and not refused."""
    return text.replace("\0", "")


# Results


def row_description(columns: Iterable[Column]) -> bytes:
    """RowDescription of columns in text format that belong to no table."""
    described = [cstring(column.name) + _COLUMN.pack(0, 0, column.oid, column.typlen, -1, 0) for column in columns]
    return message(b"T", _COUNT.pack(len(described)) + b"".join(described))


def data_row(values: Sequence[str | None]) -> bytes:
    """DataRow of text values; `None` is NULL."""
    return message(b"D", _COUNT.pack(len(values)) + b"".join(map(_field, values)))


def _field(value: str | None) -> bytes:
    return _NULL if value is None else counted(encode(value))


def command_complete(tag: str) -> bytes:
    """CommandComplete with its tag, as in `SELECT 3`."""
    return message(b"C", cstring(tag))


def parameter_description(oids: Sequence[int]) -> bytes:
    """ParameterDescription of a prepared statement."""
    return message(b"t", _COUNT.pack(len(oids)) + b"".join(map(_INT32.pack, oids)))


# Parsers


def parse_authentication(body: bytes) -> tuple[int, bytes]:
    """Code of an Authentication message (see `codes.Auth`) and what follows it."""
    if len(body) < 4:
        raise _malformed("Authentication")
    return number_at(body, 0), rest_from(body, 4)


def parse_sasl_mechanisms(data: bytes) -> list[str]:
    """Mechanism names of AuthenticationSASL (the bytes after the code)."""
    if not data.endswith(b"\0"):
        raise _malformed("AuthenticationSASL")
    return [decode(name) for name in data.split(b"\0") if name]


def checked_parameter_statuses(messages: bytes, hidden: bytes) -> bytes:
    """Whole ParameterStatus messages, without those of one parameter (its name and NUL). Raises what
    `parse_parameter_status` would."""
    kept = statuses_without(messages, hidden)
    if kept is None:
        raise _malformed("ParameterStatus")
    return kept


def parse_parameter_status(body: bytes) -> tuple[str, str]:
    """Name and value of a ParameterStatus."""
    fields = body.split(b"\0")
    if len(fields) != 3 or fields[2] or not fields[0]:
        raise _malformed("ParameterStatus")
    return decode(fields[0]), decode(fields[1])


def parse_backend_key_data(body: bytes) -> tuple[int, bytes]:
    """Pid and cancel secret (4…256 bytes) of a BackendKeyData."""
    if not MIN_SECRET_BYTES <= len(body) - 4 <= MAX_SECRET_BYTES:
        raise _malformed("BackendKeyData")
    return number_at(body, 0), rest_from(body, 4)


def parse_ready_for_query(body: bytes) -> str:
    """Transaction status `I`, `T` or `E` of a ReadyForQuery."""
    status = decode(body)
    if status not in _READY:
        raise _malformed("ReadyForQuery")
    return status


def parse_error_fields(body: bytes) -> dict[str, str]:
    """Fields of an ErrorResponse or NoticeResponse by their letter. Never fails: a poor report is better than none."""
    return {part[0]: part[1:] for part in decode(body).split("\0") if part}


def parse_negotiate_protocol_version(body: bytes) -> tuple[int, list[str]]:
    """Minor version that the server goes on with, and the options that it does not know."""
    if len(body) < 8:
        raise _malformed("NegotiateProtocolVersion")
    # PostgreSQL sends the whole version, although the manual speaks of the minor one: take both.
    version, count = _INT32.unpack_from(body)[0], _INT32.unpack_from(body, 4)[0]
    options = body[8:].split(b"\0")
    if version >> 16 not in (0, PROTOCOL_MAJOR) or len(options) != count + 1 or options[-1]:
        raise _malformed("NegotiateProtocolVersion")
    return version & 0xFFFF, [decode(option) for option in options[:-1]]


def parse_row_description(body: bytes) -> list[Column]:
    """Columns of a RowDescription."""
    columns: list[Column] = []
    try:
        position = 2
        for _ in range(_COUNT.unpack_from(body)[0]):
            end = body.index(b"\0", position)
            _, _, oid, typlen, _, _ = _COLUMN.unpack_from(body, end + 1)
            columns.append(Column(decode(body[position:end]), oid, typlen))
            position = end + 1 + _COLUMN.size
    except (struct.error, ValueError):
        raise _malformed("RowDescription") from None
    if position != len(body):
        raise _malformed("RowDescription")
    return columns


def parse_data_row(body: bytes) -> list[str | None]:
    """Text values of a DataRow; `None` is NULL."""
    values: list[str | None] = []
    try:
        position = 2
        for _ in range(_COUNT.unpack_from(body)[0]):
            length: int = _FIELD_LENGTH.unpack_from(body, position)[0]
            position += 4
            if length == -1:
                values.append(None)
                continue
            values.append(decode(body[position : position + length]))
            position += length
    except struct.error:
        raise _malformed("DataRow") from None
    if position != len(body):  # also when a length was negative or went past the end
        raise _malformed("DataRow")
    return values


def parse_command_complete(body: bytes) -> str:
    """Tag of a CommandComplete."""
    if not body.endswith(b"\0"):
        raise _malformed("CommandComplete")
    return decode(body[:-1])


def _malformed(name: str) -> ServerFault:
    return ServerFault(SqlState.PROTOCOL_VIOLATION, f"malformed {name} message from server")
