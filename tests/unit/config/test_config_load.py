"""The pipeline: formats, includes, legacy forms, typing with every problem at once, unknown keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doorman.config import schema
from doorman.config.load import load_config
from doorman.config.merge import merge
from doorman.errors import ConfigError

from .conftest import Loader

Refused = Callable[..., list[str]]

TOML = '[general]\nadmin_username = "a"\nadmin_password = "s3cret"\n'


# Files and formats


@pytest.mark.parametrize("name", ["c.toml", "c.conf", "c", "c.yaml.bak"])
def test_any_other_name_is_toml(loader: Loader, name: str) -> None:
    assert loader.load(TOML + "[pools]\n", name).config.general.admin_username == "a"


@pytest.mark.parametrize("name", ["c.yaml", "c.yml", "c.YAML", "C.Yml"])
def test_the_suffix_makes_it_yaml_in_any_case(loader: Loader, name: str) -> None:
    assert loader.load(loader.compose("", "pools: {}"), name).config.general.admin_username == "admin"


def test_the_opened_path_replaces_the_one_in_the_file(loader: Loader) -> None:
    loaded = loader.load(loader.compose("", "pools: {}\npath: elsewhere"))
    assert loaded.config.path == str(loader.directory / "pg_doorman.yaml")


def test_a_missing_file_is_named_with_the_reason(refused: Refused) -> None:
    assert refused(load_config, "/nonexistent/x.yaml") == ["/nonexistent/x.yaml: No such file or directory"]


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    assert refused(load_config, str(tmp_path / "c.toml")) == [f"{tmp_path}/c.toml: not UTF-8"]


def test_a_toml_syntax_error_has_a_position(loader: Loader, refused: Refused) -> None:
    [problem] = refused(loader.load, "[general]\nport =\n", "c.toml")
    assert "TOML" in problem and "line 2" in problem


def test_a_toml_integer_beyond_64_bits_is_refused(loader: Loader, refused: Refused) -> None:
    [problem] = refused(loader.load, TOML + f"port = {2**63}\n", "c.toml")
    assert "out of range" in problem


def test_duplicate_toml_keys_are_an_error(loader: Loader, refused: Refused) -> None:
    assert "TOML" in refused(loader.load, TOML + 'admin_password = "hunter2"\n[pools]\n', "c.toml")[0]


# Includes


def test_includes_of_both_formats_add_to_the_main_file(loader: Loader) -> None:
    first = loader.write("one.toml", '[general]\nport = 1\nhba = ["10.0.0.0/8"]\n[pools.two]\n')
    second = loader.write("two.yaml", "general: {port: 2, hba: ['fd00::/8']}\npools: {one: {server_port: 7}}\n")
    loaded = loader.general(
        "hba: [127.0.0.0/8]", f"include: {{files: [{first!r}, {second!r}]}}\npools: {{one: {{server_host: h}}}}"
    )
    assert loaded.config.general.port == 2
    assert loaded.config.general.hba == ("127.0.0.0/8", "10.0.0.0/8", "fd00::/8")
    assert loaded.config.pools["one"].server_host == "h" and loaded.config.pools["one"].server_port == 7
    assert set(loaded.config.pools) == {"one", "two"}


def test_every_section_may_live_in_an_include(loader: Loader) -> None:
    included = loader.write("all.yaml", loader.compose("", "pools: {}"))
    assert loader.load(f"include: {{files: [{included!r}]}}\n").config.general.admin_username == "admin"


def test_an_include_of_an_include_is_not_followed(loader: Loader) -> None:
    inner = loader.write("inner.yaml", "include: {files: [/nonexistent.yaml]}\n")
    loaded = loader.general("", f"include: {{files: [{inner!r}]}}\npools: {{}}")
    assert loaded.config.include.files == (inner, "/nonexistent.yaml")


def test_include_paths_start_at_the_working_directory(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    loader.write("pools.yaml", "pools: {here: {}}\n")
    main = loader.write("sub/main.yaml", loader.compose("", "include: {files: [pools.yaml]}"))
    monkeypatch.chdir(tmp_path)
    assert "here" in load_config(main).config.pools


def test_all_unreadable_includes_are_named(loader: Loader, refused: Refused) -> None:
    broken = loader.write("broken.yaml", "a: [")
    problems = refused(loader.general, "", f"include: {{files: [/nonexistent.toml, {broken!r}]}}\npools: {{}}")
    assert problems[0] == "included file /nonexistent.toml: No such file or directory"
    assert problems[1].startswith(f"included file {broken}: YAML: ")


def test_an_empty_yaml_include_is_an_error_and_an_empty_toml_one_is_not(loader: Loader, refused: Refused) -> None:
    toml, yaml = loader.write("e.toml", ""), loader.write("e.yaml", "")
    loader.general("", f"include: {{files: [{toml!r}]}}\npools: {{}}")
    assert "empty" in refused(loader.general, "", f"include: {{files: [{yaml!r}]}}\npools: {{}}")[0]


def test_type_clashes_name_the_path_and_both_types(loader: Loader, refused: Refused) -> None:
    other = loader.write("o.yaml", 'general: {connect_timeout: "3s", hba: x}\npools: {app: {users: {0: {}}}}\n')
    problems = refused(
        loader.general,
        "connect_timeout: 3000, hba: []",
        f"include: {{files: [{other!r}]}}\npools: {{app: {{users: []}}}}",
    )
    assert problems == [
        f"general.connect_timeout: is an integer, but a string in the included file {other}",
        f"general.hba: is a list, but a string in the included file {other}",
        f"pools.app.users: is a list, but a table in the included file {other}",
    ]


def test_web_and_prometheus_in_two_files_are_duplicates(loader: Loader, refused: Refused) -> None:
    other = loader.write("o.toml", "[prometheus]\nport = 1\n")
    problems = refused(loader.general, "", f"include: {{files: [{other!r}]}}\npools: {{}}\nweb: {{port: 2}}")
    assert problems == ["prometheus: duplicate field: web is given too"]


scalars = st.booleans() | st.integers() | st.text(max_size=4)
trees = st.recursive(
    st.dictionaries(st.sampled_from("abc"), scalars | st.lists(scalars, max_size=3)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | scalars),
    max_leaves=8,
)


@given(trees)
def test_merging_a_tree_onto_nothing_changes_nothing(tree: dict[str, Any]) -> None:
    assert merge({}, tree, "f") == (tree, [])
    assert merge(tree, {}, "f") == (tree, [])


@given(trees, trees)
def test_a_merge_keeps_every_key_of_both(one: dict[str, Any], two: dict[str, Any]) -> None:
    merged, _ = merge(one, two, "f")
    assert merged.keys() == one.keys() | two.keys()


# Legacy forms


def test_prometheus_is_web(loader: Loader) -> None:
    assert loader.general("", "pools: {}\nprometheus: {port: 9187}").config.web.port == 9187


def test_numeric_users_come_in_the_byte_order_of_their_keys(loader: Loader) -> None:
    users = ", ".join(f"{key}: {{username: u{key}, password: '', pool_size: 1}}" for key in (2, 10, 0))
    loaded = loader.pool(f"users: {{{users}}}")
    assert [user.username for user in loaded.config.pools["app"].users] == ["u0", "u10", "u2"]


def test_other_keys_of_a_users_table_are_refused(loader: Loader, refused: Refused) -> None:
    problems = refused(loader.pool, "users: {bob: {username: b, password: '', pool_size: 1}, -1: {}}")
    assert [problem.partition(":")[0] for problem in problems] == ["pools.app.users.bob", "pools.app.users.-1"]


def test_the_prepared_cache_alias_works_and_is_reported(loader: Loader) -> None:
    loaded = loader.general("client_prepared_statements_cache_size: 7")
    assert loaded.config.general.client_anonymous_prepared_cache_size == 7
    warning, useless = loaded.warnings
    assert "client_anonymous_prepared_cache_size" in warning.reason and "deprecated" in warning.reason
    assert "has no effect" in useless.reason


def test_alias_and_key_together_are_a_duplicate(loader: Loader, refused: Refused) -> None:
    both = "client_prepared_statements_cache_size: 7, client_anonymous_prepared_cache_size: 8"
    assert refused(loader.general, both) == [
        "general.client_prepared_statements_cache_size: duplicate field: client_anonymous_prepared_cache_size "
        "is given too"
    ]


@pytest.mark.parametrize("mode", ["transaction", "Transaction", "session", "Session"])
def test_both_spellings_of_a_pool_mode(loader: Loader, mode: str) -> None:
    assert loader.pool(f"pool_mode: {mode}").config.pools["app"].pool_mode == mode.lower()


@pytest.mark.parametrize("key", ["server_tls", "virtual_pool_count", "prometheus_exporter", "scaling_cooldown_sleep"])
def test_removed_keys_are_ignored_with_a_word(loader: Loader, key: str) -> None:
    [warning] = loader.general(f"{key}: 1").warnings
    assert warning.key == f"general.{key}" and "removed" in warning.reason


# Unknown keys


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("prot: 1", "general.prot", "port"),
        ("max_conections: 1", "general.max_conections", "max_connections"),
        ("Port: 1", "general.Port", "port"),
    ],
)
def test_an_unknown_key_names_its_neighbour(loader: Loader, text: str, key: str, nearest: str) -> None:
    [warning] = loader.general(text).warnings
    assert str(warning) == f'{key}: unknown key, the nearest existing one is "{nearest}"; ignored'


def test_unknown_keys_are_reported_at_every_level(loader: Loader) -> None:
    loaded = loader.user(
        "username: u, password: '', pool_size: 1, pool_sise: 2",
        pool="server_hots: x, auth_query: {query: q, user: u, wokers: 1}",
        rest="webb: {}\nweb: {prot: 1}",
    )
    assert [warning.key for warning in loaded.warnings] == [
        "webb",
        "pools.app.server_hots",
        "pools.app.auth_query.wokers",
        "pools.app.users[0].pool_sise",
        "web.prot",
    ]


# Typing


def test_every_problem_is_listed_at_once(loader: Loader, refused: Refused) -> None:
    problems = refused(
        loader.load,
        """
