"""pg_hba by the address that a client really has: IPv6, IPv4 on a socket for both, a socket file. Two workers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psycopg
import pytest

from tests.e2e.auth.logins import assert_clean_log, guest
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of

HBA = """
host  pgdoorman all all            md5
host  four      all 127.0.0.0/8    scram-sha-256
host  six       all ::1/128        scram-sha-256
host  mapped    all ::ffff:0:0/96  scram-sha-256
host  every     all all            scram-sha-256
host  here      all samehost       scram-sha-256
local file      all                scram-sha-256
"""
ADMITS = {
    "127.0.0.1": {"four", "mapped", "every", "here"},
    "::1": {"six", "every", "here"},
    "file": {"file"},
}
"""Where a client comes from, and what it may enter. An IPv4 client is one also where the socket is IPv6's; who
thinks of it as mapped is right too."""


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def pooler(postgres: Postgres) -> Iterator[Doorman]:
    """Listens on `::`, which takes IPv4 too."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    names = ("four", "six", "mapped", "every", "here", "file")
    pools = {name: pool_of(postgres, users=[guest("ann", password="ann-secret")]) for name in names}
    doorman = Doorman(
        postgres, pools=pools, general={"host": "::", "auth_failure_delay": 0, "pg_hba": {"content": HBA}}
    )
    doorman.update_config(general={"unix_socket_dir": str(doorman.directory)})
    with doorman:
        yield doorman
        assert_clean_log(doorman)


@pytest.mark.parametrize("origin", ADMITS)
def test_rules_see_the_clients_address(pooler: Doorman, origin: str) -> None:
    host = str(pooler.directory) if origin == "file" else origin
    entered = set()
    for name in pooler.config["pools"]:
        for turn in range(3):
            try:
                words = {"user": "ann", "password": "ann-secret", "dbname": name}
                with psycopg.connect(host=host, port=pooler.port, connect_timeout=10, **words) as client:
                    assert client.execute("SELECT current_user").fetchone() == ("app",)
                entered.add(name)
            except psycopg.OperationalError as refused:
                assert "is not permitted by HBA configuration" in str(refused)
                assert name not in entered or turn == 0, "one worker admits, another does not"
    assert entered == ADMITS[origin]
