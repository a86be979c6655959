"""The command: starts PostgreSQL and the poolers, runs every load through each in turn, prints medians and ratios.

Rounds are interleaved (A B A B …) and compared one by one, so that a change of the machine's speed hits all alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from scripts.benchmark.idle import run_idle
from scripts.benchmark.login import run_logins
from scripts.benchmark.odyssey import Odyssey, find_odyssey
from scripts.benchmark.report import table
from scripts.benchmark.rounds import summarize
from scripts.benchmark.scram import KINDS as SCRAM_KINDS
from scripts.benchmark.scram import run_scram, scram_poolers
from scripts.benchmark.scrape import compare, weigh
from scripts.benchmark.tls import certificate, run_bulk, run_handshakes, tls_poolers, tls_postgres
from scripts.benchmark.workload import PROTOCOLS, Load, run_load, start_postgres
from tests.harness import Doorman, PgBouncer, Postgres, Service
from tests.harness.doorman import pool_of, user_of
from tests.harness.pgbouncer import find_pgbouncer, pgbouncer_version
from tests.harness.service import raise_file_limit

TLS_KINDS = ("tls", "tls-both", "handshakes", "bulk")
KINDS = (*PROTOCOLS, "login", "scram", "idle", "scrape", *TLS_KINDS)
DEFAULT_KINDS = ("simple", "extended", "login", "idle")
SPARE_CLIENTS = 200
PREPARED_SINCE = (1, 21)

Results = dict[str, dict[str, dict[str, float]]]


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    add = parser.add_argument
    add("--clients", default="1,16,64", help="numbers of clients (1,16,64)")
    add("--seconds", type=float, default=2, help="length of one run (2)")
    add("--rounds", type=int, default=8, help="runs of each load through each pooler (8)")
    add("--workers", type=int, default=2, help="worker_threads of pg_doorman (2)")
    add("--pool-size", type=int, default=20, help="servers in each pool (20)")
    add("--threads", type=int, default=2, help="threads of pgbench (2)")
    add("--idle-clients", type=int, default=10_000, help="clients of the memory test (10000)")
    add(
        "--only",
        default=",".join(DEFAULT_KINDS),
        help=f"which of {', '.join(KINDS)} (the usual: {', '.join(DEFAULT_KINDS)})",
    )
    add("--poolers", default="pg_doorman,pgbouncer,odyssey", help="whom to compare, those that are there")
    add("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args(arguments)
    options.clients = [int(word) for word in options.clients.split(",")]
    options.only = options.only.split(",")
    options.poolers = options.poolers.split(",")
    if unknown := set(options.only) - set(KINDS):
        parser.error(f"--only knows {', '.join(KINDS)}, not {', '.join(sorted(unknown))}")
    return options


@contextlib.contextmanager
def started_poolers(postgres: Postgres, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The poolers by name, those that were asked for and are installed."""
    room = max([*options.clients, options.idle_clients]) + SPARE_CLIENTS
    raise_file_limit(room)
    makers: dict[str, Callable[[], Service | None]] = {
        "pg_doorman": lambda: make_doorman(postgres, options, room),
        "pgbouncer": lambda: make_pgbouncer(postgres, options, room),
        "odyssey": lambda: make_odyssey(postgres, options, room),
    }
    with contextlib.ExitStack() as stack:
        poolers = {}
        for name in options.poolers:
            made = makers[name]()
            if made is None:
                print(f"{name} is not installed here, left out", file=sys.stderr)
            else:
                poolers[name] = stack.enter_context(made)
        yield poolers


def make_doorman(postgres: Postgres, options: argparse.Namespace, room: int) -> Doorman:
    general = {"worker_threads": options.workers, "max_connections": room}
    pools = {"postgres": pool_of(postgres, users=[user_of("app", options.pool_size)])}
    return Doorman(postgres, general=general, pools=pools, limit_files=room + 1000)


def make_pgbouncer(postgres: Postgres, options: argparse.Namespace, room: int) -> PgBouncer | None:
    binary = find_pgbouncer()
    if binary is None:
        return None
    settings: dict[str, str | int] = {"default_pool_size": options.pool_size, "max_client_conn": room}
    if pgbouncer_version(binary) >= PREPARED_SINCE:
        settings["max_prepared_statements"] = 200
    return PgBouncer(postgres, binary=binary, settings=settings, limit_files=room + 1000)


def can_run(protocol: str, pooler: Any) -> bool:
    """PgBouncer keeps prepared statements in transaction mode only since 1.21."""
    is_old = isinstance(pooler, PgBouncer) and pgbouncer_version(pooler.binary) < PREPARED_SINCE
    return not (is_old and protocol == "prepared")


def make_odyssey(postgres: Postgres, options: argparse.Namespace, room: int) -> Odyssey | None:
    binary = find_odyssey()
    if binary is None:
        return None
    return Odyssey(postgres, binary, workers=options.workers, pool_size=options.pool_size, clients=room)


class Progress:
    """What runs now, on the terminal only."""

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def measure_loads(poolers: dict[str, Any], options: argparse.Namespace, progress: Progress) -> Results:
    """Every protocol with every number of clients."""
    results: Results = {}
    for protocol in (kind for kind in options.only if kind in PROTOCOLS):
        able = {name: pooler for name, pooler in poolers.items() if can_run(protocol, pooler)}
        for clients in options.clients:
            load = Load(protocol, clients, options.seconds, options.threads)
            results[load.title] = measure_load(able, load, options.rounds, progress)
    return results


def measure_load(poolers: dict[str, Any], load: Load, rounds: int, progress: Progress) -> dict[str, dict[str, float]]:
    return measure_each(poolers, load.title, rounds, progress, lambda pooler: run_load(pooler, pooler.port, load))


