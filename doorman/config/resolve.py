"""What holds for each pool once user, pool and general level are put together. Values in, values out.

A pool is a (database, user) pair: one for each static user, and those that auth_query brings about at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from doorman.config.redact import Redacted
from doorman.config.schema import SECOND, AuthQuery, Config, General, Pool, User
from doorman.config.startup import DEFAULT_APPLICATION_NAME, merge_maps

T = TypeVar("T")


class ServerTls(msgspec.Struct, frozen=True):
    """TLS towards a pool's servers: the pool's value of each key, else the general one."""

    mode: str
    ca_cert: str | None
    certificate: str | None
    private_key: str | None


class PoolSettings(Redacted, frozen=True, kw_only=True):
    """One pool with everything resolved. Times are milliseconds; a time or size that is off is 0 as in the file.

    `server_password` None means passthrough: what the client's own login allows. `startup_parameters` has canonical
    keys and wins over `application_name` (which already follows it).
    """

    database: str
    user: str
    password: str
    auth_pam_service: str | None
    jwt_issuer: str | None
    jwt_audience: str | None
    is_dynamic: bool

    server_host: str
    server_port: int
    server_database: str
    server_user: str
    server_password: str | None
    server_tls_mode: str
    server_tls_ca_cert: str | None
    server_tls_certificate: str | None
    server_tls_private_key: str | None
    application_name: str
    startup_parameters: dict[str, str]

    pool_mode: str
    pool_size: int
    min_pool_size: int
    min_guaranteed_pool_size: int
    max_db_connections: int
    min_connection_lifetime_ms: int
    reserve_pool_size: int
    reserve_pool_timeout_ms: int

    connect_timeout_ms: int
    query_wait_timeout_ms: int
    idle_timeout_ms: int
    server_lifetime_ms: int
    server_idle_check_timeout_ms: int
    proxy_copy_data_timeout_ms: int

    max_concurrent_creates: int
    max_parallel_creates: int
    scaling_warm_pool_ratio: int
    scaling_fast_retries: int
    server_round_robin: bool

    cleanup_server_connections: bool
    sync_server_parameters: bool
    log_client_parameter_status_changes: bool
    pooler_check_query: str

    prepared_statements: bool
    prepared_statements_cache_size: int
    server_prepared_statements_cache_size: int
    client_anonymous_prepared_cache_size: int

    patroni_api_urls: tuple[str, ...]
    patroni_api_timeout_ms: int
    fallback_cooldown_ms: int
    fallback_connect_timeout_ms: int
    fallback_lifetime_ms: int


def resolve_pools(config: Config) -> list[PoolSettings]:
    """The pools of all static users and of every auth_query with a `server_user`, in file order."""
    settings = []
    for name, pool in config.pools.items():
        settings += [resolve_pool(config.general, name, pool, user) for user in pool.users]
        shared = resolve_shared_pool(config, name)
        if shared and all(user.username != shared.user for user in pool.users):
            settings.append(shared)
    return settings


def resolve_shared_pool(config: Config, database: str) -> PoolSettings | None:
    """The one pool of an auth_query in dedicated mode (`server_user` set), None in passthrough mode or without."""
    pool = config.pools[database]
    query = pool.auth_query
    if query is None or query.server_user is None:
        return None
    user = _dynamic_user(query, query.server_user, server_username=query.server_user, min_pool_size=0)
    return resolve_pool(config.general, database, pool, user, is_dynamic=True)


def resolve_passthrough_pool(
    config: Config, database: str, username: str, startup_parameters: Mapping[str, str] | None = None
) -> PoolSettings:
    """The pool of a user that auth_query found in passthrough mode, with what its row adds to the parameters."""
    pool = config.pools[database]
    if pool.auth_query is None:
        raise KeyError(f"pool {database} has no auth_query")
    user = _dynamic_user(pool.auth_query, username, min_pool_size=pool.auth_query.min_pool_size)
    return resolve_pool(config.general, database, pool, user, is_dynamic=True, row=startup_parameters)


def resolve_pool(
    general: General,
    database: str,
    pool: Pool,
    user: User,
    *,
    is_dynamic: bool = False,
    row: Mapping[str, str] | None = None,
) -> PoolSettings:
    """Put the levels together for one user of one pool."""
    parameters = merge_maps(general.startup_parameters, pool.startup_parameters, row or {})
    mode = user.pool_mode or pool.pool_mode
    tls = resolve_server_tls(general, pool)
    return PoolSettings(
        database=database,
        user=user.username,
        password=user.password or "",
        auth_pam_service=user.auth_pam_service,
        jwt_issuer=user.jwt_issuer,
        jwt_audience=user.jwt_audience,
        is_dynamic=is_dynamic,
        server_host=pool.server_host,
        server_port=pool.server_port,
        server_database=_pick(pool.server_database, default=database),
        server_user=_pick(user.server_username, default=user.username),
        server_password=user.server_password,
        server_tls_mode=tls.mode,
        server_tls_ca_cert=tls.ca_cert,
        server_tls_certificate=tls.certificate,
        server_tls_private_key=tls.private_key,
        application_name=resolve_application_name(pool, parameters),
        startup_parameters=parameters,
        pool_mode=mode,
        pool_size=user.pool_size,
        min_pool_size=user.min_pool_size or 0,
        prepared_statements=general.prepared_statements and mode == "transaction",
        pooler_check_query=general.pooler_check_query,
        cleanup_server_connections=pool.cleanup_server_connections,
        sync_server_parameters=general.sync_server_parameters,
        log_client_parameter_status_changes=pool.log_client_parameter_status_changes,
        **_resolve_coordinator(pool),
        **_resolve_times(general, pool, user),
        **_resolve_scaling(general, pool),
        **_resolve_caches(general, pool),
        patroni_api_urls=_pick(pool.patroni_api_urls, general.patroni_api_urls, default=()),
        **_resolve_fallback(general, pool),
    )


def resolve_server_tls(general: General, pool: Pool) -> ServerTls:
    """TLS towards the servers of a pool, key by key."""
    return ServerTls(
        mode=_pick(pool.server_tls_mode, default=general.server_tls_mode),
        ca_cert=_pick(pool.server_tls_ca_cert, default=general.server_tls_ca_cert),
        certificate=_pick(pool.server_tls_certificate, default=general.server_tls_certificate),
        private_key=_pick(pool.server_tls_private_key, default=general.server_tls_private_key),
    )


def resolve_application_name(pool: Pool, parameters: Mapping[str, str]) -> str:
    """`application_name` of the merged parameters, else the pool's, else ours."""
    return parameters.get("application_name", _pick(pool.application_name, default=DEFAULT_APPLICATION_NAME))


