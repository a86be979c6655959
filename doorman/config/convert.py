"""From a tree of plain values to the structs of `schema`: reads every value, collects every problem.

Driven by the schema's annotations, so that a new key needs no code here. A value that cannot be read becomes `BAD`.
"""

from __future__ import annotations

import re
import types
import typing
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any

import msgspec

from doorman.config.fields import Leaf
from doorman.config.undecided import BAD
from doorman.errors import ConfigError, ConfigProblem

REMOVED_KEYS = {
    "general": {
        **dict.fromkeys(("override_startup_packet_server_version",), "1.8.0"),
        **dict.fromkeys(("prometheus_exporter", "prometheus_exporter_enabled"), "2.2.0"),
        "virtual_pool_count": "3.0.5",
        "clock_resolution_statistics": "3.1.6",
        **dict.fromkeys(("server_tls", "verify_server_certificate"), "3.5.2"),
        "scaling_cooldown_sleep": "3.3",
    },
    "pool": {"scaling_cooldown_sleep": "3.3"},
    "authquery": {"default_pool_size": "3.3.1"},
}
"""Keys of older releases by section: they are ignored, and the warning says so instead of guessing a neighbour."""


class Converter:
    """Reads one tree. `problems` and `warnings` fill up in the order of the schema."""

    def __init__(self) -> None:
        self.problems: list[ConfigProblem] = []
        self.warnings: list[ConfigProblem] = []

    def convert(self, kind: Any, value: Any, path: str) -> Any:
        """The stored form of `value` as `kind`, or `BAD` after reporting why not."""
        if value is BAD:
            return BAD
        origin = typing.get_origin(kind)
        if origin is Annotated:
            return self._leaf(kind.__metadata__[0], value, path)
        if origin in (types.UnionType, typing.Union):
            return self.convert(_without_none(kind), value, path)
        if origin is tuple:
            return self._list(typing.get_args(kind)[0], value, path)
        if origin is dict:
            return self._map(typing.get_args(kind)[1], value, path)
        return self._struct(kind, value, path)

    def _leaf(self, leaf: Leaf, value: Any, path: str) -> Any:
        try:
            return leaf.read(value)
        except ConfigError as error:
            self.problems += [ConfigProblem(path + problem.key, problem.reason) for problem in error.problems]
        except ValueError as error:
            reason = f" ({error})" if str(error) else ""
            self._report(path, f"expected {leaf.expected}, found {describe(value, leaf.secret)}{reason}")
        return BAD

    def _list(self, kind: Any, value: Any, path: str) -> Any:
        if not isinstance(value, list):
            return self._report(path, f"expected a list, found {describe(value, _is_secret(kind))}")
        items = tuple(self.convert(kind, item, f"{path}[{index}]") for index, item in enumerate(value))
        return BAD if any(item is BAD for item in items) else items

    def _map(self, kind: Any, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return self._report(path, f"expected a table, found {describe(value, _is_secret(kind))}")
        return {key: self.convert(kind, item, join_path(path, key)) for key, item in value.items()}

    def _struct(self, kind: type[msgspec.Struct], value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return self._report(path, f"expected a table, found {describe(value, secret=True)}")
        self._warn_unknown(kind, value, path)
        values = {}
        for name, info in _plan(kind).items():
            if name in value:
                values[name] = self.convert(info.type, value[name], join_path(path, name))
            elif info.required:
                values[name] = self._report(join_path(path, name), "missing; it is required")
        return kind(**values)

    def _warn_unknown(self, kind: type[msgspec.Struct], value: dict[str, Any], path: str) -> None:
        removed = REMOVED_KEYS.get(kind.__name__.lower(), {})
        for key in (key for key in value if key not in _plan(kind)):
            reason = f"removed after {removed[key]}" if key in removed else f"unknown key{_suggest(kind, key)}"
            self.warnings.append(ConfigProblem(join_path(path, key), f"{reason}; ignored"))

    def _report(self, path: str, reason: str) -> Any:
        self.problems.append(ConfigProblem(path, reason))
        return BAD


def join_path(path: str, key: str) -> str:
    """The path of `key` below `path`; a key that is not a plain word is quoted."""
    word = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else '"' + key.replace('"', '\\"') + '"'
    return f"{path}.{word}" if path else word


def describe(value: object, secret: bool = False) -> str:
    """A value for an error message: kind and text, but neither the text of secrets nor a URL's password."""
    name = name_type(value)
    if secret or isinstance(value, dict | list):
        return name
    text = re.sub(r"[^/@\s]*@", "***@", str(value)) if isinstance(value, str) else str(value)
    shown = text if len(text) <= 60 else text[:60] + "…"
    return f'the string "{shown}"' if isinstance(value, str) else f"the {name.split()[-1]} {shown.lower()}"


def name_type(value: object) -> str:
    """What a value is, in the words of TOML, with its article."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


@cache
def _plan(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {info.name: info for info in msgspec.structs.fields(kind)}


def _without_none(kind: Any) -> Any:
    return next(part for part in typing.get_args(kind) if part is not type(None))


def _is_secret(kind: Any) -> bool:
    return any(isinstance(part, Leaf) and part.secret for part in getattr(kind, "__metadata__", ()))


def _suggest(kind: type[msgspec.Struct], key: str) -> str:
    near = get_close_matches(key, _plan(kind), 1, 0.5) or get_close_matches(key.lower(), _plan(kind), 1, 0.5)
    return f', the nearest existing one is "{near[0]}"' if near else ""
