"""The master's side of pools that appear, change and disappear at run time: gives them rows and takes the rows back.

Rules
1. What a configuration means for the pools is decided first (`plan`, no side effects) and then carried out as a whole.
2. A pool of the same names keeps its row, whatever changes: sessions follow it. Its servers are opened anew (another
   `version`) when what they are opened with has changed, the contents of its files for TLS among it.
3. A removed pool's row is free when nobody names it any more (`free_rows`, asked again and again).

A pool on demand (auth_query in passthrough mode) works like this. A login in any process calls
`await process.obtain_pool(database, user, found)`, which asks the master; the master answers with the row that the
pool has in every process, be it new or not. The login then enters it with `relay.log_in(client, entry.row,
generation=entry.generation, ...)`; False means that the pool was collected in between: obtain it again. The keeper
proposes pools that nobody uses (`Collect`); the master removes one only if it has no client and no server at all, and
not within `YOUNG_SECONDS` of somebody's asking for it.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from doorman.auth.auth_query import Found
from doorman.config.resolve import PoolSettings, resolve_passthrough_pool
from doorman.config.schema import Config
from doorman.shm.lifecycle import (
    change_pool,
    collect_pool,
    find_unused_pool,
    free_pool,
    pool_generation,
    remove_pool,
)
from doorman.shm.look_ups import count_look_up
from doorman.shm.rows import set_up_pool
from doorman.shm.table import Table
from doorman.workers.encryption import pool_key
from doorman.workers.roster import PoolEntry, Roster

YOUNG_SECONDS = 5.0
FREE_SECONDS = 0.25  # between two looks at rows of removed pools
SERVER_KEYS = (
    "server_host",
    "server_port",
    "server_database",
    "server_user",
    "server_password",
    "server_tls_mode",
    "server_tls_ca_cert",
    "server_tls_certificate",
    "server_tls_private_key",
    "application_name",
    "startup_parameters",
)
"""Settings that a server connection has for life."""


class NoRoom(Exception):
    """The table of the running pooler is too small; the text says for what."""


class PoolPlan(msgspec.Struct, frozen=True):
    """What is to become of the pools. `changed` has the entry as it is now and its new settings."""

    added: list[PoolSettings]
    changed: list[tuple[PoolEntry, PoolSettings, dict[str, str] | None]]
    removed: list[PoolEntry]
    renewed: frozenset[str] = frozenset()  # files for TLS with new contents (encryption.renewed_servers)


class Allocation:
    """Rows of the table and the roster that says what they are for. `forget` and `wake` are the master's."""

    def __init__(
        self,
        table: Table,
        pools: Iterable[PoolSettings],
        forget: Callable[[list[tuple[int, int]]], None],
        wake: Callable[[int], None],
    ) -> None:
        self.table = table
        self.roster = Roster()
        self.forget = forget
        self.wake = wake
        self.removed: set[int] = set()
        self.free_at: float | None = None
        self.versions = 0
        self.obtained_at: dict[tuple[int, int], float] = {}
        self.found_at: dict[tuple[int, int], int] = {}
        for pool in pools:
            self.add(pool)

    # --- a new configuration -----------------------------------------------------------------------------------------

    def plan(self, config: Config, pools: list[PoolSettings], renewed: frozenset[str] = frozenset()) -> PoolPlan:
        """Compare a configuration, and `pools` that it comes to, with the pools that are. Raises NoRoom."""
        wanted = {(pool.database, pool.user): pool for pool in pools}
        changed: list[tuple[PoolEntry, PoolSettings, dict[str, str] | None]] = []
        removed = []
        for entry in self.roster.entries():
            overlay = None
            settings = wanted.pop((entry.settings.database, entry.settings.user), None)
            if settings is None and entry.overlay is not None:
                overlay = entry.overlay
                before = entry.settings
                settings = on_demand_settings(config, before.database, before.user, overlay, before.password)
            if settings is None:
                removed.append(entry)
            elif settings != entry.settings or overlay != entry.overlay or pool_key(settings) in renewed:
                changed.append((entry, settings, overlay))
        added = list(wanted.values())
        room = self.table.pool_count - len(self.roster) - len(self.removed)
        if len(added) > room:
            raise NoRoom(f"{len(added)} new pools, but the running pooler has room for {room} more: restart it")
        return PoolPlan(added, changed, removed, renewed)

    def carry_out(self, plan: PoolPlan) -> None:
        """Write the plan into table and roster."""
        for entry in plan.removed:
            self.remove(entry)
        for entry, settings, overlay in plan.changed:
            self.change(entry, settings, overlay, renewed=pool_key(settings) in plan.renewed)
        for settings in plan.added:
            self.add(settings)

    def add(self, settings: PoolSettings, overlay: dict[str, str] | None = None) -> PoolEntry:
        """Give a new pool a row. Raises NoRoom."""
        row = find_unused_pool(self.table)
        if row < 0:
            raise NoRoom(f"all {self.table.pool_count} rows for pools are in use")
        self.versions += 1
        set_up_pool(
            self.table,
            row,
            database=settings.database,
            user=settings.user,
            version=self.versions,
            **self.limits_of(settings),
        )
        entry = PoolEntry(row, pool_generation(self.table, row), self.versions, settings, overlay)
        self.roster.put(entry)
        return entry

    def change(
        self, entry: PoolEntry, settings: PoolSettings, overlay: dict[str, str] | None, *, renewed: bool = False
    ) -> PoolEntry:
        """Rule 2."""
        version = entry.version
        if renewed or opens_otherwise(entry.settings, settings):
            self.versions += 1
            version = self.versions
        self.settle(*change_pool(self.table, entry.row, version=version, **self.limits_of(settings)))
        entry = PoolEntry(entry.row, entry.generation, version, settings, overlay)
        self.roster.put(entry)
        return entry

    def remove(self, entry: PoolEntry) -> None:
        """From now on it takes nobody in and lends nothing."""
        self.settle(*remove_pool(self.table, entry.row))
        self.retire(entry)

    def retire(self, entry: PoolEntry) -> None:
        if entry.is_on_demand:
            count_look_up(self.table, entry.settings.database, "dynamic_pools_destroyed")
        self.roster.remove(entry)
        self.obtained_at.pop((entry.row, entry.generation), None)
        self.found_at.pop((entry.row, entry.generation), None)
        self.removed.add(entry.row)
        self.free_at = time.monotonic()

    def limits_of(self, pool: PoolSettings) -> dict[str, Any]:
        """What of a pool's settings stands in its row."""
        return {
            "session_mode": pool.pool_mode == "session",
            "pool_size": pool.pool_size,
            "min_pool_size": pool.min_pool_size,
            "max_opening": pool.max_parallel_creates,
            "round_robin": pool.server_round_robin,
            "check_after_us": pool.server_idle_check_timeout_ms * 1000,
            "cleanup": pool.cleanup_server_connections,
            "statements": pool.prepared_statements,
            "statement_limit": min(pool.server_prepared_statements_cache_size, self.table.statement_capacity),
            "catalog": zlib.crc32(pool.server_database.encode("utf-8", "surrogateescape")),
        }

    def settle(self, freed: list[tuple[int, int]], wake: int) -> None:
        """What follows from a change of the table."""
        self.forget(freed)
        self.wake(wake)

    def free_rows(self) -> None:
        """Rule 3."""
        now = time.monotonic()
        if self.free_at is None or now < self.free_at:
            return
        self.removed = {row for row in self.removed if not free_pool(self.table, row)}
        self.free_at = now + FREE_SECONDS if self.removed else None

    # --- pools on demand ---------------------------------------------------------------------------------------------

    def obtain(self, config: Config, database: str, user: str, found: Found) -> tuple[PoolEntry, bool]:
        """The pool of a user that auth_query found, and whether it is new or changed. Raises NoRoom or LookupError."""
        entry = self.roster.find(database, user)
        if entry is not None and not self.is_news(entry, found):
            self.note_use(entry)
            return entry, False
        settings = on_demand_settings(config, database, user, found.parameters, found.password)
        if settings is None:
            raise LookupError(f"the pool {database} has no auth_query with a pool for each user")
        overlay = found.parameters
        if entry is None:
            count_look_up(self.table, database, "dynamic_pools_created")
        entry = self.add(settings, overlay) if entry is None else self.change(entry, settings, overlay)
        self.found_at[entry.row, entry.generation] = found.found_at
        self.note_use(entry)
        return entry, True

    def is_news(self, entry: PoolEntry, found: Found) -> bool:
        """Does that look-up say something new about a pool that is? A login that took long may bring an older one."""
        if entry.overlay is None or found.found_at < self.found_at.get((entry.row, entry.generation), 0):
            return False
        return (entry.overlay, entry.settings.password) != (found.parameters, found.password)

    def note_use(self, entry: PoolEntry) -> None:
        """Somebody is about to enter it."""
        if entry.is_on_demand:
            self.obtained_at[entry.row, entry.generation] = time.monotonic()

    def collect(self, row: int, generation: int) -> bool:
        """Remove a pool on demand that nobody uses; False when somebody does, or is about to."""
        young = time.monotonic() - self.obtained_at.get((row, generation), 0.0) < YOUNG_SECONDS
        entry = self.roster.entry(row)
        if young or entry.generation != generation or not entry.is_on_demand or row in self.removed:
            return False
        if not collect_pool(self.table, row, generation):
            return False
        self.retire(entry)
        return True


def on_demand_settings(
    config: Config, database: str, user: str, overlay: dict[str, str], password: str
) -> PoolSettings | None:
    """What a configuration says about a user's pool on demand; None when it knows no such pools for that database."""
    pool = config.pools.get(database)
    if pool is None or pool.auth_query is None or pool.auth_query.server_user is not None:
        return None
    return msgspec.structs.replace(resolve_passthrough_pool(config, database, user, overlay), password=password)


def opens_otherwise(before: PoolSettings, after: PoolSettings) -> bool:
    """Would servers be opened in another way than before? A client's password is also the server's if that has none.

    Where auth_query finds the password, servers outlive its change, as PostgreSQL's own sessions do.
    """
    is_own = after.server_password is not None or (before.is_dynamic and after.is_dynamic)
    keys = SERVER_KEYS if is_own else (*SERVER_KEYS, "password")
    return any(getattr(before, key) != getattr(after, key) for key in keys)
