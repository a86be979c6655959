"""SHOW commands with a row for each pool or database: POOLS and its kin, DATABASES, STATS, USERS.

Rows are made when they are asked for, from what the table holds at that instant; no worker is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from doorman.admin.command import Rows, Sources, config_of, settings_of, sorted_pools
from doorman.admin.result import Row, int4, numeric, text
from doorman.config.resolve import PoolSettings
from doorman.config.startup import canonical_map
from doorman.shm.counters import pool_averages, pool_percentiles, pool_totals
from doorman.shm.look_ups import look_up_rows
from doorman.shm.presence import STATEMENT_BYTES, presence
from doorman.shm.rows import PoolView, longest_wait_us

SECOND_US: Final = 1_000_000


# SHOW DATABASES

DATABASE_COLUMNS: Final = (
    text("name"),
    text("host"),
    text("port"),
    text("database"),
    text("force_user"),
    int4("pool_size"),
    int4("min_pool_size"),
    int4("reserve_pool"),
    text("pool_mode"),
    int4("max_connections"),
    int4("current_connections"),
    int4("paused"),
    int4("disabled"),
)


def databases_rows(sources: Sources) -> Rows:
    """SHOW DATABASES."""
    return [_database_row(pool, settings_of(sources, pool)) for pool in sorted_pools(sources.table)]


def _database_row(pool: PoolView, settings: PoolSettings | None) -> Row:
    return (
        pool.database,
        settings.server_host if settings else "",
        str(settings.server_port) if settings else "",
        pool.database,
        pool.user,
        pool.pool_size,
        pool.min_pool_size,
        settings.reserve_pool_size if settings else 0,
        pool.pool_mode,
        pool.pool_size,
        pool.idle + pool.busy + pool.opening + pool.closing,
        int(pool.paused),
        int(pool.disabled),
    )


# SHOW POOLS

POOL_COLUMNS: Final = (
    text("database"),
    text("user"),
    text("pool_mode"),
    numeric("cl_idle"),
    numeric("cl_active"),
    numeric("cl_waiting"),
    numeric("cl_cancel_req"),
    numeric("sv_active"),
    numeric("sv_idle"),
    numeric("sv_used"),
    numeric("sv_login"),
    numeric("pool_size"),
    numeric("maxwait"),
    numeric("maxwait_us"),
    numeric("avg_xact_time"),
    text("paused"),
    text("fallback_active"),
    numeric("oldest_active_age_ms"),
)


def pools_rows(sources: Sources) -> Rows:
    """SHOW POOLS."""
    counted = presence(sources.table)
    return [
        (
            pool.database,
            pool.user,
            pool.pool_mode,
            counted[pool.number].idle + counted[pool.number].login,
            counted[pool.number].active,
            counted[pool.number].waiting,
            0,
            pool.busy,
            pool.idle,
            0,
            pool.opening,
            pool.pool_size,
            *divmod(longest_wait_us(sources.table, pool.number), SECOND_US),
            pool_averages(sources.table, pool.number).transaction_us,
            "1" if pool.paused else "0",
            "0",
            counted[pool.number].oldest_active // 1000,
        )
        for pool in sorted_pools(sources.table)
    ]


# SHOW POOLS_EXTENDED

EXTENDED_COLUMNS: Final = (
    text("database"),
    text("user"),
    numeric("cl_active"),
    numeric("cl_waiting"),
    numeric("sv_active"),
    numeric("sv_idle"),
    numeric("sv_used"),
    numeric("sv_login"),
    numeric("pool_size"),
    numeric("maxwait"),
    numeric("maxwait_us"),
    text("pool_mode"),
    numeric("bytes_recieved"),  # the name is what it is: others read it
    numeric("bytes_sent"),
    numeric("query_0.99"),
    numeric("transaction_0.99"),
    numeric("query_0.95"),
    numeric("transaction_0.95"),
    numeric("query_0.5"),
    numeric("transaction_0.5"),
)


def extended_rows(sources: Sources) -> Rows:
    """SHOW POOLS_EXTENDED."""
    table = sources.table
    counted = presence(table)
    rows: Rows = []
    for pool in sorted_pools(table):
        totals, percentiles = pool_totals(table, pool.number), pool_percentiles(table, pool.number)
        waited = longest_wait_us(table, pool.number)
        query, transaction = percentiles.query, percentiles.transaction
        rows.append(
            (
                pool.database,
                pool.user,
                counted[pool.number].active,
                counted[pool.number].waiting,
                pool.busy,
                pool.idle,
                0,
                pool.opening,
                pool.pool_size,
                Decimal(waited) / SECOND_US,
                waited % SECOND_US,
                pool.pool_mode,
                totals.bytes_received,
                totals.bytes_sent,
                *(query[3], transaction[3], query[2], transaction[2], query[0], transaction[0]),
            )
        )
    return rows


# SHOW POOLS_MEMORY

MEMORY_COLUMNS: Final = (
    text("database"),
    text("user"),
    numeric("pool_prepared_count"),
    numeric("pool_prepared_bytes"),
    numeric("client_prepared_count"),
    numeric("client_prepared_bytes"),
    numeric("client_named_count"),
    numeric("client_anonymous_count"),
    numeric("client_anonymous_evictions_alive"),
    numeric("async_clients"),
)


def memory_rows(sources: Sources) -> Rows:
    """SHOW POOLS_MEMORY."""
    counted = presence(sources.table)
    return [
        (
            pool.database,
            pool.user,
            here.statements,
            here.statements * STATEMENT_BYTES,
            here.named + here.unnamed,
            here.client_bytes,
            here.named,
            here.unnamed,
            0,
            here.flushed,
        )
        for pool in sorted_pools(sources.table)
        for here in (counted[pool.number],)
    ]


# SHOW POOL_COORDINATOR and POOL_SCALING

COORDINATOR_COLUMNS: Final = (
    text("database"),
    numeric("max_db_conn"),
    numeric("current"),
    numeric("reserve_size"),
    numeric("reserve_used"),
    numeric("evictions"),
    numeric("reserve_acq"),
    numeric("exhaustions"),
)


def coordinator_rows(sources: Sources) -> Rows:
    """SHOW POOL_COORDINATOR: the databases that have a limit of their own."""
    current: dict[str, int] = {}
    limits: dict[str, tuple[int, int]] = {}
    for pool in sorted_pools(sources.table):
        settings = settings_of(sources, pool)
        current[pool.database] = current.get(pool.database, 0) + pool.idle + pool.busy + pool.opening + pool.closing
        if settings is not None and settings.max_db_connections:
            limits[pool.database] = (settings.max_db_connections, settings.reserve_pool_size)
    return [(database, limit, current[database], reserve, 0, 0, 0, 0) for database, (limit, reserve) in limits.items()]


SCALING_COLUMNS: Final = (
    text("user"),
    text("database"),
    numeric("inflight"),
    numeric("creates"),
    numeric("gate_waits"),
    numeric("gate_budget_ex"),
    numeric("antic_notify"),
    numeric("antic_timeout"),
    numeric("create_fallback"),
    numeric("replenish_def"),
)


def scaling_rows(sources: Sources) -> Rows:
    """SHOW POOL_SCALING. Servers are opened for the queue, whoever comes first: nothing is anticipated, and who waits
    while `scaling_max_parallel_creates` are being opened (`gate_waits`) has no time limit but that of the queue."""
    return [
        (pool.user, pool.database, pool.opening, total.opens_started, total.gate_waits, *(0,) * 5)
        for pool in sorted_pools(sources.table)
        for total in (pool_totals(sources.table, pool.number),)
    ]


# SHOW STATS

STATS_COLUMNS: Final = (
    text("database"),
    text("user"),
    *(
        numeric(name)
        for name in (
            "total_xact_count",
            "total_query_count",
            "total_received",
            "total_sent",
            "total_xact_time",
            "total_query_time",
            "total_wait_time",
            "total_errors",
            "avg_xact_count",
            "avg_query_count",
            "avg_recv",
            "avg_sent",
            "avg_errors",
            "avg_xact_time",
            "avg_query_time",
            "avg_wait_time",
        )
    ),
)


def stats_rows(sources: Sources) -> Rows:
    """SHOW STATS."""
    rows: Rows = []
    for pool in sorted_pools(sources.table):
        total, mean = pool_totals(sources.table, pool.number), pool_averages(sources.table, pool.number)
        rows.append(
            (
                pool.database,
                pool.user,
                total.transactions,
                total.queries,
                total.bytes_received,
                total.bytes_sent,
                total.transaction_time,
                total.query_time,
                total.wait_time,
                total.errors,
                mean.transactions,
                mean.queries,
                mean.bytes_received,
                mean.bytes_sent,
                mean.errors,
                mean.transaction_us,
                mean.query_us,
                mean.wait_us,
            )
        )
    return rows


# SHOW USERS, AUTH_QUERY, STARTUP_PARAMETERS

USER_COLUMNS: Final = (text("name"), text("pool_mode"))


def users_rows(sources: Sources) -> Rows:
    """SHOW USERS: one row for each pool."""
    return [(pool.user, pool.pool_mode) for pool in sorted_pools(sources.table)]


AUTH_QUERY_COLUMNS: Final = (
    text("database"),
    *(
        numeric(name)
        for name in (
            "cache_entries",
            "cache_hits",
            "cache_misses",
            "cache_refetches",
            "cache_rate_limited",
            "auth_success",
            "auth_failure",
            "executor_queries",
            "executor_errors",
            "dynamic_pools_current",
            "dynamic_pools_created",
            "dynamic_pools_destroyed",
        )
    ),
)


def auth_query_rows(sources: Sources) -> Rows:
    """SHOW AUTH_QUERY: one row for each database with an auth_query."""
    pools = Counter(pool.database for pool in sorted_pools(sources.table) if is_on_demand(sources, pool))
    return [
        (view.database, view.cache_entries, *_in_order(view.counts, pools[view.database]))
        for view in look_up_rows(sources.table)
    ]


def _in_order(counts: dict[str, int], current: int) -> list[int]:
    numbers = {**counts, "dynamic_pools_current": current}
    return [numbers[column.name] for column in AUTH_QUERY_COLUMNS[2:]]


def is_on_demand(sources: Sources, pool: PoolView) -> bool:
    """A pool that a login of auth_query brought about."""
    settings = settings_of(sources, pool)
    return settings is not None and settings.is_dynamic and settings.server_password is None


PARAMETER_COLUMNS: Final = (
    text("user"),
    text("database"),
    text("parameter"),
    text("value"),
    text("source"),
    text("state"),
)


def parameters_rows(sources: Sources) -> Rows:
    """SHOW STARTUP_PARAMETERS: what the next server of each pool is opened with, and which level said so."""
    rows: Rows = []
    for pool in sorted_pools(sources.table):
        settings = settings_of(sources, pool)
        for name, value in sorted(settings.startup_parameters.items()) if settings else ():
            rows.append((pool.user, pool.database, name, value, _source_of(sources, pool, name, value), "applied"))
    return rows


def _source_of(sources: Sources, pool: PoolView, name: str, value: str) -> str:
    for source, level in _levels(sources, pool):
        if level.get(name) == value:
            return source
    return "auth_query"


def _levels(sources: Sources, pool: PoolView) -> Iterator[tuple[str, dict[str, str]]]:
    config = config_of(sources)
    if config is None:
        return
    section = config.pools.get(pool.database)
    if section is not None:
        yield "pool", canonical_map(section.startup_parameters)
    yield "general", canonical_map(config.general.startup_parameters)
