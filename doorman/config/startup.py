"""The maps of `startup_parameters`: their canonical keys, how levels merge, and how much fits into a startup packet.

Values in, values out. Used at load, and at login for what auth_query adds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MAX_PACKET_BYTES = 10_000
"""PostgreSQL's MAX_STARTUP_PACKET_LENGTH."""
MAX_MAP_BYTES = MAX_PACKET_BYTES - 512
DEFAULT_APPLICATION_NAME = "pg_doorman"

RESERVED = ("user", "database", "replication", "options", "role", "session_authorization")
_CANONICAL = {
    name.lower(): name
    for name in (
        "client_encoding",
        "DateStyle",
        "IntervalStyle",
        "TimeZone",
        "standard_conforming_strings",
        "application_name",
    )
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*", re.ASCII)


def canonical_key(key: str) -> str:
    """The spelling that PostgreSQL reports for the parameters it reports, lower case for all others."""
    lower = "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in key)
    return _CANONICAL.get(lower, lower)


def canonical_map(parameters: Mapping[str, str]) -> dict[str, str]:
    """The map with canonical keys."""
    return {canonical_key(key): value for key, value in parameters.items()}


def merge_maps(*levels: Mapping[str, str]) -> dict[str, str]:
    """General, pool, auth_query row: a later level wins for each canonical key."""
    merged: dict[str, str] = {}
    for level in levels:
        merged.update(canonical_map(level))
    return merged


def find_faults(parameters: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a map: (key, reason), the size under the key ""."""
    spellings: dict[str, str] = {}
    for key, value in parameters.items():
        if reason := _refuse_key(key):
            yield key, reason
        elif "\0" in value:
            yield key, "the value contains a NUL byte"
        elif (other := spellings.setdefault(canonical_key(key), key)) != key:
            yield key, f'is the same parameter as "{other}" ({canonical_key(key)})'
    if (size := measure_map(parameters)) > MAX_MAP_BYTES:
        yield "", f"takes {size} bytes, the limit is {MAX_MAP_BYTES}"


def _refuse_key(key: str) -> str | None:
    if not key:
        return "the name is empty"
    if key.lower() in RESERVED or key.lower().startswith("_pq_."):
        return "reserved: the pooler sets it itself"
    if not _NAME.fullmatch(key):
        return "not a parameter name: letters, digits, _ and . only, no digit first"
    return None


def measure_map(parameters: Mapping[str, str]) -> int:
    """Bytes that the pairs take in a startup packet."""
    return sum(_measure(key) + _measure(value) for key, value in parameters.items())


def measure_packet(role: str, database: str, application_name: str, parameters: Mapping[str, str]) -> int:
    """Bytes of a whole startup packet; `parameters` is a merged map, whose `application_name` wins."""
    pairs = {"application_name": application_name} | dict(parameters) | {"user": role, "database": database}
    return 4 + 4 + measure_map(pairs) + 1


def _measure(text: str) -> int:
    return len(text.encode()) + 1
