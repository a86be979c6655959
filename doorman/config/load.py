"""Loading a configuration: read, include, merge, type, check. Called at start, by `-t` and at every reload.

Either everything is in order and a `LoadedConfig` comes back, or `ConfigError` lists all that is wrong.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from doorman.config.check import find_problems, find_warnings
from doorman.config.convert import Converter
from doorman.config.legacy import modernize
from doorman.config.merge import merge
from doorman.config.schema import Config, Include
from doorman.config.units import MAX_INTEGER
from doorman.config.yaml12 import read_yaml
from doorman.errors import ConfigError, ConfigProblem

DEFAULT_PATH = "pg_doorman.toml"


class LoadedConfig(msgspec.Struct, frozen=True):
    """A configuration that is in order, and what the operator should be told about it."""

    config: Config
    warnings: list[ConfigProblem]


def load_config(path: str) -> LoadedConfig:
    """Load `path` (`.yaml`/`.yml` is YAML, anything else TOML) with its includes; raises `ConfigError`.

    Include paths and all other file names are relative to the working directory.
    """
    reader = _TreeReader()
    tree = reader.read_all(path)
    tree, legacy_problems, legacy_warnings = modernize(tree)
    converter = Converter()
    config: Config = converter.convert(Config, tree, "")
    problems = reader.problems + legacy_problems + converter.problems
    problems += find_problems(config)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    warnings = reader.warnings + legacy_warnings + converter.warnings + find_warnings(config)
    return LoadedConfig(msgspec.structs.replace(config, path=path), warnings)


class _TreeReader:
    """Reads the main file and its includes into one tree. Unreadable files end it, type clashes do not."""

    def __init__(self) -> None:
        self.problems: list[ConfigProblem] = []
        self.warnings: list[ConfigProblem] = []

    def read_all(self, path: str) -> dict[str, Any]:
        """The merged tree; raises `ConfigError` when a file cannot be read or is no YAML or TOML."""
        tree = self._read(path)
        unreadable: list[ConfigProblem] = []
        for name in _list_includes(tree):
            try:
                addition = self._read(name)
            except ConfigError as error:
                unreadable += [_in_file(problem, "included file ") for problem in error.problems]
                continue
            tree, problems = merge(tree, addition, name)
            self.problems += problems
        if unreadable:
            raise ConfigError(unreadable)
        return tree

    def _read(self, path: str) -> dict[str, Any]:
        text = _read_text(path)
        try:
            if not path.lower().endswith((".yaml", ".yml")):
                return _read_toml(text)
            document = read_yaml(text)
        except ConfigError as error:
            raise ConfigError([_in_file(problem, f"{path}: ") for problem in error.problems]) from None
        self.problems += document.problems
        self.warnings += document.warnings
        return document.tree


def _in_file(problem: ConfigProblem, file: str) -> ConfigProblem:
    return ConfigProblem("", f"{file}{problem}")


def _read_text(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError([ConfigProblem("", f"{path}: not UTF-8")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise ConfigError([ConfigProblem("", f"{path}: {reason}")]) from None


def _read_toml(text: str) -> dict[str, Any]:
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError([ConfigProblem("", f"TOML: {reason}")]) from None
    if not all(-MAX_INTEGER - 1 <= number <= MAX_INTEGER for number in _walk_integers(tree)):
        raise ConfigError([ConfigProblem("", "TOML: an integer out of range")])
    return tree


def _walk_integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _walk_integers(item)
    elif isinstance(value, int):
        yield value


def _list_includes(tree: dict[str, Any]) -> tuple[str, ...]:
    """Names from the main file alone. A wrong form is reported when the whole tree is typed."""
    section = Converter().convert(Include, tree.get("include", {}), "include")
    return section.files if isinstance(section, Include) and isinstance(section.files, tuple) else ()
