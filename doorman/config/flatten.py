"""A whole configuration as a flat list of keys and values, for people to read: SHOW CONFIG and the HTTP interface.

No value here is a secret: those that are set are `***`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from doorman.config.redact import SECRET_KEYS
from doorman.config.schema import RESTART_KEYS, Config

MASK = "***"
NO_DEFAULT = "-"
_SECRET = re.compile(r"(?:^|[._])(?:password|secret|token|key)$")
_NOT_SHOWN = frozenset({"path", "include"})


class ConfigEntry(msgspec.Struct, frozen=True):
    """One key. `key` is its dotted path, `default` what holds without it (`-`: nothing)."""

    key: str
    value: str
    default: str
    is_changeable: bool


def flatten(config: Config) -> list[ConfigEntry]:
    """All keys of all sections, in the order of the schema."""
    entries = []
    for name in config.__struct_fields__:
        if name not in _NOT_SHOWN:
            entries += list(_walk(name, getattr(config, name), None))
    return entries


def _walk(path: str, value: object, default: object) -> Iterator[ConfigEntry]:
    if isinstance(value, msgspec.Struct):
        defaults = {field.name: field.default for field in msgspec.structs.fields(value)}
        for name in value.__struct_fields__:
            yield from _walk(f"{path}.{name}", getattr(value, name), defaults[name])
    elif isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _walk(f"{path}.{name}", item, None)
    elif isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
        for number, item in enumerate(value):
            yield from _walk(f"{path}.{number}", item, None)
    else:
        yield ConfigEntry(path, _show(path, value), _show_default(path, default), path not in RESTART_KEYS)


def _show(path: str, value: object) -> str:
    if value is None:
        return ""
    if value and (_SECRET.search(path) or path.rpartition(".")[2] in SECRET_KEYS):
        return MASK
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list | set | frozenset):
        return ", ".join(str(item) for item in value)
    return str(value) if not isinstance(value, dict) else ""


def _show_default(path: str, default: object) -> str:
    if default is None or default is msgspec.NODEFAULT:
        return NO_DEFAULT
    return _show(path, default)
