"""scripts/bench-relay counts a function that it knows by name; the compiler must not have merged it into another."""

from __future__ import annotations

import fnmatch
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

import doorman._compiled

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "bench-relay"


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm: install binutils")
def test_the_function_that_is_counted_is_there() -> None:
    entry = runpy.run_path(str(SCRIPT))["ENTRY"]
    listing = subprocess.run(["nm", doorman._compiled.__file__], check=True, capture_output=True, text=True).stdout
    functions = [line.split()[-1] for line in listing.splitlines() if line.split()[-2] in "tT"]
    assert len(fnmatch.filter(functions, entry)) == 1
