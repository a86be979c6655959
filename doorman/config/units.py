"""Durations, sizes and octal modes as people write them. Values in, values out; called by the loader.

Each reader takes the text or number of a configuration file and raises `ValueError` with a short reason.
"""

from __future__ import annotations

import re

MAX_INTEGER = 2**63 - 1
"""TOML's largest integer; results beyond it are refused instead of wrapped."""

MILLISECONDS = {"": 1, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
BYTES = {"": 1, "b": 1, "k": 2**10, "kb": 2**10, "m": 2**20, "mb": 2**20, "g": 2**30, "gb": 2**30}

_NUMBER = re.compile(r"\+?([0-9]+)\s*([A-Za-z]*)", re.ASCII)


def read_duration_ms(value: object) -> int:
    """Milliseconds of `1500`, `"1500"`, `"3s"`, `"10 m"`; a bare number is milliseconds."""
    return _read_scaled(value, MILLISECONDS)


def read_size_bytes(value: object) -> int:
    """Bytes of `1048576`, `"1MB"`, `"512 K"`; suffixes are powers of 1024."""
    return _read_scaled(value, BYTES)


def read_seconds(value: object) -> int:
    """Seconds of `5`, `"5"`, `"5s"`, `"1m"`; a bare number is seconds, a fraction of a second is refused."""
    if isinstance(value, str) and not value.strip().lstrip("+").isdecimal():
        milliseconds = read_duration_ms(value)
        if milliseconds % 1000:
            raise ValueError("not a whole number of seconds")
        return milliseconds // 1000
    return _read_scaled(value, {"": 1})


def read_octal_mode(value: object) -> int:
    """Permission bits of `"0600"` or `"0o660"`, at most 0777."""
    if not isinstance(value, str):
        raise ValueError("quote the digits")
    digits = value[2:] if value[:2] in ("0o", "0O") else value
    if not re.fullmatch("[0-7]+", digits):
        raise ValueError("no octal digits" if not digits else "not octal")
    mode = int(digits, 8)
    if mode > 0o777:
        raise ValueError("has bits above 0777")
    return mode


def format_duration(milliseconds: int) -> str:
    """The shortest text that `read_duration_ms` reads back, such as `"10m"`."""
    return _format_scaled(milliseconds, MILLISECONDS, ("d", "h", "m", "s", "ms"))


def format_size(size: int) -> str:
    """The shortest text that `read_size_bytes` reads back, such as `"256MB"`."""
    return _format_scaled(size, BYTES, ("gb", "mb", "kb", "b")).upper()


def _read_scaled(value: object, scales: dict[str, int]) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("")
    number, suffix = (value, "") if isinstance(value, int) else _split_number(value)
    if number < 0:
        raise ValueError("negative")
    if suffix.lower() not in scales:
        raise ValueError(f"unknown suffix {suffix!r}")
    result = number * scales[suffix.lower()]
    if result > MAX_INTEGER:
        raise ValueError("too large")
    return result


def _split_number(text: str) -> tuple[int, str]:
    match = _NUMBER.fullmatch(text.strip())
    if not match:
        raise ValueError("not a whole number with a suffix")
    if len(match[1]) > 20:  # beyond any 64-bit number; spares int() a megabyte of digits
        raise ValueError("too large")
    return int(match[1]), match[2]


def _format_scaled(amount: int, scales: dict[str, int], suffixes: tuple[str, ...]) -> str:
    for suffix in suffixes[:-1]:
        if amount and amount % scales[suffix] == 0:
            return f"{amount // scales[suffix]}{suffix}"
    return f"{amount}{suffixes[-1]}"
