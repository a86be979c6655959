"""The command: starts PostgreSQL and a pooler (or takes the one at --host/--port), lets the clients loose, judges.

Exit code 0: no wrong answer, no unexplained error, no leak. With --broken it is the other way round: the pooler is
told to release servers too early, and only a run that detects wrong answers succeeds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import secrets
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvloop

from tests.harness import Doorman, PgBouncer, Postgres, find_debian_postgres
from tests.harness.certificates import Authority, Pair, readable_by_servers
from tests.harness.doorman import pool_of, user_of
from tests.harness.service import temporary_directory
from tests.torture.actions import chooser
from tests.torture.chaos import Chaos
from tests.torture.client import Client, Shared
from tests.torture.leaks import Baseline, LeakCheck
from tests.torture.ledger import DIALECTS, Ledger
from tests.torture.report import describe

USER, DBNAME = "app", "postgres"
BROKEN_SWITCH = {"PG_DOORMAN_TEST_RELEASE_EARLY": "1"}
LOGIN_SPREAD_SECONDS = 1.0


@dataclass
class Target:
    """Where the clients connect to, and what stands behind it as far as it is ours."""

    host: str
    port: int
    postgres: Postgres | None = None
    doorman: Doorman | None = None


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=20.0, help="length of the run (20)")
    add("--minutes", type=float, help="the same in minutes, for a soak")
    add("--clients", type=int, default=200, help="clients at once (200)")
    add("--workers", type=int, default=3, help="worker_threads of pg_doorman (3)")
    add("--pool-size", type=int, default=8, help="servers in the pool (8)")
    add("--query-wait-timeout", type=float, default=3.0, metavar="SECONDS", help="of the pooler (3)")
    add("--seed", type=int, help="of everything that is chosen by chance; printed if not given")
    add("--kill-workers", action=argparse.BooleanOptionalAction, default=True, help="SIGKILL workers")
    add("--terminate", action=argparse.BooleanOptionalAction, default=True, help="pg_terminate_backend servers")
    add("--hold", action=argparse.BooleanOptionalAction, default=True, help="hold the pool until clients time out")
    add("--command", action=argparse.BooleanOptionalAction, default=True, help="RELOAD and RECONNECT meanwhile")
    add("--reload", action=argparse.BooleanOptionalAction, default=True, help="change the configuration all the time")
    add("--faults", action=argparse.BooleanOptionalAction, default=True, help="clients cancel, time out and vanish")
    add("--only", action="append", default=[], metavar="ACTION", help="perform only these actions")
    add("--tls", action="store_true", help="clients and servers are encrypted (needs a PostgreSQL built with SSL)")
    add("--broken", action="store_true", help="let pg_doorman release servers too early; succeed if that is detected")
    add("--target", choices=sorted(DIALECTS), default="pg_doorman", help="what to start, or what --port belongs to")
    add("--host", default="127.0.0.1")
    add("--port", type=int, help="torture the pooler that listens here instead of starting one")
    options = parser.parse_args(arguments)
    if options.minutes:
        options.seconds = options.minutes * 60
    options.seed = options.seed if options.seed is not None else secrets.randbelow(1 << 31)
    return options


@contextlib.contextmanager
def started(options: argparse.Namespace) -> Iterator[Target]:
    """PostgreSQL and the pooler, or only the address of one that runs already."""
    if options.port:
        yield Target(options.host, options.port)
        return
    with certificates(options) as pair, make_postgres(pair) as postgres:
        if options.target == "postgresql":
            yield Target(postgres.host, postgres.port, postgres)
        elif options.target == "pgbouncer":
            with make_pgbouncer(postgres, options) as pgbouncer:
                yield Target(pgbouncer.host, pgbouncer.port, postgres)
        else:
            with make_doorman(postgres, options, pair) as doorman:
                yield Target(doorman.host, doorman.port, postgres, doorman)


@contextlib.contextmanager
def certificates(options: argparse.Namespace) -> Iterator[Pair | None]:
    """One for PostgreSQL and the pooler, if they are to have any."""
    if not options.tls:
        yield None
        return
    directory = temporary_directory("torture-certificates")
    yield readable_by_servers(Authority(directory).issue("localhost", names=("localhost",)))
    shutil.rmtree(directory, ignore_errors=True)


def make_postgres(pair: Pair | None) -> Postgres:
    if pair is None:
        return Postgres(settings={"autovacuum": "on"})
    bindir = find_debian_postgres()
    if bindir is None:
        raise FileNotFoundError("--tls needs Debian's package postgresql (a PostgreSQL built with SSL)")
    files = {"ssl_cert_file": str(pair.certificate_path), "ssl_key_file": str(pair.key_path)}
    return Postgres(bindir=bindir, settings={"autovacuum": "on", "ssl": "on", **files})


def make_pgbouncer(postgres: Postgres, options: argparse.Namespace) -> PgBouncer:
    settings = {"default_pool_size": options.pool_size, "query_wait_timeout": int(options.query_wait_timeout)}
    return PgBouncer(postgres, settings=settings)


def make_doorman(postgres: Postgres, options: argparse.Namespace, pair: Pair | None) -> Doorman:
    general: dict[str, Any] = {
        "worker_threads": options.workers,
        "query_wait_timeout": int(options.query_wait_timeout * 1000),
        "max_connections": options.clients * 2 + 200,
        "sync_server_parameters": True,
    }
    if pair is not None:
        files = {"tls_certificate": str(pair.certificate_path), "tls_private_key": str(pair.key_path)}
        general |= {**files, "server_tls_mode": "require"}
    pools = {DBNAME: pool_of(postgres, users=[user_of(USER, options.pool_size)])}
    return Doorman(postgres, general=general, pools=pools, env=BROKEN_SWITCH if options.broken else {})


async def torture(target: Target, options: argparse.Namespace) -> int:
    """One run; the exit code."""
    print(f"seed {options.seed}, {options.clients} clients against {options.target} on port {target.port}", flush=True)
    baseline = Baseline.of(target.doorman) if target.doorman else None
    started_at = time.monotonic()
    shared = make_shared(target, options, started_at)
    await run_clients(shared, target, options)
    seconds = time.monotonic() - started_at
    leaks: list[str] = []
    if target.doorman and target.postgres and baseline and not options.broken:
        check = LeakCheck(target.doorman, target.postgres, USER, DBNAME, options.pool_size, baseline)
        leaks = await check.run()
    print(describe(shared, leaks, seconds))
    return verdict(shared, leaks, options, target.doorman)


def make_shared(target: Target, options: argparse.Namespace, now: float) -> Shared:
    ledger = Ledger(DIALECTS[options.target], options.query_wait_timeout)
    run = f"{options.seed & 0xFFFFFF:06x}"
    tls = unverified() if options.tls else None
    return Shared(target.host, target.port, USER, DBNAME, run, ledger, now + options.seconds, tls)


def unverified() -> ssl.SSLContext:
    """Encryption is all that the clients want."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def run_clients(shared: Shared, target: Target, options: argparse.Namespace) -> None:
    """The clients' whole life; a broken pooler need not be tortured further once it is found out."""
    loose = asyncio.ensure_future(let_loose(shared, target, options))
    while options.broken and not shared.wrong and not loose.done():
        await asyncio.sleep(0.1)
    if options.broken and shared.wrong:
        loose.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loose


