"""SASLprep (RFC 4013) as PostgreSQL applies it to passwords: whatever cannot be prepared is used as it is.

Follows pg_saslprep (src/common/saslprep.c), which takes pure ASCII unchanged, control characters included.
"""

from __future__ import annotations

import stringprep
from typing import Final
from unicodedata import normalize

from doorman.wire.text import encode

_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def saslprep(password: str | bytes) -> bytes:
    """The bytes that SCRAM hashes for `password`."""
    raw = password if isinstance(password, bytes) else encode(password)
    if raw.isascii():
        return raw
    try:
        prepared = _prepare(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return raw
    return raw if prepared is None else prepared.encode("utf-8")


def _prepare(text: str) -> str | None:
    """`text` mapped and normalised, or `None` when RFC 4013 forbids it."""
    mapped = "".join(" " if stringprep.in_table_c12(char) else char for char in text if not _is_dropped(char))
    prepared = normalize("NFKC", mapped)
    if not prepared or any(is_in_table(char) for char in prepared for is_in_table in _PROHIBITED):
        return None
    return prepared if _is_one_direction(prepared) else None


def _is_dropped(char: str) -> bool:
    # PostgreSQL drops table B.1 but maps U+200B, which both tables list, to a space.
    return stringprep.in_table_b1(char) and not stringprep.in_table_c12(char)


def _is_one_direction(text: str) -> bool:
    """RFC 3454 section 6: right-to-left text has no left-to-right character, and begins and ends right-to-left."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    if any(map(stringprep.in_table_d2, text)):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
