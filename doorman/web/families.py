"""The list of metrics: name, type, labels, help. All that speaks of metrics is made from it or checked against it:
`/metrics`, docs/metrics.md, the Grafana dashboard and the alert rules in packaging/.

Labels of pools are the names that the configuration gives them. `pool` is a database where no user is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_KINDS: Final[dict[str, Callable[[str, str], Metric]]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Family(msgspec.Struct, frozen=True):
    """One metric. `successor` is what to use instead of a deprecated one."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    successor: str = ""

    @property
    def help_text(self) -> str:
        """What the exposition says."""
        return f"{self.help} Deprecated: use {self.successor}." if self.successor else self.help

    def metric(self) -> Metric:
        """As prometheus-client has it, without samples. It takes the `_total` off a counter's name."""
        return _KINDS[self.kind](self.name, self.help_text)


POOL: Final = ("user", "database")


def _gauge(name: str, help_text: str, *labels: str, successor: str = "") -> Family:
    return Family(f"pg_doorman_{name}", "gauge", help_text, labels, f"pg_doorman_{successor}" if successor else "")


def _counter(name: str, help_text: str, *labels: str) -> Family:
    return Family(f"pg_doorman_{name}_total", "counter", help_text, labels)


def _histogram(name: str, help_text: str, *labels: str) -> Family:
    return Family(f"pg_doorman_{name}_seconds", "histogram", help_text, labels)


