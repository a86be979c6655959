"""The parsers of pg_hba and of the user map under arbitrary text: rules, or `ConfigError` that names a line; no more.

What was understood is asked: a decision is one of the rules' methods, and `reject` and no rule at all let nobody in.
"""

from __future__ import annotations

from doorman.auth.cert import parse_user_map
from doorman.config.hba import HbaRules
from doorman.config.hba_parse import parse_rules
from doorman.errors import ConfigError

ASKED = [
    (database, user, address, tls)
    for database in ("db", "postgres")
    for user in ("ann", "db")
    for address in (None, "127.0.0.1", "10.1.2.3", "::1", "::ffff:10.1.2.3")
    for tls in (False, True)
]


def play(data: bytes) -> None:
    """One input: a user map where the first byte is odd, else rules."""
    text = data[1:].decode("utf-8", "surrogateescape")
    if data and data[0] & 1:
        read_map(text)
    else:
        read_rules(text)


def read_map(text: str) -> None:
    try:
        lines = parse_user_map(text)
    except ValueError:
        return
    for line in lines:
        line.fits("ann", "ann")


def read_rules(text: str) -> None:
    try:
        rules = parse_rules(text)
    except ConfigError as error:
        assert all(str(problem) for problem in error.problems)
        return
    kept = HbaRules(rules)
    for database, user, address, tls in ASKED:
        found = kept.decide(database=database, user=user, address=address, tls=tls)
        fitting = [rule for rule in rules if rule.fits(database, user, address, tls)]
        assert (found is None) == (not fitting), "no rule fits, and yet somebody was let in"
        if found is not None:
            assert (found.method, found.line) == (fitting[0].method, fitting[0].line), "the first rule decides"
            assert (fitting[0].kind == "local") == (address is None)
