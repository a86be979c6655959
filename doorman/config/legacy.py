"""Old spellings of the merged tree turned into today's keys, before it is typed."""

from __future__ import annotations

from typing import Any

from doorman.config.convert import join_path
from doorman.config.undecided import BAD
from doorman.config.units import MAX_INTEGER
from doorman.errors import ConfigProblem

PREPARED_ALIAS = "client_prepared_statements_cache_size"
PREPARED_KEY = "client_anonymous_prepared_cache_size"


def modernize(tree: dict[str, Any]) -> tuple[dict[str, Any], list[ConfigProblem], list[ConfigProblem]]:
    """The tree with `prometheus`, the prepared-cache alias and numeric `users` replaced; problems; warnings."""
    problems: list[ConfigProblem] = []
    warnings: list[ConfigProblem] = []
    tree = _rename(tree, "prometheus", "web", "", problems)
    general = tree.get("general")
    if isinstance(general, dict):
        if PREPARED_ALIAS in general:
            reason = f"deprecated; it is now called {PREPARED_KEY}"
            warnings.append(ConfigProblem(f"general.{PREPARED_ALIAS}", reason))
        tree["general"] = _rename(general, PREPARED_ALIAS, PREPARED_KEY, "general", problems)
    if isinstance(pools := tree.get("pools"), dict):
        tree["pools"] = {
            name: _with_user_list(pool, join_path("pools", name), problems) for name, pool in pools.items()
        }
    return tree, problems, warnings


def _rename(table: dict[str, Any], old: str, new: str, path: str, problems: list[ConfigProblem]) -> dict[str, Any]:
    if old in table and new in table:
        problems.append(ConfigProblem(join_path(path, old), f"duplicate field: {new} is given too"))
        return {key: BAD if key == new else value for key, value in table.items() if key != old}
    return {new if key == old else key: value for key, value in table.items()}


def _with_user_list(pool: Any, path: str, problems: list[ConfigProblem]) -> Any:
    """`users` written as a table with numbers for keys becomes a list, in the byte order of the key texts."""
    users = pool.get("users") if isinstance(pool, dict) else None
    if not isinstance(users, dict):
        return pool
    wrong = [key for key in users if not _is_index(key)]
    problems += [
        ConfigProblem(join_path(f"{path}.users", key), "expected an index such as 0, or users as a list")
        for key in wrong
    ]
    ordered = [users[key] for key in sorted(users, key=str.encode) if key not in wrong]
    return {**pool, "users": ordered}


def _is_index(key: str) -> bool:
    digits = key.removeprefix("+")
    return digits.isascii() and digits.isdecimal() and len(digits) <= 20 and int(digits) <= 2 * MAX_INTEGER + 1
