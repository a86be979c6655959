"""Recording rules and alerts for Prometheus, from which make_dashboards writes packaging/prometheus.

The names of rules, and what alerts look at, are those that users of pg_doorman have on their dashboards and in their
routes. What belongs to features that there are not yet waits without data.
"""

from __future__ import annotations

from typing import NamedTuple

from scripts.panels import quantile, rate

HOUR, TEN_MINUTES, FIVE_MINUTES = "1h", "10m", "5m"


class Alert(NamedTuple):
    """One alert: `hold` is how long it must be so; `text` what to do about it."""

    name: str
    expression: str
    hold: str
    severity: str
    text: str


def critical(name: str, expression: str, hold: str, text: str) -> Alert:
    """Somebody must get up."""
    return Alert(name, expression, hold, "critical", text)


def warning(name: str, expression: str, hold: str, text: str) -> Alert:
    """Somebody should look at it by day."""
    return Alert(name, expression, hold, "warning", text)


def grown(name: str, selector: str = "", over: str = FIVE_MINUTES) -> str:
    """By how much a counter grew."""
    return f"increase(pg_doorman_{name}_total{{{selector}}}[{over}])"


LOOKUPS = 'sum by (database, instance) (rate(pg_doorman_auth_query_cache_total{{type=~"{types}"}}[5m]))'
REQUESTS = "sum by (role, instance) (rate(pg_doorman_web_requests_total{}[5m]))"

RECORDED: dict[str, str] = {
    # auth_query
    "auth_query_lookup_rate5m": LOOKUPS.format(types="hits|misses"),
    "auth_query_cache_hit:ratio": f"{LOOKUPS.format(types='hits')} / {LOOKUPS.format(types='hits|misses')}",
    "auth_query_failure:ratio": (
        'sum by (database, instance) (rate(pg_doorman_auth_query_auth_total{result="failure"}[5m]))'
        " / sum by (database, instance) (rate(pg_doorman_auth_query_auth_total[5m]))"
    ),
    # TLS towards servers
    "server_tls_handshake_duration_seconds:p99": quantile(0.99, "server_tls_handshake_duration", "", "le, pool"),
    "server_tls_handshake_rate5m": (
        "sum by (pool, instance) (rate(pg_doorman_server_tls_handshake_duration_seconds_count[5m]))"
    ),
    # Connections
    "connection_rate5m": rate("connections", ""),
    "cancel_connection_ratio5m": (
        rate("connections", 'type="cancel"') + " / ignoring(type) " + rate("connections", 'type="total"')
    ),
    # Times
    "query_p99_seconds": quantile(0.99, "pools_query_duration", ""),
    "transaction_p99_seconds": quantile(0.99, "pools_transaction_duration", ""),
    "wait_p99_seconds": quantile(0.99, "pools_wait_duration", ""),
    "query_rate5m": rate("pools_queries", ""),
    "transaction_rate5m": rate("pools_transactions", ""),
    # Patroni
    "patroni_api_duration_seconds:p99": quantile(0.99, "patroni_api_duration", "", "le, pool"),
    "patroni_api_request_rate5m": rate("patroni_api_requests", ""),
    # Coordinator and scaling
    "coordinator_usage:ratio": (
        'pg_doorman_pool_coordinator{type="connections"} / ignoring(type) '
        'pg_doorman_pool_coordinator{type="max_connections"}'
    ),
    "coordinator_reserve_usage:ratio": (
        'pg_doorman_pool_coordinator{type="reserve_in_use"} / ignoring(type) '
        '(pg_doorman_pool_coordinator{type="reserve_pool_size"} > 0)'
    ),
    "pool_scaling_create_rate5m": rate("pool_scaling", 'type="creates_started"'),
    "pool_scaling_gate_wait_rate5m": rate("pool_scaling", 'type="burst_gate_waits"'),
    "pool_scaling_create_fallback_rate5m": rate("pool_scaling", 'type="create_fallback"'),
    # Pools
    "pool_waiting_clients:sum": 'sum by (user, database, instance) (pg_doorman_pools_clients{status="waiting"})',
    "pool_active_server_utilization:ratio": (
        'pg_doorman_pools_servers{status="active"} / ignoring(status) (pg_doorman_pool_size > 0)'
    ),
    "pool_connection_slots:sum": "sum by (instance) (pg_doorman_pool_size)",
    # Prepared statements
    "prepared_lookup_rate5m": f"{rate('servers_prepared_hits', '')} + {rate('servers_prepared_misses', '')}",
    "prepared_hit:ratio": (
        f"{rate('servers_prepared_hits', '')}"
        f" / ({rate('servers_prepared_hits', '')} + {rate('servers_prepared_misses', '')})"
    ),
    "prepared_cache_memory:bytes": (
        "sum by (instance) (pg_doorman_pool_prepared_cache_bytes)"
        " + sum by (instance) (pg_doorman_clients_prepared_cache_bytes)"
        " + sum by (instance) (pg_doorman_query_interner_bytes)"
    ),
    # The process and HTTP
    "socket_count:sum": "sum by (instance) (pg_doorman_sockets)",
    "web_sso_validation_failure:rate5m": rate("web_sso_validation_errors", ""),
    "web_request_4xx:ratio_by_role": (REQUESTS.format('{status_class="4xx"}') + " / " + REQUESTS.format("")),
}
"""By name, without `pg_doorman:`."""

