"""Fixtures of the process tests: a `make_doorman` whose logs must not show a fault of ours when the test is over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Doorman

MakeDoorman = Any

FAULT = re.compile(
    r"Traceback|internal error|(?:was given back|could not be closed) in state|upkeep failed|a task failed"
)


@pytest.fixture
def make_doorman(make_doorman: MakeDoorman) -> Iterator[MakeDoorman]:
    """As everywhere else; in the end no log may hold a traceback or a broken invariant."""
    made: list[Doorman] = []

    def make(*arguments: Any, **options: Any) -> Doorman:
        doorman: Doorman = make_doorman(*arguments, **options)
        made.append(doorman)
        return doorman

    yield make
    for doorman in made:
        found = FAULT.search(doorman.log_text())
        assert found is None, f"{found[0]} in the log\n{doorman.log_tail(60)}"
