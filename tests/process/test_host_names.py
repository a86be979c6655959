"""Host names that stand for several addresses: of a server, where nobody answers at some, and of the pooler itself."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from doorman.wire.backend import error_response
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.faulty import environment

NOBODYS = "127.0.0.9"  # PostgreSQL listens at 127.0.0.1 only
WORKERS = 2
Start = Callable[..., Doorman]


@pytest.fixture
def start(make_doorman: Any, postgres: Postgres, library: Path, faults: Path) -> Start:
    def start(*addresses: str, **pool: Any) -> Doorman:
        (faults / "names").write_text("".join(f"{address}\n" for address in addresses))
        pools = {"postgres": pool_of(postgres, server_host="several.test", users=[user_of("app", 8)], **pool)}
        doorman: Doorman = make_doorman(
            pools=pools, general={"worker_threads": WORKERS}, env=environment(library, faults)
        )
        return doorman

    return start


@contextlib.contextmanager
def silent(port: int) -> Iterator[None]:
    """At that address connections neither stand nor fail: nobody accepts, and the queue is full."""
    with socket.create_server((NOBODYS, port), backlog=0) as deaf, contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        yield


@pytest.mark.parametrize("addresses", [(NOBODYS, "127.0.0.1"), ("::1", NOBODYS, "127.0.0.1"), ("127.0.0.1", NOBODYS)])
def test_who_refuses_is_passed_over(start: Start, postgres: Postgres, addresses: tuple[str, ...]) -> None:
    doorman = start(*addresses)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(psycopg.connect(doorman.dsn(user="app", dbname="postgres")))
            assert client.execute("SELECT host(inet_server_addr())").fetchone() == ("127.0.0.1",)
    assert postgres.activity_count(user="app") == 8


def test_where_all_refuse_the_client_is_told_of_the_name(start: Start) -> None:
    doorman = start(NOBODYS, "127.0.0.8")
    with pytest.raises(psycopg.OperationalError, match=r"server several\.test:\d+ failed: Connection refused"):
        doorman.query("SELECT 1")


def test_who_is_silent_has_a_share_of_the_time_and_comes_last_for_a_while(start: Start, postgres: Postgres) -> None:
    with silent(postgres.port):
        doorman = start(NOBODYS, "127.0.0.1", connect_timeout=1200)
        took = []
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                began = time.monotonic()
                client = stack.enter_context(psycopg.connect(doorman.dsn(user="app", dbname="postgres")))
                client.execute("SELECT 1")
                took.append(time.monotonic() - began)
    slow = [seconds for seconds in took if seconds > 0.5]
    assert 1 <= len(slow) <= WORKERS + 1, "each process finds it out once"
    assert max(took) < 1.2


@contextlib.contextmanager
def answering(port: int, words: bytes) -> Iterator[None]:
    """Somebody at that address accepts connections, and says no more than this."""
    with socket.create_server((NOBODYS, port)) as server, contextlib.ExitStack() as stack:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted, _ = server.accept()
                    stack.enter_context(accepted)
                    if words:
                        accepted.recv(4096)
                        accepted.sendall(words)
                        accepted.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "words", [b"", error_response("57P03", "the database system is starting up")], ids=["silent", "starting"]
)
def test_who_accepts_and_serves_nobody_is_passed_over(start: Start, postgres: Postgres, words: bytes) -> None:
    """A postmaster that stands still, or a balancer of dead machines; a standby that is starting. As libpq does it."""
    with answering(postgres.port, words):
        doorman = start(NOBODYS, "127.0.0.1", connect_timeout=1600)
        for _ in range(4):
            began = time.monotonic()
            with psycopg.connect(doorman.dsn(user="app", dbname="postgres")) as client:
                assert client.execute("SELECT host(inet_server_addr())").fetchone() == ("127.0.0.1",)
            assert time.monotonic() - began < 1.6


def test_where_all_are_silent_connect_timeout_ends_it(start: Start, postgres: Postgres) -> None:
    with silent(postgres.port):
        doorman = start(NOBODYS, NOBODYS, connect_timeout=600)
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="connect_timeout"):
            doorman.query("SELECT 1")
        assert 0.5 < time.monotonic() - began < 3


def test_the_pooler_listens_at_all_addresses_of_its_name_that_the_machine_has(
    make_doorman: Any, library: Path, faults: Path
) -> None:
    (faults / "names").write_text(f"{NOBODYS}\n192.0.2.1\n127.0.0.1\n{NOBODYS}\n")
    doorman = make_doorman(
        general={"host": "several.test", "worker_threads": WORKERS}, env=environment(library, faults)
    )
    for host in (NOBODYS, "127.0.0.1"):
        for _ in range(6):  # to either worker
            with psycopg.connect(doorman.dsn(user="app", dbname="postgres", host=host)) as client:
                assert client.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.8", doorman.port))
