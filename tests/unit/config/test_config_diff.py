"""What a reload says has changed: every kind of key, no secret, and what needs a restart."""

from __future__ import annotations

from typing import Any

import msgspec

from doorman.config.diff import Change, find_changes, needs_restart
from doorman.config.schema import RESTART_KEYS, AuthQuery, Config, General, Pool, User, Web

SECRET = "hunter2"


def config(general: dict[str, Any] | None = None, **pools: Pool) -> Config:
    defaults = {"admin_username": "admin", "admin_password": "x"}
    return Config(general=General(**{**defaults, **(general or {})}), pools=pools)


def user(name: str, size: int = 5, **keys: Any) -> User:
    return User(username=name, pool_size=size, **keys)


def said(before: Config, after: Config) -> list[str]:
    return [str(change) for change in find_changes(before, after)]


def test_equal_configurations_differ_in_nothing_whatever_their_files() -> None:
    assert said(config(), msgspec.structs.replace(config(), path="elsewhere.yaml")) == []


def test_keys_are_named_by_their_path_with_both_values() -> None:
    before = config({"idle_timeout": 1000, "server_round_robin": False}, a=Pool(users=(user("eve", 5),)))
    after = config(
        {"idle_timeout": 2000, "server_round_robin": True}, a=Pool(users=(user("eve", 6),), server_host="db")
    )
    assert said(before, after) == [
        "general.idle_timeout: 1000 -> 2000",
        "general.server_round_robin: false -> true",
        "pools.a.server_host: 127.0.0.1 -> db",
        "pools.a.users.eve.pool_size: 5 -> 6",
    ]


def test_pools_and_users_come_and_go() -> None:
    before = config(a=Pool(users=(user("eve"), user("bob"))), b=Pool())
    after = config(a=Pool(users=(user("eve"), user("joe"))), c=Pool())
    assert said(before, after) == [
        "pools.a.users.bob: removed",
        "pools.a.users.joe: added",
        "pools.b: removed",
        "pools.c: added",
    ]


def test_the_order_of_users_is_no_change() -> None:
    assert said(config(a=Pool(users=(user("a"), user("b")))), config(a=Pool(users=(user("b"), user("a"))))) == []


def test_no_secret_is_shown() -> None:
    query = AuthQuery(query="SELECT 1", user="finder", password=SECRET)
    before = config(a=Pool(users=(user("eve"),)))
    after = config(
        {"admin_password": SECRET},
        a=Pool(users=(user("eve", password=SECRET, server_password=SECRET),), auth_query=query),
    )
    changes = said(before, after)
    assert SECRET not in " ".join(changes)
    assert changes == [
        "general.admin_password: changed",
        "pools.a.auth_query: changed",
        "pools.a.users.eve.password: changed",
        "pools.a.users.eve.server_password: changed",
    ]


def test_long_values_and_lists_are_not_shown() -> None:
    before = config({"hba": (), "pooler_check_query": ";"})
    after = config({"hba": ("10.0.0.0/8",), "pooler_check_query": "SELECT " + "1" * 100})
    assert said(before, after) == ["general.pooler_check_query: changed", "general.hba: changed"]


def test_keys_that_need_a_restart_exist() -> None:
    sections = {"general": General, "web": Web}
    for key in RESTART_KEYS:
        section, _, name = key.partition(".")
        assert name in sections[section].__struct_fields__, key
    assert needs_restart(Change("general.port", "")) and not needs_restart(Change("general.pg_hba", ""))