AUTH_QUERY = (
    critical(
        "AuthQueryExecutorErrors",
        grown("auth_query_executor", 'type="errors"') + " >= 3",
        "1m",
        "Look-ups of users of {{$labels.database}} fail in PostgreSQL: nobody new can log in. The log says why.",
    ),
    warning(
        "AuthQueryFailuresHigh",
        "pg_doorman:auth_query_failure:ratio > 0.05 and on (database, instance) sum by (database, instance) "
        '(rate(pg_doorman_auth_query_auth_total{result="failure"}[5m])) > 0.1',
        "10m",
        "More than one in twenty logins to {{$labels.database}} is refused: changed passwords, or somebody guesses.",
    ),
    warning(
        "AuthQueryCacheHitRateLow",
        "pg_doorman:auth_query_cache_hit:ratio < 0.8 and pg_doorman:auth_query_lookup_rate5m > 1",
        "15m",
        "Users of {{$labels.database}} are looked up again and again: raise auth_query.cache_ttl.",
    ),
    warning(
        "AuthQueryRateLimitedRefetches",
        grown("auth_query_cache", 'type="rate_limited"', TEN_MINUTES) + " >= 3",
        "1m",
        "Wrong passwords for {{$labels.database}} come faster than the table of users is asked again.",
    ),
    warning(
        "AuthQueryDynamicPoolsHigh",
        'pg_doorman_auth_query_dynamic_pools{type="current"} > 100 and '
        'deriv(pg_doorman_auth_query_dynamic_pools{type="current"}[10m]) > 0.02',
        "10m",
        "Over 100 pools on demand of {{$labels.database}}, and more of them: each may open servers of its own.",
    ),
)

SERVER_TLS = (
    critical(
        "BackendTlsHandshakeErrors",
        f"{grown('server_tls_handshake_errors')} >= 3",
        "1m",
        "TLS towards the servers of {{$labels.pool}} fails: the log says how.",
    ),
    warning(
        "BackendTlsHandshakeSlow",
        "pg_doorman:server_tls_handshake_duration_seconds:p99 > 1 and on (pool) "
        "pg_doorman:server_tls_handshake_rate5m > 0.1",
        "10m",
        "One in a hundred TLS handshakes with the servers of {{$labels.pool}} takes longer than a second.",
    ),
)

