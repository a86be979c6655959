"""Cost of a login by SCRAM-SHA-256 whose server is opened by what the client proved (passthrough).

Two rows. `scram`: the server is there already, the login is all. `scram + server`: every client makes its server end
itself, so the next login has one opened with the key that was learnt. Only the pooler's processor time is counted.
Both poolers know the verifier that PostgreSQL stores, and nothing else.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from doorman.auth.scram import ScramClient
from doorman.wire import backend, frontend
from doorman.wire.framing import Frames
from scripts.benchmark.login import LoginSample
from scripts.benchmark.workload import Pooler
from tests.harness import Doorman, PgBouncer, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.harness.pgbouncer import find_pgbouncer
from tests.harness.postgres import PASSWORDS

USER = "scram_user"
STARTUP = frontend.startup_message({"user": USER, "database": "postgres"})
LEAVE = frontend.query("SELECT pg_terminate_backend(pg_backend_pid())")
KINDS = {"scram": False, "scram + server": True}


@contextmanager
def scram_poolers(postgres: Postgres, workers: int) -> Iterator[dict[str, Any]]:
    """pg_doorman and, where it is installed, PgBouncer."""
    stored = str(postgres.admin("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [USER])[0][0])
    pools = {"postgres": pool_of(postgres, users=[user_of(USER, 5, password=stored)])}
    with Doorman(postgres, general={"worker_threads": workers, "pg_hba": None}, pools=pools) as doorman:
        if find_pgbouncer() is None:
            yield {"pg_doorman": doorman}
            return
        settings: dict[str, str | int] = {"auth_type": "scram-sha-256", "default_pool_size": 5}
        with PgBouncer(postgres, settings=settings, users={USER: stored}) as pgbouncer:
            yield {"pg_doorman": doorman, "pgbouncer": pgbouncer}


def run_scram(pooler: Pooler, port: int, seconds: float, *, new_server: bool) -> LoginSample:
    """Log in and out for so long, one client after the other."""
    visit(port, new_server)
    count, before, began = 0, pooler.cpu_seconds(), time.monotonic()
    while time.monotonic() - began < seconds:
        visit(port, new_server)
        count += 1
    took = time.monotonic() - began
    time.sleep(0.1)  # the pooler still has to notice the last ones leaving
    return LoginSample((pooler.cpu_seconds() - before) / count * 1e6, count / took)


def visit(port: int, new_server: bool) -> None:
    """One client's life."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        frames = Frames(1 << 16)
        log_in(sock, frames)
        if new_server:
            sock.sendall(LEAVE)
            while sock.recv(8192):
                pass
        else:
            sock.sendall(frontend.TERMINATE)


def log_in(sock: socket.socket, frames: Frames) -> None:
    """SCRAM-SHA-256; the keys are derived once for all visits (`verifier.derive_keys`)."""
    client = ScramClient(password=PASSWORDS[USER])
    sock.sendall(STARTUP)
    while True:
        letter, body = next_message(sock, frames)
        if letter == ord("Z"):
            return
        if letter == ord("E"):
            raise RuntimeError(f"login was refused: {backend.parse_error_fields(body)}")
        code = int.from_bytes(body[:4], "big") if letter == ord("R") else -1
        if code == 10:
            sock.sendall(frontend.sasl_initial(client.mechanism, client.first()))
        elif code == 11:
            sock.sendall(frontend.sasl_response(client.final(body[4:])))


def next_message(sock: socket.socket, frames: Frames) -> tuple[int, bytes]:
    """Letter and body."""
    while (frame := frames.take()) is None:
        data = sock.recv(8192)
        if not data:
            raise RuntimeError("the pooler closed the connection during a login")
        frames.feed(data)
    return frame
