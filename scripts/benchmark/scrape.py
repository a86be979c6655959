"""What it costs to be scraped: a load with /metrics fetched every second against the same load without, in turn.

Two runs of pgbench differ by more than a scrape can cost, so the keeper's processor time for one scrape is measured as
well, by fetching many in a row: that is exact, and at one a second it is a share of one core.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from scripts.benchmark.rounds import summarize
from scripts.benchmark.workload import Load, Sample, run_load
from tests.harness import Doorman, Postgres, procfs
from tests.harness.doorman import pool_of, user_of
from tests.harness.ports import free_port

PERIOD_SECONDS = 1.0
COUNTED_SCRAPES = 40
MANY_POOLS = 1000
ALONE, SCRAPED = "not scraped", "scraped"


@dataclass(frozen=True)
class ScrapeSample:
    keeper_ms: float  # processor time of the keeper for one scrape
    wall_ms: float  # how long who asks waits, median
    kib: float  # as it is sent, compressed
    core: float  # share of a core, in percent, when scraped every second


class Scraper:
    """Fetches /metrics as Prometheus does (one connection, gzip), every second while it is entered."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def fetch(self) -> int:
        """One scrape; bytes of the body."""
        self._connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200 or not body:
            raise RuntimeError(f"/metrics answered {answer.status}")
        return len(body)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._is_over.wait(PERIOD_SECONDS):
            self.fetch()


def start_doorman(postgres: Postgres, workers: int, pool_size: int, pools: int) -> Doorman:
    """A pool for the load, and so many pools in all."""
    users = [user_of("app", pool_size), *(user_of(f"user{number}", 1) for number in range(pools - 1))]
    doorman = Doorman(postgres, general={"worker_threads": workers}, pools={"postgres": pool_of(postgres, users=users)})
    doorman.config["web"] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    doorman.write_config()
    return doorman.start()


def compare(
    postgres: Postgres, loads: list[Load], rounds: int, workers: int, pool_size: int, progress: Callable[[str], None]
) -> dict[str, dict[str, dict[str, float]]]:
    """Each load alone and scraped, in turn; medians."""
    with start_doorman(postgres, workers, pool_size, 1) as doorman:
        results = {}
        for load in loads:
            found: dict[str, list[Sample]] = {ALONE: [], SCRAPED: []}
            for turn in range(rounds):
                progress(f"{load.title}, round {turn + 1}: not scraped, then scraped")
                found[ALONE].append(run_load(doorman, doorman.port, load))
                with Scraper(doorman.config["web"]["port"]):
                    found[SCRAPED].append(run_load(doorman, doorman.port, load))
            results[load.title] = summarize(found)
        return results


def weigh(postgres: Postgres, workers: int) -> dict[str, dict[str, dict[str, float]]]:
    """One scrape, of one pool and of a thousand."""
    results = {}
    for pools in (1, MANY_POOLS):
        with start_doorman(postgres, workers, 1, pools) as doorman:
            results[f"{pools} pools"] = summarize({"pg_doorman": [weigh_one(doorman)]})
    return results


def weigh_one(doorman: Doorman) -> ScrapeSample:
    keeper = doorman.pids().keeper
    assert keeper is not None
    scraper = Scraper(doorman.config["web"]["port"])
    scraper.fetch()
    walls, size = [], 0
    idle = idle_share(keeper)
    before, began = procfs.cpu_seconds([keeper]), time.monotonic()
    for _ in range(COUNTED_SCRAPES):
        asked = time.monotonic()
        size = scraper.fetch()
        walls.append(time.monotonic() - asked)
    used = procfs.cpu_seconds([keeper]) - before - idle * (time.monotonic() - began)
    keeper_ms = used / COUNTED_SCRAPES * 1000
    return ScrapeSample(
        keeper_ms, sorted(walls)[COUNTED_SCRAPES // 2] * 1000, size / 1024, keeper_ms / 1000 / PERIOD_SECONDS * 100
    )


def idle_share(pid: int) -> float:
    """What the keeper uses besides, as a share of a core."""
    before = procfs.cpu_seconds([pid])
    time.sleep(3 * PERIOD_SECONDS)
    return (procfs.cpu_seconds([pid]) - before) / (3 * PERIOD_SECONDS)
