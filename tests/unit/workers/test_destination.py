"""What is decided once for all openings of a pool's servers, and what is asked each time."""

from __future__ import annotations

import socket
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from doorman.auth.md5 import md5_hash
from doorman.auth.verifier import derive_keys, format_verifier, verifier_of_password
from doorman.config.load import load_config
from doorman.config.resolve import PoolSettings, resolve_pools
from doorman.shm.table import Table
from doorman.shm.users import drop_key
from doorman.workers.credentials import learn
from doorman.workers.destination import Destination, Destinations, is_loopback
from doorman.workers.dial import dial
from doorman.workers.roster import PoolEntry, Roster
from doorman.workers.socket_options import SocketOptions
from tests.simulate.rows import make_table

OPTIONS = SocketOptions((), 0)
VERIFIER = verifier_of_password("app", "secret")
CONFIG = """
general: {host: 127.0.0.1, port: 6432, admin_username: admin, admin_password: adminpw}
pools:
  shop:
    server_host: 127.0.0.1
    server_port: 5432
    users: [{username: app, password: secret, pool_size: 1}]
"""


@pytest.fixture
def table() -> Iterator[Table]:
    table = make_table()
    yield table
    table.close()


@pytest.fixture
def pool(tmp_path: Path) -> PoolSettings:
    (tmp_path / "pg_doorman.yaml").write_text(CONFIG)
    [settings] = resolve_pools(load_config(str(tmp_path / "pg_doorman.yaml")).config)
    return settings


def changed(pool: PoolSettings, **fields: object) -> PoolSettings:
    return msgspec.structs.replace(pool, **fields)


def test_it_is_decided_once_for_a_pool_and_anew_for_its_successor(table: Table, pool: PoolSettings) -> None:
    roster = Roster([PoolEntry(3, 0, 0, pool)])
    destinations = Destinations(table, roster, OPTIONS)
    found = destinations.find(3)
    assert destinations.find(3) is found and found.pool is pool
    successor = changed(pool, server_port=5433)
    roster.put(PoolEntry(3, 0, 1, successor))
    assert destinations.find(3).pool is successor
    assert destinations.find(3).host_and_port == ("127.0.0.1", 5433)
    roster.remove(roster.entry(3))
    assert destinations.find(3).pool is successor, "its last servers may be opened yet"


@pytest.mark.parametrize(
    ("host", "family", "is_local"),
    [
        ("127.0.0.1", socket.AF_INET, True),
        ("10.0.0.1", socket.AF_INET, False),
        ("::1", socket.AF_INET6, True),
        ("/tmp", socket.AF_UNIX, True),
        ("localhost", -1, True),
        ("db.example", -1, False),
    ],
)
def test_where_it_is(table: Table, pool: PoolSettings, host: str, family: int, is_local: bool) -> None:
    found = Destination(changed(pool, server_host=host), table, OPTIONS)
    assert (found.family, found.is_local) == (family, is_local)
    assert bool(found.address) == (family >= 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_address_is_one_that_the_kernel_connects_to(table: Table, pool: PoolSettings, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        found = Destination(changed(pool, server_host=host, server_port=listener.getsockname()[1]), table, OPTIONS)
        with socket.socket(fileno=dial(found.family, found.address, ())), listener.accept()[0] as accepted:
            assert accepted.getsockname()[:2] == listener.getsockname()[:2]


def test_a_key_is_asked_for_each_time(table: Table, pool: PoolSettings) -> None:
    found = Destination(changed(pool, password=format_verifier(VERIFIER)), table, OPTIONS)
    assert found.credentials(table).client_key is None
    assert "has not logged in" in found.credentials(table).lacking
    key = derive_keys("secret", b64decode(VERIFIER.salt), VERIFIER.iterations).client_key
    learn(table, key)
    assert found.credentials(table).client_key == key
    drop_key(table, VERIFIER.stored_key)
    assert found.credentials(table).client_key is None


def test_what_is_configured_stays_the_same(table: Table, pool: PoolSettings) -> None:
    assert Destination(pool, table, OPTIONS).credentials(table).password == "secret"
    hashed = changed(pool, password=md5_hash("secret", "app"))
    assert Destination(hashed, table, OPTIONS).credentials(table).md5_hash == hashed.password


@pytest.mark.parametrize(("host", "expected"), [("127.9.9.9", True), ("localhost", True), ("192.0.2.1", False)])
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
