"""The way to the server of a look-up: a socket, encrypted where `server_tls_mode` asks for it. Runs in the keeper.

These connections never move to another process, so asyncio's own TLS does.

Rules
1. `require` and the verify modes never fall back to plain text; `allow` and `prefer` take TLS where it is offered.
2. The answer to SSLRequest is read alone: bytes stuffed behind it meet the handshake, which fails (CVE-2021-43766).
3. The verify modes trust the configured CA file and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final

from doorman.config.resolve import ServerTls
from doorman.errors import ServerFault
from doorman.wire.codes import SqlState
from doorman.wire.frontend import SSL_REQUEST_PACKET
from doorman.workers.host_names import addresses_of

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
DEMANDING: Final = frozenset({"require", "verify-ca", "verify-full"})


async def open_stream(host: str, port: int, tls: ServerTls) -> Stream:
    """Connect. Raises OSError (ssl.SSLError is one) and ServerFault; nothing is left behind."""
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    if tls.mode == "disable":
        return await asyncio.open_connection(host, port)
    sock = await connect(host, port)
    try:
        if not await offers_tls(sock):
            if tls.mode in DEMANDING:
                raise ServerFault(
                    SqlState.CONNECTION_FAILURE, f"the server offers no TLS, server_tls_mode is {tls.mode}"
                )
            return await asyncio.open_connection(sock=sock)
        return await asyncio.open_connection(sock=sock, ssl=make_context(tls), server_hostname=host)
    except BaseException:
        sock.close()
        raise


async def connect(host: str, port: int) -> socket.socket:
    """A connected socket, to the first of the host's addresses that answers."""
    loop = asyncio.get_running_loop()
    refusal = OSError(f"host name {host!r} was not found")
    for family, kind, protocol, _, address in await addresses_of(host, port):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            refusal = error
        except BaseException:
            sock.close()
            raise
        else:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise refusal


async def offers_tls(sock: socket.socket) -> bool:
    """Rule 2."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, SSL_REQUEST_PACKET)
    answer = await loop.sock_recv(sock, 1)
    if answer not in (b"S", b"N"):
        raise ServerFault(SqlState.PROTOCOL_VIOLATION, "the server does not answer SSLRequest as PostgreSQL does")
    return answer == b"S"


def make_context(tls: ServerTls) -> ssl.SSLContext:
    """Rule 3. The files are read anew for every connection, which are few."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if tls.mode in ("verify-ca", "verify-full") else ssl.CERT_NONE
    if tls.ca_cert is not None and context.verify_mode is ssl.CERT_REQUIRED:
        context.load_verify_locations(tls.ca_cert)
    if tls.certificate is not None and tls.private_key is not None:
        context.load_cert_chain(tls.certificate, tls.private_key)
    return context
