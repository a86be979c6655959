"""The numbers and letters of the PostgreSQL protocol, by name. Used by every module that reads or writes messages.

Letters are integers, as indexing bytes gives them; `Frontend` and `Backend` are apart because letters repeat.
Source: PostgreSQL manual, "Message Formats" (protocol-message-formats) and "PostgreSQL Error Codes".
"""

from __future__ import annotations

from typing import Final

SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104
CANCEL_REQUEST: Final = 80877102
PROTOCOL_3_0: Final = 196608
PROTOCOL_MAJOR: Final = 3
LATEST_MINOR: Final = 2
"""PostgreSQL 18 speaks 3.0 and 3.2 (cancel secrets of up to 256 bytes); 3.1 is reserved and treated as 3.0."""

MIN_STARTUP_BYTES: Final = 8
MAX_STARTUP_BYTES: Final = 8192
MAX_SERVER_STARTUP_BYTES: Final = 10_000
"""PostgreSQL's MAX_STARTUP_PACKET_LENGTH: the most that a server takes from us."""
MAX_AUTH_MESSAGE_BYTES: Final = 65_536
"""Longest message during a login, in both directions, its length field included (as PG_MAX_AUTH_TOKEN_LENGTH)."""
MIN_SECRET_BYTES: Final = 4
MAX_SECRET_BYTES: Final = 256

TLS_HANDSHAKE_RECORD: Final = 0x16
"""First byte of a TLS ClientHello: a client that speaks TLS without SSLRequest (PostgreSQL 17 "direct" negotiation)."""


class Frontend:
    """Letters of messages that a client sends."""

    BIND: Final = ord("B")
    CLOSE: Final = ord("C")
    COPY_DATA: Final = ord("d")
    COPY_DONE: Final = ord("c")
    COPY_FAIL: Final = ord("f")
    DESCRIBE: Final = ord("D")
    EXECUTE: Final = ord("E")
    FLUSH: Final = ord("H")
    FUNCTION_CALL: Final = ord("F")
    PARSE: Final = ord("P")
    PASSWORD: Final = ord("p")  # also SASLInitialResponse and SASLResponse
    QUERY: Final = ord("Q")
    SYNC: Final = ord("S")
    TERMINATE: Final = ord("X")


class Backend:
    """Letters of messages that a server sends."""

    AUTHENTICATION: Final = ord("R")
    BACKEND_KEY_DATA: Final = ord("K")
    BIND_COMPLETE: Final = ord("2")
    CLOSE_COMPLETE: Final = ord("3")
    COMMAND_COMPLETE: Final = ord("C")
    COPY_BOTH_RESPONSE: Final = ord("W")
    COPY_DATA: Final = ord("d")
    COPY_DONE: Final = ord("c")
    COPY_IN_RESPONSE: Final = ord("G")
    COPY_OUT_RESPONSE: Final = ord("H")
    DATA_ROW: Final = ord("D")
    EMPTY_QUERY_RESPONSE: Final = ord("I")
    ERROR_RESPONSE: Final = ord("E")
    FUNCTION_CALL_RESPONSE: Final = ord("V")
    NEGOTIATE_PROTOCOL_VERSION: Final = ord("v")
    NO_DATA: Final = ord("n")
    NOTICE_RESPONSE: Final = ord("N")
    NOTIFICATION_RESPONSE: Final = ord("A")
    PARAMETER_DESCRIPTION: Final = ord("t")
    PARAMETER_STATUS: Final = ord("S")
    PARSE_COMPLETE: Final = ord("1")
    PORTAL_SUSPENDED: Final = ord("s")
    READY_FOR_QUERY: Final = ord("Z")
    ROW_DESCRIPTION: Final = ord("T")


class Auth:
    """The int32 that follows an Authentication message's length ("R")."""

    OK: Final = 0
    KERBEROS_V5: Final = 2
    CLEARTEXT: Final = 3
    MD5: Final = 5
    GSS: Final = 7
    GSS_CONTINUE: Final = 8
    SSPI: Final = 9
    SASL: Final = 10
    SASL_CONTINUE: Final = 11
    SASL_FINAL: Final = 12


class SqlState:
    """SQLSTATEs that this program raises or looks for, grouped by class (manual, appendix A)."""

    WARNING: Final = "01000"

    CONNECTION_FAILURE: Final = "08006"
    PROTOCOL_VIOLATION: Final = "08P01"

    FEATURE_NOT_SUPPORTED: Final = "0A000"

    INVALID_PARAMETER_VALUE: Final = "22023"

    IN_FAILED_SQL_TRANSACTION: Final = "25P02"

    INVALID_SQL_STATEMENT_NAME: Final = "26000"

    INVALID_AUTHORIZATION: Final = "28000"
    INVALID_PASSWORD: Final = "28P01"

    INVALID_CATALOG_NAME: Final = "3D000"

    SYNTAX_ERROR: Final = "42601"
    UNDEFINED_OBJECT: Final = "42704"

    INSUFFICIENT_RESOURCES: Final = "53000"
    OUT_OF_MEMORY: Final = "53200"
    TOO_MANY_CONNECTIONS: Final = "53300"
    CONFIGURATION_LIMIT_EXCEEDED: Final = "53400"

    QUERY_CANCELED: Final = "57014"
    ADMIN_SHUTDOWN: Final = "57P01"
    CANNOT_CONNECT_NOW: Final = "57P03"

    SYSTEM_ERROR: Final = "58000"
    POOLER_SHUTDOWN: Final = "58006"

    INTERNAL_ERROR: Final = "XX000"
