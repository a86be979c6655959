"""The command: a worker under callgrind while pgbench runs, for doorman/often.lds and for whoever makes the relay
cheaper.

Prints, for a transaction: instructions, lines of 64 bytes and pages of code that most transactions touch, and the same
by function. What the kernel does is not counted.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import tests.harness.doorman
from scripts.benchmark.workload import PROTOCOLS, Load, run_load, start_postgres
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of

MOST = 0.3  # of all transactions touch what is counted as a line
LINE, PAGE = 64, 4096
NAME = re.compile(r"\((\d+)\)(?: (.*))?")


@dataclass
class Counts:
    """Of one worker: instructions by function and by (object file, line of code); calls by function."""

    instructions: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    lines: Counter[tuple[str, int]] = field(default_factory=Counter)
    lines_of: dict[str, set[tuple[str, int]]] = field(default_factory=lambda: defaultdict(set))

    @property
    def transactions(self) -> float:
        """Two sends each."""
        return self.calls["send"] / 2


def read_counts(text: str) -> Counts:
    """Of a file of callgrind's (--dump-instr=yes; its format is in Valgrind's manual)."""
    counts = Counts()
    names: dict[str, dict[str, str]] = {"fn": {}, "ob": {}}
    function = library = callee = ""
    address, is_call = 0, False

    def name_of(kind: str, value: str) -> str:
        found = NAME.fullmatch(value)
        if found is None:
            raise ValueError(f"no name of callgrind's: {value!r}")
        if found[2]:
            names[kind][found[1]] = found[2]
        return names[kind][found[1]]

    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "fn":
            function = name_of("fn", value)
        elif key == "ob":
            library = name_of("ob", value)
        elif key == "cob":
            name_of("ob", value)
        elif key == "cfn":
            callee = name_of("fn", value)
        elif key == "calls":
            counts.calls[callee] += int(value.split()[0])
            is_call = True
        elif line[:1] in tuple("0+-*"):
            words = line.split()
            if words[0].startswith("0x"):
                address = int(words[0], 16)
            elif words[0] != "*":
                address += int(words[0], 0)
            if not is_call:  # else it is what the callee cost
                place = (library, address // LINE)
                counts.instructions[function] += int(words[-1])
                counts.lines[place] += int(words[-1])
                counts.lines_of[function].add(place)
            is_call = False
    return counts


def count(postgres: Postgres, load: Load, into: Path) -> Counts:
    """What one of two workers does for a few seconds amid the load."""
    callgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--trace-children=yes", "--dump-instr=yes"]
    command = [*callgrind, f"--callgrind-out-file={into}/of.%p", sys.executable, "-m", "doorman.cli"]
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 20)])}
    with (
        patch.object(tests.harness.doorman, "doorman_command", lambda: command),
        Doorman(postgres, pools=pools) as pooler,
    ):
        run_load(pooler, pooler.port, load)  # opens servers, fills caches
        loading = threading.Thread(target=run_load, args=(pooler, pooler.port, load))
        loading.start()
        worker = str(pooler.family()[1])
        time.sleep(load.seconds / 3)
        for arguments in (["-i", "on"], [], ["-d"], ["-i", "off"]):
            if arguments:
                subprocess.run(["callgrind_control", *arguments, worker], capture_output=True, check=True)
            else:
                time.sleep(load.seconds / 3)
        loading.join()
    return read_counts(max(into.glob(f"of.{worker}*"), key=lambda path: path.stat().st_size).read_text())


def report(title: str, counts: Counts, most: int) -> list[str]:
    n = counts.transactions
    often = {place for place, times in counts.lines.items() if times >= n * MOST}
    pages = {(library, at * LINE // PAGE) for library, at in often}
    total = sum(counts.instructions.values()) / n
    lines = [f"{title}: {total:.0f} instructions, {len(often)} lines, {len(pages)} pages of code a transaction"]
    for function, cost in counts.instructions.most_common(most):
        shown = len(counts.lines_of[function] & often)
        lines.append(f"{cost / n:8.1f} {shown:4d} lines {counts.calls[function] / n:6.2f} calls  {function}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/often", description=__doc__)
    parser.add_argument("--only", default="simple,extended,prepared", help="which of " + ", ".join(PROTOCOLS))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=9, help="of a run; its middle third is counted (9)")
    parser.add_argument("--functions", type=int, default=70, help="how many functions are printed (70)")
    options = parser.parse_args()
    with start_postgres(100) as postgres:
        for protocol in options.only.split(","):
            load = Load(protocol, options.clients, options.seconds, 2)
            with tempfile.TemporaryDirectory(prefix="often-") as name:
                counts = count(postgres, load, Path(name))
            print("\n".join(report(f"{protocol} {options.clients}", counts, options.functions)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
