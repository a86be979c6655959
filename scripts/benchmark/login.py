"""Cost of a login: processor time of the pooler for one connect, startup, ReadyForQuery, Terminate.

Raw blocking sockets, few at a time: what the clients cost is not measured, only the pooler's process tree.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

from scripts.benchmark.workload import Pooler

STARTUP_BODY = struct.pack("!i", 196608) + b"user\0app\0database\0postgres\0\0"
STARTUP = struct.pack("!i", len(STARTUP_BODY) + 4) + STARTUP_BODY
TERMINATE = b"X\0\0\0\x04"
READY = b"Z\0\0\0\x05I"


@dataclass(frozen=True)
class LoginSample:
    cpu_us: float  # processor time of the pooler per login
    per_second: float


def run_logins(pooler: Pooler, port: int, seconds: float) -> LoginSample:
    """Log in and out for so long, one client after the other."""
    log_in(port).close()
    count, before, began = 0, pooler.cpu_seconds(), time.monotonic()
    while time.monotonic() - began < seconds:
        client = log_in(port)
        client.sendall(TERMINATE)
        client.close()
        count += 1
    took = time.monotonic() - began
    time.sleep(0.1)  # the pooler still has to notice the last ones leaving
    return LoginSample((pooler.cpu_seconds() - before) / count * 1e6, count / took)


def log_in(port: int) -> socket.socket:
    """A logged-in connection; trust only."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(STARTUP)
    answer = b""
    while not answer.endswith(READY):
        part = client.recv(8192)
        if not part:
            raise RuntimeError(f"login was refused: {answer!r}")
        answer += part
    return client
