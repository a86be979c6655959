"""What differs between two configurations, key by key, and what of it a running pooler cannot change. No I/O.

Secrets are said to have changed, never shown; so are values that do not fit in a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from doorman.config.convert import join_path
from doorman.config.redact import SECRET_KEYS
from doorman.config.schema import RESTART_KEYS, Config, User

LONGEST_SHOWN = 60


class Change(msgspec.Struct, frozen=True):
    """One key (`pools.app.users.eve.pool_size`) and what became of it (`20 -> 30`, `added`, `changed`)."""

    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.key}: {self.what}"


def find_changes(before: Config, after: Config) -> list[Change]:
    """All keys that differ, in the order of the schema; `path` is no key."""
    names = ("general", "pools", "web", "talos", "include")
    return [change for name in names for change in _compare(name, name, getattr(before, name), getattr(after, name))]


def needs_restart(change: Change) -> bool:
    """Does a running pooler go on without this change?"""
    return change.key in RESTART_KEYS


def _compare(path: str, name: str, before: Any, after: Any) -> Iterator[Change]:
    if before == after:
        return
    if isinstance(before, msgspec.Struct) and type(before) is type(after):
        for field in before.__struct_fields__:
            yield from _compare(join_path(path, field), field, getattr(before, field), getattr(after, field))
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _compare_maps(path, before, after)
    elif _are_users(before) and _are_users(after):
        yield from _compare_maps(path, _by_name(before), _by_name(after))
    else:
        yield Change(path, _word(name, before, after))


def _compare_maps(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in (*before, *(name for name in after if name not in before)):
        where = join_path(path, name)
        if name not in after:
            yield Change(where, "removed")
        elif name not in before:
            yield Change(where, "added")
        else:
            yield from _compare(where, name, before[name], after[name])


def _are_users(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, User) for item in value)


def _by_name(users: tuple[User, ...]) -> dict[str, User]:
    return {user.username: user for user in users}


def _word(name: str, before: Any, after: Any) -> str:
    shown = [_show(name, value) for value in (before, after)]
    return "changed" if None in shown else f"{shown[0]} -> {shown[1]}"


def _show(name: str, value: Any) -> str | None:
    if value is None:
        return "not set"
    if name in SECRET_KEYS or not isinstance(value, bool | int | float | str) or len(str(value)) > LONGEST_SHOWN:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"
