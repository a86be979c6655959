"""Which prepared statements a text names, and what becomes of them."""

from __future__ import annotations

import pytest
from doorman.workers.relay.sql_names import names_in


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("EXECUTE p", {"p": True}),
        ("execute P(1, 'q')", {"p": True}),
        ('EXECUTE/**/"P""Q"', {'P"Q': True}),
        ('EXECUTE U&"p"', {"p": True}),
        ("EXPLAIN EXECUTE p", {"p": True}),
        ("EXPLAIN (ANALYZE, COSTS OFF) EXECUTE p(1)", {"p": True}),
        ("CREATE TEMP TABLE t AS EXECUTE p(1) WITH NO DATA", {"p": True}),
        ("CREATE TABLE execute AS EXECUTE p", {"p": True}),
        ("EXECUTE execute", {"execute": True}),
        ("DEALLOCATE p", {"p": False}),
        ("DEALLOCATE PREPARE p", {"p": False}),
        ("DEALLOCATE prepare", {"prepare": False}),
        ("DEALLOCATE ALL", {}),
        ('DEALLOCATE "all"', {"all": False}),
        ("PREPARE p (int) AS SELECT q", {"p": False}),
        ("DEALLOCATE p; EXECUTE p; PREPARE q AS SELECT 1", {"p": True, "q": False}),
        ("SELECT 1 AS p, 2 AS execute", {}),
        ("SELECT execute p", {}),
        ("GRANT EXECUTE ON FUNCTION p TO q", {}),
        ("SELECT 'EXECUTE p', $$EXECUTE p$$ -- EXECUTE p", {}),
        ("EXPLAIN SELECT 1 AS p, 2 AS execute", {}),
        ("EXECUTE 'p'; DEALLOCATE; EXECUTE", {}),
        ('EXECUTE "', {"": True}),
    ],
)
def test_names(text: str, names: dict[str, bool]) -> None:
    assert names_in(text.encode())[0] == {name.encode(): executes for name, executes in names.items()}


@pytest.mark.parametrize(
    ("text", "forgotten", "every"),
    [
        ("DEALLOCATE p", "p", False),
        ("SELECT 1; DEALLOCATE p; deallocate prepare Q;", "p q", False),
        ("DEALLOCATE ALL", "", True),
        ("SELECT 1; DISCARD ALL; SELECT 1", "", True),
        ("DISCARD PLANS", "", False),
        ("SELECT $$; DEALLOCATE a; $$; DEALLOCATE s", "s", False),
        ("SELECT $a$; DEALLOCATE a; $$; DEALLOCATE b; $a$; DEALLOCATE s", "s", False),
        ("/* /* */; DEALLOCATE a; */ DEALLOCATE s", "s", False),
        (r"SELECT E'\'; DEALLOCATE a; '; DEALLOCATE s", "s", False),
        (r"SELECT '\'; DEALLOCATE s", "s", False),
        ("SELECT 1 -- '\rAS x; DEALLOCATE s", "s", False),
        ('SELECT 1 AS "; DEALLOCATE a"; DEALLOCATE s', "s", False),
    ],
)
def test_what_is_forgotten(text: str, forgotten: str, every: bool) -> None:
    assert names_in(text.encode())[1:] == ([(name, False) for name in forgotten.encode().split()], every)