def measure_each(
    poolers: dict[str, Any], title: str, rounds: int, progress: Progress, run: Callable[[Any], Any]
) -> dict[str, dict[str, float]]:
    """Interleaved rounds of one thing."""
    found: dict[str, list[Any]] = {name: [] for name in poolers}
    for turn in range(rounds):
        for name, pooler in poolers.items():
            progress(f"{title}, round {turn + 1}: {name}")
            found[name].append(run(pooler))
    return summarize(found)


def measure_logins(poolers: dict[str, Any], options: argparse.Namespace, progress: Progress) -> Results:
    def run(pooler: Any) -> Any:
        return run_logins(pooler, pooler.port, options.seconds)

    return {"trust": measure_each(poolers, "login", options.rounds, progress, run)}


def measure_scram(postgres: Postgres, options: argparse.Namespace, progress: Progress) -> Results:
    """Poolers of their own, which ask for passwords."""
    results: Results = {}
    with scram_poolers(postgres, options.workers) as poolers:
        for title, new_server in SCRAM_KINDS.items():

            def run(pooler: Any, new_server: bool = new_server) -> Any:
                return run_scram(pooler, pooler.port, options.seconds, new_server=new_server)

            results[title] = measure_each(poolers, title, options.rounds, progress, run)
    return results


def measure_tls(postgres: Postgres, options: argparse.Namespace, progress: Progress) -> dict[str, Results]:
    """Poolers of their own, which encrypt towards clients; for `tls-both` a PostgreSQL of its own as well."""
    tables: dict[str, Results] = {}
    loads: Results = tables.setdefault("load", {})
    sizes: dict[str, Any] = {"workers": options.workers, "pool_size": options.pool_size}
    with certificate() as pair:
        with tls_poolers(postgres, pair, options.poolers, **sizes) as poolers:
            if "handshakes" in options.only:
                tables["handshake"] = measure_handshakes(poolers, options, progress)
            if "tls" in options.only:
                loads.update(measure_tls_loads(poolers, "tls", options, progress))
            if "bulk" in options.only:
                title = "COPY out, TLS"
                copied = measure_each(poolers, title, options.rounds, progress, lambda each: run_bulk(each, each.port))
                tables["bulk"] = {title: copied}
        if "tls-both" in options.only:
            with (
                tls_postgres(pair, options.pool_size * 4) as encrypted,
                tls_poolers(encrypted, pair, options.poolers, behind=True, **sizes) as poolers,
            ):
                loads.update(measure_tls_loads(poolers, "tls both", options, progress))
    return {kind: results for kind, results in tables.items() if results}


def measure_tls_loads(poolers: dict[str, Any], title: str, options: argparse.Namespace, progress: Progress) -> Results:
    loads = [Load("simple", clients, options.seconds, options.threads, title) for clients in options.clients]
    return {load.title: measure_load(poolers, load, options.rounds, progress) for load in loads}


def measure_handshakes(poolers: dict[str, Any], options: argparse.Namespace, progress: Progress) -> Results:
    results: Results = {}
    for title, logs_in in (("handshake", False), ("handshake+login", True)):

        def run(pooler: Any, logs_in: bool = logs_in) -> Any:
            return run_handshakes(pooler, pooler.port, options.seconds, logs_in=logs_in)

        results[title] = measure_each(poolers, title, options.rounds, progress, run)
    return results


def measure_scrapes(postgres: Postgres, options: argparse.Namespace, progress: Progress) -> dict[str, Results]:
    """Our own against our own: what being scraped costs."""
    loads = [Load("simple", clients, options.seconds, options.threads) for clients in options.clients]
    return {
        "scrape": weigh(postgres, options.workers),
        "scraped": compare(postgres, loads, options.rounds, options.workers, options.pool_size, progress),
    }


def measure_idle(poolers: dict[str, Any], options: argparse.Namespace, progress: Progress) -> Results:
    """Once each: memory does not vary like time does."""
    title = f"{options.idle_clients} clients"
    return {title: measure_each(poolers, title, 1, progress, lambda one: run_idle(one, one.port, options.idle_clients))}


def measure(postgres: Postgres, poolers: dict[str, Any], options: argparse.Namespace) -> dict[str, Results]:
    """Tables by kind. Memory first, before the loads have warmed anything up."""
    progress = Progress()
    tables: dict[str, Results] = {}
    if "idle" in options.only:
        tables["idle"] = measure_idle(poolers, options, progress)
    if "login" in options.only:
        tables["login"] = measure_logins(poolers, options, progress)
    if "scram" in options.only:
        tables.setdefault("login", {}).update(measure_scram(postgres, options, progress))
    if set(options.only) & set(PROTOCOLS):
        tables["load"] = measure_loads(poolers, options, progress)
    if "scrape" in options.only:
        tables.update(measure_scrapes(postgres, options, progress))
    if set(options.only) & set(TLS_KINDS):
        for kind, results in measure_tls(postgres, options, progress).items():
            tables.setdefault(kind, {}).update(results)
    return tables


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with start_postgres(options.pool_size * 4) as postgres, started_poolers(postgres, options) as poolers:
        tables = measure(postgres, poolers, options)
    if options.json:
        print(json.dumps(tables, indent=2))
    else:
        print("\n\n".join("\n".join(table(kind, results)) for kind, results in reversed(tables.items())))
        print("\nMedians of interleaved rounds; ratio: to PgBouncer (scraped: to not scraped) in the same round,")
        print("of CPU with the middle half of all rounds. CPU is user + system of all processes of a pooler")
    return 0


if __name__ == "__main__":
    sys.exit(main())
