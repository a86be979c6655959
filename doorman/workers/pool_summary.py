"""The line about a pool that the keeper logs after each statistics window. Its shape is stable: people search it."""

from __future__ import annotations

from collections import Counter

from doorman.shm.counters import pool_averages, pool_percentiles
from doorman.shm.rows import PoolView
from doorman.shm.table import Table

Clients = Counter[tuple[int, str]]
"""How many clients are in (pool row, state)."""


def summarize_pool(table: Table, pool: PoolView, clients: Clients) -> str:
    """`[user@db] qps=… tps=… | clients=… | servers=… | query_ms p50=… | xact_ms … | wait_ms … | avg_wait=…ms`."""
    averages, percentiles = pool_averages(table, pool.number), pool_percentiles(table, pool.number)
    count = {state: clients[pool.number, state] for state in ("login", "idle", "active", "waiting")}
    return " | ".join(
        (
            f"[{pool.user}@{pool.database}] qps={averages.queries} tps={averages.transactions}",
            f"clients={sum(count.values())} active={count['active']} idle={count['idle']} wait={count['waiting']}",
            f"servers={pool.idle + pool.busy} active={pool.busy} idle={pool.idle}",
            f"query_ms {_show(percentiles.query)}",
            f"xact_ms {_show(percentiles.transaction)}",
            f"wait_ms {_show(percentiles.wait)}",
            f"avg_wait={averages.wait_us / 1000:.3f}ms",
        )
    )


def _show(percentiles_us: tuple[int, ...]) -> str:
    values = zip(("p50", "p90", "p95", "p99"), percentiles_us, strict=False)
    return " ".join(f"{name}={value / 1000:.2f}" for name, value in values)