_ALL: Final = (
    # The process
    _gauge("build_info", "Constant 1, with the version.", "version"),
    _gauge("users_configured", "1 for each configured user of a pool.", "user", "database", "pool_mode"),
    _gauge("log_level", "1, with the log filter in force.", "level"),
    _gauge("total_memory", "Bytes of resident memory of all processes; what they share counts once for each."),
    _gauge("sockets", "Sockets of all processes, counted every 15 seconds.", "type"),
    _gauge("processes", "Processes of the pooler that live.", "role"),
    _counter("process_cpu_seconds", "Processor time, user and system, of the processes that live.", "role", "process"),
    _gauge("process_memory_bytes", "Resident memory of a process.", "role", "process"),
    _gauge("process_clients", "Clients that a process serves.", "role", "process"),
    _gauge("process_loop_delay_seconds", "How late a process's event loop was at most, of late.", "role", "process"),
    _counter("process_restarts", "Times that a process had to be replaced.", "role", "process"),
    # Clients
    _counter("connections", "Connections accepted, by what their first packet was.", "type"),
    _gauge("connection_count", "Connections accepted.", "type", successor="connections_total"),
    _counter("listener_rejections", "Connections refused before or at authentication.", "reason"),
    _counter("login_failures", "Refused logins by cause, those of listener_rejections included.", "cause"),
    # Pools
    _gauge("pool_size", "Configured maximum of server connections.", *POOL),
    _gauge("pools_clients", "Clients by state.", *POOL, "status"),
    _gauge("pools_servers", "Server connections by state; those in login are not counted.", *POOL, "status"),
    _gauge("pools_oldest_active_age_ms", "Milliseconds that the oldest running checkout has lasted.", *POOL),
    _gauge("pools_paused", "1 while the pool is paused.", *POOL),
    _gauge("pools_maxwait_microseconds", "Longest completed wait for a server of the clients that are here.", *POOL),
    _counter("pools_bytes", "Bytes from (received) and to (sent) PostgreSQL.", *POOL, "direction"),
    _gauge("pools_bytes", "Bytes from and to PostgreSQL.", *POOL, "direction", successor="pools_bytes_total"),
    _counter("pools_queries", "Queries.", *POOL),
    _gauge("pools_queries_count", "Queries.", *POOL, successor="pools_queries_total"),
    _gauge("pools_queries_total_time", "Milliseconds that queries took, added up.", *POOL),
    _counter("pools_transactions", "Transactions; a statement outside of one counts as one.", *POOL),
    _gauge("pools_transactions_count", "Transactions.", *POOL, successor="pools_transactions_total"),
    _gauge("pools_transactions_total_time", "Milliseconds that transactions took, added up.", *POOL),
    _gauge(
        "pools_queries_percentile",
        "Milliseconds; of the last 15 to 30 seconds.",
        *POOL,
        "percentile",
        successor="pools_query_duration_seconds",
    ),
    _gauge(
        "pools_transactions_percentile",
        "Milliseconds; of the last 15 to 30 seconds.",
        *POOL,
        "percentile",
        successor="pools_transaction_duration_seconds",
    ),
    _gauge(
        "pools_avg_wait_time",
        "Milliseconds that a transaction of the last 15 seconds waited for its server.",
        *POOL,
        successor="pools_wait_duration_seconds",
    ),
    _counter("pools_errors", "Errors that clients got, by SQLSTATE or its class.", *POOL, "sqlstate"),
    _counter("pools_logins", "Clients that logged in.", *POOL),
    _counter("pools_servers_opened", "Server connections opened.", *POOL),
    _counter("pools_servers_closed", "Server connections that ended.", *POOL),
    _counter("pools_listens", "LISTEN commands in transaction mode, where nothing comes of them.", *POOL),
    _gauge("async_clients_count", "Clients that have used Flush.", *POOL),
    # Times
    _histogram("pools_query_duration", "How long queries took.", *POOL),
    _histogram("pools_transaction_duration", "How long transactions took.", *POOL),
    _histogram("pools_wait_duration", "How long clients waited for a server.", *POOL),
    _histogram("backend_create_duration", "How long the phases of opening a server took.", "phase"),
    _histogram("server_tls_handshake_duration", "How long TLS handshakes with servers took.", "pool"),
    # Prepared statements
    _gauge("pool_prepared_cache_entries", "Prepared statements that the servers of a pool hold.", *POOL),
    _gauge("pool_prepared_cache_bytes", "What the table needs to know of them.", *POOL),
    _gauge("clients_prepared_cache_entries", "Statements that clients have prepared.", *POOL),
    _gauge(
        "clients_prepared_cache_bytes",
        "What clients' statements take, texts included.",
        *POOL,
    ),
    _gauge("clients_prepared_named_entries", "Those with names.", *POOL),
    _gauge("clients_prepared_anonymous_entries", "Those without.", *POOL),
    _gauge("servers_prepared_hits", "Uses that found the statement on the server; servers that live.", *POOL),
    _gauge("servers_prepared_misses", "Uses that did not; servers that live.", *POOL),
    _counter("servers_prepared_hits", "Uses of a prepared statement that found it on the server.", *POOL),
    _counter("servers_prepared_misses", "Uses for which it had to be prepared first.", *POOL),
    _gauge("query_interner_entries", "Statement texts that workers remember.", "kind"),
    _gauge("query_interner_bytes", "Bytes of these texts.", "kind"),
    _counter("clients_prepared_anonymous_evictions", "Unnamed statements lost to a limit: there is none.", *POOL),
    _counter("query_interner_evictions", "Statement texts that workers forgot.", "kind", "reason"),
    _counter("query_interner_synthetic_misses", "26000 said by the pooler for a lost statement: PostgreSQL says it."),
    _histogram("query_interner_gc_duration", "Sweeps over the texts: there are none, a text makes room for another."),
    _counter("pooler_check_query_backend", "Check queries sent to PostgreSQL."),
    _counter("pooler_check_query_cache", "Check queries answered from memory."),
    # Large messages
    _counter("streaming_events", "Messages of servers passed on in pieces.", *POOL, "kind", "result"),
    _counter("streaming_bytes", "Bytes of these messages.", *POOL, "kind"),
    # Auth query
    _gauge("auth_query_cache", "What the cache of look-ups holds and did.", "database", "type"),
    _counter("auth_query_cache", "What the cache of look-ups did.", "database", "type"),
    _gauge("auth_query_auth", "Logins of users that look-ups found.", "database", "result"),
    _counter("auth_query_auth", "Logins of users that look-ups found.", "database", "result"),
    _gauge("auth_query_executor", "Look-ups run in PostgreSQL, and those that failed.", "database", "type"),
    _counter("auth_query_executor", "Look-ups run in PostgreSQL, and those that failed.", "database", "type"),
    _gauge("auth_query_dynamic_pools", "Pools that look-ups brought about.", "database", "type"),
    _counter("auth_query_dynamic_pools", "Pools that look-ups brought about, and their ends.", "database", "type"),
    # Coordinator and scaling
    _gauge("pool_coordinator", "Connections of databases with max_db_connections.", "database", "type"),
    _counter("pool_coordinator", "What the limit of a database led to.", "database", "type"),
    _gauge("pool_scaling", "Server connections being opened.", *POOL, "type"),
    _counter("pool_scaling", "How servers were opened.", *POOL, "type"),
    # TLS towards servers
    _gauge("server_tls_connections", "Server connections that are encrypted.", "pool"),
    _counter("server_tls_handshake_errors", "Failed TLS handshakes with servers.", "pool"),
    # Startup parameters
    _counter("backend_startup_parameter_errors", "Startup parameters that PostgreSQL refused.", "pool", "sqlstate"),
    _counter("startup_parameters_dropped", "Startup parameters that could not be sent.", "pool", "reason"),
    # Patroni
    _counter("patroni_api_requests", "Questions to Patroni.", "pool"),
    _counter("patroni_api_errors", "Times that no Patroni told where the cluster is.", "pool"),
    _histogram("patroni_api_duration", "How long Patroni took to answer.", "pool"),
    _gauge("fallback_host", "1 for the host that stands in for the primary.", "pool", "host", "port"),
    _counter("fallback_connections", "Attempts to connect to a host that stands in.", "pool"),
    _counter("fallback_cache_hits", "Times that such a host was known without asking.", "pool"),
    _counter("fallback_candidate_failures", "Hosts that could not stand in.", "pool", "reason"),
    _gauge("fallback_active", "1 while a fallback host serves in place of the primary.", "pool"),
    # Web
    _gauge("web_sso_enabled", "1 if single sign-on is in force."),
    _gauge("web_sso_config_error", "1 if single sign-on is configured but could not be loaded."),
    _counter("web_sso_validation_errors", "Tokens that were refused.", "reason"),
    _counter("web_auth_attempts", "HTTP requests by role and where it came from.", "role", "source"),
    _counter("web_requests", "HTTP responses.", "status_class", "role"),
)
FAMILIES: Final[dict[str, Family]] = {family.name: family for family in _ALL}
"""By name. A counter's name ends in `_total`; the gauge of the same beginning is another family."""
