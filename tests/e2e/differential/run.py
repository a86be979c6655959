"""The command scripts/differential: new random scripts for so many seconds; what differs is shrunk and shown.

Exit code 0: nothing differed.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.e2e.differential.bench import DIRECT, Bench, Case
from tests.e2e.differential.smallest import shrunk
from tests.e2e.differential.strategies import cases
from tests.e2e.differential.talk import HANG_SECONDS
from tests.harness import Postgres

ROUND = 100  # scripts with one seed
SHRINKING_SECONDS = 30.0
QUIET = settings(
    max_examples=ROUND, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/differential", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run (60)")
    parser.add_argument(
        "--pool", action="append", default=[], help="direct, session, transaction, tight1, tight2 (all)"
    )
    parser.add_argument("--bare", action="store_true", help="also a Query right behind extended messages without Sync")
    parser.add_argument("--seed", type=int, help="of the first round; printed if not given")
    parser.add_argument("--most", type=int, default=20, help="stop after so many kinds of differences (20)")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_options()
    first_seed = options.seed if options.seed is not None else secrets.randbelow(1 << 31)
    print(f"seed {first_seed}", flush=True)
    with Postgres() as postgres, Bench(postgres) as bench:
        wanted = options.pool or [DIRECT, "session", "transaction", "tight1", "tight2"]
        hunt = Hunt(bench, options.most, options.bare)
        deadline, rounds = time.monotonic() + options.seconds, 0
        while time.monotonic() < deadline and not hunt.is_full():
            hunt.round(wanted[rounds % len(wanted)], first_seed + rounds, deadline)
            rounds += 1
    print(f"{bench.compared} scripts compared, {bench.ended} ended by PostgreSQL")
    print(f"differences: {dict(hunt.found) or 'none'}")
    return 1 if hunt.found else 0


class Hunt:
    """Collects differences: one of each kind is shrunk and shown."""

    def __init__(self, bench: Bench, most: int, bare: bool) -> None:
        self.bench = bench
        self.most = most
        self.bare = bare
        self.found: Counter[str] = Counter()

    def is_full(self) -> bool:
        return len(self.found) >= self.most

    def round(self, pool: str, number: int, deadline: float) -> None:
        @seed(number)
        @QUIET
        @given(case=cases(pool, bare=self.bare))
        def go(case: Case) -> None:
            if time.monotonic() < deadline and not self.is_full():
                self.try_one(case)

        go()

    def try_one(self, case: Case) -> None:
        found = self.bench.compare(case, HANG_SECONDS)
        if found is None:
            return
        self.found[f"{case.pool}: {found.signature}"] += 1
        if self.found[f"{case.pool}: {found.signature}"] == 1:
            case, found = shrunk(self.bench, case, found, SHRINKING_SECONDS)
            print(f"\n{case}\n{found.text}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
