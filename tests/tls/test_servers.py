"""Servers over TLS: modes and certificates; and that one encrypted server is everybody's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.harness import Doorman, Postgres, free_port
from tests.harness.certificates import DAY, Authority
from tests.harness.doorman import pool_of, user_of
from tests.process.session import open_on
from tests.tls.conftest import MakePooler, StartPostgres

IN_USE = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


def is_encrypted(pooler: Doorman, user: str = "app") -> bool:
    return bool(pooler.query(IN_USE, user=user)[0][0])


@pytest.mark.parametrize(
    ("mode", "encrypted"),
    [
        ("disable", False),
        ("allow", False),
        ("prefer", True),
        ("require", True),
        ("verify-ca", True),
        ("verify-full", True),
    ],
)
def test_modes(make_pooler: MakePooler, authority: Authority, mode: str, encrypted: bool) -> None:
    pooler = make_pooler(server_tls_mode=mode, server_tls_ca_cert=str(authority.path))
    assert is_encrypted(pooler) is encrypted
    assert [row["tls"] for row in pooler.console("SHOW SERVERS")] == [str(encrypted).lower()]


def test_allow_asks_for_tls_where_plain_text_is_refused(make_pooler: MakePooler) -> None:
    pooler = make_pooler(server_tls_mode="allow")
    assert is_encrypted(pooler, "tls_only")


async def test_the_second_attempt_of_allow_is_everybodys(make_pooler: MakePooler) -> None:
    """Its first socket is over; that is told late, and must not cost those who have the second one by then."""
    pooler = make_pooler(server_tls_mode="allow")
    first, second = pooler.pids().workers
    [other] = await open_on(pooler, second, 1, user="tls_only")
    [opener] = await open_on(pooler, first, 1, user="tls_only")
    pid = await opener.query("SELECT pg_backend_pid()")
    for _ in range(6):
        assert await other.query("SELECT pg_backend_pid()") == pid
        await asyncio.sleep(0.1)
    assert await opener.query("SELECT pg_backend_pid()") == pid


def test_disable_does_not(make_pooler: MakePooler) -> None:
    pooler = make_pooler(server_tls_mode="disable")
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        is_encrypted(pooler, "tls_only")


@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_a_server_without_tls(make_pooler: MakePooler, postgres: Postgres, mode: str) -> None:
    pooler = make_pooler(postgres, server_tls_mode=mode)
    if mode == "prefer":
        assert pooler.query("SELECT 1") == [(1,)]
    else:
        with pytest.raises(psycopg.OperationalError, match="does not support TLS"):
            pooler.query("SELECT 1")


CERTIFICATES = {
    "alternative name": ({"names": ("localhost",)}, "other", True, True),
    "common name": ({}, "localhost", True, True),
    "wrong host": ({"names": ("elsewhere.example",)}, "localhost", True, False),
    "expired": ({"names": ("localhost",), "lifetime": -DAY}, "localhost", False, False),
    "ed25519": ({"names": ("localhost",), "kind": "ed25519"}, None, True, True),
    "rsa": ({"names": ("localhost",), "kind": "rsa"}, "localhost", True, True),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_verification(make_pooler: MakePooler, start_postgres: StartPostgres, authority: Authority, name: str) -> None:
    options, common_name, passes_ca, passes_full = CERTIFICATES[name]
    server = start_postgres(authority.issue(common_name, label=f"server-{name.replace(' ', '-')}", **options))
    for mode, passes in (("verify-ca", passes_ca), ("verify-full", passes_full)):
        pool = {"server_tls_mode": mode, "server_tls_ca_cert": str(authority.path), "server_host": "localhost"}
        pooler = make_pooler(server, pool=pool)
        if passes:
            assert is_encrypted(pooler)
        else:
            with pytest.raises(psycopg.OperationalError, match=r"certificate|not for host"):
                is_encrypted(pooler)
        pooler.stop()


def test_an_unknown_authority_is_not_trusted(make_pooler: MakePooler, authority: Authority) -> None:
    (authority.directory / "unknown").mkdir(exist_ok=True)
    other = Authority(authority.directory / "unknown", "test authority")
    pooler = make_pooler(server_tls_mode="verify-ca", server_tls_ca_cert=str(other.path))
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        is_encrypted(pooler)


def test_a_client_certificate_for_the_server(make_pooler: MakePooler, authority: Authority) -> None:
    pair = authority.issue("certified", label="for-server")
    files = {"server_tls_certificate": str(pair.certificate_path), "server_tls_private_key": str(pair.key_path)}
    assert is_encrypted(make_pooler(server_tls_mode="require", **files), "certified")


class Stuffer:
    """Answers SSLRequest by `S` and something else in the same packet."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.port = free_port()
        self.listener = socket.create_server((self.host, self.port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            client.recv(8)
            client.sendall(b"SR\0\0\0\x08\0\0\0\0")


@pytest.fixture
def stuffer() -> Iterator[Stuffer]:
    made = Stuffer()
    yield made
    made.listener.close()


def test_bytes_stuffed_behind_the_answer_are_refused(make_pooler: MakePooler, stuffer: Stuffer) -> None:
    pooler = make_pooler(stuffer, server_tls_mode="require")  # type: ignore[arg-type]
    with pytest.raises(psycopg.OperationalError, match="unencrypted data after its answer"):
        pooler.query("SELECT 1")


# --- one server, two workers -----------------------------------------------------------------------------------------


def clients_of_both_workers(pooler: Doorman, **words: str) -> list[psycopg.Connection[object]]:
    """One client of each worker."""
    found: dict[int, psycopg.Connection[object]] = {}
    spare = []
    while len(found) < 2 and len(spare) < 60:
        client = pooler.connect(**words)
        worker = owner_of(pooler, client)
        if worker in found:
            spare.append(client)
        else:
            found[worker] = client
    for client in spare:
        client.close()
    assert len(found) == 2, "the kernel gave all clients to one worker"
    return list(found.values())


def owner_of(pooler: Doorman, client: psycopg.Connection[object]) -> int:
    """The pid of the worker that has the client's socket."""
    import psutil

    with socket.socket(fileno=os.dup(client.pgconn.socket)) as copy:
        local = copy.getsockname()[1]
    for pid in pooler.pids().workers:
        for link in psutil.Process(pid).net_connections("tcp"):
            if link.raddr and link.raddr.port == local:
                return pid
    raise AssertionError("nobody has this client")


def one_server(make_pooler: MakePooler, postgres_tls: Postgres) -> Doorman:
    pooler = make_pooler(server_tls_mode="require")
    pooler.stop()
    pooler.update_config(pools={"postgres": pool_of(postgres_tls, users=[user_of("app", 1)])})
    return pooler.start()


@pytest.mark.parametrize("client_tls", ["disable", "require"])
def test_two_workers_take_turns_with_one_server(
    make_pooler: MakePooler, postgres_tls: Postgres, client_tls: str
) -> None:
    pooler = one_server(make_pooler, postgres_tls)
    pair = clients_of_both_workers(pooler, sslmode=client_tls)
    pids = set()
    for turn in range(2000):
        client = pair[turn % 2]
        size = (0, 1, 100, 8191, 16_384, 70_000)[turn % 6]
        row = client.execute("SELECT pg_backend_pid(), repeat('x', %s)", [size]).fetchone()
        assert row is not None and row[1] == "x" * size  # type: ignore[index]
        pids.add(row[0])  # type: ignore[index]
    for size in (1_000_000, 100_000_000):
        for client in pair:
            row = client.execute("SELECT pg_backend_pid(), repeat('y', %s)", [size]).fetchone()
            assert row is not None and len(row[1]) == size  # type: ignore[index]
            pids.add(row[0])  # type: ignore[index]
            row = client.execute("SELECT length(%s)", ["z" * (size // 10)]).fetchone()
            assert row == (size // 10,)
    assert len(pids) == 1
    for client in pair:
        client.close()


def test_a_server_survives_the_death_of_a_worker_between_transactions(
    make_pooler: MakePooler, postgres_tls: Postgres
) -> None:
    pooler = one_server(make_pooler, postgres_tls)
    first, second = clients_of_both_workers(pooler, sslmode="require")
    pids = [client.execute("SELECT pg_backend_pid()").fetchone() for client in (first, second, first)]
    os.kill(owner_of(pooler, first), signal.SIGKILL)
    time.sleep(0.2)
    for _ in range(20):
        assert second.execute("SELECT pg_backend_pid()").fetchone() == pids[0]
    with pooler.connect(sslmode="require") as third:
        assert third.execute("SELECT pg_backend_pid()").fetchone() == pids[0]
    assert set(pids) == {pids[0]}


def test_a_server_whose_worker_dies_in_a_transaction_is_not_used_again(
    make_pooler: MakePooler, postgres_tls: Postgres
) -> None:
    pooler = one_server(make_pooler, postgres_tls)
    first, second = clients_of_both_workers(pooler, sslmode="require")
    first.execute("BEGIN")
    before = first.execute("SELECT pg_backend_pid()").fetchone()
    os.kill(owner_of(pooler, first), signal.SIGKILL)
    after = second.execute("SELECT pg_backend_pid()").fetchone()
    assert after != before
