"""Every key of the configuration file, its kind and its default, as frozen structs. Data only.

A field's name is the key's name. `Duration` fields hold milliseconds, `Size` bytes, `Seconds` seconds. `None` means
"not set": `resolve` says what then holds. Legacy spellings are turned into these keys by `legacy` before typing.
`docs/configuration.md` tells what each key does.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import field

from doorman.config import fields as f
from doorman.config.hba import HbaRule, HbaRules
from doorman.config.hba_parse import read_ldap_options, read_pg_hba
from doorman.config.redact import Redacted

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
MIB = 2**20

PgHba = Annotated[
    tuple[HbaRule, ...],
    f.Leaf(read_pg_hba, "rules as text, {path: FILE} or {content: TEXT}", secret=True),
]
LdapOptions = Annotated[
    dict[str, str], f.Leaf(read_ldap_options, "options of pg_hba's method ldap, name=value …", secret=True)
]


class General(Redacted, frozen=True, kw_only=True):
    """The section `general`: what holds for the whole process."""

    admin_username: f.Text
    admin_password: f.Secret
    stats_username: f.Text | None = None
    stats_password: f.Secret | None = None

    # Listener and process
    host: f.Text = "0.0.0.0"
    port: f.Port = 5432
    backlog: f.U32 = 0
    max_connections: f.Number = 8192
    unix_socket_dir: f.FilePath | None = None
    unix_socket_mode: f.FileMode = 0o600
    worker_threads: f.PositiveNumber = 4
    worker_cpu_affinity_pinning: f.Flag = False
    worker_stack_size: f.Size | None = None
    max_blocking_threads: f.PositiveNumber | None = None
    tokio_global_queue_interval: f.PositiveU32 | None = None
    tokio_event_interval: f.U32 | None = None
    daemon_pid_file: f.FilePath = "/tmp/pg_doorman.pid"
    syslog_prog_name: f.Text | None = None
    log_level: f.LogLevel | None = None
    log_client_connections: f.Flag = False
    log_client_disconnections: f.Flag = False

    # Timeouts and server connections
    connect_timeout: f.Duration = 3 * SECOND
    query_wait_timeout: f.Duration = 5 * SECOND
    idle_timeout: f.Duration = 10 * MINUTE
    server_lifetime: f.Duration = 20 * MINUTE
    server_idle_check_timeout: f.Duration = 60 * SECOND
    retain_connections_time: f.PositiveDuration = 30 * SECOND
    retain_connections_max: f.Number = 3
    shutdown_timeout: f.Duration = 10 * SECOND
    proxy_copy_data_timeout: f.Duration = 15 * SECOND
    server_round_robin: f.Flag = False
    sync_server_parameters: f.Flag = False
    max_concurrent_creates: f.PositiveNumber = 4
    scaling_warm_pool_ratio: f.Percent = 20
    scaling_fast_retries: f.U32 = 10
    scaling_max_parallel_creates: f.PositiveU32 = 2

    # Sockets and memory
    tcp_keepalives_idle: f.Seconds = 5
    tcp_keepalives_interval: f.Seconds = 5
    tcp_keepalives_count: f.U32 = 5
    tcp_so_linger: f.Seconds = 0
    tcp_no_delay: f.Flag = True
    tcp_user_timeout: f.Seconds = 60
    tcp_socket_buffer_size: f.Size = 0
    unix_socket_buffer_size: f.Size = MIB
    max_memory_usage: f.Size = 256 * MIB
    message_size_to_be_stream: f.Size = MIB
    pooler_check_query: f.Text = ";"

    # Prepared statements
    prepared_statements: f.Flag = True
    prepared_statements_cache_size: f.Number = 8192
    server_prepared_statements_cache_size: f.Number | None = None
    client_anonymous_prepared_cache_size: f.Number | None = None
    query_interner_gc_interval_seconds: f.PositiveSeconds = 60
    query_interner_anon_idle_ttl_seconds: f.Seconds = 60

    # Admission
    hba: tuple[f.Cidr, ...] = ()
    pg_hba: PgHba | None = None
    auth_ldap_options: LdapOptions | None = None
    client_login_timeout: f.Duration = 60 * SECOND
    auth_wait_timeout: f.PositiveDuration = 30 * SECOND
    auth_failure_delay: f.Duration = 300
    auth_failure_log_interval: f.Duration = 10 * SECOND
    startup_parameters: dict[str, f.Text] = field(default_factory=dict)

    # TLS towards clients
    tls_certificate: f.FilePath | None = None
    tls_private_key: f.FilePath | None = None
    tls_ca_cert: f.FilePath | None = None
    auth_ident_file: f.FilePath | None = None
    tls_mode: f.TlsMode | None = None
    tls_rate_limit_per_second: f.TlsRate = 0
    tls_watch_interval: f.Duration = 0

    # TLS towards servers
    server_tls_mode: f.ServerTlsMode = "allow"
    server_tls_ca_cert: f.FilePath | None = None
    server_tls_certificate: f.FilePath | None = None
    server_tls_private_key: f.FilePath | None = None

    # Patroni
    patroni_api_urls: tuple[f.HttpUrl, ...] | None = None
    fallback_cooldown: f.PositiveDuration | None = None
    patroni_api_timeout: f.PositiveDuration | None = None
    fallback_connect_timeout: f.PositiveDuration | None = None
    fallback_lifetime: f.PositiveDuration | None = None

    def hba_rules(self) -> HbaRules:
        """What decides who may log in, from `pg_hba` or the legacy list `hba`."""
        return HbaRules(self.pg_hba, self.hba, self.auth_ldap_options or {})


class Web(msgspec.Struct, frozen=True, kw_only=True):
    """The section `web`: the HTTP listener for metrics and console."""

    enabled: f.Flag = False
    host: f.Text = "0.0.0.0"
    port: f.Port = 9127
    ui: f.Flag = False
    ui_anonymous: f.Flag = False
    log_tap_max_entries: f.U32 = 8192
    sso_enabled: f.Flag = False
    sso_proxy_url: f.Text | None = None
    sso_public_key_file: f.FilePath | None = None
    sso_audience: tuple[f.Text, ...] = ()
    sso_allowed_users: tuple[f.Text, ...] = ("*",)
    trusted_proxies: tuple[f.Cidr, ...] = ()
    sso_groups_claim: f.Text = "groups"
    sso_admin_groups: tuple[f.Text, ...] = ()
    sso_require_https: f.Flag = False


class Talos(msgspec.Struct, frozen=True, kw_only=True):
    """The section `talos`: both keys are required where the section is present."""

    keys: tuple[f.FilePath, ...]
    databases: tuple[f.Text, ...]


class Include(msgspec.Struct, frozen=True, kw_only=True):
    """The section `include`: files merged into the main one, in this order."""

    files: tuple[f.FilePath, ...] = ()


class User(Redacted, frozen=True, kw_only=True):
    """One entry of `pools.<name>.users`. `password` is None only where nothing needs one (`check` sees to that)."""

    username: f.Text
    password: f.Secret | None = None
    pool_size: f.U32
    min_pool_size: f.U32 | None = None
    pool_mode: f.PoolMode | None = None
    server_lifetime: f.Duration | None = None
    server_username: f.Text | None = None
    server_password: f.Secret | None = None
    auth_pam_service: f.Text | None = None
    jwt_issuer: f.NonEmptyText | None = None
    jwt_audience: f.NonEmptyText | None = None


class AuthQuery(Redacted, frozen=True, kw_only=True):
    """The table `pools.<name>.auth_query`: users that a query finds."""

    query: f.NonEmptyText
    user: f.NonEmptyText
    password: f.Secret = ""
    database: f.Text | None = None
    workers: f.PositiveU32 = 2
    server_user: f.Text | None = None
    server_password: f.Secret | None = None
    pool_size: f.U32 = 40
    min_pool_size: f.U32 = 0
    cache_ttl: f.Duration = HOUR
    cache_failure_ttl: f.Duration = 30 * SECOND
    min_interval: f.Duration = SECOND


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `pools`: a database as clients see it."""

    pool_mode: f.PoolMode = "transaction"
    server_host: f.Text = "127.0.0.1"
    server_port: f.Port = 5432
    server_database: f.Text | None = None
    application_name: f.Text | None = None
    connect_timeout: f.Duration | None = None
    idle_timeout: f.Duration | None = None
    server_lifetime: f.Duration | None = None
    cleanup_server_connections: f.Flag = True
    log_client_parameter_status_changes: f.Flag = False
    prepared_statements_cache_size: f.Number | None = None
    server_prepared_statements_cache_size: f.Number | None = None
    scaling_warm_pool_ratio: f.Percent | None = None
    scaling_fast_retries: f.U32 | None = None
    max_db_connections: f.U32 | None = None
    min_connection_lifetime: f.Duration | None = None
    reserve_pool_size: f.U32 | None = None
    reserve_pool_timeout: f.Duration | None = None
    min_guaranteed_pool_size: f.U32 | None = None
    patroni_api_urls: tuple[f.HttpUrl, ...] | None = None
    fallback_cooldown: f.PositiveDuration | None = None
    patroni_api_timeout: f.PositiveDuration | None = None
    fallback_connect_timeout: f.PositiveDuration | None = None
    fallback_lifetime: f.PositiveDuration | None = None
    server_tls_mode: f.ServerTlsMode | None = None
    server_tls_ca_cert: f.FilePath | None = None
    server_tls_certificate: f.FilePath | None = None
    server_tls_private_key: f.FilePath | None = None
    auth_query: AuthQuery | None = None
    startup_parameters: dict[str, f.Text] = field(default_factory=dict)
    users: tuple[User, ...] = ()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration. `path` is the file that was opened, whatever the file itself says."""

    general: General
    pools: dict[str, Pool]
    web: Web = field(default_factory=Web)
    talos: Talos = field(default_factory=lambda: Talos(keys=(), databases=()))
    include: Include = field(default_factory=Include)
    path: f.Text = ""


RESTART_KEYS = frozenset(
    {f"general.{key}" for key in ("host", "port", "backlog", "unix_socket_dir", "unix_socket_mode", "syslog_prog_name")}
    | {f"general.{key}" for key in ("worker_threads", "worker_cpu_affinity_pinning", "worker_stack_size")}
    | {f"general.{key}" for key in ("max_blocking_threads", "tokio_global_queue_interval", "tokio_event_interval")}
    | {"general.daemon_pid_file", "web.enabled", "web.host", "web.port"}
)
"""Keys that a reload cannot apply; everything else follows the live configuration."""