CONNECTIONS = (
    critical("Down", 'up{job=~".*pg_doorman.*"} == 0', "1m", "The HTTP port does not answer."),
    warning(
        "CancelConnectionRateHigh",
        "pg_doorman:cancel_connection_ratio5m > 0.1 and on (instance) "
        'rate(pg_doorman_connections_total{type="cancel"}[5m]) > 0.5',
        "15m",
        "More than one in ten connections is a cancel request: statements run into the clients' time limits.",
    ),
    warning(
        "RefusedLogins",
        "sum by (instance) (rate(pg_doorman_login_failures_total[5m])) > 1",
        "10m",
        "Logins are refused: the log says who and why.",
    ),
)

LATENCY = (
    warning(
        "QueryP99High",
        "pg_doorman:query_p99_seconds > 1 and on (user, database) pg_doorman:query_rate5m > 1",
        "10m",
        "One in a hundred queries of {{$labels.user}}@{{$labels.database}} takes longer than a second.",
    ),
    warning(
        "TransactionP99High",
        "pg_doorman:transaction_p99_seconds > 5 and on (user, database) pg_doorman:transaction_rate5m > 0.1",
        "10m",
        "One in a hundred transactions of {{$labels.user}}@{{$labels.database}} takes longer than five seconds.",
    ),
    warning(
        "WaitP99High",
        "pg_doorman:wait_p99_seconds > 0.05 and on (user, database) pg_doorman:query_rate5m > 1",
        "10m",
        "One in a hundred waits for a server of {{$labels.user}}@{{$labels.database}} lasts longer than 50 ms.",
    ),
    warning(
        "ErrorsHigh",
        'sum by (user, database, sqlstate) (rate(pg_doorman_pools_errors_total{sqlstate=~"08|53|57"}[5m])) > 0.1',
        "5m",
        "Clients of {{$labels.user}}@{{$labels.database}} get errors of class {{$labels.sqlstate}}.",
    ),
)

FALLBACK = (
    warning("FallbackActive", "pg_doorman_fallback_active == 1", "2m", "A fallback host serves {{$labels.pool}}."),
    critical(
        "FallbackActiveLong",
        "min_over_time(pg_doorman_fallback_active[15m]) == 1 and on (pool) "
        f"{grown('fallback_connections', '', '30m')} >= 2",
        "1m",
        "The primary of {{$labels.pool}} has been away for a quarter of an hour.",
    ),
    critical(
        "PatroniApiErrors",
        f"{grown('patroni_api_errors')} >= 3",
        "1m",
        "No Patroni of {{$labels.pool}} tells where the cluster is.",
    ),
    warning(
        "PatroniApiSlow",
        "pg_doorman:patroni_api_duration_seconds:p99 > 1",
        "10m",
        "Patroni of {{$labels.pool}} takes over a second to answer.",
    ),
    warning(
        "FallbackCandidateFailuresHigh",
        "sum by (pool, instance) (rate(pg_doorman_fallback_candidate_failures_total[5m])) > 1",
        "10m",
        "Hosts that could stand in for the primary of {{$labels.pool}} are refused again and again.",
    ),
)

COORDINATOR = (
    critical(
        "CoordinatorExhausted",
        grown("pool_coordinator", 'type="exhaustions"') + " >= 1",
        "2m",
        "Clients of {{$labels.database}} were refused for want of connections: raise max_db_connections.",
    ),
    warning(
        "CoordinatorNearLimit",
        "pg_doorman:coordinator_usage:ratio > 0.85",
        "15m",
        "{{$labels.database}} is close to max_db_connections.",
    ),
    warning(
        "CoordinatorReserveInUse",
        'min_over_time(pg_doorman_pool_coordinator{type="reserve_in_use"}[15m]) > 0 and on (database, instance) '
        "pg_doorman:coordinator_reserve_usage:ratio > 0.5",
        "5m",
        "{{$labels.database}} has lived on its reserve for a quarter of an hour.",
    ),
    warning(
        "CoordinatorReserveNearFull",
        "pg_doorman:coordinator_reserve_usage:ratio > 0.8",
        "5m",
        "The reserve of {{$labels.database}} is nearly used up.",
    ),
    warning(
        "CoordinatorThrashing",
        "pg_doorman:coordinator_usage:ratio > 0.95 and on (database, instance) "
        'rate(pg_doorman_pool_coordinator_total{type="evictions"}[5m]) > 0',
        "10m",
        "Users of {{$labels.database}} take each other's connections away: raise max_db_connections.",
    ),
)

