"""Regular expressions: what Python 3.11.2, which Debian 12 has, gets wrong does not stand in them.

Before 3.11.5 a possessive repeat of a group, or an atomic group, that fails half-way goes on behind what it has tried
(https://github.com/python/cpython/issues/106052): `(?:ab?c)++` finds all of `aca`. Repeats of a single set are right.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WRONG = re.compile(r"\)(?:[*+?]|\{[\d,]+\})\+|\(\?>")


def test_no_group_is_repeated_possessively() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for kind in ("*.py", "*.pyx")
        for path in sorted((ROOT / "doorman").rglob(kind))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if WRONG.search(line)
    ]
    assert found == []
