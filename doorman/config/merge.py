"""Merging an included file onto what was read before it."""

from __future__ import annotations

from typing import Any

from doorman.config.convert import join_path, name_type
from doorman.config.undecided import BAD
from doorman.errors import ConfigProblem


def merge(base: dict[str, Any], addition: dict[str, Any], origin: str) -> tuple[dict[str, Any], list[ConfigProblem]]:
    """`addition` (from the file `origin`) onto `base`: tables merge, lists are appended, scalars replace.

    Two values of different types are a problem; `BAD` stands in their place.
    """
    problems: list[ConfigProblem] = []
    return _merge_tables(base, addition, "", origin, problems), problems


def _merge_tables(
    base: dict[str, Any], addition: dict[str, Any], path: str, origin: str, problems: list[ConfigProblem]
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in addition.items():
        merged[key] = _merge_values(base[key], value, join_path(path, key), origin, problems) if key in base else value
    return merged


def _merge_values(base: Any, addition: Any, path: str, origin: str, problems: list[ConfigProblem]) -> Any:
    if base is BAD or addition is BAD:
        return BAD
    if type(base) is not type(addition):
        reason = f"is {name_type(base)}, but {name_type(addition)} in the included file {origin}"
        problems.append(ConfigProblem(path, reason))
        return BAD
    if isinstance(base, dict):
        return _merge_tables(base, addition, path, origin, problems)
    return base + addition if isinstance(base, list) else addition
