"""The command scripts/suites: other people's test suites to PostgreSQL and through the pooler; shows what differs.

Exit code 0: nothing differed but what must (tests/suites/known.py), and what --only named could be run.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.harness.service import temporary_directory
from tests.suites.driver_suites import Asyncpg, NodePostgres, Pg8000, Pgx, Pq, Psycopg, Psycopg2
from tests.suites.fetch import CACHE
from tests.suites.known import KNOWN
from tests.suites.server_suites import Isolation, Pipeline, Regression
from tests.suites.sides import DIRECT, outcomes_of
from tests.suites.suite import WHOLE_RUN, Missing, Outcome, Outcomes, Suite

SUITES: dict[str, type[Suite]] = {
    suite.name: suite
    for suite in (Regression, Isolation, Pipeline, Psycopg2, Asyncpg, Pg8000, Pgx, Pq, Psycopg, NodePostgres)
}
SHOWN = 30  # lines of one difference
NOTHING = Outcome("no result")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/suites", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME,…", help=f"these suites, of {', '.join(SUITES)}")
    parser.add_argument("--control", action="store_true", help="PostgreSQL on both sides: what differs by itself")
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only.split(",") if name]
    if unknown := set(options.only) - set(SUITES):
        parser.error(f"no suite {', '.join(sorted(unknown))}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    is_well = True
    for name in options.only or SUITES:
        suite = SUITES[name]()
        try:
            suite.prepare()
        except Missing as reason:
            print(f"{name}: skipped, {reason}", flush=True)
            is_well &= not options.only
            continue
        is_well &= run_suite(suite, [DIRECT] if options.control else suite.modes)
    print(f"files are in {CACHE / 'results'}")
    print("PASSED" if is_well else "FAILED")
    return 0 if is_well else 1


def run_suite(suite: Suite, modes: Sequence[str]) -> bool:
    """Whether nothing unknown differed."""
    place = temporary_directory(f"suites-{suite.name}")
    try:
        direct = timed(suite, DIRECT, DIRECT, place)
        results = [report(suite.name, mode, direct, timed(suite, mode, other_name(mode), place)) for mode in modes]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return all(results)


def other_name(mode: str) -> str:
    return "control" if mode == DIRECT else mode


def timed(suite: Suite, mode: str, label: str, place: Path) -> Outcomes:
    started_at = time.monotonic()
    outcomes = outcomes_of(suite, mode, label, place)
    seconds = time.monotonic() - started_at
    print(f"{suite.name}, {label}: {len(outcomes)} tests in {seconds:.0f} s{counted(outcomes)}", flush=True)
    assert outcomes, f"{suite.name} has no tests"
    return outcomes


def counted(outcomes: Outcomes) -> str:
    """How many passed and so on, where results are such words."""
    counts = Counter(one.result for one in outcomes.values())
    words = [f"{count} {word}" for word, count in sorted(counts.items()) if re.fullmatch(r"[a-z]+", word)]
    return f" ({', '.join(words)})" if words else ""


def report(name: str, mode: str, direct: Outcomes, pooled: Outcomes) -> bool:
    """Print what differs; whether all of it is known."""
    known = KNOWN.get(name, {})
    differing = [test for test in sorted(direct.keys() | pooled.keys()) if is_different(test, direct, pooled)]
    unknown = [test for test in differing if test not in known]
    print(f"{name}, {other_name(mode)}: {len(differing)} differ, {len(differing) - len(unknown)} of them as they must")
    for test in differing:
        if test in known:
            print(f"  known: {test}: {known[test]}")
    for test in unknown:
        print(f"  DIFFERS: {test}")
        print("\n".join(f"    {line}" for line in shown(direct.get(test, NOTHING), pooled.get(test, NOTHING))))
    for test in sorted(known.keys() - set(differing)):
        print(f"  did not differ this time: {test}")
    sys.stdout.flush()
    return not unknown


def is_different(test: str, direct: Outcomes, pooled: Outcomes) -> bool:
    return test == WHOLE_RUN or direct.get(test, NOTHING).result != pooled.get(test, NOTHING).result


def shown(direct: Outcome, pooled: Outcome) -> list[str]:
    """The difference in lines, and what the tests say of it."""
    wanted, got = direct.result.splitlines(), pooled.result.splitlines()
    lines = list(difflib.unified_diff(wanted, got, "direct", "pooled", lineterm="", n=2))
    for side, one in (("direct", direct), ("pooled", pooled)):
        lines += [f"{side}: {line}" for line in one.detail.splitlines()[-SHOWN:]]
    return lines if len(lines) <= 2 * SHOWN else [*lines[: 2 * SHOWN], f"… and {len(lines) - 2 * SHOWN} lines more"]


if __name__ == "__main__":
    sys.exit(main())
