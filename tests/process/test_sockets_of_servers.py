"""Whose socket is it, and is it over? How processes learn of each other's server connections, and forget them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.load import kill, stopped
from tests.process.proxy import Proxy
from tests.process.session import open_on
from tests.process.watching import wait_for, wait_whole

PID = "SELECT pg_backend_pid()"
TOO_NEW = b"SFATAL\0VFATAL\x00C0A000\0Munsupported frontend protocol 3.2: server supports 3.0 to 3.0\0\0"


class OldServer(Proxy):
    """Refuses the next connection as a server does that does not know the newest protocol, when it may answer."""

    def __init__(self, target: Postgres) -> None:
        super().__init__(target)
        self.is_to_refuse = False
        self.may_answer = threading.Event()

    def _serve(self, client: socket.socket, delay: float) -> None:
        if not self.is_to_refuse:
            return super()._serve(client, delay)
        self.is_to_refuse = False
        with contextlib.suppress(OSError):
            client.recv(4096)
            self.may_answer.wait(10)
            client.sendall(b"E" + (len(TOO_NEW) + 4).to_bytes(4, "big") + TOO_NEW)
        client.close()


def start(make_doorman: Any, postgres: Postgres, *, size: int = 1, where: Any = None, **general: Any) -> Doorman:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", size)], **(where or {}))}
    doorman: Doorman = make_doorman(pools=pools, general={"worker_threads": 2, **general})
    return doorman


async def end_servers(doorman: Doorman, postgres: Postgres) -> None:
    """The next server is a new one."""
    postgres.terminate_backends(user="app")
    await asyncio.to_thread(wait_for, lambda: not doorman.console("SHOW SERVERS"), "end of the servers")


async def test_a_worker_born_amid_an_opening_that_is_tried_again_does_not_use_its_first_socket(
    make_doorman: Any, postgres: Postgres
) -> None:
    with OldServer(postgres) as proxy:
        doorman = start(make_doorman, postgres, where=proxy.pool)
        doorman.query("SELECT 1")
        first, second = doorman.pids().workers
        [opener] = await open_on(doorman, first)
        await end_servers(doorman, postgres)
        proxy.is_to_refuse = True
        asked = asyncio.create_task(opener.query(PID))
        await asyncio.sleep(1.3)  # what was deposited has been collected by now
        kill(second)
        await asyncio.to_thread(doorman.wait_workers, 2)
        [successor] = [pid for pid in doorman.pids().workers if pid != first]
        [other] = await open_on(doorman, successor)
        proxy.may_answer.set()
        pid = await asyncio.wait_for(asked, 2)
        for _ in range(8):
            assert await other.query(PID) == pid
            await asyncio.sleep(0.2)
        assert await opener.query(PID) == pid
        wait_whole(doorman, postgres)


async def test_an_outdated_server_counts_until_it_has_ended_even_where_its_socket_never_came(
    make_doorman: Any, postgres: Postgres
) -> None:
    """A client is granted a server by another worker's socket, which the master is late with, and goes away; meanwhile
    the server was outdated."""
    doorman = start(make_doorman, postgres)
    doorman.query("SELECT 1")
    first, second = doorman.pids().workers
    [opener] = await open_on(doorman, first)
    [parked] = await open_on(doorman, second)
    await end_servers(doorman, postgres)
    old = await opener.query(PID)
    await asyncio.sleep(0.1)
    with stopped(doorman.pid):
        asked = asyncio.create_task(parked.query(PID))
        await asyncio.to_thread(wait_for, lambda: doorman.pool_row()["sv_active"] == 1, "a server in use")
        doorman.console("RECONNECT")
        parked.vanish()
        with contextlib.suppress(Exception):
            await asked
        waiting = asyncio.create_task(opener.query(PID))
        await asyncio.sleep(0.5)
        assert postgres.activity_count(user="app") == 1
    assert await asyncio.wait_for(waiting, 3) != old
    assert postgres.activity_count(user="app") == 1
    wait_whole(doorman, postgres)
