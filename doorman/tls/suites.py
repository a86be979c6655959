"""The cipher suites that are offered and accepted: AEADs with ephemeral keys, by their IANA numbers."""

from __future__ import annotations

from typing import Final

import msgspec

TLS_1_2: Final = 0x0303
TLS_1_3: Final = 0x0304


class Suite(msgspec.Struct, frozen=True):
    """One cipher suite. `name` is OpenSSL's, `digest` hashlib's; the IV takes `salt_bytes` of the key block (1.2)."""

    number: int
    name: str
    version: int
    key_bytes: int
    salt_bytes: int
    digest: str
    is_chacha: bool = False


SUITES: Final = (
    Suite(0x1302, "TLS_AES_256_GCM_SHA384", TLS_1_3, 32, 12, "sha384"),
    Suite(0x1301, "TLS_AES_128_GCM_SHA256", TLS_1_3, 16, 12, "sha256"),
    Suite(0x1303, "TLS_CHACHA20_POLY1305_SHA256", TLS_1_3, 32, 12, "sha256", is_chacha=True),
    Suite(0xC02C, "ECDHE-ECDSA-AES256-GCM-SHA384", TLS_1_2, 32, 4, "sha384"),
    Suite(0xC030, "ECDHE-RSA-AES256-GCM-SHA384", TLS_1_2, 32, 4, "sha384"),
    Suite(0xC02B, "ECDHE-ECDSA-AES128-GCM-SHA256", TLS_1_2, 16, 4, "sha256"),
    Suite(0xC02F, "ECDHE-RSA-AES128-GCM-SHA256", TLS_1_2, 16, 4, "sha256"),
    Suite(0xCCA9, "ECDHE-ECDSA-CHACHA20-POLY1305", TLS_1_2, 32, 12, "sha256", is_chacha=True),
    Suite(0xCCA8, "ECDHE-RSA-CHACHA20-POLY1305", TLS_1_2, 32, 12, "sha256", is_chacha=True),
)
BY_NUMBER: Final = {suite.number: suite for suite in SUITES}
BY_NAME: Final = {suite.name: suite for suite in SUITES}
CIPHERS_1_3: Final = ":".join(suite.name for suite in SUITES if suite.version == TLS_1_3)
CIPHERS_1_2: Final = ":".join(suite.name for suite in SUITES if suite.version == TLS_1_2)


def version_name(version: int) -> str:
    """`TLSv1.3` for 0x0304, as PostgreSQL writes it; "" where there is no TLS."""
    return {TLS_1_2: "TLSv1.2", TLS_1_3: "TLSv1.3"}.get(version, "")


def suite_name(number: int) -> str:
    """OpenSSL's name of a suite, "" for none of ours."""
    return BY_NUMBER[number].name if number in BY_NUMBER else ""
