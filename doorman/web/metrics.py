"""Fills an exposition from the shared table: one picture of all workers. Runs in the keeper, for each scrape.

Rules
1. Every figure is read from the table, or from /proc for what only the kernel knows; no process is asked.
2. A counter never falls, whatever process dies: its row stays (shm/counters). The series of a pool end with the pool.
3. Nothing is kept between scrapes but what the HTTP server itself counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from doorman.admin.procfs import usage_of
from doorman.shm.counters import (
    CONNECTION_KINDS,
    PARAMETER_SQLSTATES,
    PHASE_SECONDS,
    PHASES,
    QUERY_SECONDS,
    SQLSTATE_CLASSES,
    STREAM_KINDS,
    TRANSACTION_SECONDS,
    WAIT_SECONDS,
    Totals,
    all_process_totals,
    get_census,
    pool_averages,
    pool_times,
    pool_totals,
    process_totals,
)
from doorman.shm.look_ups import DROPPED
from doorman.shm.presence import STATEMENT_BYTES, presence
from doorman.shm.refusals import refusal_counts
from doorman.shm.rows import PoolView, client_rows, pool_rows, process_rows
from doorman.shm.table import Table
from doorman.web.exposition import Exposition, Labels, joined, label
from doorman.web.figures import Figures, LookUpFigures

PREFIX: Final = "pg_doorman_"
TLS_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
BEFORE_LOGIN: Final = frozenset(
    {"invalid_startup", "protocol_error", "hba", "tls_required", "tls_handshake_fail", "too_many_clients"}
)
"""Causes of refusals that listener_rejections speaks of; the others are failed proofs."""
PERCENTILES: Final = ("50", "90", "95", "99")
_MICRO: Final = 1e-6


def fill(figures: Figures) -> Exposition:
    """All families of a scrape."""
    out = Exposition()
    pools = sorted(pool_rows(figures.table), key=lambda pool: (pool.database, pool.user))
    totals = [pool_totals(figures.table, pool.number) for pool in pools]
    _add_static(out, figures)
    _add_processes(out, figures.table)
    _add_connections(out, figures.table)
    labels = [joined(label("database", pool.database), label("user", pool.user)) for pool in pools]
    _add_presence(out, figures.table, pools, labels, totals)
    _add_totals(out, labels, totals)
    _add_times(out, figures.table, pools, labels, totals)
    _add_databases(out, figures, pools, totals)
    _add_look_ups(out, figures.look_ups)
    _add_web(out, figures)
    return out


# The process


def _add_static(out: Exposition, figures: Figures) -> None:
    out.add(f"{PREFIX}build_info", 1, label("version", figures.version))
    out.add(f"{PREFIX}log_level", 1, label("level", figures.log_filter))
    for database, pool in figures.config.pools.items():
        for user in pool.users:
            names = label("database", database), label("pool_mode", user.pool_mode or pool.pool_mode)
            out.add(f"{PREFIX}users_configured", 1, *names, label("user", user.username))
    census = get_census(figures.table)
    counted = {"tcp": sum(census[:13]), "tcp6": sum(census[13:26]), "unix": sum(census[26:31]), "unknown": census[33]}
    for kind, count in counted.items():
        out.add(f"{PREFIX}sockets", count, label("type", kind))


def _add_processes(out: Exposition, table: Table) -> None:
    memory = master = usage_of(table.master_pid).rss_bytes
    clients = Counter(client.worker for client in client_rows(table))
    roles: Counter[str] = Counter({"master": 1, "worker": 0, "keeper": 0})
    names = label("process", "master"), label("role", "master")
    out.add(f"{PREFIX}process_memory_bytes", master, *names)
    out.add(f"{PREFIX}process_cpu_seconds_total", usage_of(table.master_pid).cpu_ms / 1000, *names)
    for process in process_rows(table):
        usage = usage_of(process.pid)
        names = label("process", f"{process.role}{process.number}"), label("role", process.role)
        roles[process.role] += process.pid != 0
        memory += usage.rss_bytes
        out.add(f"{PREFIX}process_memory_bytes", usage.rss_bytes, *names)
        out.add(f"{PREFIX}process_cpu_seconds_total", usage.cpu_ms / 1000, *names)
        out.add(f"{PREFIX}process_clients", clients[process.number], *names)
        delay = process_totals(table, process.number).loop_delay_high
        out.add(f"{PREFIX}process_loop_delay_seconds", delay * _MICRO, *names)
        out.add(f"{PREFIX}process_restarts_total", max(0, process.generation - 1), *names)
    for role, count in roles.items():
        out.add(f"{PREFIX}processes", count, label("role", role))
    out.add(f"{PREFIX}total_memory", memory)


# Clients


def _add_connections(out: Exposition, table: Table) -> None:
    total = all_process_totals(table)
    values = (total.connections, total.plain, total.encrypted, total.cancels)
    for kind, value in zip(CONNECTION_KINDS, values, strict=True):
        out.add(f"{PREFIX}connections_total", value, label("type", kind))
        out.add(f"{PREFIX}connection_count", value, label("type", kind))
    for cause, count in refusal_counts(table).items():
        out.add(f"{PREFIX}login_failures_total", count, label("cause", cause))
        if cause in BEFORE_LOGIN and count:
            out.add(f"{PREFIX}listener_rejections_total", count, label("reason", cause))
    for phase, counts, time in zip(PHASES, total.opens, total.open_time, strict=True):
        if count := sum(counts):
            row = (_cumulated(counts[:-1]), count, time * _MICRO)
            out.add_histograms(
                f"{PREFIX}backend_create_duration_seconds", PHASE_SECONDS, [label("phase", phase)], [row]
            )
    out.add(f"{PREFIX}query_interner_entries", total.texts, label("kind", "named"))
    out.add(f"{PREFIX}query_interner_entries", 0, label("kind", "anonymous"))
    out.add(f"{PREFIX}query_interner_bytes", total.text_bytes, label("kind", "named"))
    out.add(f"{PREFIX}query_interner_bytes", 0, label("kind", "anonymous"))
    forgotten = label("kind", "named"), label("reason", "limit")
    out.add(f"{PREFIX}query_interner_evictions_total", total.texts_forgotten, *forgotten)
    out.add(f"{PREFIX}query_interner_synthetic_misses_total", 0)


def _cumulated(counts: Sequence[int]) -> list[int]:
    sums = []
    so_far = 0
    for count in counts:
        so_far += count
        sums.append(so_far)
    return sums


# Pools


def _add_presence(
    out: Exposition, table: Table, pools: list[PoolView], labels: list[Labels], totals: list[Totals]
) -> None:
    counted = presence(table)
    here = [counted[pool.number] for pool in pools]

    def each(name: str, values: list[int]) -> None:
        out.add_each(PREFIX + name, labels, values)

    each("pool_size", [pool.pool_size for pool in pools])
    clients = [(one.idle + one.login, one.waiting, one.active) for one in here]
    out.add_by(f"{PREFIX}pools_clients", "status", ("idle", "waiting", "active"), labels, clients)
    servers = [(pool.busy, pool.idle) for pool in pools]
    out.add_by(f"{PREFIX}pools_servers", "status", ("active", "idle"), labels, servers)
    each("pools_oldest_active_age_ms", [one.oldest_active // 1000 for one in here])
    each("pools_paused", [int(pool.paused) for pool in pools])
    each("pools_maxwait_microseconds", [one.longest_wait for one in here])
    each("async_clients_count", [one.flushed for one in here])
    each("pool_prepared_cache_entries", [one.statements for one in here])
    each("pool_prepared_cache_bytes", [one.statements * STATEMENT_BYTES for one in here])
    each("clients_prepared_cache_entries", [one.named + one.unnamed for one in here])
    each("clients_prepared_cache_bytes", [one.client_bytes for one in here])
    each("clients_prepared_named_entries", [one.named for one in here])
    each("clients_prepared_anonymous_entries", [one.unnamed for one in here])
    each("servers_prepared_hits", [one.hits for one in here])
    each("servers_prepared_misses", [one.misses for one in here])
    out.add_by(f"{PREFIX}pool_scaling", "type", ("inflight_creates",), labels, [(pool.opening,) for pool in pools])
    for one, total in zip(labels, totals, strict=True):
        if total.opens_started:
            out.add(f"{PREFIX}pool_scaling_total", total.opens_started, one, label("type", "creates_started"))
        if total.gate_waits:
            out.add(f"{PREFIX}pool_scaling_total", total.gate_waits, one, label("type", "burst_gate_waits"))


def _add_totals(out: Exposition, labels: list[Labels], totals: list[Totals]) -> None:
    def each(name: str, values: list[int] | list[float]) -> None:
        out.add_each(PREFIX + name, labels, values)

    sizes = [(total.bytes_received, total.bytes_sent) for total in totals]
    for name in ("pools_bytes_total", "pools_bytes"):
        out.add_by(PREFIX + name, "direction", ("received", "sent"), labels, sizes)
    for name in ("pools_queries_total", "pools_queries_count"):
        each(name, [total.queries for total in totals])
    for name in ("pools_transactions_total", "pools_transactions_count"):
        each(name, [total.transactions for total in totals])
    each("pools_queries_total_time", [total.query_time / 1000 for total in totals])
    each("pools_transactions_total_time", [total.transaction_time / 1000 for total in totals])
    errors = [total.errors_of_class for total in totals]
    out.add_by(f"{PREFIX}pools_errors_total", "sqlstate", SQLSTATE_CLASSES, labels, errors)
    each("pools_logins_total", [total.logins for total in totals])
    each("pools_servers_opened_total", [total.servers_opened for total in totals])
    each("pools_servers_closed_total", [total.servers_closed for total in totals])
    each("pools_listens_total", [total.listens for total in totals])
    each("servers_prepared_hits_total", [total.statement_hits for total in totals])
    each("servers_prepared_misses_total", [total.statement_misses for total in totals])
    out.add(f"{PREFIX}pooler_check_query_backend_total", sum(total.checks_sent for total in totals))
    out.add(f"{PREFIX}pooler_check_query_cache_total", sum(total.checks_known for total in totals))
    for one, total in zip(labels, totals, strict=True):
        for number, kind in enumerate(STREAM_KINDS):
            if total.streams[number] or total.streams_failed[number]:
                _add_stream(out, one, kind, total, number)


def _add_stream(out: Exposition, labels: Labels, kind: str, total: Totals, number: int) -> None:
    of_kind = joined(labels, label("kind", kind))
    outcomes = (total.streams[number], total.streams_failed[number])
    out.add_by(f"{PREFIX}streaming_events_total", "result", ("ok", "error"), [of_kind], [outcomes])
    out.add_each(f"{PREFIX}streaming_bytes_total", [of_kind], [total.streamed_bytes[number]])


def _add_times(
    out: Exposition, table: Table, pools: list[PoolView], labels: list[Labels], totals: list[Totals]
) -> None:
    times = [pool_times(table, pool.number) for pool in pools]
    both = list(zip(times, totals, strict=True))
    rows = [(counts.query, total.queries, total.query_time * _MICRO) for (counts, _), total in both]
    out.add_histograms(f"{PREFIX}pools_query_duration_seconds", QUERY_SECONDS, labels, rows)
    rows = [(counts.transaction, total.transactions, total.transaction_time * _MICRO) for (counts, _), total in both]
    out.add_histograms(f"{PREFIX}pools_transaction_duration_seconds", TRANSACTION_SECONDS, labels, rows)
    rows = [(counts.wait, total.waits, total.wait_time * _MICRO) for (counts, _), total in both]
    out.add_histograms(f"{PREFIX}pools_wait_duration_seconds", WAIT_SECONDS, labels, rows)
    percentiles = [[us / 1000 for us in found.query] for _, found in times]
    out.add_by(f"{PREFIX}pools_queries_percentile", "percentile", PERCENTILES, labels, percentiles)
    percentiles = [[us / 1000 for us in found.transaction] for _, found in times]
    out.add_by(f"{PREFIX}pools_transactions_percentile", "percentile", PERCENTILES, labels, percentiles)
    waits = [pool_averages(table, pool.number).wait_us / 1000 for pool in pools]
    out.add_each(f"{PREFIX}pools_avg_wait_time", labels, waits)


# Databases


def _add_databases(out: Exposition, figures: Figures, pools: list[PoolView], totals: list[Totals]) -> None:
    counted = presence(figures.table)
    encrypted: Counter[str] = Counter()
    servers: Counter[str] = Counter()
    by_database: dict[str, list[Totals]] = {}
    for pool, total in zip(pools, totals, strict=True):
        by_database.setdefault(pool.database, []).append(total)
        encrypted[pool.database] += counted[pool.number].tls
        servers[pool.database] += counted[pool.number].servers
    for database, of_users in by_database.items():
        of_pool = label("pool", database)
        out.add(f"{PREFIX}server_tls_connections", encrypted[database], of_pool)
        out.add(f"{PREFIX}fallback_active", 0, of_pool)
        _add_handshakes(out, of_pool, of_users)
        for number, sqlstate in enumerate(PARAMETER_SQLSTATES):
            if refused := sum(total.parameter_errors[number] for total in of_users):
                name = f"{PREFIX}backend_startup_parameter_errors_total"
                out.add(name, refused, of_pool, label("sqlstate", sqlstate))
        section = figures.config.pools.get(database)
        if section is not None and section.max_db_connections:
            _add_coordinator(
                out, database, servers[database], section.max_db_connections, section.reserve_pool_size or 0
            )


def _add_handshakes(out: Exposition, of_pool: Labels, totals: list[Totals]) -> None:
    if errors := sum(total.tls_handshake_errors for total in totals):
        out.add(f"{PREFIX}server_tls_handshake_errors_total", errors, of_pool)
    counts = [sum(column) for column in zip(*[total.tls_histogram for total in totals], strict=True)]
    if sum(counts):
        row = (_cumulated(counts[:-1]), sum(counts), sum(total.tls_handshake_time for total in totals) * _MICRO)
        out.add_histograms(f"{PREFIX}server_tls_handshake_duration_seconds", TLS_SECONDS, [of_pool], [row])


def _add_coordinator(out: Exposition, database: str, current: int, limit: int, reserve: int) -> None:
    kinds = {"connections": current, "reserve_in_use": 0, "max_connections": limit, "reserve_pool_size": reserve}
    for kind, value in kinds.items():
        out.add(f"{PREFIX}pool_coordinator", value, label("database", database), label("type", kind))
    for kind in ("evictions", "reserve_acquisitions", "exhaustions"):
        out.add(f"{PREFIX}pool_coordinator_total", 0, label("database", database), label("type", kind))


# Auth query


LOOK_UP_COUNTS = (  # family, label, its values, and what the table calls them
    ("auth_query_cache", "type", ("hits", "misses", "refetches", "rate_limited"), "cache_"),
    ("auth_query_auth", "result", ("success", "failure"), "auth_"),
    ("auth_query_executor", "type", ("queries", "errors"), "executor_"),
    ("auth_query_dynamic_pools", "type", ("created", "destroyed"), "dynamic_pools_"),
)


def _add_look_ups(out: Exposition, look_ups: Sequence[LookUpFigures]) -> None:
    for one in look_ups:
        name = label("database", one.database)
        out.add(f"{PREFIX}auth_query_cache", one.entries, name, label("type", "entries"))
        out.add(f"{PREFIX}auth_query_dynamic_pools", one.dynamic_pools, name, label("type", "current"))
        for family, key, kinds, prefix in LOOK_UP_COUNTS:
            for kind in kinds:
                count = one.counts[prefix + kind]
                out.add(f"{PREFIX}{family}", count, name, label(key, kind))
                out.add(f"{PREFIX}{family}_total", count, name, label(key, kind))
        for reason in filter(one.counts.get, DROPPED):
            labels = label("pool", one.database), label("reason", reason)
            out.add(f"{PREFIX}startup_parameters_dropped_total", one.counts[reason], *labels)


# Web


def _add_web(out: Exposition, figures: Figures) -> None:
    out.add(f"{PREFIX}web_sso_enabled", 0)
    out.add(f"{PREFIX}web_sso_config_error", int(figures.config.web.sso_enabled))
    for (role, source), count in sorted(figures.attempts.items()):
        out.add(f"{PREFIX}web_auth_attempts_total", count, label("role", role), label("source", source))
    for (role, status), count in sorted(figures.responses.items()):
        out.add(f"{PREFIX}web_requests_total", count, label("role", role), label("status_class", status))
