"""Free TCP ports on loopback, not handed out twice by one process nor to parallel test runs at the same moment."""

from __future__ import annotations

import random
import socket

# Below the kernel's ephemeral range (32768…), so that no outgoing connection takes the port meanwhile.
FIRST_PORT, LAST_PORT = 20000, 31999

_given: set[int] = set()
_random = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now; never the same twice in one process."""
    for _ in range(500):
        port = _random.randint(FIRST_PORT, LAST_PORT)
        if port not in _given and _can_bind(port):
            _given.add(port)
            return port
    raise RuntimeError("no free port found")


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
