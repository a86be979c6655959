"""Sends one cancel request to PostgreSQL and waits until it has been dealt with. Runs in workers and keeper.

Rules
1. PostgreSQL signals its backend before it closes the connection that the request came on: the end of that stream
   is the proof that the cancel cannot hit any later statement.
2. Until then the slot has a canceller and is lent to nobody (shm/pools). Without the proof the server ends.
3. The request to an encrypted server goes encrypted as well, with the same checks of its certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING

from doorman.config.resolve import PoolSettings
from doorman.errors import ServerFault
from doorman.tls.record import RecordLayer, private_layer
from doorman.wire.frontend import cancel_request
from doorman.workers.destination import literal_address
from doorman.workers.host_names import addresses_of
from doorman.workers.server_tls import ServerTls

if TYPE_CHECKING:
    from doorman.workers.process import Process

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
TURN_SECONDS = 0.002
Where = tuple[int, object]
"""Family and address of a socket."""


async def cancel_statement(process: Process, slot: int, generation: int) -> None:
    """Cancel what the slot's server runs; tells the relay when it is over, whatever happened."""
    key = process.relay.cancel_key(slot, generation)
    if key is None:
        process.relay.cancel_done(slot, generation, doubtful=False)
        return
    pid, secret, pool, encrypted = key
    proven = False
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            where = peer_of(await process.fetch_server(slot, generation)) or await resolve(process.pools[pool])
            proven = await send_cancel(process, process.pools[pool], where, cancel_request(pid, secret), encrypted)
    except (OSError, TimeoutError, ServerFault) as error:
        log.warning("a cancel request for server pid %d did not get through: %s", pid, error or "timeout")
    process.relay.cancel_done(slot, generation, doubtful=not proven)


async def cancel_again(process: Process, pid: int, secret: bytes) -> None:
    """An earlier request for this server is on its way. It may have come before what this one is meant for. Those that
    come while this one waits share it (`Process.cancel_turns`)."""
    try:
        found = await wait_for_turn(process, pid, secret)
    finally:
        del process.cancel_turns[pid, secret]
    if found is not None:
        await process.cancel_server(*found)


async def wait_for_turn(process: Process, pid: int, secret: bytes) -> tuple[int, int] | None:
    """The server to cancel, when nobody else does any more; None when there is nothing to cancel."""
    until = process.loop.time() + PATIENCE_SECONDS
    while process.loop.time() < until:
        await asyncio.sleep(TURN_SECONDS)
        found = process.relay.cancel_client(pid, secret)
        if found is None or found[2]:
            return found and found[:2]
    return None


def peer_of(fd: int) -> Where | None:
    """Where a server's socket leads to, which the configuration may not say any more; None without a socket."""
    if fd < 0:
        return None
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        return sock.family, sock.getpeername()
    return None


async def resolve(pool: PoolSettings) -> Where:
    """The address that the configuration says."""
    try:
        return literal_address(pool.server_host, pool.server_port)
    except ValueError:
        found = await addresses_of(pool.server_host, pool.server_port)
        return found[0][0], found[0][4]


async def send_cancel(process: Process, pool: PoolSettings, where: Where, request: bytes, encrypted: bool) -> bool:
    """Connect, send, wait for the end of the stream (rule 1). encrypted: the server itself is (rule 3)."""
    loop = asyncio.get_running_loop()
    family, address = where
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        await loop.sock_connect(sock, address)  # type: ignore[arg-type]
        if encrypted:
            request = (await encrypt(process, pool, sock)).seal_bytes(request)
        await loop.sock_sendall(sock, request)
        try:
            while await loop.sock_recv(sock, 4096):
                if not encrypted:
                    return False
        except ConnectionResetError:
            pass
        return True


async def encrypt(process: Process, pool: PoolSettings, sock: socket.socket) -> RecordLayer:
    """A handshake as for the pool's servers; under `allow` they are encrypted where plain text was refused."""
    loop = asyncio.get_running_loop()
    mode = "require" if pool.server_tls_mode in ("allow", "prefer") else pool.server_tls_mode
    tls = ServerTls(process.encryption.connector(pool, mode), pool.server_host, mode)
    await loop.sock_sendall(sock, tls.start())
    while tls.session is None:
        data = await loop.sock_recv(sock, 16384)
        if not data:
            raise ConnectionResetError("the server closed the connection during the TLS handshake")
        await loop.sock_sendall(sock, tls.feed(data))
    return private_layer(tls.session, is_client=True)
