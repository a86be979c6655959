"""After the run: is the pool whole again? Asks the console, PostgreSQL and /proc, each for its own truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from tests.harness import Doorman, Postgres, procfs
from tests.torture import wire
from tests.torture.wire import ConnectionEnded, Hang, Wire

SETTLE_SECONDS = 8.0  # for clean-up of what vanished clients left: cancel, rollback, reset
SPARE_FDS = 3  # a descriptor or two that a process may open once in its life (log, resolver)


@dataclass
class Baseline:
    """Descriptors of each process before the first client and the first server."""

    worker_fds: int
    master_fds: int

    @classmethod
    def of(cls, doorman: Doorman) -> Baseline:
        family = doorman.pids()
        return cls(max(map(procfs.fd_count, family.workers), default=0), procfs.fd_count(family.master))


@dataclass
class LeakCheck:
    doorman: Doorman
    postgres: Postgres
    user: str
    dbname: str
    pool_size: int
    baseline: Baseline
    leaks: list[str] = field(default_factory=list)

    async def run(self) -> list[str]:
        """Everything that is not as it was; empty when nothing leaked."""
        await self._wait(self._pool_at_rest, "the pool at rest")
        await self._use_every_server()
        await self._wait(self._pool_at_rest, "the pool at rest after all of it was used")
        await self._wait(self._pool_matches_server, "console and pg_stat_activity agree")
        await self._wait(self._no_clients, "no client rows")
        await self._wait(self._no_left_fds, "no descriptors left")
        return self.leaks

    async def _wait(self, check: Callable[[], str], what: str) -> None:
        """Try until the check has nothing to say, or the time is over."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (problem := self._ask(check)) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        if problem:
            self.leaks.append(f"not {what}: {problem}")

    @staticmethod
    def _ask(check: Callable[[], str]) -> str:
        """What the check says; a console that does not answer is a problem too."""
        try:
            return check()
        except psycopg.Error as error:
            return f"{type(error).__name__}: {error}"

    def _pool_at_rest(self) -> str:
        pool = self.doorman.pool_row(self.dbname, self.user)
        wrong = {
            key: pool[key] for key in ("cl_idle", "cl_active", "cl_waiting", "sv_active", "sv_login") if pool.get(key)
        }
        if pool and pool["sv_idle"] > self.pool_size:
            wrong["sv_idle"] = pool["sv_idle"]
        return f"SHOW POOLS {wrong}" if wrong or not pool else ""

    def _pool_matches_server(self) -> str:
        pool = self.doorman.pool_row(self.dbname, self.user)
        rows = [row for row in self.doorman.console("SHOW SERVERS") if row["user"] == self.user]
        known = {int(row["server_process_id"]) for row in rows}
        activity = self.postgres.activity(usename=self.user)
        there = {int(row["pid"]) for row in activity}
        counted = pool["sv_idle"] + pool["sv_active"]
        if known != there or counted != len(there):
            return f"pool counts {counted}, SHOW SERVERS {sorted(known)}, pg_stat_activity {sorted(there)}"
        busy = [(row["pid"], row["state"], row["query"][:80]) for row in activity if row["state"] != "idle"]
        return f"not idle: {busy}" if busy else ""

    def _no_clients(self) -> str:
        rows = [row for row in self.doorman.console("SHOW CLIENTS") if row["user"] == self.user]
        return f"{len(rows)} rows in SHOW CLIENTS, first {rows[0]}" if rows else ""

    def _no_left_fds(self) -> str:
        """A worker holds a dup of every server, the master holds one in its vault; nothing else may stay."""
        family, servers = self.doorman.pids(), len(self.doorman.console("SHOW SERVERS"))
        allowed = self.baseline.worker_fds + servers + SPARE_FDS
        many = {pid: count for pid in family.workers if (count := procfs.fd_count(pid)) > allowed}
        if many:
            return f"workers have {many} descriptors, at most {allowed} are explained"
        allowed = self.baseline.master_fds + servers + SPARE_FDS
        count = procfs.fd_count(family.master)
        return f"the master has {count} descriptors, at most {allowed} are explained" if count > allowed else ""

    async def _use_every_server(self) -> None:
        """As many transactions at once as the pool has room for: each must get a server of its own, at once."""
        try:
            pids = await asyncio.gather(*(self._hold_one() for _ in range(self.pool_size)))
        except (ConnectionEnded, Hang, OSError, AssertionError) as error:
            self.leaks.append(f"the pool could not be used whole: {type(error).__name__} {error}")
            return
        if len(set(pids)) != self.pool_size:
            self.leaks.append(f"{self.pool_size} transactions at once ran on {len(set(pids))} servers")

    async def _hold_one(self) -> bytes | None:
        server = await Wire.open(self.doorman.host, self.doorman.port, wire.startup(self.user, self.dbname))
        await _until_ready(server)
        await server.send(wire.query("SELECT pg_backend_pid(), pg_sleep(0.6)"))
        rows = await _until_ready(server)
        server.close_kindly()
        return rows[0]


async def _until_ready(server: Wire) -> list[bytes | None]:
    """First column of the rows up to ReadyForQuery."""
    values: list[bytes | None] = []
    while (got := await server.next()).kind != b"Z":
        if got.kind == b"E":
            raise AssertionError(got.fields())
        if got.kind == b"D":
            values.append(got.columns()[0])
    return values
