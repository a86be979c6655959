"""Fuzzes the relay, the parsers of a login and the TLS record layer for a while: scripts/fuzz, and test_fuzz.py.

scripts/fuzz --seconds 600                  # all modes, an equal part of the time each
scripts/fuzz --mode faithful --seconds 60
scripts/fuzz --mode faithful --replay FILE  # one input again, with all reports of the sanitizers
scripts/fuzz --merge                        # what was found new in build/fuzz/ goes to the corpus, the least of it
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.fuzz.build import ROOT, CannotBuild, build
from tests.fuzz.drive import MODES

CORPUS = Path(__file__).with_name("corpus")
PLACE = Path(os.environ.get("DOORMAN_FUZZ_BUILD", ROOT / "build" / "fuzz"))
LONGEST = 300  # bytes of an input


def prepare() -> dict[str, str]:
    """Build what is to be fuzzed; the environment for it."""
    tree = PLACE / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    return os.environ | build(tree)


def fuzz(mode: str, seconds: int, environment: dict[str, str], *, found: Path) -> subprocess.CompletedProcess[str]:
    """Fuzz from the corpus on; inputs that show something new, and those that fail, go to `found`."""
    fresh = found / mode
    fresh.mkdir(parents=True, exist_ok=True)
    limits = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        "-len_control=0",
        "-timeout=60",
        "-rss_limit_mb=2048",
    ]
    return drive(mode, [*limits, f"-artifact_prefix={found}/", str(fresh), str(CORPUS / mode)], environment)


def drive(mode: str, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.drive", mode, *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        errors="replace", check=False,
    )  # fmt: skip


def merge(mode: str, environment: dict[str, str]) -> str:
    done = drive(
        mode, ["-set_cover_merge=1", f"-max_len={LONGEST}", str(CORPUS / mode), str(PLACE / mode)], environment
    )
    return done.stdout.splitlines()[-1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Coverage-guided fuzzing of the compiled relay.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--mode", choices=MODES, action="append")
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--merge", action="store_true")
    wanted = parser.parse_args()
    modes = wanted.mode or list(MODES)
    try:
        environment = prepare()
    except CannotBuild as problem:
        print(problem, file=sys.stderr)
        return 2
    failed = 0
    for mode in modes:
        if wanted.merge:
            print(mode, merge(mode, environment))
            continue
        if wanted.replay:
            done = drive(mode, [str(wanted.replay)], environment)
        else:
            done = fuzz(mode, wanted.seconds // len(modes), environment, found=PLACE)
        lines = done.stdout.splitlines()
        print("\n".join(lines if done.returncode else lines[-2:]))
        failed = failed or done.returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