general: {admin_username: a, port: 70000, connect_timeout: 3 weeks, tcp_no_delay: "yes", hba: [10.0.0.1]}
pools:
  a.b:
    server_tls_mode: maybe
    users: [{username: x, password: 12345, pool_size: -1, min_pool_size: 2}, {username: y, password: "", pool_size: 1},
            {username: y, password: "", pool_size: 1, server_password: hunter2}]
    auth_query: {query: "", user: u, workers: 0}
web: 5
""",
    )
    assert problems == [
        "general.admin_password: missing; it is required",
        "general.port: expected a whole number from 0 to 65535, found the integer 70000",
        'general.connect_timeout: expected a duration: milliseconds, or text such as "500ms", "3s", "10m", '
        '"1h", found the string "3 weeks" (unknown suffix \'weeks\')',
        'general.tcp_no_delay: expected true or false, found the string "yes"',
        'general.hba[0]: expected a network such as 10.0.0.0/8 or fd00::/8, found the string "10.0.0.1" '
        "(the prefix length is missing)",
        'pools."a.b".server_tls_mode: expected one of disable, allow, prefer, require, verify-ca, verify-full, '
        'found the string "maybe"',
        'pools."a.b".auth_query.query: expected a string that is not empty, found the string ""',
        'pools."a.b".auth_query.workers: expected a whole number from 1 to 4294967295, found the integer 0',
        'pools."a.b".users[0].password: expected a string, found an integer (quote it)',
        'pools."a.b".users[0].pool_size: expected a whole number from 0 to 4294967295, found the integer -1',
        "web: expected a table, found an integer",
        'pools."a.b".users[2].username: "y" is already a user of this pool',
        'pools."a.b".users[2].server_password: needs server_username',
    ]


def test_a_null_in_a_list_does_not_hide_other_problems(loader: Loader, refused: Refused) -> None:
    problems = refused(loader.general, "hba: [10.0.0.0/8, ~], port: -1")
    assert [problem.partition(":")[0] for problem in problems] == ["general.hba[1]", "general.port"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pools: {}", "general: missing; it is required"),
        ("general: {admin_username: a, admin_password: b}", "pools: missing; it is required"),
        ("general: {admin_username: a, admin_password: b}\npools:", "pools: missing; it is required"),
    ],
)
def test_required_sections(loader: Loader, refused: Refused, text: str, problem: str) -> None:
    assert refused(loader.load, text) == [problem]


@pytest.mark.parametrize("key", ["username", "pool_size"])
def test_required_user_keys(loader: Loader, refused: Refused, key: str) -> None:
    keys = {"username": "u", "password": "''", "pool_size": "1"}
    del keys[key]
    text = ", ".join(f"{name}: {value}" for name, value in keys.items())
    assert refused(loader.user, text) == [f"pools.app.users[0].{key}: missing; it is required"]


@pytest.mark.parametrize("key", ["query", "user"])
def test_required_auth_query_keys(loader: Loader, refused: Refused, key: str) -> None:
    other = {"query": "user: u", "user": "query: q"}[key]
    assert refused(loader.pool, f"auth_query: {{{other}}}") == [f"pools.app.auth_query.{key}: missing; it is required"]


def test_a_talos_section_needs_both_keys(loader: Loader, refused: Refused) -> None:
    assert refused(loader.general, "", "pools: {}\ntalos: {keys: []}") == ["talos.databases: missing; it is required"]


@pytest.mark.parametrize("value", ["5", "true", "1.5", "[x]", "{a: b}"])
def test_no_secret_value_is_ever_shown(loader: Loader, refused: Refused, value: str) -> None:
    for load in (
        lambda: loader.general(f"admin_password: {value}"),
        lambda: loader.user(f"username: u, password: {value}, pool_size: 1"),
        lambda: loader.user(f"username: u, password: '', pool_size: 1, server_username: s, server_password: {value}"),
        lambda: loader.pool(f"auth_query: {{query: q, user: u, password: {value}}}"),
    ):
        [problem] = refused(load)
        assert "password: expected a string, found a" in problem and value not in problem.partition("found")[2]


def test_a_url_is_shown_without_its_password(loader: Loader, refused: Refused) -> None:
    [problem] = refused(loader.general, "patroni_api_urls: ['HTTP://bob:hunter2@h:8008']")
    assert "hunter2" not in problem and "@h:8008" in problem


def test_a_loaded_configuration_never_prints_its_secrets(loader: Loader) -> None:
    loaded = loader.user(
        "username: u, password: hunter2, pool_size: 1, server_username: s, server_password: hunter2",
        pool="auth_query: {query: q, user: u, password: hunter2, server_user: s, server_password: hunter2}",
        general='pg_hba: "host all all all ldap ldapserver=x ldapbasedn=dc=x ldapbindpasswd=hunter2"',
    )
    shown = repr(loaded)
    assert "hunter2" not in shown and "s3cret-admin" not in shown and "ldapserver" in shown


@pytest.mark.parametrize(
    "key", ["worker_threads", "max_concurrent_creates", "scaling_max_parallel_creates", "max_blocking_threads"]
)
def test_counts_that_must_not_be_zero(loader: Loader, refused: Refused, key: str) -> None:
    [problem] = refused(loader.general, f"{key}: 0")
    assert problem.startswith(f"general.{key}: expected a whole number") and "1" in problem


@pytest.mark.parametrize("key", ["retain_connections_time", "query_interner_gc_interval_seconds", "fallback_cooldown"])
def test_times_that_must_not_be_zero(loader: Loader, refused: Refused, key: str) -> None:
    [problem] = refused(loader.general, f"{key}: 0")
    assert problem.startswith(f"general.{key}: ") and "greater than 0" in problem


@pytest.mark.parametrize("value", ['"true"', "1", "yes", "on"])
def test_booleans_are_booleans(loader: Loader, refused: Refused, value: str) -> None:
    assert "expected true or false" in refused(loader.general, f"tcp_no_delay: {value}")[0]


@pytest.mark.parametrize("value", ["6432.0", '"6432"', "-1", "true", "65536", "0x1_0"])
def test_ports_are_whole_numbers(loader: Loader, refused: Refused, value: str) -> None:
    assert "general.port: expected a whole number" in refused(loader.general, f"port: {value}")[0]


def test_durations_and_sizes_are_human_at_every_level(loader: Loader) -> None:
    loaded = loader.user(
        "username: u, password: '', pool_size: 1, server_lifetime: 15m",
        pool="idle_timeout: 4m, connect_timeout: 1500, min_connection_lifetime: '20000', reserve_pool_timeout: 1s",
        general="tcp_keepalives_idle: 10s, tcp_user_timeout: 45, max_memory_usage: 1G, worker_stack_size: 4MB",
    )
    general, pool = loaded.config.general, loaded.config.pools["app"]
    assert (general.tcp_keepalives_idle, general.tcp_user_timeout) == (10, 45)
    assert (general.max_memory_usage, general.worker_stack_size) == (2**30, 4 * 2**20)
    assert (pool.idle_timeout, pool.connect_timeout, pool.min_connection_lifetime) == (240_000, 1500, 20_000)
    assert (pool.reserve_pool_timeout, pool.users[0].server_lifetime) == (1000, 900_000)


def test_a_bare_pool_disappears_and_an_empty_one_stays(loader: Loader) -> None:
    assert set(loader.general("", "pools:\n  gone:\n  kept: {}").config.pools) == {"kept"}


def test_toml_dates_are_never_a_value(loader: Loader, refused: Refused) -> None:
    [problem] = refused(loader.load, TOML + "idle_timeout = 2020-01-01\n[pools]\n", "c.toml")
    assert "found the time 2020-01-01" in problem


anything = st.recursive(
    st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_value_anywhere_breaks_the_loader(data: st.DataObject, loader: Loader) -> None:
    """Whatever stands at whatever key, the answer is a configuration or a list of problems."""
    section = data.draw(st.sampled_from([schema.General, schema.Pool, schema.User, schema.AuthQuery, schema.Web]))
    keys = data.draw(st.dictionaries(st.sampled_from(section.__struct_fields__), anything, max_size=6))
    base: dict[str, Any] = {"general": {"admin_username": "a", "admin_password": "b"}, "pools": {"app": {}}}
    match section:
        case schema.General:
            base["general"] |= keys
        case schema.Pool:
            base["pools"]["app"] = keys
        case schema.User:
            base["pools"]["app"] = {"users": [{"username": "u", "password": "", "pool_size": 1} | keys]}
        case schema.AuthQuery:
            base["pools"]["app"] = {"auth_query": {"query": "q", "user": "u"} | keys}
        case _:
            base["web"] = keys
    try:
        loader.load(json.dumps(base, ensure_ascii=data.draw(st.booleans())))
    except ConfigError as error:
        assert error.problems