SCALING = (
    warning(
        "PoolBurstGateSaturated",
        "pg_doorman:pool_scaling_gate_wait_rate5m > on (user, database, instance) "
        "0.5 * pg_doorman:pool_scaling_create_rate5m",
        "10m",
        "Clients of {{$labels.user}}@{{$labels.database}} wait while others' servers are opened: raise "
        "scaling_max_parallel_creates or min_pool_size.",
    ),
    warning(
        "PoolCreateFallbackFiring",
        "pg_doorman:pool_scaling_create_fallback_rate5m > 0.1",
        "10m",
        "Waiting for servers to be given back does not help {{$labels.user}}@{{$labels.database}}: it needs more.",
    ),
    warning(
        "PoolReplenishDeferred",
        grown("pool_scaling", 'type="replenish_deferred"', HOUR) + " > 60",
        "5m",
        "min_pool_size of {{$labels.user}}@{{$labels.database}} is not reached.",
    ),
    warning(
        "PoolInflightCreatesStuck",
        'min_over_time(pg_doorman_pool_scaling{type="inflight_creates"}[1m]) > 0',
        "1m",
        "Servers of {{$labels.user}}@{{$labels.database}} take over a minute to open.",
    ),
)

POOLS = (
    warning(
        "PoolWaitingClients",
        "pg_doorman:pool_waiting_clients:sum > 0",
        "5m",
        "Clients of {{$labels.user}}@{{$labels.database}} wait: raise pool_size, or look for long transactions.",
    ),
    critical(
        "PoolSaturated",
        "pg_doorman:pool_active_server_utilization:ratio > 0.95 and on (user, database, instance) "
        "pg_doorman:pool_waiting_clients:sum > 0",
        "5m",
        "All servers of {{$labels.user}}@{{$labels.database}} are in use and clients wait.",
    ),
    warning(
        "PoolWaitTimeHigh",
        f"{quantile(0.95, 'pools_wait_duration', '')} > 0.25",
        "10m",
        "One in twenty waits for a server of {{$labels.user}}@{{$labels.database}} lasts longer than 250 ms.",
    ),
    warning(
        "PoolLongActiveCheckout",
        "pg_doorman_pools_oldest_active_age_ms > 300000",
        "10m",
        "A client of {{$labels.user}}@{{$labels.database}} has held a server for over five minutes (SHOW SERVERS).",
    ),
    warning(
        "PoolPausedStuck",
        "pg_doorman_pools_paused == 1",
        "30m",
        "{{$labels.user}}@{{$labels.database}} has been paused for half an hour: RESUME on the console.",
    ),
    warning(
        "PoolMaxwaitHigh",
        "pg_doorman_pools_maxwait_microseconds > 1e6 and changes(pg_doorman_pools_maxwait_microseconds[10m]) > 0",
        "5m",
        "A client of {{$labels.user}}@{{$labels.database}} had to wait for over a second.",
    ),
)

