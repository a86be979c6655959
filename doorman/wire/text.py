"""Text and C strings on the wire: UTF-8 with surrogateescape, so that bytes in any encoding come back unchanged."""

from __future__ import annotations


def decode(raw: bytes | bytearray | memoryview) -> str:
    """Bytes of a peer as text. Never fails; `encode` gives the same bytes back."""
    return str(raw, "utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """Text as bytes. A surrogate that `decode` did not make (there is no such byte) becomes `?`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def cstring(text: str) -> bytes:
    """NUL-terminated bytes. `ValueError` for a NUL inside, which would shift every field after it."""
    raw = encode(text)
    if 0 in raw:
        raise ValueError("text for a C string contains a NUL byte")
    return raw + b"\0"
