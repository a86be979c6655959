"""Panels of the Grafana dashboard, from which make_dashboards writes packaging/grafana; and how we ask Prometheus."""

from __future__ import annotations

from typing import NamedTuple

POOL = 'instance=~"$instance",user=~"$user",database=~"$database"'
HERE = 'instance=~"$instance"'
DATABASE = 'instance=~"$instance",database=~"$database"'
WHO = "{{user}}@{{database}}"
IN_USE = f'pg_doorman_pools_servers{{{POOL},status="active"}} / ignoring(status) pg_doorman_pool_size{{{POOL}}}'


class Panel(NamedTuple):
    """`queries` are (legend, expression); POOL and HERE are filled in."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


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
    "Auth Query": (
        Panel(
            "Cache of look-ups",
            "ops",
            (("{{database}} {{type}}", rate("auth_query_cache", DATABASE)),),
        ),
        Panel("Logins of looked-up users", "ops", (("{{database}} {{result}}", rate("auth_query_auth", DATABASE)),)),
        Panel("Look-ups in PostgreSQL", "ops", (("{{database}} {{type}}", rate("auth_query_executor", DATABASE)),)),
        Panel(
            "Pools on demand",
            "short",
            (("{{database}}", f'pg_doorman_auth_query_dynamic_pools{{{DATABASE},type="current"}}'),),
        ),
        Panel(
            "Users remembered",
            "short",
            (("{{database}}", f'pg_doorman_auth_query_cache{{{DATABASE},type="entries"}}'),),
        ),
    ),
    "System": (
        Panel("Memory", "bytes", (("{{process}}", f"pg_doorman_process_memory_bytes{{{HERE}}}"),)),
        Panel("Processor time", "percentunit", (("{{process}}", rate("process_cpu_seconds", HERE)),)),
        Panel("Delay of event loops", "s", (("{{process}}", f"pg_doorman_process_loop_delay_seconds{{{HERE}}}"),)),
        Panel("Sockets", "short", (("{{type}}", f"pg_doorman_sockets{{{HERE}}}"),)),
        Panel("Processes replaced", "short", (("{{process}}", f"pg_doorman_process_restarts_total{{{HERE}}}"),)),
    ),
    "Patroni-assisted fallback": (
        Panel("Fallback in force", "short", (("{{pool}}", f"pg_doorman_fallback_active{{{HERE}}}"),)),
        Panel("Host in use", "short", (("{{pool}} {{host}}:{{port}}", f"pg_doorman_fallback_host{{{HERE}}}"),)),
        Panel("Fallback connections a second", "ops", (("{{pool}}", rate("fallback_connections", HERE)),)),
        Panel(
            "Candidates refused a second",
            "ops",
            (("{{pool}} {{reason}}", rate("fallback_candidate_failures", HERE)),),
        ),
        Panel("Requests to Patroni a second", "ops", (("{{pool}}", rate("patroni_api_requests", HERE)),)),
        Panel("Patroni, p99", "s", (("{{pool}}", quantile(0.99, "patroni_api_duration", HERE, "le, pool")),)),
    ),
    "Query Interner": (
        Panel("Texts", "short", (("{{kind}}", f"pg_doorman_query_interner_entries{{{HERE}}}"),)),
        Panel("Bytes of texts", "bytes", (("{{kind}}", f"pg_doorman_query_interner_bytes{{{HERE}}}"),)),
        Panel("Forgotten a second", "ops", (("{{kind}} {{reason}}", rate("query_interner_evictions", HERE)),)),
    ),
}
