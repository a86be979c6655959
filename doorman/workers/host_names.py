"""Looks up host names of servers without holding anything else up.

Rules
1. A name is looked up once at a time, for all who ask meanwhile. Who gives up leaves it running.
2. Each name has a thread of its own. The event loop's (libuv's) share two among all names: where those wait for a DNS
   server that is silent, for ten seconds and more each, no other name is found, not even one in /etc/hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

Found = list[tuple[Any, ...]]

UNDER_WAY: dict[tuple[str, int], asyncio.Future[Found]] = {}


async def addresses_of(host: str, port: int) -> Found:
    """As `socket.getaddrinfo` lists them, for streams. Raises OSError."""
    look_up = UNDER_WAY.get((host, port))
    if look_up is None:
        loop = asyncio.get_running_loop()
        look_up = loop.create_future()
        thread = threading.Thread(target=find, args=(loop, look_up, host, port), name="host-name", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(f"no thread to look up {host!r}: {error}") from None
        UNDER_WAY[host, port] = look_up
        look_up.add_done_callback(lambda look_up: forget(host, port, look_up))
    return await asyncio.shield(look_up)


def find(loop: asyncio.AbstractEventLoop, look_up: asyncio.Future[Found], host: str, port: int) -> None:
    """In its thread."""
    found: Found | OSError
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        found = error
    except UnicodeError as error:
        found = OSError(None, str(error))
    with contextlib.suppress(RuntimeError):  # the process ends
        loop.call_soon_threadsafe(settle, look_up, found)


def settle(look_up: asyncio.Future[Found], found: Found | OSError) -> None:
    """Tell those who wait."""
    if isinstance(found, OSError):
        look_up.set_exception(found)
    else:
        look_up.set_result(found)


def forget(host: str, port: int, look_up: asyncio.Future[Found]) -> None:
    """It is over: who asks now wants to know anew."""
    del UNDER_WAY[host, port]
    look_up.exception()  # perhaps nobody waits for it any more