PREPARED = (
    warning(
        "PreparedAnonymousEvictionsHigh",
        "sum by (user, database, instance) (rate(pg_doorman_clients_prepared_anonymous_evictions_total[5m])) > 10",
        "10m",
        "Clients of {{$labels.user}}@{{$labels.database}} lose unnamed statements.",
    ),
    warning(
        "PreparedCacheMemoryHigh",
        "pg_doorman:prepared_cache_memory:bytes > 536870912",
        "15m",
        "Prepared statements take over 512 MiB: lower prepared_statements_cache_size.",
    ),
    warning(
        "PreparedClientNamedGrowing",
        "pg_doorman_clients_prepared_named_entries > 10000 and "
        "deriv(pg_doorman_clients_prepared_named_entries[10m]) > 0",
        "10m",
        "Clients of {{$labels.user}}@{{$labels.database}} prepare and never close: over 10,000 statements.",
    ),
    warning(
        "PreparedHitRatioLow",
        "pg_doorman:prepared_hit:ratio < 0.8 and pg_doorman:prepared_lookup_rate5m > 1",
        "15m",
        "Statements of {{$labels.user}}@{{$labels.database}} are prepared again and again: raise "
        "server_prepared_statements_cache_size, or look for texts that differ each time.",
    ),
)

STREAMING = (
    critical(
        "StreamingErrors",
        'sum by (user, database, instance) (increase(pg_doorman_streaming_events_total{result="error"}[5m])) > 0',
        "2m",
        "Large answers to {{$labels.user}}@{{$labels.database}} break off.",
    ),
    warning(
        "StreamingDataRowFrequent",
        'sum by (user, database, instance) (rate(pg_doorman_streaming_events_total{kind="data_row"}[5m])) > 0.1',
        "15m",
        "Rows of {{$labels.user}}@{{$labels.database}} are often too large to be held.",
    ),
    warning(
        "StreamingThroughputHigh",
        "sum by (user, database, instance) (rate(pg_doorman_streaming_bytes_total[5m])) > 52428800",
        "10m",
        "Over 50 MiB a second of large messages go to {{$labels.user}}@{{$labels.database}}.",
    ),
)

INTERNER = (
    critical(
        "InternerAnonMemoryHigh",
        'pg_doorman_query_interner_bytes{kind="anonymous"} > 1.5e9',
        "5m",
        "Texts of unnamed statements take over 1.5 GB.",
    ),
    critical(
        "InternerAnonTTLTooShort",
        f"{rate('query_interner_synthetic_misses', '')} > 1",
        "10m",
        "Clients use unnamed statements whose texts are forgotten.",
    ),
    warning(
        "InternerAnonNotShrinking",
        'pg_doorman_query_interner_entries{kind="anonymous"} > 10000 and '
        'delta(pg_doorman_query_interner_entries{kind="anonymous"}[15m]) >= 0',
        "15m",
        "Texts of unnamed statements are not forgotten.",
    ),
    warning(
        "InternerGCSlow",
        quantile(0.99, "query_interner_gc_duration", "", "le, instance") + " > 0.05",
        "15m",
        "Forgetting texts takes over 50 ms.",
    ),
    warning(
        "InternerNamedGrowsUnbounded",
        'pg_doorman_query_interner_entries{kind="named"} > 100000',
        "2h",
        "Workers remember over 100,000 texts: lower prepared_statements_cache_size.",
    ),
)

