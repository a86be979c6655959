"""All that must hold between the keys of a configuration beyond each key's own form, and what is worth a warning.

Every rule is a small generator; this file runs them. A rule that meets a value that could not be read is dropped
(see `undecided`), so that all problems of a file appear at once. The numbers V1 to V39 are those of the
specification; V8 to V12, V15, V17, V21, V25, V29, V30, V36 and V38 concern one value and live in `fields` and `schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ParamSpec

from doorman.config import check_general, check_pool, check_user, warn
from doorman.config.convert import join_path
from doorman.config.schema import Config
from doorman.config.undecided import Undecided
from doorman.errors import ConfigProblem

P = ParamSpec("P")


def find_problems(config: Config) -> list[ConfigProblem]:
    """Everything that forbids using the configuration. `config` may hold `BAD` values."""
    found = [problem for rule in check_general.RULES for problem in _run(rule, config)]
    return found + list(_run(_walk_pools, config))


def find_warnings(config: Config) -> list[ConfigProblem]:
    """Everything that loads but probably is not meant. `config` is in order."""
    found = [warning for rule in warn.RULES for warning in rule(config)]
    for name, pool in config.pools.items():
        found += [warning for rule in warn.POOL_RULES for warning in rule(config, join_path("pools", name), pool)]
    return found


def _walk_pools(config: Config) -> Iterator[ConfigProblem]:
    for name, pool in config.pools.items():
        path = join_path("pools", name)
        for rule in check_pool.RULES:
            yield from _run(rule, config, name, path, pool)
        for user_rule in check_user.RULES:
            yield from _run(check_user.walk_users, user_rule, config, path, pool)


def _run(rule: Callable[P, Iterator[ConfigProblem]], *args: P.args, **kwargs: P.kwargs) -> Iterator[ConfigProblem]:
    try:
        yield from rule(*args, **kwargs)
    except Undecided:
        return
