"""What is remembered of a first packet: for whom, for how long, and how much of it."""

from __future__ import annotations

from typing import Any

import pytest

from doorman.auth.exchange import TRUSTED
from doorman.wire.startup import StartupMessage
from doorman.workers.roster import PoolEntry, Roster
from doorman.workers.routes import MOST, Route, Routes

PACKET = b"\0\0\0\x21\0\3\0\0user\0app\0database\0shop\0\0"
HERE, THERE = b"\x0a\0\0\1", b"\x0a\0\0\2"


def route(pool: int = 0) -> Route:
    startup = StartupMessage(3, 0, {"user": "app", "database": "shop"}, [])
    return Route(startup, "10.0.0.1", TRUSTED, "trust", pool, 0, False)


class Settings:
    """As much of a pool's settings as the roster looks at."""

    database, user = "shop", "app"


@pytest.fixture
def roster() -> Roster:
    return Roster()


@pytest.fixture
def routes(roster: Roster) -> Routes:
    routes = Routes(roster)
    assert routes.find(PACKET, HERE) is None
    routes.keep(PACKET, HERE, route())
    return routes


def entry(generation: int = 0) -> PoolEntry:
    settings: Any = Settings()
    return PoolEntry(0, generation, 0, settings)


def test_it_holds_for_the_same_packet_from_the_same_address(routes: Routes) -> None:
    assert routes.find(PACKET, HERE) is not None
    assert routes.find(PACKET, THERE) is None
    assert routes.find(PACKET, b"") is None
    assert routes.find(PACKET.replace(b"app", b"bob"), HERE) is None


def test_bytes_behind_the_packet_cannot_pass_for_a_part_of_an_address(routes: Routes) -> None:
    longer = bytes(range(12)) + THERE
    routes.keep(PACKET, longer, route())
    assert routes.find(PACKET + longer[:12], THERE) is None


@pytest.mark.parametrize("change", ["put", "remove"])
def test_a_change_of_pools_forgets_everything(roster: Roster, routes: Routes, change: str) -> None:
    getattr(roster, change)(entry())
    assert routes.find(PACKET, HERE) is None
    routes.keep(PACKET, HERE, route())
    assert routes.find(PACKET, HERE) is not None


def test_what_was_decided_before_a_change_is_not_kept_after_it(roster: Roster, routes: Routes) -> None:
    assert routes.find(PACKET, THERE) is None
    roster.put(entry())
    routes.keep(PACKET, THERE, route())
    assert routes.find(PACKET, THERE) is None


def test_its_size_is_bounded(routes: Routes) -> None:
    long = PACKET + bytes(1000)
    routes.keep(long, HERE, route())
    assert routes.find(long, HERE) is None
    for number in range(MOST):
        routes.keep(b"%d" % number, HERE, route())
    kept = sum(routes.find(b"%d" % number, HERE) is not None for number in range(MOST))
    assert 0 < kept <= MOST
    assert routes.find(PACKET, HERE) is None, "more than MOST are kept"
