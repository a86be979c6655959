"""Fixtures of the process tests: a `make_doorman` whose logs must not show a fault of ours when the test is over."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Doorman
from tests.process.faulty import build

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


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faults.c as a library to preload."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    return build(compiler, tmp_path_factory.mktemp("faults"))


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Path]:
    """The directory whose files are the faults; none is left when the pooler ends."""
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()
