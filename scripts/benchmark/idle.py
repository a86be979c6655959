"""Memory of the pooler per idle client: PSS of all its processes with no client and with many."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from scripts.benchmark.login import log_in
from scripts.benchmark.workload import Pooler
from tests.harness.service import raise_file_limit

SPARE_FILES = 1000
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class IdleSample:
    clients: int
    empty_mib: float  # PSS without clients
    bytes_per_client: float


def run_idle(pooler: Pooler, port: int, clients: int) -> IdleSample:
    """Log in so many clients, leave them alone, weigh the pooler, let them go."""
    clients = min(clients, raise_file_limit(clients + SPARE_FILES) - SPARE_FILES // 2)
    log_in(port).close()
    time.sleep(SETTLE_SECONDS)
    empty = pooler.pss_bytes()
    idle: list[socket.socket] = []
    try:
        for _ in range(clients):
            idle.append(log_in(port))
        time.sleep(SETTLE_SECONDS)
        full = pooler.pss_bytes()
    finally:
        for client in idle:
            client.close()
    return IdleSample(clients, empty / 2**20, (full - empty) / clients)
