"""What loads but is probably not meant. Rules over a configuration that is in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from doorman.config import pem
from doorman.config.resolve import resolve_server_tls
from doorman.config.schema import MIB, SECOND, Config, Pool
from doorman.config.tokens import SIGNER_PREFIX
from doorman.config.units import format_duration
from doorman.errors import ConfigProblem

CONSOLE_DATABASES = ("pgdoorman", "pgbouncer")

Rule = Callable[[Config], Iterator[ConfigProblem]]
PoolRule = Callable[[Config, str, Pool], Iterator[ConfigProblem]]


def warn_small_buffer(config: Config) -> Iterator[ConfigProblem]:
    """A fixed buffer below 64 KiB."""
    if 0 < config.general.tcp_socket_buffer_size < 65536:
        reason = "a very small fixed buffer, and the kernel's autotuning is lost; 0 keeps autotuning"
        yield ConfigProblem("general.tcp_socket_buffer_size", reason)


def warn_cache_of_one(config: Config) -> Iterator[ConfigProblem]:
    """A limit for something of which there is one."""
    if config.general.client_anonymous_prepared_cache_size is not None:
        reason = (
            "has no effect: a client can reach only its latest unnamed statement, and no other is kept for it;"
            " prepared_statements_cache_size bounds what a worker remembers"
        )
        yield ConfigProblem("general.client_anonymous_prepared_cache_size", reason)


def warn_streams(config: Config) -> Iterator[ConfigProblem]:
    """A threshold for what is always done."""
    if config.general.message_size_to_be_stream != MIB:
        reason = "has no effect: messages of more than 64 KiB are always streamed, and only a Parse is held whole"
        yield ConfigProblem("general.message_size_to_be_stream", reason)


def warn_unix_bypass(config: Config) -> Iterator[ConfigProblem]:
    """The legacy list does not speak about Unix clients."""
    if config.general.hba and config.general.unix_socket_dir is not None:
        yield ConfigProblem("general.hba", "clients on the Unix socket bypass this list; pg_hba has rules for them")


def warn_no_time(config: Config) -> Iterator[ConfigProblem]:
    """Time-outs of nothing."""
    for key in ("connect_timeout", "query_wait_timeout"):
        if getattr(config.general, key) == 0:
            yield ConfigProblem(f"general.{key}", "0 leaves no time at all, it does not mean unlimited")


def warn_console_off(config: Config) -> Iterator[ConfigProblem]:
    """The web console needs a real password."""
    if config.web.ui and config.general.admin_password in ("", "admin"):
        yield ConfigProblem("web.ui", "stays off while general.admin_password is empty or the default")


def warn_sso_off(config: Config) -> Iterator[ConfigProblem]:
    """SSO without what it needs."""
    if not config.web.sso_enabled:
        return
    if config.web.sso_public_key_file is None:
        yield ConfigProblem("web.sso_enabled", "SSO stays off: sso_public_key_file is not set")
    else:
        try:
            pem.check_rsa_public_key(config.web.sso_public_key_file)
        except pem.PemFault as fault:
            yield ConfigProblem("web.sso_enabled", f"SSO stays off: {fault}")
    if not config.web.sso_audience:
        yield ConfigProblem("web.sso_enabled", "SSO stays off: sso_audience is empty")


RULES: tuple[Rule, ...] = (
    *(warn_small_buffer, warn_cache_of_one, warn_streams, warn_unix_bypass, warn_no_time),
    *(warn_console_off, warn_sso_off),
)


def warn_shadowed(config: Config, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """A pool that nobody reaches."""
    if path.removeprefix("pools.") in CONSOLE_DATABASES:
        yield ConfigProblem(path, "clients reach the console under this name, not this pool")
    elif not pool.users and pool.auth_query is None:
        yield ConfigProblem(path, "has neither users nor auth_query: nobody can log in")


def warn_empty_pools(config: Config, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """A pool of size 0 never has a server."""
    sizes = [(f"{path}.users[{index}].pool_size", user.pool_size) for index, user in enumerate(pool.users)]
    if pool.auth_query is not None:
        sizes.append((f"{path}.auth_query.pool_size", pool.auth_query.pool_size))
    yield from (ConfigProblem(key, "0 means that no query can ever run") for key, size in sizes if size == 0)


def warn_coordinator(config: Config, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """Sizes and times that work against `max_db_connections`."""
    cap = pool.max_db_connections or 0
    if not cap:
        return
    yield ConfigProblem(f"{path}.max_db_connections", "is not enforced by this version: only pool_size limits servers")
    if (pool.reserve_pool_size or 0) > cap:
        reason = f"is {pool.reserve_pool_size}, more than max_db_connections ({cap}): the reserve outgrows the cap"
        yield ConfigProblem(f"{path}.reserve_pool_size", reason)
    yield from _warn_user_sizes(path, pool, cap)
    yield from _warn_coordinator_times(config, path, pool)


def _warn_user_sizes(path: str, pool: Pool, cap: int) -> Iterator[ConfigProblem]:
    floor = pool.min_guaranteed_pool_size or 0
    for index, user in enumerate(pool.users):
        key = f"{path}.users[{index}].pool_size"
        if user.pool_size > cap:
            reason = f"is {user.pool_size}, more than max_db_connections ({cap}): it can never be reached"
            yield ConfigProblem(key, reason)
        if floor > user.pool_size:
            reason = f"is {user.pool_size}, less than min_guaranteed_pool_size ({floor}): all of it is protected"
            yield ConfigProblem(key, reason)


def _warn_coordinator_times(config: Config, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    young, idle = pool.min_connection_lifetime, pool.idle_timeout
    if young is not None and idle is not None and young > idle > 0:
        reason = f"is {format_duration(young)}, more than idle_timeout ({format_duration(idle)}): nothing is evicted"
        yield ConfigProblem(f"{path}.min_connection_lifetime", reason)
    wait = 3 * SECOND if pool.reserve_pool_timeout is None else pool.reserve_pool_timeout
    limit = config.general.query_wait_timeout
    if wait > limit:
        reason = f"is {format_duration(wait)}, more than query_wait_timeout ({format_duration(limit)})"
        yield ConfigProblem(f"{path}.reserve_pool_timeout", f"{reason}: the reserve is never used")


def warn_fallback(config: Config, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """Fallback times that look like a unit mistake."""
    cooldown, lifetime = pool.fallback_cooldown, pool.fallback_lifetime
    if cooldown is not None and cooldown < SECOND:
        reason = f"is {format_duration(cooldown)}; a bare number is milliseconds, was another unit meant?"
        yield ConfigProblem(f"{path}.fallback_cooldown", reason)
    if cooldown is not None and lifetime is not None and lifetime > cooldown:
        reason = f"is {format_duration(lifetime)}, more than fallback_cooldown ({format_duration(cooldown)})"
        yield ConfigProblem(f"{path}.fallback_lifetime", f"{reason}: fallback servers outlive the cooldown")


def warn_signer_key(config: Config, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """The key that signs a server password is read at connect; say now that it will fail."""
    for index, user in enumerate(pool.users):
        if (user.server_password or "").startswith(SIGNER_PREFIX):
            try:
                pem.check_rsa_private_key((user.server_password or "").removeprefix(SIGNER_PREFIX))
            except pem.PemFault as fault:
                yield ConfigProblem(
                    f"{path}.users[{index}].server_password", f"logins to the server will fail: {fault}"
                )


def warn_unused_tls(config: Config, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """TLS is not spoken on Unix sockets, whatever the mode."""
    mode = resolve_server_tls(config.general, pool).mode
    if pool.server_host.startswith("/") and pool.server_tls_mode in ("require", "verify-ca", "verify-full"):
        yield ConfigProblem(f"{path}.server_tls_mode", f"{mode} has no effect on a Unix socket")


POOL_RULES: tuple[PoolRule, ...] = (
    *(warn_shadowed, warn_empty_pools, warn_coordinator, warn_fallback, warn_signer_key, warn_unused_tls),
)
