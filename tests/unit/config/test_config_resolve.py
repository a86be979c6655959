"""Which level wins for each resolved value, auth_query pools, startup parameters, and both examples of the spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.config.load import load_config
from doorman.config.resolve import PoolSettings, resolve_passthrough_pool, resolve_pools, resolve_shared_pool
from doorman.config.startup import canonical_key, measure_map, measure_packet, merge_maps

from .conftest import Loader, Pem

USER = "username: u, password: hunter2, pool_size: 7"


def resolve_one(loader: Loader, *, user: str = "", pool: str = "", general: str = "") -> PoolSettings:
    [settings] = resolve_pools(loader.user(USER + (f", {user}" if user else ""), pool=pool, general=general).config)
    return settings


def test_defaults(loader: Loader) -> None:
    assert msgspec.structs.asdict(resolve_one(loader)) == {
        "database": "app",
        "user": "u",
        "password": "hunter2",
        "auth_pam_service": None,
        "jwt_issuer": None,
        "jwt_audience": None,
        "is_dynamic": False,
        "server_host": "127.0.0.1",
        "server_port": 5432,
        "server_database": "app",
        "server_user": "u",
        "server_password": None,
        "server_tls_mode": "allow",
        "server_tls_ca_cert": None,
        "server_tls_certificate": None,
        "server_tls_private_key": None,
        "application_name": "pg_doorman",
        "startup_parameters": {},
        "pool_mode": "transaction",
        "pool_size": 7,
        "min_pool_size": 0,
        "min_guaranteed_pool_size": 0,
        "max_db_connections": 0,
        "min_connection_lifetime_ms": 30_000,
        "reserve_pool_size": 0,
        "reserve_pool_timeout_ms": 3_000,
        "connect_timeout_ms": 3_000,
        "query_wait_timeout_ms": 5_000,
        "idle_timeout_ms": 600_000,
        "server_lifetime_ms": 1_200_000,
        "server_idle_check_timeout_ms": 60_000,
        "proxy_copy_data_timeout_ms": 15_000,
        "max_concurrent_creates": 4,
        "max_parallel_creates": 2,
        "scaling_warm_pool_ratio": 20,
        "scaling_fast_retries": 10,
        "server_round_robin": False,
        "cleanup_server_connections": True,
        "sync_server_parameters": False,
        "log_client_parameter_status_changes": False,
        "pooler_check_query": ";",
        "prepared_statements": True,
        "prepared_statements_cache_size": 8192,
        "server_prepared_statements_cache_size": 8192,
        "client_anonymous_prepared_cache_size": 8192,
        "patroni_api_urls": (),
        "patroni_api_timeout_ms": 5_000,
        "fallback_cooldown_ms": 30_000,
        "fallback_connect_timeout_ms": 5_000,
        "fallback_lifetime_ms": 30_000,
    }


LEVELS: list[tuple[str, str, Any, Any]] = [
    ("connect_timeout", "connect_timeout_ms", ("1s", 1000), ("2s", 2000)),
    ("idle_timeout", "idle_timeout_ms", ("1s", 1000), ("0", 0)),
    ("server_lifetime", "server_lifetime_ms", ("1s", 1000), ("0", 0)),
    ("scaling_warm_pool_ratio", "scaling_warm_pool_ratio", ("1", 1), ("0", 0)),
    ("scaling_fast_retries", "scaling_fast_retries", ("1", 1), ("0", 0)),
    ("prepared_statements_cache_size", "prepared_statements_cache_size", ("10", 10), ("0", 0)),
    ("server_prepared_statements_cache_size", "server_prepared_statements_cache_size", ("10", 10), ("0", 0)),
    ("patroni_api_urls", "patroni_api_urls", ("[http://a]", ("http://a",)), ("[http://b]", ("http://b",))),
    ("patroni_api_timeout", "patroni_api_timeout_ms", ("1s", 1000), ("2s", 2000)),
    ("fallback_cooldown", "fallback_cooldown_ms", ("1s", 1000), ("2s", 2000)),
    ("fallback_connect_timeout", "fallback_connect_timeout_ms", ("1s", 1000), ("2s", 2000)),
    ("fallback_lifetime", "fallback_lifetime_ms", ("1s", 1000), ("2s", 2000)),
    ("server_tls_mode", "server_tls_mode", ("prefer", "prefer"), ("disable", "disable")),
]


@pytest.mark.parametrize(("key", "name", "general", "pool"), LEVELS, ids=[level[0] for level in LEVELS])
def test_the_pool_wins_over_general(loader: Loader, key: str, name: str, general: Any, pool: Any) -> None:
    general_text, pool_text = f"{key}: {general[0]}", f"{key}: {pool[0]}"
    assert getattr(resolve_one(loader, general=general_text), name) == general[1]
    assert getattr(resolve_one(loader, general=general_text, pool=pool_text), name) == pool[1]


def test_the_user_wins_over_the_pool(loader: Loader) -> None:
    settings = resolve_one(
        loader,
        user="server_lifetime: 1s, pool_mode: session, server_username: s, server_password: hunter3, min_pool_size: 2",
        pool="server_lifetime: 2s, pool_mode: transaction",
        general="server_lifetime: 3s",
    )
    assert (settings.server_lifetime_ms, settings.pool_mode, settings.min_pool_size) == (1000, "session", 2)
    assert (settings.user, settings.server_user, settings.server_password) == ("u", "s", "hunter3")
    assert not settings.prepared_statements  # transaction pools only


def test_cache_sizes_follow_each_other(loader: Loader) -> None:
    settings = resolve_one(loader, pool="prepared_statements_cache_size: 5")
    assert settings.server_prepared_statements_cache_size == 5
    assert settings.client_anonymous_prepared_cache_size == 5
    off = resolve_one(loader, pool="prepared_statements_cache_size: 0, server_prepared_statements_cache_size: 9")
    assert off.server_prepared_statements_cache_size == 0
    unbounded = resolve_one(loader, general="client_anonymous_prepared_cache_size: 0")
    assert unbounded.client_anonymous_prepared_cache_size == 0


def test_the_fallback_lifetime_follows_the_resolved_cooldown(loader: Loader) -> None:
    assert resolve_one(loader, pool="fallback_cooldown: 40s").fallback_lifetime_ms == 40_000


def test_tls_files_are_resolved_one_by_one(loader: Loader, pem: Pem) -> None:
    settings = resolve_one(
        loader,
        general=f"server_tls_certificate: {pem.certificate}, server_tls_private_key: {pem.other_key}"
        ", server_tls_mode: disable",
        pool=f"server_tls_private_key: {pem.key}, server_tls_ca_cert: {pem.certificate}, server_tls_mode: require",
    )
    assert settings.server_tls_certificate == pem.certificate
    assert (settings.server_tls_private_key, settings.server_tls_ca_cert) == (pem.key, pem.certificate)


def test_startup_parameters_merge_by_canonical_key(loader: Loader) -> None:
    settings = resolve_one(
        loader,
        general="startup_parameters: {timezone: UTC, Work_Mem: 1MB, jit: 'off'}",
        pool="application_name: p, startup_parameters: {TIMEZONE: Asia/Tokyo, APPLICATION_NAME: wins}",
    )
    assert settings.startup_parameters == {
        "TimeZone": "Asia/Tokyo",
        "work_mem": "1MB",
        "jit": "off",
        "application_name": "wins",
    }
    assert settings.application_name == "wins"
    assert resolve_one(loader, pool="application_name: p").application_name == "p"


QUERY = "query: q, user: lookup, pool_size: 3, min_pool_size: 1"


def test_a_dedicated_auth_query_has_one_shared_pool(loader: Loader) -> None:
    config = loader.pool(f"auth_query: {{{QUERY}, server_user: s}}").config
    [settings] = resolve_pools(config)
    assert settings == resolve_shared_pool(config, "app")
    assert (settings.user, settings.server_user, settings.server_password) == ("s", "s", "")
    assert (settings.pool_size, settings.min_pool_size, settings.is_dynamic) == (3, 0, True)


def test_a_static_user_takes_the_place_of_the_shared_pool(loader: Loader) -> None:
    config = loader.user(USER, pool=f"auth_query: {{{QUERY}, server_user: u}}").config
    assert [(settings.user, settings.is_dynamic) for settings in resolve_pools(config)] == [("u", False)]


def test_passthrough_pools_are_resolved_by_name(loader: Loader) -> None:
    config = loader.pool(f"auth_query: {{{QUERY}}}, startup_parameters: {{jit: 'on'}}, server_lifetime: 5s").config
    assert resolve_pools(config) == [] and resolve_shared_pool(config, "app") is None
    settings = resolve_passthrough_pool(config, "app", "carol", {"JIT": "off"})
    assert (settings.user, settings.server_user, settings.server_password) == ("carol", "carol", None)
    assert (settings.pool_size, settings.min_pool_size, settings.is_dynamic) == (3, 1, True)
    assert (settings.startup_parameters, settings.server_lifetime_ms) == ({"jit": "off"}, 5000)


def test_settings_hide_their_secrets_and_survive_encoding(loader: Loader) -> None:
    settings = resolve_one(loader, user="server_username: s, server_password: hunter3")
    assert "hunter" not in repr(settings)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=PoolSettings) == settings


def test_a_whole_configuration_survives_encoding(loader: Loader) -> None:
    from doorman.config.schema import Config

    config = loader.user(USER, general="pg_hba: 'host all all samenet md5'").config
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config


# Startup parameters


@pytest.mark.parametrize(
    ("key", "canonical"),
    [
        ("CLIENT_ENCODING", "client_encoding"),
        ("datestyle", "DateStyle"),
        ("INTERVALSTYLE", "IntervalStyle"),
        ("timezone", "TimeZone"),
        ("Standard_Conforming_Strings", "standard_conforming_strings"),
        ("Application_Name", "application_name"),
        ("Work_Mem", "work_mem"),
        ("My.Setting", "my.setting"),
    ],
)
def test_canonical_keys(key: str, canonical: str) -> None:
    assert canonical_key(key) == canonical == canonical_key(canonical)


maps = st.dictionaries(st.text("abAB_", min_size=1, max_size=3), st.text(max_size=4))


@given(maps, maps)
def test_the_last_level_wins(one: dict[str, str], two: dict[str, str]) -> None:
    merged, upper = merge_maps(one, two), merge_maps(two)
    assert {key: merged[key] for key in upper} == upper
    assert merged.keys() == merge_maps(one).keys() | upper.keys()


@given(maps, st.text(max_size=5), st.text(max_size=5))
def test_the_measured_packet_is_the_packet(parameters: dict[str, str], role: str, database: str) -> None:
    pairs = {"user": role, "database": database, "application_name": "x"} | parameters
    body = b"".join(key.encode() + b"\0" + value.encode() + b"\0" for key, value in pairs.items())
    assert measure_packet(role, database, "x", parameters) == len(b"LENGVERS" + body + b"\0")
    assert measure_map(parameters) <= len(body)


# The examples of the specification, with the files they name


GATEWAY = (Path(__file__).parent / "gateway.yaml").read_text()
LEGACY = (Path(__file__).parent / "legacy.toml").read_text()


def test_the_yaml_example_loads(loader: Loader, pem: Pem, tmp_path: Path) -> None:
    extra = loader.write("extra-pools.toml", '[pools.extra]\nserver_host = "h"\n[pools.tenants]\nserver_port = 7777\n')
    text = GATEWAY.replace("/etc/pooler/conf.d/extra-pools.toml", extra).replace('"/run/pooler"', f'"{tmp_path}"')
    for name, path in {
        "tls/front.crt": pem.certificate,
        "tls/front.key": pem.key,
        "tls/backend-ca.pem": pem.certificate,
        "sso/pub.pem": pem.public,
        "talos/k2026.pem": pem.public,
        "jwt/issuer.pem": pem.public,
        "jwt/backend-signer.pem": pem.key,
    }.items():
        text = text.replace(f"/etc/pooler/{name}", path)
    loaded = loader.load(text)
    general, pools = loaded.config.general, {(p.database, p.user): p for p in resolve_pools(loaded.config)}
    assert [warning.key for warning in loaded.warnings] == [
        "general.client_anonymous_prepared_cache_size",
        "general.message_size_to_be_stream",
        "pools.ledger.max_db_connections",
        "pools.extra",
    ]
    assert (general.connect_timeout, general.query_wait_timeout, general.idle_timeout) == (2_000, 7_500, 480_000)
    assert (general.tcp_socket_buffer_size, general.unix_socket_mode) == (128 * 1024, 0o660)
    assert general.startup_parameters == {"statement_timeout": "30s", "jit": "off"}
    for tls, method in ((True, "scram-sha-256"), (False, "reject")):
        found = general.hba_rules().decide(database="ledger", user="x", address="10.20.3.4", tls=tls)
        assert found is not None and found.method == method
    assert pools["ledger", "ledger_rw"].startup_parameters["statement_timeout"] == "10s"
    assert pools["ledger", "ledger_ro"].server_tls_mode == "require"
    assert pools["ledger", "billing-svc"].pool_mode == "session"
    assert pools["ledger", "alice"].auth_pam_service == "pooler"
    assert pools["reports", "report"].server_host == "/var/run/postgresql"
    assert loaded.config.pools["tenants"].server_port == 7777
    assert set(pools) == {
        *(("ledger", user) for user in ("ledger_rw", "ledger_ro", "billing-svc", "alice", "read_only")),
        ("reports", "report"),
    }


def test_the_toml_example_loads(loader: Loader) -> None:
    loaded = loader.load(LEGACY, "legacy.toml")
    config = loaded.config
    assert [warning.key for warning in loaded.warnings] == [
        "general.client_prepared_statements_cache_size",
        "general.server_tls",
        "general.client_anonymous_prepared_cache_size",
    ]
    assert (config.general.idle_timeout, config.general.worker_stack_size) == (300_000, 4 * 2**20)
    assert config.general.client_anonymous_prepared_cache_size == 128
    assert (config.web.enabled, config.web.port) == (True, 9127)
    assert [user.username for user in config.pools["jobs"].users] == ["jobs", "jobs_scram"]
    assert config.pools["jobs"].users[0].server_lifetime == 900_000
    query = config.pools["report.daily"].auth_query
    assert query is not None and query.cache_ttl == 600_000
    assert load_config(config.path) == loaded
