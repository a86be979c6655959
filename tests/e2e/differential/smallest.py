"""Shrinks a case that differs to the smallest one that differs in the same way.

Ours instead of hypothesis's: it knows what may be left out of a script, keeps to a time limit however long a hang
takes, and is content with differences that show only now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.e2e.differential.bench import Bench, Case
from tests.e2e.differential.script import WAIT
from tests.e2e.differential.verdict import Difference

LIMIT_SECONDS = 6.0
SHRINKING_PATIENCE = 1.5  # seconds of silence that count as a hang while shrinking
TRIES = 3  # of a candidate, when the difference does not show each time

Compare = Callable[[Case], Difference | None]


def assert_same(bench: Bench, case: Case) -> None:
    """What a test says of a case: no difference, or the smallest that is like it."""
    told = bench.told.get(str(case))  # hypothesis runs what failed once more
    if told is None and (found := bench.compare(case)) is not None:
        small, still = shrunk(bench, case, found)
        told = bench.told[str(case)] = f"\n{small}\n{still.text}"
    if told is not None:
        pytest.fail(told, pytrace=False)


def shrunk(bench: Bench, case: Case, found: Difference, seconds: float = LIMIT_SECONDS) -> tuple[Case, Difference]:
    return smallest(case, found, lambda candidate: bench.compare(candidate, SHRINKING_PATIENCE), seconds)


def smallest(
    case: Case, found: Difference, compare: Compare, seconds: float = LIMIT_SECONDS
) -> tuple[Case, Difference]:
    """The smallest case found in this time, and its difference."""
    deadline = time.monotonic() + seconds
    tries = 1 if _again(case, found, compare, 1) else TRIES
    is_shrinking = True
    while is_shrinking and time.monotonic() < deadline:
        is_shrinking = False
        for candidate in simpler(case):
            if time.monotonic() > deadline:
                break
            if (still := _again(candidate, found, compare, tries)) is not None:
                case, found, is_shrinking = candidate, still, True
                break
    return case, found


def simpler(case: Case) -> Iterator[Case]:
    """Cases a step simpler, the greatest steps first."""
    if case.pieces:
        yield replace(case, pieces=[])
    if case.warm:
        yield replace(case, warm=[])
    script = case.script
    size = len(script) // 2
    while size:
        for at in range(len(script) - size, -1, -size):
            yield replace(case, script=script[:at] + script[at + size :])
        size //= 2
    for at in range(len(case.warm)):
        yield replace(case, warm=case.warm[:at] + case.warm[at + 1 :])
    for at, step in enumerate(script):
        if step[:1] == b"!":
            yield replace(case, script=[*script[:at], WAIT, *script[at + 1 :]])


def _again(case: Case, found: Difference, compare: Compare, tries: int) -> Difference | None:
    for _ in range(tries):
        again = compare(case)
        if again is not None and again.signature == found.signature:
            return again
    return None
