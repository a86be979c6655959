"""Which worker has which client, as the kernel knows it: by the sockets that a process holds."""

from __future__ import annotations

import time

from tests.harness import procfs
from tests.harness.doorman import Doorman

LOOKS = 3  # at the kernel's list of connections


def client_ports(pid: int, port: int) -> set[int]:
    """Client-side ports of the connections to `port` that this process, which should be stopped, holds.

    The kernel's list is read in pieces, and while others come and go an entry between two pieces may be left out: hence
    several looks.
    """
    sockets = set(procfs.fd_targets(pid))
    return {
        remote
        for _ in range(LOOKS)
        for inode, remote in procfs.accepted_connections(port)
        if f"socket:[{inode}]" in sockets
    }


def worker_of(doorman: Doorman, port: int) -> int:
    """Pid of the worker that serves the client with this port.

    Who hands a new client over has its socket as well until it runs again, and the client may be served before that.
    """
    until = time.monotonic() + 5
    while time.monotonic() < until:
        holders = [pid for pid in doorman.pids().workers if port in client_ports(pid, doorman.port)]
        if len(holders) == 1:
            return holders[0]
        time.sleep(0.001)
    raise AssertionError(f"the client with port {port} is held by {holders}")
