"""Fuzzing of the relay, SCRAM, pg_hba, TLS records: the corpus on the ordinary build, then libFuzzer on an instrumented
one.

DOORMAN_FUZZ_SECONDS says how long each mode is fuzzed (30, a third of it for the parsers); scripts/fuzz: by hand.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import arbitrary, faithful, hba, records, scram
from tests.fuzz.build import CannotBuild
from tests.fuzz.run import CORPUS, fuzz, prepare

PLAY: dict[str, Callable[[bytes], None]] = {
    "arbitrary": arbitrary.play,
    "faithful": faithful.play,
    "scram": scram.play,
    "hba": hba.play,
    "records": records.play,
}
SECONDS = int(os.environ.get("DOORMAN_FUZZ_SECONDS", "30"))
RANDOM_INPUTS = 100


@pytest.fixture(scope="session")
def instrumented() -> dict[str, str]:
    """The environment of a process with the instrumented modules."""
    try:
        return prepare()
    except CannotBuild as problem:
        pytest.skip(str(problem))


@pytest.mark.parametrize("mode", PLAY)
def test_the_corpus_shows_nothing(mode: str) -> None:
    inputs = sorted((CORPUS / mode).iterdir())
    assert inputs
    for path in inputs:
        try:
            PLAY[mode](path.read_bytes())
        except AssertionError as problem:
            pytest.fail(f"{path}: {problem}")


@pytest.mark.parametrize("mode", PLAY)
def test_random_inputs_show_nothing(mode: str) -> None:
    chance = random.Random(mode)
    for _ in range(RANDOM_INPUTS):
        data = chance.randbytes(chance.randrange(5, 120))
        try:
            PLAY[mode](data)
        except AssertionError as problem:
            pytest.fail(f"{data.hex()}: {problem}")


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("mode", PLAY)
def test_a_while_of_fuzzing_finds_nothing(mode: str, instrumented: dict[str, str], tmp_path: Path) -> None:
    seconds = SECONDS if mode in ("arbitrary", "faithful") else SECONDS // 3
    done = fuzz(mode, seconds, instrumented, found=tmp_path)
    assert done.returncode == 0, done.stdout[-12_000:]
    assert "inline 8-bit counters" in done.stdout, "the compiled modules are not instrumented"
