"""Every rule between keys (V1 to V39) with the message it owes, what `-t` must find, and every warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Loader, Pem

Refused = Callable[..., list[str]]

USER = "username: u, password: '', pool_size: 10"


def test_v1_talos_keys_are_public_keys(loader: Loader, refused: Refused, pem: Pem) -> None:
    keys = f"[{pem.public}, {pem.missing}, {pem.key}, {pem.elliptic_public}]"
    assert refused(loader.general, "", f"pools: {{}}\ntalos: {{keys: {keys}, databases: []}}") == [
        f"talos.keys[1]: cannot read {pem.missing}: No such file or directory",
        f"talos.keys[2]: {pem.key} holds no public key in PEM form",
        f"talos.keys[3]: {pem.elliptic_public} holds no RSA key, which RS256 needs",
    ]


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ('""', "empty"),
        ("User", "reserved"),
        ("DATABASE", "reserved"),
        ("replication", "reserved"),
        ("options", "reserved"),
        ("role", "reserved"),
        ("session_authorization", "reserved"),
        ("_PQ_.x", "reserved"),
        ("1a", "not a parameter name"),
        ("a-b", "not a parameter name"),
        ('"a b"', "not a parameter name"),
        ("é", "not a parameter name"),
    ],
)
def test_v2_startup_keys(loader: Loader, refused: Refused, key: str, word: str) -> None:
    [general] = refused(loader.general, f"startup_parameters: {{{key}: x}}")
    [pool] = refused(loader.pool, f"startup_parameters: {{{key}: x}}")
    assert general.startswith("general.startup_parameters: ") and word in general
    assert pool.startswith("pools.app.startup_parameters: ") and word in pool


def test_v3_startup_values_hold_no_nul(loader: Loader, refused: Refused) -> None:
    [problem] = refused(loader.general, 'startup_parameters: {work_mem: "a\\0b"}')
    assert problem == 'general.startup_parameters: "work_mem": the value contains a NUL byte'


def test_startup_values_are_strings(loader: Loader, refused: Refused) -> None:
    problems = refused(loader.general, "startup_parameters: {work_mem: 64, jit: false}")
    assert [problem.partition(": ")[0] for problem in problems] == [
        "general.startup_parameters.work_mem",
        "general.startup_parameters.jit",
    ]


def test_v4_two_spellings_of_one_parameter(loader: Loader, refused: Refused) -> None:
    assert refused(loader.pool, "startup_parameters: {datestyle: a, DATESTYLE: b, Work_Mem: c, work_mem: d}") == [
        'pools.app.startup_parameters: "DATESTYLE": is the same parameter as "datestyle" (DateStyle)',
        'pools.app.startup_parameters: "work_mem": is the same parameter as "Work_Mem" (work_mem)',
    ]


@pytest.mark.parametrize(("length", "fits"), [(9484, True), (9485, False)])
def test_v5_one_map_takes_9488_bytes(loader: Loader, refused: Refused, length: int, fits: bool) -> None:
    keys = f"startup_parameters: {{ab: {'x' * length}}}"
    if fits:
        loader.pool(keys)
        loader.general(keys)
    else:
        assert refused(loader.pool, keys) == ["pools.app.startup_parameters: takes 9489 bytes, the limit is 9488"]
        assert refused(loader.general, keys) == ["general.startup_parameters: takes 9489 bytes, the limit is 9488"]


def test_v6_both_maps_together(loader: Loader, refused: Refused) -> None:
    one, two = f"startup_parameters: {{a: {'x' * 5000}}}", f"startup_parameters: {{b: {'x' * 5000}}}"
    assert refused(loader.pool, one, general=two) == [
        "pools.app.startup_parameters: together with general.startup_parameters takes 10006 bytes, the limit is 9488"
    ]
    loader.pool(one, general=one)  # the pool's value replaces the general one


def test_v7_the_whole_packet(loader: Loader, refused: Refused) -> None:
    keys = f"server_database: d, application_name: a, startup_parameters: {{ab: {'x' * 9484}}}"
    # 4+4 + (5+role+1) + (9+1+1) + (17+1+1) + 9488 + 1 = 9533 + role
    role = "r" * 467
    fits = f"username: {role}, password: '', pool_size: 1"
    loader.user(fits, pool=keys)
    over = f"username: u, server_username: {role}r, password: '', pool_size: 1"
    assert refused(loader.user, over, pool=keys) == [
        "pools.app.users[0]: the startup packet takes 10001 bytes, the limit is 10000"
    ]
    query = f"auth_query: {{query: q, user: u, server_user: {role}r}}"
    assert refused(loader.pool, f"{keys}, {query}") == [
        "pools.app.auth_query.server_user: the startup packet takes 10001 bytes, the limit is 10000"
    ]


@pytest.mark.parametrize(("rate", "word"), [(1, "minimum is 100"), (99, "minimum is 100"), (150, "multiple of 100")])
def test_v8_v9_the_tls_rate(loader: Loader, refused: Refused, rate: int, word: str) -> None:
    [problem] = refused(loader.general, f"tls_rate_limit_per_second: {rate}")
    assert problem.startswith("general.tls_rate_limit_per_second: ") and word in problem
    assert loader.general("tls_rate_limit_per_second: 200").config.general.tls_rate_limit_per_second == 200


def test_v10_the_warm_pool_ratio_is_a_percentage(loader: Loader, refused: Refused) -> None:
    assert "from 0 to 100" in refused(loader.general, "scaling_warm_pool_ratio: 101")[0]
    assert "from 0 to 100" in refused(loader.pool, "scaling_warm_pool_ratio: 101")[0]


@pytest.mark.parametrize("mode", ['""', '"8"', '"1777"', "600", "0o600"])
def test_v12_socket_modes(loader: Loader, refused: Refused, mode: str) -> None:
    assert "general.unix_socket_mode: expected an octal mode" in refused(loader.general, f"unix_socket_mode: {mode}")[0]


def test_an_unquoted_socket_mode_with_a_zero_is_fine(loader: Loader) -> None:
    assert loader.general("unix_socket_mode: 0660").config.general.unix_socket_mode == 0o660


def test_v13_one_access_list(loader: Loader, refused: Refused) -> None:
    [problem] = refused(loader.general, "hba: [10.0.0.0/8], pg_hba: 'local all all trust'")
    assert problem.startswith("general.hba: mutually exclusive with pg_hba")
    loader.general("hba: [], pg_hba: ''")


def test_v14_a_cache_for_prepared_statements(loader: Loader, refused: Refused) -> None:
    [problem] = refused(loader.general, "prepared_statements_cache_size: 0")
    assert problem.startswith("general.prepared_statements_cache_size: must be greater than 0")
    loader.general("prepared_statements: false, prepared_statements_cache_size: 0")


@pytest.mark.parametrize("side", ["", "server_"])
def test_v16_v23_certificate_and_key_come_together(loader: Loader, refused: Refused, pem: Pem, side: str) -> None:
    certificate, key = f"{side}tls_certificate", f"{side}tls_private_key"
    assert refused(loader.general, f"{certificate}: {pem.certificate}") == [
        f"general.{key}: missing; {certificate} is set and needs it"
    ]
    assert refused(loader.general, f"{key}: {pem.key}") == [
        f"general.{certificate}: missing; {key} is set and needs it"
    ]
    loader.general(f"{certificate}: {pem.certificate}, {key}: {pem.key}")


@pytest.mark.parametrize("mode", ["Require", "verify-ca", "prefer", "x"])
def test_v17_tls_modes(loader: Loader, refused: Refused, mode: str) -> None:
    [problem] = refused(loader.general, f"tls_mode: {mode}")
    assert (
        problem.startswith("general.tls_mode: expected one of allow, disable, require, verify-full") and mode in problem
    )


def test_v18_v19_what_a_tls_mode_needs(loader: Loader, refused: Refused, pem: Pem) -> None:
    assert refused(loader.general, "tls_mode: require") == [
        "general.tls_mode: require needs tls_certificate and tls_private_key"
    ]
    pair = f"tls_certificate: {pem.certificate}, tls_private_key: {pem.key}"
    assert refused(loader.general, f"tls_mode: verify-full, {pair}") == [
        "general.tls_mode: verify-full needs tls_ca_cert"
    ]
    loader.general(f"tls_mode: verify-full, tls_ca_cert: {pem.certificate}, {pair}")
    for mode in ("allow", "disable"):
        loader.general(f"tls_mode: {mode}")
        loader.general(f"tls_mode: {mode}, {pair}")


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("missing", "key", "cannot read {missing}: No such file or directory"),
        ("certificate", "missing", "cannot read {missing}: No such file or directory"),
        ("garbage", "key", "{garbage} holds no usable certificate in PEM form"),
        ("key", "key", "{key} holds no usable certificate in PEM form"),
        ("certificate", "garbage", "{garbage} holds no private key in PEM form"),
        ("certificate", "encrypted_key", "{encrypted_key} holds an encrypted key; an unencrypted one is needed"),
        ("certificate", "other_key", "{other_key} is not the key of the certificate in {certificate}"),
    ],
)
@pytest.mark.parametrize("side", ["", "server_"])
def test_v20_v24_certificate_and_key_load(
    loader: Loader, refused: Refused, pem: Pem, certificate: str, key: str, reason: str, side: str
) -> None:
    files = f"{side}tls_certificate: {getattr(pem, certificate)}, {side}tls_private_key: {getattr(pem, key)}"
    expected = reason.format(**vars(pem))
    assert refused(loader.general, files) == [f"general.{side}tls_certificate: {expected}"]
    if side:
        loader.general(f"{files}, server_tls_mode: disable")
        assert refused(loader.pool, files) == [f"pools.app.server_tls_certificate: {expected}"]
        loader.pool(f"{files}, server_tls_mode: disable")


def test_the_client_ca_file_loads(loader: Loader, refused: Refused, pem: Pem) -> None:
    assert refused(loader.general, f"tls_ca_cert: {pem.missing}") == [
        f"general.tls_ca_cert: cannot read {pem.missing}: No such file or directory"
    ]


def test_v21_v25_server_tls_modes_in_any_case(loader: Loader, refused: Refused) -> None:
    assert loader.general("server_tls_mode: Require").config.general.server_tls_mode == "require"
    assert 'found the string "maybe"' in refused(loader.general, "server_tls_mode: maybe")[0]
    assert refused(loader.pool, "server_tls_mode: maybe")[0].startswith("pools.app.server_tls_mode: expected one of")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_v22_v26_verifying_needs_a_ca(loader: Loader, refused: Refused, pem: Pem, mode: str) -> None:
    reason = f"{mode} needs server_tls_ca_cert"
    assert refused(loader.general, f"server_tls_mode: {mode}") == [f"general.server_tls_mode: {reason}"]
    assert refused(loader.pool, f"server_tls_mode: {mode}") == [f"pools.app.server_tls_mode: {reason}"]
    loader.pool(f"server_tls_mode: {mode}", general=f"server_tls_ca_cert: {pem.certificate}")
    loader.pool(f"server_tls_mode: {mode}, server_tls_ca_cert: {pem.certificate}")


def test_v24_ca_files_load_where_they_are_used(loader: Loader, refused: Refused, pem: Pem) -> None:
    reason = f"{pem.garbage} holds no usable certificate in PEM form"
    keys = f"server_tls_ca_cert: {pem.garbage}"
    loader.general(keys)  # mode allow verifies nothing
    assert refused(loader.general, f"{keys}, server_tls_mode: verify-ca") == [f"general.server_tls_ca_cert: {reason}"]
    inherited = refused(loader.pool, "server_tls_mode: verify-full", general=keys)
    assert inherited == [f"pools.app.server_tls_ca_cert: {reason}"]
    assert refused(loader.pool, f"{keys}, server_tls_mode: verify-full") == inherited


def test_v27_the_pools_own_half_of_a_pair(loader: Loader, refused: Refused, pem: Pem) -> None:
    assert refused(loader.pool, f"server_tls_certificate: {pem.certificate}") == [
        "pools.app.server_tls_private_key: missing; server_tls_certificate is set and needs it"
    ]
    general = f"server_tls_certificate: {pem.certificate}, server_tls_private_key: {pem.key}"
    loader.pool(f"server_tls_private_key: {pem.key}", general=general)


def test_general_server_files_are_judged_by_the_pool_that_uses_them(loader: Loader, refused: Refused, pem: Pem) -> None:
    files = (
        f"server_tls_mode: disable, server_tls_certificate: {pem.certificate}, server_tls_private_key: {pem.other_key}"
    )
    loader.pool("", general=files)
    [problem] = refused(loader.pool, "server_tls_mode: require", general=files)
    assert problem.startswith("pools.app.server_tls_mode: ") and "is not the key" in problem


def test_v28_v29_patroni_urls(loader: Loader, refused: Refused) -> None:
    for load, path in ((loader.general, "general"), (loader.pool, "pools.app")):
        empty = f"{path}.patroni_api_urls: cannot be empty; remove the key to disable"
        assert refused(load, "patroni_api_urls: []") == [empty]
        [problem] = refused(load, "patroni_api_urls: ['http://ok', 'HTTP://h:8008']")
        assert problem.startswith(f"{path}.patroni_api_urls[1]: expected a URL that starts with http://")
        assert "HTTP://h:8008" in problem


@pytest.mark.parametrize(
    "key", ["fallback_cooldown", "patroni_api_timeout", "fallback_connect_timeout", "fallback_lifetime"]
)
def test_v30_fallback_times_are_positive(loader: Loader, refused: Refused, key: str) -> None:
    for load, path in ((loader.general, "general"), (loader.pool, "pools.app")):
        [problem] = refused(load, f"{key}: 0")
        assert problem.startswith(f"{path}.{key}: ") and "greater than 0" in problem


def test_v31_the_cap_has_room_for_the_minimums(loader: Loader, refused: Refused) -> None:
    sizes = "password: '', pool_size: 5, min_pool_size: 3"
    users = f"users: [{{username: a, {sizes}}}, {{username: b, {sizes}}}]"
    assert refused(loader.pool, f"{users}, max_db_connections: 5") == [
        "pools.app.max_db_connections: is 5, less than the 6 that min_pool_size of its users adds up to"
    ]
    loader.pool(f"{users}, max_db_connections: 6")
    loader.pool(f"{users}, max_db_connections: 0")


def test_v32_a_name_once(loader: Loader, refused: Refused) -> None:
    assert refused(loader.pool, f"users: [{{{USER}}}, {{{USER}}}]") == [
        'pools.app.users[1].username: "u" is already a user of this pool'
    ]


def test_v33_jwt_keys(loader: Loader, refused: Refused, pem: Pem) -> None:
    loader.user(f"username: u, password: 'jwt-pkey-fpath:{pem.public}', pool_size: 1")
    assert refused(loader.user, f"username: u, password: 'jwt-pkey-fpath:{pem.missing}', pool_size: 1") == [
        f"pools.app.users[0].password: cannot read {pem.missing}: No such file or directory"
    ]
    [problem] = refused(loader.user, f"username: u, password: 'jwt-pkey-fpath:{pem.garbage}', pool_size: 1")
    assert "holds no public key" in problem


def test_v34_server_password_needs_a_user(loader: Loader, refused: Refused) -> None:
    assert refused(loader.user, f"{USER}, server_password: hunter2") == [
        "pools.app.users[0].server_password: needs server_username"
    ]


def test_v35_the_minimum_fits_the_size(loader: Loader, refused: Refused) -> None:
    assert refused(loader.user, f"{USER}, min_pool_size: 11") == [
        "pools.app.users[0].min_pool_size: is 11, more than pool_size (10)"
    ]
    loader.user(f"{USER}, min_pool_size: 10")


@pytest.mark.parametrize("key", ["query", "user"])
def test_v36_auth_query_texts_are_not_empty(loader: Loader, refused: Refused, key: str) -> None:
    keys = {"query": "q", "user": "u", key: "''"}
    [problem] = refused(loader.pool, f"auth_query: {{query: {keys['query']}, user: {keys['user']}}}")
    assert problem.startswith(f"pools.app.auth_query.{key}: expected a string that is not empty")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("server_password: hunter2", "server_password: needs server_user"),
        ("workers: 0", "workers: expected a whole number from 1 to 4294967295, found the integer 0"),
        ("pool_size: 2, min_pool_size: 3", "min_pool_size: is 3, more than pool_size (2)"),
    ],
)
def test_v37_v38_v39_auth_query(loader: Loader, refused: Refused, keys: str, problem: str) -> None:
    query = f"auth_query: {{query: q, user: u, {keys}}}"
    assert refused(loader.pool, query) == [f"pools.app.auth_query.{problem}"]


# Passwords that may be absent


NO_PASSWORD = "username: read_only, pool_size: 1"


def test_a_password_is_required_where_nothing_else_proves_the_user(loader: Loader, refused: Refused) -> None:
    [problem] = refused(loader.user, NO_PASSWORD)
    assert problem.startswith("pools.app.users[0].password: missing")
    assert refused(loader.user, NO_PASSWORD, general="pg_hba: 'host all all all md5'") == [problem]
    loader.user(f"{NO_PASSWORD}, password: ''")


def test_a_password_may_be_absent_with_pam_ldap_cert_or_talos(loader: Loader, pem: Pem) -> None:
    loader.user(f"{NO_PASSWORD}, auth_pam_service: pooler")
    loader.user(NO_PASSWORD, general="pg_hba: 'host all all all ldap ldapserver=x ldapprefix=uid='")
    loader.user(NO_PASSWORD, general="pg_hba: 'hostssl all all all cert'")
    loader.user(NO_PASSWORD, rest=f"talos: {{keys: [{pem.public}], databases: []}}")


# What would fail at start


@pytest.mark.parametrize("host", ["", "*", "no such host", "nonexistent.invalid", "[::1", "a\\0b", "x" * 300])
def test_the_listen_address_resolves(loader: Loader, refused: Refused, host: str) -> None:
    [problem] = refused(loader.general, f'host: "{host}"')
    assert problem.startswith("general.host: ")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost"])
def test_listen_addresses_that_resolve(loader: Loader, host: str) -> None:
    assert loader.general(f"host: '{host}'").config.general.host == host


@pytest.mark.parametrize("host", ["localhost", "::1", "[127.0.0.1]", "*", ""])
def test_the_web_address_is_literal(loader: Loader, refused: Refused, host: str) -> None:
    [problem] = refused(loader.general, "", f"pools: {{}}\nweb: {{enabled: true, host: '{host}'}}")
    assert problem.startswith("web.host: ")
    loader.general("", f"pools: {{}}\nweb: {{enabled: false, host: '{host}'}}")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::1]"])
def test_web_addresses_that_are_literal(loader: Loader, host: str) -> None:
    loader.general("", f"pools: {{}}\nweb: {{enabled: true, host: '{host}'}}")


def test_the_socket_directory_exists_and_its_name_fits(loader: Loader, refused: Refused, tmp_path: Path) -> None:
    loader.general(f"unix_socket_dir: {tmp_path}")
    assert refused(loader.general, "unix_socket_dir: /nonexistent") == [
        "general.unix_socket_dir: /nonexistent is no existing directory"
    ]
    deep = tmp_path / ("d" * 107)
    deep.mkdir()
    [problem] = refused(loader.general, f"unix_socket_dir: {deep}")
    assert "longer than 107 bytes" in problem


@pytest.mark.parametrize("value", ["{}", "{file: x}", "{path: x, mode: y}", "[x]", "5"])
def test_t8_forms_of_pg_hba(loader: Loader, refused: Refused, value: str) -> None:
    [problem] = refused(loader.general, f"pg_hba: {value}")
    assert problem.startswith("general.pg_hba: expected rules as text, {path: FILE} or {content: TEXT}, found ")


def test_t8_the_rules_file_is_read(loader: Loader, refused: Refused) -> None:
    assert refused(loader.general, "pg_hba: {path: /nonexistent}") == [
        "general.pg_hba: cannot read /nonexistent: No such file or directory"
    ]
    path = loader.write("hba.conf", "local all all trust\nhost all all nowhere md5\nhost all\n")
    problems = refused(loader.general, f"pg_hba: {{path: {path}}}")
    assert [problem.partition(": ")[2].partition(":")[0] for problem in problems] == [
        f"{path} line 2",
        f"{path} line 3",
    ]


def test_the_content_of_pg_hba_wins_over_its_path(loader: Loader) -> None:
    loaded = loader.general("pg_hba: {path: /nonexistent, content: 'local all all trust'}")
    assert loaded.config.general.pg_hba is not None and len(loaded.config.general.pg_hba) == 1


# Warnings


def warn(loaded_warnings: list[object]) -> list[str]:
    return [str(warning) for warning in loaded_warnings]


def test_a_plain_configuration_has_no_warnings(loader: Loader) -> None:
    assert loader.user(USER).warnings == []


@pytest.mark.parametrize(
    ("keys", "start"),
    [
        ("tcp_socket_buffer_size: 65535", "general.tcp_socket_buffer_size: a very small fixed buffer"),
        ("message_size_to_be_stream: 0", "general.message_size_to_be_stream: has no effect"),
        ("client_anonymous_prepared_cache_size: 0", "general.client_anonymous_prepared_cache_size: has no effect"),
        ("client_anonymous_prepared_cache_size: 256", "general.client_anonymous_prepared_cache_size: has no effect"),
        ("hba: [10.0.0.0/8], unix_socket_dir: /tmp", "general.hba: clients on the Unix socket bypass"),
        ("connect_timeout: 0", "general.connect_timeout: 0 leaves no time"),
        ("query_wait_timeout: 0", "general.query_wait_timeout: 0 leaves no time"),
    ],
)
def test_general_warnings(loader: Loader, keys: str, start: str) -> None:
    [warning] = loader.general(keys).warnings
    assert str(warning).startswith(start)


@pytest.mark.parametrize("size", [0, 65536])
def test_other_buffer_sizes_are_fine(loader: Loader, size: int) -> None:
    assert loader.general(f"tcp_socket_buffer_size: {size}").warnings == []


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        ("reserve_pool_size: 21", "reserve_pool_size", "is 21, more than max_db_connections (20)"),
        (
            "min_connection_lifetime: 3m, idle_timeout: 2m",
            "min_connection_lifetime",
            "is 3m, more than idle_timeout (2m)",
        ),
        ("reserve_pool_timeout: 6s", "reserve_pool_timeout", "is 6s, more than query_wait_timeout (5s)"),
        ("min_guaranteed_pool_size: 11", "users[0].pool_size", "is 10, less than min_guaranteed_pool_size (11)"),
    ],
)
def test_coordinator_warnings(loader: Loader, keys: str, key: str, words: str) -> None:
    [_, warning] = loader.user(USER, pool=f"max_db_connections: 20, {keys}").warnings
    assert warning.key == f"pools.app.{key}" and words in warning.reason
    assert loader.user(USER, pool=keys).warnings == []  # all of it speaks of the cap


def test_a_user_larger_than_the_cap(loader: Loader) -> None:
    [first, warning] = loader.user(USER, pool="max_db_connections: 9").warnings
    assert str(first).startswith("pools.app.max_db_connections: is not enforced by this version")
    assert str(warning).startswith("pools.app.users[0].pool_size: is 10, more than max_db_connections (9)")


def test_the_default_reserve_timeout_is_judged_too(loader: Loader) -> None:
    loaded = loader.user(USER, pool="max_db_connections: 20", general="query_wait_timeout: 2s")
    assert [w.key for w in loaded.warnings] == ["pools.app.max_db_connections", "pools.app.reserve_pool_timeout"]


def test_fallback_warnings(loader: Loader) -> None:
    loaded = loader.user(USER, pool="fallback_cooldown: 40, fallback_lifetime: 50")
    assert [w.key for w in loaded.warnings] == ["pools.app.fallback_cooldown", "pools.app.fallback_lifetime"]
    assert loader.user(USER, pool="fallback_cooldown: 40s, fallback_lifetime: 40s").warnings == []


@pytest.mark.parametrize("password", ["''", "admin"])
def test_the_web_console_needs_a_password(loader: Loader, password: str) -> None:
    general = f"general: {{admin_username: a, admin_password: {password}}}\n"
    [warning] = loader.load(general + "pools: {}\nweb: {ui: true}\n").warnings
    assert warning.key == "web.ui" and "stays off" in warning.reason


def test_sso_that_stays_off(loader: Loader, pem: Pem) -> None:
    def warnings(keys: str) -> list[str]:
        return [w.reason for w in loader.general("", f"pools: {{}}\nweb: {{sso_enabled: true, {keys}}}").warnings]

    both = warnings("port: 1")
    assert both == ["SSO stays off: sso_public_key_file is not set", "SSO stays off: sso_audience is empty"]
    [unreadable] = warnings(f"sso_audience: [x], sso_public_key_file: {pem.missing}")
    assert unreadable.startswith(f"SSO stays off: cannot read {pem.missing}")
    assert warnings(f"sso_audience: [x], sso_public_key_file: {pem.public}") == []


def test_pools_that_nobody_can_use(loader: Loader) -> None:
    loaded = loader.general("", f"pools: {{pgbouncer: {{}}, lonely: {{}}, zero: {{users: [{{{USER[:-2]}0}}]}}}}")
    assert [w.key for w in loaded.warnings] == ["pools.pgbouncer", "pools.lonely", "pools.zero.users[0].pool_size"]


def test_a_signing_key_that_will_fail(loader: Loader, pem: Pem) -> None:
    keys = f"{USER}, server_username: s, server_password: 'jwt-priv-key-fpath:"
    [warning] = loader.user(f"{keys}{pem.missing}'").warnings
    assert warning.key == "pools.app.users[0].server_password" and "will fail" in warning.reason
    assert loader.user(f"{keys}{pem.key}'").warnings == []


def test_tls_on_a_unix_socket_is_pointless(loader: Loader) -> None:
    [warning] = loader.user(USER, pool="server_host: /run/postgresql, server_tls_mode: require").warnings
    assert warning.key == "pools.app.server_tls_mode"
