"""What a configuration means for the pools that are, decided on a real table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from doorman.auth.auth_query import Found
from doorman.config.resolve import resolve_pools
from doorman.config.schema import AuthQuery, Config, General, Pool, User
from doorman.shm.rows import pool_rows
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from doorman.tls.material import Material
from doorman.workers import allocation as module
from doorman.workers.allocation import Allocation, NoRoom, PoolPlan
from doorman.workers.encryption import Materials, renewed_servers

GENERAL = General(admin_username="admin", admin_password="x")
QUERY = AuthQuery(query="SELECT 1", user="finder", database="db")


def config(**pools: Any) -> Config:
    return Config(general=GENERAL, pools={name: pool(**keys) for name, keys in pools.items()})


def pool(users: tuple[str, ...] = ("app",), size: int = 5, **keys: Any) -> Pool:
    made = tuple(User(username=name, password="p", pool_size=size) for name in users)
    return Pool(**{"server_host": "127.0.0.1", "server_port": 5432, "users": made, **keys})


def eve(parameters: dict[str, str], password: str = "secret", found_at: int = 0) -> Found:
    return Found(password=password, parameters=parameters, found_at=found_at)


class Effects:
    def __init__(self) -> None:
        self.forgotten: list[tuple[int, int]] = []

    def forget(self, slots: list[tuple[int, int]]) -> None:
        self.forgotten += slots

    def wake(self, processes: int) -> None:
        pass


@pytest.fixture
def table() -> Iterator[Table]:
    table = Table.create(processes=2, pools=4, slots=8, clients=4, max_connections=4)
    yield table
    table.close()


def start(table: Table, first: Config) -> Allocation:
    effects = Effects()
    return Allocation(table, resolve_pools(first), effects.forget, effects.wake)


def plan(allocation: Allocation, new: Config) -> PoolPlan:
    return allocation.plan(new, resolve_pools(new))


def test_a_plan_names_what_comes_changes_and_goes_and_touches_nothing(table: Table) -> None:
    allocation = start(table, config(a={}, b={}, c={}))
    planned = plan(allocation, config(a={}, b={"size": 6}, d={}))
    assert [settings.database for settings in planned.added] == ["d"]
    assert [(entry.settings.database, settings.pool_size) for entry, settings, _ in planned.changed] == [("b", 6)]
    assert [entry.settings.database for entry in planned.removed] == ["c"]
    assert [row.database for row in pool_rows(table)] == ["a", "b", "c"]
    allocation.carry_out(planned)
    assert sorted((entry.settings.database, entry.row) for entry in allocation.roster.entries()) == [
        ("a", 0), ("b", 1), ("d", 3),
    ]  # fmt: skip


def test_only_what_servers_are_opened_with_outdates_them(table: Table) -> None:
    allocation = start(table, config(a={}))
    (before,) = allocation.roster.entries()
    for keys, is_outdated in (({"size": 7}, False), ({"pool_mode": "session"}, False), ({"server_port": 1}, True)):
        allocation.carry_out(plan(allocation, config(a=keys)))
        (after,) = allocation.roster.entries()
        assert (after.row, after.generation) == (before.row, before.generation)
        assert (after.version != before.version) == is_outdated
        assert pool_rows(table)[0].epoch == int(is_outdated)


def test_more_pools_than_rows_are_refused_before_anything_is_done(table: Table) -> None:
    allocation = start(table, config(a={}))
    with pytest.raises(NoRoom, match="room for 3 more"):
        plan(allocation, config(**{name: {} for name in "abcde"}))
    assert len(pool_rows(table)) == 1


def test_a_pool_on_demand_is_made_once_and_follows_the_configuration(table: Table) -> None:
    first = config(a={"auth_query": QUERY})
    allocation = start(table, first)
    entry, is_news = allocation.obtain(first, "a", "eve", eve({}))
    assert is_news and entry.is_on_demand and entry.settings.pool_size == QUERY.pool_size
    assert allocation.obtain(first, "a", "eve", eve({})) == (entry, False)
    changed, is_news = allocation.obtain(first, "a", "eve", eve({"work_mem": "5MB"}))
    assert is_news and changed.row == entry.row and changed.version > entry.version
    assert changed.settings.startup_parameters == {"work_mem": "5MB"}
    second = config(a={"auth_query": QUERY, "idle_timeout": 1000})
    allocation.carry_out(plan(allocation, second))
    kept = allocation.roster.find("a", "eve")
    assert kept is not None and kept.row == entry.row and kept.settings.idle_timeout_ms == 1000
    assert kept.settings.startup_parameters == {"work_mem": "5MB"}


def test_a_changed_password_changes_the_pool_and_spares_its_servers(table: Table) -> None:
    first = config(a={"auth_query": QUERY})
    allocation = start(table, first)
    entry, _ = allocation.obtain(first, "a", "eve", eve({}, found_at=5))
    changed, is_news = allocation.obtain(first, "a", "eve", eve({}, "new", found_at=7))
    assert is_news and (changed.settings.password, changed.version) == ("new", entry.version)
    assert allocation.obtain(first, "a", "eve", eve({}, found_at=6)) == (changed, False), "an older look-up came later"
    allocation.carry_out(plan(allocation, config(a={"auth_query": QUERY, "idle_timeout": 1000})))
    kept = allocation.roster.find("a", "eve")
    assert kept is not None and kept.settings.password == "new"


def test_a_user_that_gets_a_pool_of_the_configuration_keeps_the_row(table: Table) -> None:
    first = config(a={"auth_query": QUERY})
    allocation = start(table, first)
    entry, _ = allocation.obtain(first, "a", "eve", eve({}))
    allocation.carry_out(plan(allocation, config(a={"users": ("app", "eve"), "auth_query": QUERY})))
    now = allocation.roster.find("a", "eve")
    assert now is not None and now.row == entry.row and not now.is_on_demand


def test_pools_on_demand_end_with_their_auth_query(table: Table) -> None:
    first = config(a={"auth_query": QUERY})
    allocation = start(table, first)
    allocation.obtain(first, "a", "eve", eve({}))
    planned = plan(allocation, config(a={}))
    assert [entry.settings.user for entry in planned.removed] == ["eve"]
    allocation.carry_out(planned)
    with pytest.raises(LookupError):
        allocation.obtain(config(a={}), "a", "eve", eve({}))


def test_only_deserted_pools_are_collected_and_not_while_somebody_may_be_coming(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = config(a={"auth_query": QUERY})
    allocation = start(table, first)
    entry, _ = allocation.obtain(first, "a", "eve", eve({}))
    assert not allocation.collect(entry.row, entry.generation)
    monkeypatch.setattr(module, "YOUNG_SECONDS", 0.0)
    static = allocation.roster.find("a", "app")
    assert static is not None and not allocation.collect(static.row, static.generation)
    worker = Trial(table, process=0)
    client = worker.admit(1)
    assert worker.enter(client, entry.row, entry.generation)
    assert not allocation.collect(entry.row, entry.generation)
    worker.dismiss(client)
    assert allocation.collect(entry.row, entry.generation)
    assert not allocation.collect(entry.row, entry.generation)
    assert allocation.roster.find("a", "eve") is None
    allocation.free_rows()
    again, is_news = allocation.obtain(first, "a", "eve", eve({}))
    assert is_news and (again.row, again.generation) == (entry.row, entry.generation + 1)


def test_new_contents_of_files_for_tls_make_servers_be_opened_anew(table: Table) -> None:
    before = Materials(servers={"\0\0": Material(certificates=b"old")})
    after = Materials(servers={"\0\0": Material(certificates=b"new"), "/ca\0\0": Material()})
    assert renewed_servers(before, before) == frozenset()
    assert renewed_servers(before, after) == frozenset({"\0\0"})
    same = config(a={}, b={})
    allocation = start(table, same)
    versions = [row.version for row in allocation.roster.entries()]
    assert not allocation.plan(same, resolve_pools(same)).changed
    allocation.carry_out(allocation.plan(same, resolve_pools(same), renewed_servers(before, after)))
    renewed = [row.version for row in allocation.roster.entries()]
    assert not set(versions) & set(renewed)
    other = allocation.plan(same, resolve_pools(same), frozenset({"/ca\0\0"}))
    assert not other.changed