PARAMETERS = (
    warning(
        "StartupParameterPgRejection",
        f"{grown('backend_startup_parameter_errors')} > 0",
        "1m",
        "PostgreSQL refuses a startup parameter of {{$labels.pool}} ({{$labels.sqlstate}}): no server can be opened.",
    ),
    critical(
        "StartupParameterCascadeOverflow",
        grown("startup_parameters_dropped", 'reason=~"cascade_budget_exceeded|packet_cap_exceeded"') + " > 0",
        "1m",
        "The startup parameters of {{$labels.pool}} are too long to be sent.",
    ),
    warning(
        "StartupParameterOverlayOversize",
        grown("startup_parameters_dropped", 'reason="auth_query_overlay_oversize"') + " > 0",
        "1m",
        "Parameters that auth_query adds for {{$labels.pool}} are too long to be sent.",
    ),
    warning(
        "StartupParameterOverlayRaw",
        grown("startup_parameters_dropped", 'reason="auth_query_oversize"') + " > 0",
        "1m",
        "A row of auth_query of {{$labels.pool}} is longer than all parameters may be.",
    ),
    warning(
        "StartupParameterAuthQueryInvalid",
        grown("startup_parameters_dropped", 'reason=~"auth_query_(bad_type|invalid_.*)"') + " > 0",
        "5m",
        "auth_query of {{$labels.pool}} yields parameters that are none ({{$labels.reason}}).",
    ),
    warning(
        "StartupParameterDedicatedDrops",
        grown("startup_parameters_dropped", 'reason="dedicated_mode"', HOUR) + " > 0",
        "5m",
        "auth_query of {{$labels.pool}} has parameters for users who share their servers.",
    ),
)

SYSTEM = (
    warning(
        "WorkerReplaced",
        "increase(pg_doorman_process_restarts_total[15m]) > 0",
        "0m",
        "{{$labels.process}} died and was replaced: the log says how.",
    ),
    warning(
        "LoopDelayHigh",
        "pg_doorman_process_loop_delay_seconds > 0.5",
        "5m",
        "{{$labels.process}} is late by half a second: it lacks processor time.",
    ),
    warning(
        "ProcessMemoryHigh",
        "pg_doorman_total_memory > 1073741824 and deriv(pg_doorman_total_memory[15m]) > 524288",
        "15m",
        "Memory is over 1 GiB and grows.",
    ),
    warning(
        "SocketCountHigh",
        "pg_doorman:socket_count:sum > 10000 and pg_doorman:socket_count:sum > on (instance) "
        "2 * pg_doorman:pool_connection_slots:sum + 1000",
        "15m",
        "There are over 10,000 sockets, many more than the pools' servers.",
    ),
)

WEB = (
    critical(
        "SsoConfigError",
        "pg_doorman_web_sso_config_error == 1",
        "2m",
        "Single sign-on is configured but could not be loaded.",
    ),
    warning(
        "SsoSignatureFailures",
        'sum by (instance) (rate(pg_doorman_web_sso_validation_errors_total{reason="signature"}[5m])) > 0.5',
        "5m",
        "Tokens are not signed by the key that is configured.",
    ),
    warning(
        "SsoAllowlistRejections",
        'sum by (instance) (rate(pg_doorman_web_sso_validation_errors_total{reason="allowlist"}[5m])) > 0.1',
        "10m",
        "Users who are not on the list try to sign on.",
    ),
    warning(
        "WebRejectedAuthSpike",
        'sum by (instance) (rate(pg_doorman_web_auth_attempts_total{role="rejected"}[5m])) > 1',
        "5m",
        "Credentials for the HTTP port are refused.",
    ),
    warning(
        "WebSso4xxSpike",
        'pg_doorman:web_request_4xx:ratio_by_role{role="sso"} > 0.2',
        "10m",
        "More than one in five requests of signed-on users is refused.",
    ),
    warning(
        "SsoInsecureTransport",
        'sum by (instance) (increase(pg_doorman_web_sso_validation_errors_total{reason="insecure_transport"}[5m])) > 0',
        "5m",
        "A token came unencrypted.",
    ),
)

ALERTS: dict[str, tuple[Alert, ...]] = {
    "auth_query": AUTH_QUERY,
    "server_tls": SERVER_TLS,
    "connections": CONNECTIONS,
    "latency": LATENCY,
    "fallback": FALLBACK,
    "coordinator": COORDINATOR,
    "scaling": SCALING,
    "pools": POOLS,
    "prepared": PREPARED,
    "streaming": STREAMING,
    "interner": INTERNER,
    "startup_parameters": PARAMETERS,
    "system": SYSTEM,
    "web": WEB,
}
"""By group."""
