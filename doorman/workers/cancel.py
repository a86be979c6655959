"""Sends one cancel request to PostgreSQL and waits until it has been dealt with. Runs in workers and keeper.

Rules
1. PostgreSQL signals its backend before it closes the connection that the request came on: the end of that stream
   is the proof that the cancel cannot hit any later statement.
2. Until then the slot has a canceller and is lent to nobody (shm/pools). Without the proof the server ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from doorman.config.resolve import PoolSettings
from doorman.wire.frontend import cancel_request
from doorman.workers.opening import literal_address

if TYPE_CHECKING:
    from doorman.workers.process import Process

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0


async def cancel_statement(process: Process, slot: int, generation: int) -> None:
    """Cancel what the slot's server runs; tells the relay when it is over, whatever happened."""
    key = process.relay.cancel_key(slot, generation)
    if key is None:
        process.relay.cancel_done(slot, generation, doubtful=False)
        return
    pid, secret, pool = key
    proven = False
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            proven = await send_cancel(process.pools[pool], pid, secret)
    except (OSError, TimeoutError) as error:
        log.warning("a cancel request for server pid %d did not get through: %s", pid, error or "timeout")
    process.relay.cancel_done(slot, generation, doubtful=not proven)


async def send_cancel(pool: PoolSettings, pid: int, secret: bytes) -> bool:
    """Connect, send, wait for the end of the stream (rule 1)."""
    loop = asyncio.get_running_loop()
    try:
        family, address = literal_address(pool.server_host, pool.server_port)
    except ValueError:
        found = await loop.getaddrinfo(pool.server_host, pool.server_port, type=socket.SOCK_STREAM)
        family, address = found[0][0], found[0][4]
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        await loop.sock_connect(sock, address)  # type: ignore[arg-type]
        await loop.sock_sendall(sock, cancel_request(pid, secret))
        try:
            return await loop.sock_recv(sock, 1) == b""
        except ConnectionResetError:
            return True
