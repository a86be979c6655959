"""Makes packaging/ (Grafana, Prometheus) and docs/metrics.md from the list of metrics in doorman/web/families.py.

Run as `python -m scripts.make_dashboards`. A panel or rule that speaks of a metric that is not in the list ends it with
an error; a test compares what is in packaging/ with what this makes, and with a running pooler.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from doorman.web.families import FAMILIES

PACKAGING = Path(__file__).resolve().parents[1] / "packaging"
DASHBOARD = PACKAGING / "grafana" / "pg_doorman.json"
RULES = PACKAGING / "prometheus" / "pg_doorman.rules.yml"
PAGE = PACKAGING.parent / "docs" / "metrics.md"
METRIC = re.compile(r"\bpg_doorman_\w+")
POOL = 'instance=~"$instance",user=~"$user",database=~"$database"'
HERE = 'instance=~"$instance"'
WHO = "{{user}}@{{database}}"
IN_USE = f'pg_doorman_pools_servers{{{POOL},status="active"}} / ignoring(status) pg_doorman_pool_size{{{POOL}}}'


class Panel(NamedTuple):
    """`queries` are (legend, expression); POOL and HERE are filled in."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


class Alert(NamedTuple):
    """One alert: `hold` is how long it must be so; `text` what to do about it."""

    name: str
    expression: str
    hold: str
    severity: str
    text: str


def quantile(share: float, name: str, selector: str = POOL, by: str = "le, user, database") -> str:
    """Of one of our histograms, over five minutes."""
    return f"histogram_quantile({share}, sum by ({by}) (rate(pg_doorman_{name}_seconds_bucket{{{selector}}}[5m])))"


def rate(name: str, selector: str = POOL) -> str:
    """Of a counter, over five minutes."""
    return f"rate(pg_doorman_{name}_total{{{selector}}}[5m])"


def latency(name: str) -> tuple[tuple[str, str], ...]:
    """The usual percentiles of a histogram."""
    return tuple((f"p{int(share * 100)} {WHO}", quantile(share, name)) for share in (0.5, 0.95, 0.99))


ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel("Queries a second", "ops", ((WHO, rate("pools_queries")),)),
        Panel("Transactions a second", "ops", ((WHO, rate("pools_transactions")),)),
        Panel("Errors a second", "ops", ((f"{WHO} {{{{sqlstate}}}}", rate("pools_errors")),)),
        Panel("Paused pools", "short", ((WHO, f"pg_doorman_pools_paused{{{POOL}}}"),)),
    ),
    "Client Load": (
        Panel("Clients", "short", ((f"{WHO} {{{{status}}}}", f"pg_doorman_pools_clients{{{POOL}}}"),)),
        Panel("Connections a second", "ops", (("{{type}}", rate("connections", HERE)),)),
        Panel("Refused logins a second", "ops", (("{{cause}}", rate("login_failures", HERE)),)),
    ),
    "Server Pool": (
        Panel("Servers", "short", ((f"{WHO} {{{{status}}}}", f"pg_doorman_pools_servers{{{POOL}}}"),)),
        Panel(
            "Share of the pool in use",
            "percentunit",
            ((WHO, IN_USE),),
        ),
        Panel("Oldest checkout", "ms", ((WHO, f"pg_doorman_pools_oldest_active_age_ms{{{POOL}}}"),)),
        Panel("Wait for a server", "s", latency("pools_wait_duration")),
    ),
    "Query Latency": (Panel("Queries", "s", latency("pools_query_duration")),),
    "Transaction Latency": (Panel("Transactions", "s", latency("pools_transaction_duration")),),
    "Traffic": (Panel("Bytes a second", "Bps", ((f"{WHO} {{{{direction}}}}", rate("pools_bytes")),)),),
    "Pool Coordinator": (
        Panel(
            "Connections of limited databases",
            "short",
            (("{{database}} {{type}}", f'pg_doorman_pool_coordinator{{{HERE},database=~"$database"}}'),),
        ),
    ),
    "Pool Scaling": (
        Panel("Servers opened a second", "ops", ((WHO, rate("pools_servers_opened")),)),
        Panel("Servers being opened", "short", ((WHO, f"pg_doorman_pool_scaling{{{POOL}}}"),)),
        Panel(
            "Phases of opening, p99",
            "s",
            (("{{phase}}", quantile(0.99, "backend_create_duration", HERE, "le, phase")),),
        ),
    ),
    "Prepared Statements": (
        Panel("Hits a second", "ops", ((WHO, rate("servers_prepared_hits")),)),
        Panel("Misses a second", "ops", ((WHO, rate("servers_prepared_misses")),)),
        Panel("Held by servers", "short", ((WHO, f"pg_doorman_pool_prepared_cache_entries{{{POOL}}}"),)),
    ),
    "System": (
        Panel("Memory", "bytes", (("{{process}}", f"pg_doorman_process_memory_bytes{{{HERE}}}"),)),
        Panel("Processor time", "percentunit", (("{{process}}", rate("process_cpu_seconds", HERE)),)),
        Panel("Delay of event loops", "s", (("{{process}}", f"pg_doorman_process_loop_delay_seconds{{{HERE}}}"),)),
        Panel("Sockets", "short", (("{{type}}", f"pg_doorman_sockets{{{HERE}}}"),)),
        Panel("Processes replaced", "short", (("{{process}}", f"pg_doorman_process_restarts_total{{{HERE}}}"),)),
    ),
}

