"""Poolers that encrypt, beside each other: cost of a handshake, and how fast a long COPY gets out.

Both poolers have one certificate (EC, P-256) and the ciphers they choose by themselves; the clients are OpenSSL's, by
`ssl` or by pgbench. PostgreSQL behind them speaks plain text, or (`behind=True`) TLS as well.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from scripts.benchmark.login import READY, STARTUP, TERMINATE
from scripts.benchmark.workload import Pooler
from tests.harness import Doorman, PgBouncer, Postgres, find_debian_postgres
from tests.harness.certificates import Authority, Pair, readable_by_servers
from tests.harness.doorman import pool_of, user_of
from tests.harness.pgbouncer import find_pgbouncer
from tests.harness.service import temporary_directory

SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
COPY_BYTES = 100_000_000
COPIES = 5  # in one sample: processor time is counted in hundredths of a second
COPY = b"COPY (SELECT repeat('x', 999) FROM generate_series(1, 100000)) TO STDOUT"
"""100,000 lines of 1,000 bytes: what PostgreSQL needs for it is little beside what moving it costs."""


@dataclass(frozen=True)
class HandshakeSample:
    cpu_us: float  # processor time of the pooler per handshake (or per login over TLS)
    per_cpu_second: float  # how many one processor makes in a second
    per_second: float


@dataclass(frozen=True)
class BulkSample:
    mb_per_second: float
    cpu_us: float  # processor time of the pooler per megabyte


@contextmanager
def certificate() -> Iterator[Pair]:
    """One for localhost that every server of a run can read."""
    directory = temporary_directory("bench-certificates")
    yield readable_by_servers(Authority(directory).issue("localhost", names=("localhost",), addresses=("127.0.0.1",)))
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def tls_postgres(pair: Pair, clients: int) -> Iterator[Postgres]:
    """Debian's PostgreSQL: the wheel's has no SSL."""
    bindir = find_debian_postgres()
    if bindir is None:
        raise FileNotFoundError("TLS on both sides needs Debian's package postgresql (a PostgreSQL built with SSL)")
    settings: dict[str, str | int] = {"max_connections": max(200, clients), "jit": "off", "ssl": "on"}
    settings |= {"ssl_cert_file": str(pair.certificate_path), "ssl_key_file": str(pair.key_path)}
    with Postgres(bindir=bindir, settings=settings) as postgres:
        yield postgres


@contextmanager
def tls_poolers(
    postgres: Postgres, pair: Pair, names: list[str], *, workers: int, pool_size: int, behind: bool = False
) -> Iterator[dict[str, Any]]:
    """pg_doorman and PgBouncer, those of them that are asked for and installed. `behind`: TLS to PostgreSQL too."""
    with ExitStack() as stack:
        poolers: dict[str, Any] = {}
        if "pg_doorman" in names:
            poolers["pg_doorman"] = stack.enter_context(make_doorman(postgres, pair, workers, pool_size, behind))
        if "pgbouncer" in names and find_pgbouncer() is not None:
            poolers["pgbouncer"] = stack.enter_context(make_pgbouncer(postgres, pair, pool_size, behind))
        yield poolers


def make_doorman(postgres: Postgres, pair: Pair, workers: int, pool_size: int, behind: bool) -> Doorman:
    general = {
        "worker_threads": workers,
        "tls_certificate": str(pair.certificate_path),
        "tls_private_key": str(pair.key_path),
        "server_tls_mode": "require" if behind else "disable",
    }
    pools = {"postgres": pool_of(postgres, users=[user_of("app", pool_size)])}
    return Doorman(postgres, general=general, pools=pools)


def make_pgbouncer(postgres: Postgres, pair: Pair, pool_size: int, behind: bool) -> PgBouncer:
    settings: dict[str, str | int] = {
        "default_pool_size": pool_size,
        "client_tls_sslmode": "require",
        "client_tls_cert_file": str(pair.certificate_path),
        "client_tls_key_file": str(pair.key_path),
        "server_tls_sslmode": "require" if behind else "disable",
    }
    return PgBouncer(postgres, settings=settings)


def run_handshakes(pooler: Pooler, port: int, seconds: float, *, logs_in: bool) -> HandshakeSample:
    """Make encrypted connections for so long, one after the other; each ends in order, or logs in and leaves."""
    context = client_context()
    visit(context, port, logs_in)
    count, before, began = 0, pooler.cpu_seconds(), time.monotonic()
    while time.monotonic() - began < seconds:
        visit(context, port, logs_in)
        count += 1
    took = time.monotonic() - began
    time.sleep(0.1)  # the pooler still has to notice the last ones leaving
    used = pooler.cpu_seconds() - before
    return HandshakeSample(used / count * 1e6, count / used, count / took)


def visit(context: ssl.SSLContext, port: int, logs_in: bool) -> None:
    """One client's life. Without a login it waits for the pooler's end: so the pooler has read its Finished message."""
    with connect(context, port) as client:
        if logs_in:
            client.sendall(STARTUP)
            read_until_ready(client)
            client.sendall(TERMINATE)
            return
        with suppress(OSError):  # the pooler may close without a close_notify of its own
            client.unwrap()


def run_bulk(pooler: Pooler, port: int) -> BulkSample:
    """COPIES times a COPY of COPY_BYTES to a client that only reads."""
    megabytes = COPIES * COPY_BYTES / 1e6
    with connect(client_context(), port) as client:
        client.sendall(STARTUP)
        read_until_ready(client)
        before, began = pooler.cpu_seconds(), time.monotonic()
        for _ in range(COPIES):
            copy_out(client)
        took = time.monotonic() - began
        used = pooler.cpu_seconds() - before
        client.sendall(TERMINATE)
    return BulkSample(megabytes / took, used / megabytes * 1e6)


def copy_out(client: ssl.SSLSocket) -> None:
    client.sendall(b"Q" + (len(COPY) + 5).to_bytes(4, "big") + COPY + b"\0")
    got = read_until_ready(client)
    if got < COPY_BYTES:
        raise RuntimeError(f"COPY brought {got} bytes instead of {COPY_BYTES}")


def client_context() -> ssl.SSLContext:
    """OpenSSL's defaults, no verification, no session of an earlier connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connect(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(SSL_REQUEST)
    if sock.recv(1) != b"S":
        raise RuntimeError("the pooler does not offer TLS")
    return context.wrap_socket(sock)


def read_until_ready(client: ssl.SSLSocket) -> int:
    """Read on until ReadyForQuery; bytes read."""
    total, tail = 0, b""
    buffer = bytearray(65_536)
    view = memoryview(buffer)
    while not tail.endswith(READY):
        count = client.recv_into(buffer)
        if not count:
            raise RuntimeError(f"the pooler ended the connection: {tail!r}")
        total += count
        tail = (tail + bytes(view[max(0, count - len(READY)) : count]))[-200:]
    return total
