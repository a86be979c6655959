"""What `RememberedRules` answers is what the rules decide, asked once or again."""

from __future__ import annotations

from itertools import product

from doorman.config.hba import HbaRules, RememberedRules
from doorman.config.hba_parse import parse_rules

TEXT = """
hostssl all all 10.0.0.0/8 cert
host db ann 10.0.0.0/8 md5
local all all scram-sha-256
host db bob 0.0.0.0/0 reject
"""


def test_remembered_decisions_are_those_of_the_rules() -> None:
    rules = HbaRules(parse_rules(TEXT))
    remembered = RememberedRules(rules)
    cases = list(product(("db", "other"), ("ann", "bob"), ("10.0.0.1", "11.0.0.1", None), (False, True)))
    decided = [rules.decide(database=d, user=u, address=a, tls=t) for d, u, a, t in cases]
    assert len({str(found) for found in decided}) > 3, "the cases tell nothing apart"
    assert [remembered.decide(*case) for case in cases] == decided
    assert [remembered.decide(*case) for case in cases] == decided


def test_names_without_end_do_not_fill_the_memory() -> None:
    remembered = RememberedRules(HbaRules(parse_rules(TEXT)))
    for number in range(2 * RememberedRules.MOST):
        remembered.decide("db", f"user{number}", "10.0.0.1", False)
    assert len(remembered._decided) <= RememberedRules.MOST