RECORDED: dict[str, str] = {
    "query_p99_seconds": quantile(0.99, "pools_query_duration", ""),
    "transaction_p99_seconds": quantile(0.99, "pools_transaction_duration", ""),
    "wait_p99_seconds": quantile(0.99, "pools_wait_duration", ""),
    "query_rate5m": rate("pools_queries", ""),
    "transaction_rate5m": rate("pools_transactions", ""),
    "connection_rate5m": rate("connections", ""),
    "prepared_lookup_rate5m": f"{rate('servers_prepared_hits', '')} + {rate('servers_prepared_misses', '')}",
    "prepared_hit:ratio": (
        f"{rate('servers_prepared_hits', '')}"
        f" / ({rate('servers_prepared_hits', '')} + {rate('servers_prepared_misses', '')})"
    ),
    "pool_waiting_clients:sum": 'sum by (user, database) (pg_doorman_pools_clients{status="waiting"})',
    "pool_active_server_utilization:ratio": (
        'pg_doorman_pools_servers{status="active"} / ignoring(status) pg_doorman_pool_size'
    ),
    "pool_scaling_create_rate5m": rate("pool_scaling", 'type="creates_started"'),
    "pool_connection_slots:sum": "sum(pg_doorman_pool_size)",
    "socket_count:sum": "sum by (instance) (pg_doorman_sockets)",
    "server_tls_handshake_duration_seconds:p99": quantile(0.99, "server_tls_handshake_duration", "", "le, pool"),
}

