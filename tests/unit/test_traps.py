"""docs/traps.md names a test for each trap: the tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "traps.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("|") and not line.startswith(("|--", "| # ", "| trap "))]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py::\w+)`", TEXT)))
NUMBERED = 28


def test_every_named_test_exists() -> None:
    assert [named for named in NAMED if not exists(*named.split("::"))] == []


def exists(path: str, name: str) -> bool:
    tree = ast.parse((ROOT / "tests" / path).read_text())
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in ast.walk(tree)
    )


def test_every_trap_has_a_test_or_is_for_later() -> None:
    for row in ROWS:
        assert re.search(r"`[\w/]+\.py::\w+`|\*later\*", row.split("|")[-2]), row


def test_every_number_is_there() -> None:
    assert re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE) == [str(number) for number in range(1, NUMBERED + 1)]
