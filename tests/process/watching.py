"""What PostgreSQL and pg_doorman say about the pool while a test goes on, each for its own truth."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import psycopg

from tests.harness import Doorman, Postgres, procfs

LOOKS = 50
MOST = """
    CREATE FUNCTION pg_temp.most(name text, looks int) RETURNS int LANGUAGE plpgsql AS $$
    DECLARE most int := 0;
    BEGIN
        FOR i IN 1..looks LOOP
            PERFORM pg_stat_clear_snapshot(), pg_sleep(0.001);
            most := greatest(most, (SELECT count(*) FROM pg_stat_activity WHERE usename = name));
        END LOOP;
        RETURN most;
    END $$
"""
"""In the server, so that a busy test does not blind it: several hundred looks a second."""
SPARE_FDS = 3
"""A descriptor or two that a process may open once in its life (log, resolver)."""


class Witness:
    """Asks pg_stat_activity again and again, in a thread, how many connections the pool's user has: `most`."""

    def __init__(self, postgres: Postgres, user: str = "app") -> None:
        self.postgres = postgres
        self.user = user
        self.most = 0
        self.looks = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        wait_for(lambda: self.postgres.activity_count(user=self.user) == 0, "the end of earlier tests' servers", 5)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        with self.postgres.connect(user="postgres") as connection:
            connection.execute(MOST)
            while not self._is_over.is_set():
                row = connection.execute("SELECT pg_temp.most(%s, %s)", [self.user, LOOKS]).fetchone()
                assert row is not None
                self.most = max(self.most, row[0])
                self.looks += LOOKS


def wait_for(is_done: Callable[[], Any], what: str, seconds: float = 5.0) -> float:
    """Poll until true; seconds that it took. A time-out fails the test."""
    began = time.monotonic()
    while not is_done():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"no {what} within {seconds:g} s")
        time.sleep(0.01)
    return time.monotonic() - began


async def until(is_done: Callable[[], Any], what: str, seconds: float = 5.0) -> None:
    """`wait_for` while the test's own tasks go on."""
    began = time.monotonic()
    while not is_done():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"no {what} within {seconds:g} s")
        await asyncio.sleep(0.01)


def wait_whole(doorman: Doorman, postgres: Postgres, seconds: float = 1.0, *, user: str = "app") -> None:
    """Wait until nobody waits and the pool counts exactly the connections that PostgreSQL has."""
    deadline = time.monotonic() + seconds
    while (problem := find_problem(doorman, postgres, user)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not problem, f"{problem}\n{doorman.log_tail()}"


def find_problem(doorman: Doorman, postgres: Postgres, user: str = "app") -> str:
    """What is wrong with a pool at rest, "" if nothing is."""
    try:
        pool = doorman.pool_row(user=user)
        servers = [row for row in doorman.console("SHOW SERVERS") if row["user"] == user]
    except psycopg.Error as error:
        return f"the console: {error}"
    there = {row["pid"] for row in postgres.activity(usename=user)}
    wrong = {key: pool[key] for key in ("cl_waiting", "cl_active", "sv_active", "sv_login") if pool[key]}
    if wrong:
        return f"not at rest: {wrong}"
    known = {int(row["server_process_id"]) for row in servers}
    if known != there or pool["sv_idle"] != len(there):
        return f"the pool counts {pool['sv_idle']} servers, {sorted(known)}; PostgreSQL has {sorted(there)}"
    return ""


class Descriptors:
    """How many descriptors each kind of process had at rest, to be compared after the storm."""

    def __init__(self, doorman: Doorman) -> None:
        self.doorman = doorman
        family, servers = doorman.pids(), self._servers()
        self.worker = max(procfs.fd_count(pid) for pid in family.workers) - servers
        self.master = procfs.fd_count(family.master) - servers

    def check(self, seconds: float = 2.0) -> None:
        """A worker and the master hold one descriptor for each server, and no more than that beyond the baseline."""
        deadline = time.monotonic() + seconds
        while (problem := self._find_problem()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not problem, problem

    def _servers(self) -> int:
        return len(self.doorman.console("SHOW SERVERS"))

    def _find_problem(self) -> str:
        family, servers = self.doorman.pids(), self._servers()
        counts = {pid: procfs.fd_count(pid) for pid in family.workers}
        if max(counts.values()) > self.worker + servers + SPARE_FDS:
            return f"workers have {counts} descriptors, at the start {self.worker}, and {servers} servers"
        master = procfs.fd_count(family.master)
        if master > self.master + servers + SPARE_FDS:
            return f"the master has {master} descriptors, at the start {self.master}, and {servers} servers"
        return ""


def no_clients(doorman: Doorman, user: str = "app") -> bool:
    """No client row of this user is left."""
    return not [row for row in doorman.console("SHOW CLIENTS") if row["user"] == user]