async def let_loose(shared: Shared, target: Target, options: argparse.Namespace) -> None:
    rng = random.Random(options.seed)
    pipelines = shared.ledger.dialect.keeps_pipelines
    choose = chooser(with_faults=options.faults, with_pipelines=pipelines, only=options.only)

    async def live(number: int) -> None:
        await asyncio.sleep(rng.random() * LOGIN_SPREAD_SECONDS)
        await Client(number, shared, random.Random(options.seed * 1000 + number)).live(choose)

    chaos = Chaos(
        shared,
        random.Random(options.seed + 1),
        options.pool_size,
        target.postgres if options.target != "postgresql" else None,
        target.doorman,
        kill_workers=options.kill_workers,
        terminate=options.terminate,
        command=options.command,
        reload=options.reload,
        hold=options.hold and options.target != "postgresql",
    )
    await asyncio.gather(chaos.run(), *(live(number) for number in range(options.clients)))


def verdict(shared: Shared, leaks: list[str], options: argparse.Namespace, doorman: Doorman | None) -> int:
    if options.broken:
        print("BROKEN POOLER DETECTED" if shared.wrong else "FAILED: a broken pooler was not detected")
        return 0 if shared.wrong else 1
    failed = bool(shared.wrong or shared.unexplained or shared.ledger.overdrawn() or leaks)
    if failed and doorman:
        print(doorman.log_tail())
    print(f"FAILED, seed {options.seed}" if failed else "PASSED")
    return int(failed)


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with started(options) as target:
        return uvloop.run(torture(target, options))


if __name__ == "__main__":
    sys.exit(main())
