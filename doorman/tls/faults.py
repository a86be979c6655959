"""Why an encrypted connection ended, as a number for the table and a text for people; and the alert that goes with it.

Numbers are columns of `TlsCounterRow`; they never change their meaning within a layout version.
"""

from __future__ import annotations

import enum
from typing import Final


class Fault(enum.IntEnum):
    """Reasons, of the record layer first, then of handshakes."""

    NONE = 0
    BAD_RECORD_MAC = 1
    RECORD_OVERFLOW = 2
    UNEXPECTED_MESSAGE = 3
    DECODE_ERROR = 4
    PEER_ALERT = 5
    SEQUENCE_OVERFLOW = 6
    TOO_MANY_EMPTY = 7
    BAD_VERSION = 8
    HANDSHAKE = 9
    """OpenSSL refused, and none of the following is the reason."""
    CERTIFICATE_MISSING = 10
    CERTIFICATE_EXPIRED = 11
    CERTIFICATE_UNTRUSTED = 12
    CERTIFICATE_REVOKED = 13
    HOST_MISMATCH = 14
    NO_SHARED_CIPHER = 15
    NO_ALPN = 16
    TIMEOUT = 17
    STUFFED = 18
    """Bytes in clear around the answer to SSLRequest."""
    NOT_OFFERED = 19
    """The server answered `N` where TLS is required."""
    PEER_GONE = 20
    PROTOCOL_VERSION = 21


ALERTS: Final = {
    Fault.BAD_RECORD_MAC: 20,
    Fault.RECORD_OVERFLOW: 22,
    Fault.UNEXPECTED_MESSAGE: 10,
    Fault.DECODE_ERROR: 50,
    Fault.SEQUENCE_OVERFLOW: 80,
    Fault.TOO_MANY_EMPTY: 10,
    Fault.BAD_VERSION: 70,
}
"""Alert descriptions of RFC 8446 section 6. A fault that is not here is not answered by an alert of ours."""


def fault_label(number: int) -> str:
    """`bad_record_mac` for 1: the label of a metric."""
    return Fault(number).name.lower()
