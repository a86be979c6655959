"""The keeper: upkeep of the pools. It ends what dead workers left, closes old and idle servers, keeps the minimum open.

No running query needs it; while it is being replaced, upkeep waits.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter

from doorman.auth.server_login import NoCredentials
from doorman.config.resolve import PoolSettings
from doorman.errors import ServerFault
from doorman.shm.counters import end_window, get_census, set_census
from doorman.shm.look_ups import look_up_rows
from doorman.shm.rows import SlotView, client_rows, pool_rows, process_rows, slot_rows
from doorman.shm.table import monotonic_us
from doorman.web.census import take_census
from doorman.web.figures import LookUpFigures
from doorman.workers.channel import LookUp, Message, close_all
from doorman.workers.credentials import is_pending
from doorman.workers.lookups import LookUps
from doorman.workers.opening import JITTER
from doorman.workers.pool_summary import summarize_pool, summarize_sockets
from doorman.workers.process import Inheritance, Process

log = logging.getLogger(__name__)


WINDOW_SECONDS = float(os.environ.get("PG_DOORMAN_TEST_WINDOW") or 15.0)  # tests have no patience


CENSUS_SECONDS = 15.0
DRAIN_SECONDS = 1.0  # between two looks at idle servers while the pooler waits for its clients to go


class Keeper(Process):
    """The one process of its kind."""

    def __init__(self, born: Inheritance) -> None:
        super().__init__(born)
        self.next_round = time.monotonic() + self.period
        self.pending: set[int] = set()
        self.next_window = time.monotonic() + WINDOW_SECONDS
        self.next_census = 0.0
        self.next_drain = 0.0
        self.web_socket = born.web_socket
        self.look_ups = LookUps(born.config, self.table, self.spawn, self.tell)
        self.relay.adopt_orphans()

    def begin(self) -> None:
        """HTTP is served before the master hears that this process is ready."""
        if self.web_socket is None:
            super().begin()
            return
        self.others_at_work = 1
        self.spawn(self.begin_with_web(self.web_socket))

    async def begin_with_web(self, listening: socket.socket) -> None:
        """Python's HTTP server is imported here alone."""
        from doorman.web.server import WebServer

        await WebServer(self.table, lambda: (self.config, self.look_up_figures())).start(listening)
        super().begin()

    def look_up_figures(self) -> list[LookUpFigures]:
        """What the look-ups have done so far."""
        on_demand = [entry.settings.database for entry in self.pools.entries() if entry.is_on_demand]
        return [
            LookUpFigures(view.database, view.cache_entries, view.counts, on_demand.count(view.database))
            for view in look_up_rows(self.table)
        ]

    def on_message(self, message: Message, descriptors: list[int]) -> None:
        """Look-ups besides what every process understands."""
        if isinstance(message, LookUp):
            close_all(descriptors)
            self.look_ups.take(message)
        else:
            super().on_message(message, descriptors)

    @property
    def period(self) -> float:
        """Seconds between two rounds."""
        return (self.config.general.retain_connections_time or 30_000) / 1000

    def upkeep(self) -> None:
        """Ten times a second the pools, once in a period the servers."""
        self.look_at_pools()
        if self.table.phase == "draining":
            self.close_idle_servers()
        if time.monotonic() >= self.next_window:
            self.next_window += WINDOW_SECONDS
            self.end_windows()
        if time.monotonic() >= self.next_census:
            self.next_census = time.monotonic() + CENSUS_SECONDS
            self.spawn(self.count_sockets())
        if time.monotonic() >= self.next_round:
            self.next_round = time.monotonic() + self.period
            self.close_old_servers()
            self.propose_to_collect()

    def look_at_pools(self) -> None:
        """Open what is missing: for waiters whose worker died or gave up, and for `min_pool_size`."""
        for entry in self.pools.entries():
            if not self.must_wait_for_login(entry.row):
                self.relay.open_minimum(entry.row)

    def must_wait_for_login(self, number: int) -> bool:
        """PostgreSQL asked for a SCRAM proof that only a client's login can teach: no use in asking it again before."""
        if number not in self.pending:
            return False
        if is_pending(self.pools[number], self.table):
            return True
        self.pending.discard(number)
        return False

    def note_open_failure(self, pool: PoolSettings, fault: ServerFault) -> None:
        """See `must_wait_for_login`."""
        entry = self.pools.find(pool.database, pool.user)
        if entry is not None and isinstance(fault, NoCredentials) and is_pending(pool, self.table):
            self.pending.add(entry.row)
            log.info(
                "min_pool_size of %s@%s waits for the first login of that user: its servers need a key which only that "
                "can teach (or server_username and server_password)", pool.user, pool.database,
            )  # fmt: skip
            return
        super().note_open_failure(pool, fault)

    def propose_to_collect(self) -> None:
        """Pools on demand that nobody uses. The master looks again."""
        on_demand = [entry for entry in self.pools.entries() if entry.is_on_demand and not entry.settings.min_pool_size]
        if not on_demand:
            return
        used = {client.pool for client in client_rows(self.table)} | {slot.pool for slot in slot_rows(self.table)}
        paused = {pool.number for pool in pool_rows(self.table) if pool.paused}
        for entry in on_demand:
            if entry.row not in used and entry.row not in paused:
                self.collect_pool(entry)

    def reconfigured(self) -> None:
        """The period may have become shorter, look-ups may go elsewhere."""
        self.look_ups.configure(self.config)
        self.next_round = min(self.next_round, time.monotonic() + self.period)

    def end_windows(self) -> None:
        """A statistics window is over; pools that have clients get a line in the log."""
        clients = Counter((client.pool, client.state) for client in client_rows(self.table))
        for pool in pool_rows(self.table):
            end_window(self.table, pool.number)
            if any(number == pool.number for number, _ in clients):
                log.info("%s", summarize_pool(self.table, pool, clients))
        if clients:
            log.info("%s", summarize_sockets(get_census(self.table)))

    async def count_sockets(self) -> None:
        """In a thread: it reads much of /proc. Of a walk that fails nothing is kept."""
        pids = [self.table.master_pid, *(process.pid for process in process_rows(self.table) if process.pid)]
        try:
            counts = await self.loop.run_in_executor(None, take_census, pids)
        except (OSError, ValueError) as error:
            log.warning("the sockets could not be counted: %s", error)
        else:
            set_census(self.table, counts)

    def close_idle_servers(self) -> None:
        """The pooler takes no more clients: servers that nobody uses are not needed any more."""
        if time.monotonic() >= self.next_drain:
            self.next_drain = time.monotonic() + DRAIN_SECONDS
            for slot in slot_rows(self.table):
                if slot.state == "idle":
                    self.relay.close_idle(slot.number, slot.generation)

    def close_old_servers(self) -> None:
        """At most `retain_connections_max` (0: all), the oldest first."""
        now = monotonic_us()
        old = sorted(
            (slot for slot in slot_rows(self.table) if self.is_over(slot, now)), key=lambda slot: slot.opened_at
        )
        most = self.config.general.retain_connections_max or len(old)
        for slot in old[:most]:
            self.relay.close_idle(slot.number, slot.generation)

    def is_over(self, slot: SlotView, now: int) -> bool:
        """Has this server been idle for too long, or lived for too long? One that was never used is not idle."""
        if slot.state != "idle":
            return False
        pool = self.pools[slot.pool]
        lifetime = shorter(slot.lifetime, pool.server_lifetime_ms)
        idle_timeout = shorter(slot.idle_timeout, pool.idle_timeout_ms)
        if lifetime and now - slot.opened_at > lifetime:
            return True
        return bool(idle_timeout and slot.uses and now - slot.used_at > idle_timeout)


def shorter(given_us: int, configured_ms: int) -> int:
    """What a server was given when it was opened, or what a reload has made of it since if that is less (0: never)."""
    now_us = int(configured_ms * 1000 * (1 + JITTER))
    return min(given_us, now_us) if given_us and now_us else given_us or now_us
