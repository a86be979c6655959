"""Rules over one pool: `rule(config, name, path, pool)`, where `path` is the pool's key path."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from doorman.config import pem
from doorman.config.check_general import VERIFY_MODES, check_pair, find_startup_problems, report_fault
from doorman.config.resolve import ServerTls, resolve_application_name, resolve_server_tls
from doorman.config.schema import Config, Pool
from doorman.config.startup import MAX_MAP_BYTES, MAX_PACKET_BYTES, measure_map, measure_packet, merge_maps
from doorman.errors import ConfigProblem

Rule = Callable[[Config, str, str, Pool], Iterator[ConfigProblem]]


def check_startup_parameters(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """V2 to V5 for the pool's map."""
    yield from find_startup_problems(f"{path}.startup_parameters", pool.startup_parameters)


def check_merged_parameters(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """V6: general and pool maps fit together, where each fits alone."""
    maps = (config.general.startup_parameters, pool.startup_parameters)
    size = measure_map(merge_maps(*maps))
    if size > MAX_MAP_BYTES and all(measure_map(one) <= MAX_MAP_BYTES for one in maps):
        reason = f"together with general.startup_parameters takes {size} bytes, the limit is {MAX_MAP_BYTES}"
        yield ConfigProblem(f"{path}.startup_parameters", reason)


def check_startup_packet(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """V7: the whole startup packet fits for every role known beforehand."""
    parameters = merge_maps(config.general.startup_parameters, pool.startup_parameters)
    if measure_map(parameters) > MAX_MAP_BYTES:
        return  # V5 or V6 said so
    database = name if pool.server_database is None else pool.server_database
    for key, role in _list_roles(path, pool):
        size = measure_packet(role, database, resolve_application_name(pool, parameters), parameters)
        if size > MAX_PACKET_BYTES:
            yield ConfigProblem(key, f"the startup packet takes {size} bytes, the limit is {MAX_PACKET_BYTES}")


def _list_roles(path: str, pool: Pool) -> Iterator[tuple[str, str]]:
    for index, user in enumerate(pool.users):
        yield f"{path}.users[{index}]", user.username if user.server_username is None else user.server_username
    if pool.auth_query is not None and pool.auth_query.server_user is not None:
        yield f"{path}.auth_query.server_user", pool.auth_query.server_user


def check_server_tls_mode(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """V26: a pool that asks for verification has a CA. An inherited mode was judged with `general`."""
    tls = resolve_server_tls(config.general, pool)
    if pool.server_tls_mode is not None and tls.mode in VERIFY_MODES and tls.ca_cert is None:
        yield ConfigProblem(f"{path}.server_tls_mode", f"{tls.mode} needs server_tls_ca_cert")


def check_server_tls_pair(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """V27: certificate and key come together, and the pool's own files load where TLS is used."""
    if pool.server_tls_certificate is None and pool.server_tls_private_key is None:
        return
    tls = resolve_server_tls(config.general, pool)
    keys = (f"{path}.server_tls_certificate", f"{path}.server_tls_private_key")
    yield from check_pair(keys, tls.certificate, tls.private_key, load=_uses_tls(pool, tls))


def check_inherited_pair(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """General files that are first used by a pool whose mode is not `disable`."""
    tls = resolve_server_tls(config.general, pool)
    is_own = pool.server_tls_certificate is not None or pool.server_tls_private_key is not None
    if is_own or config.general.server_tls_mode != "disable" or not _uses_tls(pool, tls):
        return
    if tls.certificate is not None and tls.private_key is not None:
        yield from report_fault(f"{path}.server_tls_mode", pem.check_key_pair, tls.certificate, tls.private_key)


def check_server_ca(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """The CA file loads where the pool or its mode makes it matter."""
    tls = resolve_server_tls(config.general, pool)
    is_judged = pool.server_tls_ca_cert is None and config.general.server_tls_mode in VERIFY_MODES
    if tls.mode in VERIFY_MODES and tls.ca_cert is not None and not is_judged and _uses_tls(pool, tls):
        yield from report_fault(f"{path}.server_tls_ca_cert", pem.check_certificates, tls.ca_cert)


def _uses_tls(pool: Pool, tls: ServerTls) -> bool:
    return tls.mode != "disable" and not pool.server_host.startswith("/")


def check_patroni_urls(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """V28 for the pool's list."""
    if pool.patroni_api_urls == ():
        yield ConfigProblem(f"{path}.patroni_api_urls", "cannot be empty; remove the key to disable")


def check_connection_cap(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """V31: the cap leaves room for what is kept open."""
    cap = pool.max_db_connections or 0
    wanted = sum(user.min_pool_size or 0 for user in pool.users)
    if 0 < cap < wanted:
        reason = f"is {cap}, less than the {wanted} that min_pool_size of its users adds up to"
        yield ConfigProblem(f"{path}.max_db_connections", reason)


def check_auth_query_password(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """V37: a server password belongs to a server user."""
    query = pool.auth_query
    if query is not None and query.server_password is not None and query.server_user is None:
        yield ConfigProblem(f"{path}.auth_query.server_password", "needs server_user")


def check_auth_query_sizes(config: Config, name: str, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """V39: the minimum fits."""
    query = pool.auth_query
    if query is not None and query.min_pool_size > query.pool_size:
        reason = f"is {query.min_pool_size}, more than pool_size ({query.pool_size})"
        yield ConfigProblem(f"{path}.auth_query.min_pool_size", reason)


RULES: tuple[Rule, ...] = (
    *(check_startup_parameters, check_merged_parameters, check_startup_packet),
    *(check_server_tls_mode, check_server_tls_pair, check_inherited_pair, check_server_ca),
    *(check_patroni_urls, check_connection_cap, check_auth_query_password, check_auth_query_sizes),
)