ALERTS: tuple[Alert, ...] = (
    Alert("Down", 'up{job=~".*pg_doorman.*"} == 0', "1m", "critical", "The HTTP port does not answer."),
    Alert(
        "WaitingClients",
        'pg_doorman_pools_clients{status="waiting"} > 0',
        "5m",
        "warning",
        "Clients of {{$labels.user}}@{{$labels.database}} wait: raise pool_size, or look for long transactions.",
    ),
    Alert(
        "PoolSaturated",
        "pg_doorman:pool_active_server_utilization:ratio > 0.95 and on (user, database, instance) "
        'pg_doorman_pools_clients{status="waiting"} > 0',
        "5m",
        "critical",
        "All servers of {{$labels.user}}@{{$labels.database}} are in use and clients wait.",
    ),
    Alert(
        "LongActiveCheckout",
        "pg_doorman_pools_oldest_active_age_ms > 300000",
        "10m",
        "warning",
        "A client of {{$labels.user}}@{{$labels.database}} has held a server for over five minutes (SHOW SERVERS).",
    ),
    Alert(
        "PausedStuck",
        "pg_doorman_pools_paused == 1",
        "30m",
        "warning",
        "{{$labels.user}}@{{$labels.database}} has been paused for half an hour: RESUME on the console.",
    ),
    Alert(
        "QueryP99High",
        "pg_doorman:query_p99_seconds > 1 and on (user, database) pg_doorman:query_rate5m > 1",
        "10m",
        "warning",
        "One in a hundred queries of {{$labels.user}}@{{$labels.database}} takes longer than a second.",
    ),
    Alert(
        "TransactionP99High",
        "pg_doorman:transaction_p99_seconds > 5 and on (user, database) pg_doorman:transaction_rate5m > 0.1",
        "10m",
        "warning",
        "One in a hundred transactions of {{$labels.user}}@{{$labels.database}} takes longer than five seconds.",
    ),
    Alert(
        "WaitP99High",
        "pg_doorman:wait_p99_seconds > 0.05 and on (user, database) pg_doorman:query_rate5m > 1",
        "10m",
        "warning",
        "One in a hundred waits for a server of {{$labels.user}}@{{$labels.database}} lasts longer than 50 ms.",
    ),
    Alert(
        "ErrorsHigh",
        'sum by (user, database, sqlstate) (rate(pg_doorman_pools_errors_total{sqlstate=~"08|53|57"}[5m])) > 0.1',
        "5m",
        "warning",
        "Clients of {{$labels.user}}@{{$labels.database}} get errors of class {{$labels.sqlstate}}.",
    ),
    Alert(
        "CoordinatorNearLimit",
        'pg_doorman_pool_coordinator{type="connections"} / ignoring(type) '
        'pg_doorman_pool_coordinator{type="max_connections"} > 0.85',
        "15m",
        "warning",
        "{{$labels.database}} is close to max_db_connections.",
    ),
    Alert(
        "InflightCreatesStuck",
        'min_over_time(pg_doorman_pool_scaling{type="inflight_creates"}[1m]) > 0',
        "1m",
        "warning",
        "Servers of {{$labels.user}}@{{$labels.database}} take over a minute to open.",
    ),
    Alert(
        "PreparedHitRatioLow",
        "pg_doorman:prepared_hit:ratio < 0.8 and pg_doorman:prepared_lookup_rate5m > 1",
        "15m",
        "warning",
        "Prepared statements of {{$labels.user}}@{{$labels.database}} are prepared again and again: raise "
        "server_prepared_statements_cache_size, or look for texts that differ each time.",
    ),
    Alert(
        "RefusedLogins",
        "sum by (instance) (rate(pg_doorman_login_failures_total[5m])) > 1",
        "10m",
        "warning",
        "Logins are refused: the log says who and why.",
    ),
    Alert(
        "BackendTlsHandshakeErrors",
        "increase(pg_doorman_server_tls_handshake_errors_total[5m]) >= 3",
        "1m",
        "critical",
        "TLS towards the servers of {{$labels.pool}} fails.",
    ),
    Alert(
        "FallbackActive", "pg_doorman_fallback_active == 1", "2m", "warning", "A fallback host serves {{$labels.pool}}."
    ),
    Alert(
        "WorkerReplaced",
        "increase(pg_doorman_process_restarts_total[15m]) > 0",
        "0m",
        "warning",
        "{{$labels.process}} died and was replaced: the log says how.",
    ),
    Alert(
        "LoopDelayHigh",
        "pg_doorman_process_loop_delay_seconds > 0.5",
        "5m",
        "warning",
        "{{$labels.process}} is late by half a second: it lacks processor time.",
    ),
    Alert(
        "MemoryGrowing",
        "pg_doorman_total_memory > 1073741824 and deriv(pg_doorman_total_memory[15m]) > 524288",
        "15m",
        "warning",
        "Memory is over 1 GiB and grows.",
    ),
    Alert("SocketCountHigh", "pg_doorman:socket_count:sum > 10000", "15m", "warning", "There are over 10,000 sockets."),
)


def check(expression: str) -> str:
    """The expression; raises ValueError when it speaks of a metric that is not in the list."""
    for name in METRIC.findall(expression):
        if name == "pg_doorman_" or f"{name}:" in expression:
            continue
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if name not in FAMILIES and (base not in FAMILIES or FAMILIES[base].kind != "histogram"):
            raise ValueError(f"{name} is not in the list of metrics: {expression}")
    return expression


def make_dashboard() -> dict[str, Any]:
    """Grafana's JSON model."""
    return {
        "title": "pg_doorman",
        "uid": "pg-doorman",
        "tags": ["postgresql", "pg_doorman"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(make_variables())},
        "panels": list(make_panels()),
    }