def _dynamic_user(query: AuthQuery, name: str, *, min_pool_size: int, server_username: str | None = None) -> User:
    password = (query.server_password or "") if server_username is not None else None
    return User(
        username=name,
        password="",
        pool_size=query.pool_size,
        min_pool_size=min_pool_size,
        server_username=server_username,
        server_password=password,
    )


def _resolve_coordinator(pool: Pool) -> dict[str, Any]:
    return {
        "max_db_connections": pool.max_db_connections or 0,
        "min_connection_lifetime_ms": _pick(pool.min_connection_lifetime, default=30 * SECOND),
        "reserve_pool_size": pool.reserve_pool_size or 0,
        "reserve_pool_timeout_ms": _pick(pool.reserve_pool_timeout, default=3 * SECOND),
        "min_guaranteed_pool_size": pool.min_guaranteed_pool_size or 0,
    }


def _resolve_times(general: General, pool: Pool, user: User) -> dict[str, Any]:
    return {
        "connect_timeout_ms": _pick(pool.connect_timeout, default=general.connect_timeout),
        "query_wait_timeout_ms": general.query_wait_timeout,
        "idle_timeout_ms": _pick(pool.idle_timeout, default=general.idle_timeout),
        "server_lifetime_ms": _pick(user.server_lifetime, pool.server_lifetime, default=general.server_lifetime),
        "server_idle_check_timeout_ms": general.server_idle_check_timeout,
        "proxy_copy_data_timeout_ms": general.proxy_copy_data_timeout,
    }


def _resolve_scaling(general: General, pool: Pool) -> dict[str, Any]:
    return {
        "max_concurrent_creates": general.max_concurrent_creates,
        "max_parallel_creates": general.scaling_max_parallel_creates,
        "scaling_warm_pool_ratio": _pick(pool.scaling_warm_pool_ratio, default=general.scaling_warm_pool_ratio),
        "scaling_fast_retries": _pick(pool.scaling_fast_retries, default=general.scaling_fast_retries),
        "server_round_robin": general.server_round_robin,
    }


def _resolve_caches(general: General, pool: Pool) -> dict[str, Any]:
    size = _pick(pool.prepared_statements_cache_size, default=general.prepared_statements_cache_size)
    per_server = _pick(
        pool.server_prepared_statements_cache_size, general.server_prepared_statements_cache_size, default=size
    )
    return {
        "prepared_statements_cache_size": size,
        "server_prepared_statements_cache_size": per_server if size else 0,
        "client_anonymous_prepared_cache_size": _pick(general.client_anonymous_prepared_cache_size, default=size),
    }


def _resolve_fallback(general: General, pool: Pool) -> dict[str, Any]:
    cooldown = _pick(pool.fallback_cooldown, general.fallback_cooldown, default=30 * SECOND)
    return {
        "patroni_api_timeout_ms": _pick(pool.patroni_api_timeout, general.patroni_api_timeout, default=5 * SECOND),
        "fallback_cooldown_ms": cooldown,
        "fallback_connect_timeout_ms": _pick(
            pool.fallback_connect_timeout, general.fallback_connect_timeout, default=5 * SECOND
        ),
        "fallback_lifetime_ms": _pick(pool.fallback_lifetime, general.fallback_lifetime, default=cooldown),
    }


def _pick(*values: T | None, default: T) -> T:
    """The first value that is set."""
    return next((value for value in values if value is not None), default)
