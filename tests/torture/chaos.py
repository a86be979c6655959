"""Faults from outside: backends terminated, workers killed, the pool held until others time out.

Each loop notes in the ledger what it does before it does it, and stops a little before the run's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.harness import Doorman, Postgres
from tests.harness.clients import client_ports
from tests.torture.actions_fault import hold_server
from tests.torture.client import Client, Shared

QUIET_SECONDS = 2.0  # at the end, without faults from outside
HOG_NUMBERS = 100_000  # numbers of the clients that hold servers begin here


@dataclass
class Chaos:
    """What is done to the pooler and the server while the clients work."""

    shared: Shared
    rng: random.Random
    pool_size: int
    postgres: Postgres | None
    doorman: Doorman | None
    kill_workers: bool
    terminate: bool = True
    hold: bool = True
    command: bool = True
    reload: bool = True
    _hogs: int = 0

    async def run(self) -> None:
        loops = []
        if self.terminate and self.postgres:
            loops.append(self._terminate_backends(self.postgres))
        if self.kill_workers and self.doorman:
            loops.append(self._kill_workers(self.doorman))
        if self.command and self.doorman:
            loops.append(self._command_console(self.doorman))
        if self.reload and self.doorman:
            loops.append(self._reload(self.doorman))
        if self.hold:
            loops.append(self._hold_pool())
        await asyncio.gather(*loops)

    def _is_time(self) -> bool:
        return time.monotonic() < self.shared.stop_at - QUIET_SECONDS

    async def _terminate_backends(self, postgres: Postgres) -> None:
        """pg_terminate_backend on any server connection of the pool, busy or idle."""
        choose = "SELECT pid FROM pg_stat_activity WHERE usename = %s ORDER BY random() LIMIT 1"
        async with await postgres.connect_async(user="postgres") as connection:
            while self._is_time():
                await asyncio.sleep(0.2 + self.rng.random() * 0.6)
                found = await (await connection.execute(choose, [self.shared.user])).fetchone()
                if found:
                    self.shared.ledger.note_termination(time.monotonic())
                    await connection.execute("SELECT pg_terminate_backend(%s)", found)

    async def _kill_workers(self, doorman: Doorman) -> None:
        while self._is_time():
            await asyncio.sleep(1.5 + self.rng.random() * 2)
            workers = doorman.pids().workers
            if workers and self._is_time():
                self._kill(self.rng.choice(workers))

    def _kill(self, pid: int) -> None:
        """SIGKILL; stopped first, so that the list of its clients is exact."""
        try:
            os.kill(pid, signal.SIGSTOP)
            ports = client_ports(pid, self.shared.port)
            self.shared.ledger.note_kill(time.monotonic(), ports)
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    async def _command_console(self, doorman: Doorman) -> None:
        """RELOAD and RECONNECT under load: no client may notice. The console's own worker may be the one that dies."""
        while self._is_time():
            await asyncio.sleep(1 + self.rng.random() * 2)
            command = self.rng.choice(("RELOAD", "RECONNECT", f"RECONNECT {self.shared.dbname}", "SHOW CLIENTS"))
            with contextlib.suppress(psycopg.OperationalError):
                await asyncio.to_thread(doorman.console, command)
                self.shared.ledger.injected[command] += 1

    async def _reload(self, doorman: Doorman) -> None:
        """The configuration changes several times a second: sizes, what servers are opened with, pools beside ours."""
        pools = doorman.config["pools"]
        while self._is_time():
            await asyncio.sleep(0.05 + self.rng.random() * 0.4)
            changed = self._change(pools[self.shared.dbname])
            doorman.update_config(pools=dict([(self.shared.dbname, changed), *self._others(changed)]))
            doorman.signal(signal.SIGHUP)
            self.shared.ledger.injected["reload"] += 1
        doorman.update_config(pools=pools)
        await asyncio.to_thread(doorman.console, "RELOAD")

    def _change(self, pool: dict[str, Any]) -> dict[str, Any]:
        """The pool with something else in it, but never with fewer servers: nobody may time out for that."""
        users = [{**user, "pool_size": self.pool_size + self.rng.choice((0, 0, 1, 3))} for user in pool["users"]]
        parameters = {"geqo_threshold": str(12 + self.rng.randrange(3))} if self.rng.random() < 0.5 else {}
        return {
            **pool,
            "users": users,
            "startup_parameters": parameters,
            "idle_timeout": self.rng.randrange(60000, 70000),
        }

    def _others(self, pool: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Pools that nobody uses come and go."""
        return [(f"other{number}", pool) for number in range(4) if self.rng.random() < 0.5]

    async def _hold_pool(self) -> None:
        """Now and then as many long statements as the pool has servers: whoever waits behind them times out."""
        seconds = self.shared.ledger.query_wait_timeout * 1.4
        while self._is_time() and time.monotonic() + seconds < self.shared.stop_at:
            await asyncio.sleep(2 + self.rng.random() * 4)
            self.shared.ledger.injected["query_wait_timeout"] += 1
            await asyncio.gather(*(self._hog(seconds) for _ in range(self.pool_size)))

    async def _hog(self, seconds: float) -> None:
        self._hogs += 1
        once = dataclasses.replace(self.shared, stop_at=time.monotonic() + 0.5)
        hog = Client(HOG_NUMBERS + self._hogs, once, self.rng)
        await hog.live(lambda _: hold_server(seconds))