def make_variables() -> Iterator[dict[str, Any]]:
    """The data source, and what panels are filtered by."""
    yield {"name": "datasource", "type": "datasource", "query": "prometheus"}
    sources = {"instance": "pg_doorman_build_info", "user": "pg_doorman_pool_size", "database": "pg_doorman_pool_size"}
    for name, source in sources.items():
        yield {
            "name": name,
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": f"label_values({check(source)}, {name})",
            "includeAll": True,
            "multi": True,
            "refresh": 2,
            "current": {"text": "All", "value": "$__all"},
        }


def make_panels() -> Iterator[dict[str, Any]]:
    """A heading for each row, three panels side by side below it."""
    number, y = 1, 0
    for title, panels in ROWS.items():
        yield {"id": number, "type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []}
        number, y = number + 1, y + 1
        for at, panel in enumerate(panels):
            yield make_panel(panel, number, (at % 3) * 8, y + at // 3 * 8)
            number += 1
        y += (len(panels) + 2) // 3 * 8


def make_panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """One graph."""
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": x, "y": y, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + at), "expr": check(expression), "legendFormat": legend}
            for at, (legend, expression) in enumerate(panel.queries)
        ],
    }


def make_rules() -> dict[str, Any]:
    """Recording rules, and the alerts that use them."""
    recorded = [{"record": f"pg_doorman:{name}", "expr": check(text)} for name, text in RECORDED.items()]
    alerts = [
        {
            "alert": f"PgDoorman{alert.name}",
            "expr": check(alert.expression),
            "for": alert.hold,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.text},
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "pg_doorman.rules", "rules": recorded}, {"name": "pg_doorman.alerts", "rules": alerts}]}


def expressions() -> list[str]:
    """Every expression of the dashboard and the rules."""
    panels = [query for row in ROWS.values() for panel in row for _, query in panel.queries]
    return [*panels, *RECORDED.values(), *(alert.expression for alert in ALERTS)]


METRICS_PAGE = """# Metrics

With `web.enabled` the keeper serves HTTP on `web.host` and `web.port`, without a password:

| path | answer |
|---|---|
| `GET /metrics` | Prometheus's text format, compressed when the client takes gzip |
| `GET /live` | 200 as long as the keeper works |
| `GET /ready` | 200 when clients are taken; 503 and the reason at the start, in a drain, or when no worker is well |

The families are prometheus-client's, behind a collector in a registry of its own (`doorman/web/collector.py`).
Prometheus gets the classic text, which we write ourselves from the same families in a fifth of the time that
prometheus-client's encoder takes for a thousand pools (`tests/unit/web/test_collector.py` compares the two sample by
sample). Who takes nothing but OpenMetrics gets that, by prometheus-client's encoder, without the deprecated gauges that
the format has no room for (a gauge `x` beside a counter `x_total`).

All figures come from the shared table and are sums over all workers; no worker is asked, and scraping costs queries
nothing. Counters go on through the death of any worker. Percentiles are of the last 15 to 30 seconds, merged over
all workers and within 2 % of exact (`tests/unit/shm/test_counters.py`); histograms count from the start. A thousand
busy pools are scraped in less than 0.1 s of processor time (`tests/unit/web/test_scrape.py`). What a load loses to a
scrape every second, and what one scrape costs the keeper, is measured by `scripts/bench --only scrape`.

`packaging/grafana/pg_doorman.json` is a dashboard, `packaging/prometheus/pg_doorman.rules.yml` has recording rules and
alerts. They and this page are made from `doorman/web/families.py` by `python -m scripts.make_dashboards`.

What belongs to features that there are not yet (Patroni, single sign-on, limits on the connections of a database) has
no series, or says 0. A counter that needs an event (refusals, streams, TLS) appears with the first one.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def make_metrics_page() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `{family.name}` | {family.kind} | {', '.join(f'`{name}`' for name in family.labels)} | {family.help_text} |"
        for family in sorted(FAMILIES.values(), key=lambda family: family.name)
    ]
    return METRICS_PAGE + "\n".join(rows) + "\n"


def made() -> dict[Path, str]:
    """The files and what is to be in them."""
    notice = "# Made by python -m scripts.make_dashboards; do not edit.\n"
    return {
        DASHBOARD: json.dumps(make_dashboard(), indent=2) + "\n",
        PAGE: make_metrics_page(),
        RULES: notice + yaml.safe_dump(make_rules(), sort_keys=False, width=160),
    }


if __name__ == "__main__":
    for path, text in made().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)
