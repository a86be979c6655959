"""The kinds of value that a configuration key can hold: how each is read and how its expectation is worded.

`schema` names these kinds in its annotations, `convert` applies them. A kind is a `Leaf` in an `Annotated` type;
its `read` takes the raw value and returns the stored one, or raises `ValueError` with a reason that may be empty.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from doorman.config import units
from doorman.log import parse_filter

U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1


class Leaf(NamedTuple):
    """How one value is read. `expected` completes "expected …"; the value of a `secret` key is never shown."""

    read: Callable[[Any], Any]
    expected: str
    secret: bool = False


def read_bool(value: object) -> bool:
    """Real booleans only: `"true"`, `1` and `on` are mistakes worth naming."""
    if not isinstance(value, bool):
        raise ValueError("")
    return value


def read_text(value: object) -> str:
    """A string; numbers and booleans must be quoted."""
    if not isinstance(value, str):
        raise ValueError("" if isinstance(value, dict | list) else "quote it")
    return value


def read_nonempty_text(value: object) -> str:
    """A string of at least one character."""
    if not read_text(value):
        raise ValueError("")
    return str(value)


def read_log_level(value: object) -> str:
    """A filter of log.py."""
    text = read_text(value)
    parse_filter(text)
    return text


def read_path(value: object) -> str:
    """A file name, used as given (relative to the working directory)."""
    if "\0" in read_text(value):
        raise ValueError("it contains a NUL byte")
    return read_nonempty_text(value)


def read_cidr(value: object) -> str:
    """A network with its prefix length, canonical: host bits are allowed and dropped."""
    text = read_text(value)
    address, slash, prefix = text.partition("/")
    if not slash or not prefix.isdecimal():
        raise ValueError("the prefix length is missing" if not slash else "bad prefix length")
    return str(ipaddress.ip_network((address, int(prefix)), strict=False))


def read_http_url(value: object) -> str:
    """A URL whose scheme is spelled `http://` or `https://`, in lower case."""
    text = read_text(value)
    if not text.startswith(("http://", "https://")):
        raise ValueError("")
    return text


def read_tls_rate(value: object) -> int:
    """Handshakes per second: 0 (off) or a multiple of 100, since slots are 10 ms long."""
    rate = _read_integer(value, 0, units.MAX_INTEGER)
    if 0 < rate < 100:
        raise ValueError("the minimum is 100")
    if rate % 100:
        raise ValueError("must be a multiple of 100")
    return rate


def read_positive_duration_ms(value: object) -> int:
    """A duration that must be greater than 0."""
    duration = units.read_duration_ms(value)
    if duration == 0:
        raise ValueError("must be greater than 0")
    return duration


def read_positive_seconds(value: object) -> int:
    """Whole seconds that must be greater than 0."""
    seconds = units.read_seconds(value)
    if seconds == 0:
        raise ValueError("must be greater than 0")
    return seconds


def whole(minimum: int, maximum: int) -> Leaf:
    """A whole number within bounds, both included."""
    bounds = f"of at least {minimum}" if maximum == units.MAX_INTEGER else f"from {minimum} to {maximum}"
    return Leaf(lambda value: _read_integer(value, minimum, maximum), f"a whole number {bounds}")


def choice(*names: str, also: tuple[str, ...] = (), any_case: bool = False) -> Leaf:
    """One of a few words, stored in lower case; `also` are further spellings that are accepted."""
    accepted = {*names, *also}

    def read(value: object) -> str:
        text = read_text(value)
        word = text.lower() if any_case else text
        if word not in accepted:
            raise ValueError("")
        return word.lower()

    return Leaf(read, "one of " + ", ".join(names))


def _read_integer(value: object, minimum: int, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ValueError("")
    return value


_DURATION = 'a duration: milliseconds, or text such as "500ms", "3s", "10m", "1h"'
_SERVER_TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

Flag = Annotated[bool, Leaf(read_bool, "true or false")]
Text = Annotated[str, Leaf(read_text, "a string")]
LogLevel = Annotated[str, Leaf(read_log_level, "a level or levels of modules, as in info,doorman.workers=debug")]
NonEmptyText = Annotated[str, Leaf(read_nonempty_text, "a string that is not empty")]
Secret = Annotated[str, Leaf(read_text, "a string", secret=True)]
FilePath = Annotated[str, Leaf(read_path, "a file name")]
Port = Annotated[int, whole(0, U16_MAX)]
U32 = Annotated[int, whole(0, U32_MAX)]
PositiveU32 = Annotated[int, whole(1, U32_MAX)]
Number = Annotated[int, whole(0, units.MAX_INTEGER)]
PositiveNumber = Annotated[int, whole(1, units.MAX_INTEGER)]
Percent = Annotated[int, whole(0, 100)]
TlsRate = Annotated[int, Leaf(read_tls_rate, "0 or a multiple of 100")]
Duration = Annotated[int, Leaf(units.read_duration_ms, _DURATION)]
"""Stored as milliseconds."""
PositiveDuration = Annotated[int, Leaf(read_positive_duration_ms, _DURATION)]
"""Stored as milliseconds, never 0."""
Seconds = Annotated[int, Leaf(units.read_seconds, 'whole seconds, or text such as "5s"')]
"""Stored as seconds: these keys count seconds in the kernel's interface and in their own name."""
Size = Annotated[int, Leaf(units.read_size_bytes, 'a size: bytes, or text such as "512KB", "1MB", "2GB"')]
"""Stored as bytes."""
PositiveSeconds = Annotated[int, Leaf(read_positive_seconds, 'whole seconds, or text such as "5s"')]
"""Stored as seconds, never 0."""
FileMode = Annotated[int, Leaf(units.read_octal_mode, 'an octal mode such as "0600", at most "0777"')]
Cidr = Annotated[str, Leaf(read_cidr, "a network such as 10.0.0.0/8 or fd00::/8")]
HttpUrl = Annotated[str, Leaf(read_http_url, "a URL that starts with http:// or https://")]
PoolMode = Annotated[str, choice("transaction", "session", also=("Transaction", "Session"))]
TlsMode = Annotated[str, choice("allow", "disable", "require", "verify-full")]
ServerTlsMode = Annotated[str, choice(*_SERVER_TLS_MODES, any_case=True)]
