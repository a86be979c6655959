"""/ready over HTTP through the phases of a pooler's life, by the server that the keeper runs, on a real table."""

from __future__ import annotations

import socket

import aiohttp

from doorman.config.schema import Config, General
from doorman.shm.table import Table
from doorman.web.server import WebServer


async def test_ready_tells_the_phase_until_clients_are_served() -> None:
    table = Table.create(processes=2, pools=1, slots=1, clients=1, max_connections=1)
    config = Config(general=General(admin_username="a", admin_password="b"), pools={})
    listening = socket.create_server(("127.0.0.1", 0))
    server = WebServer(table, lambda: (config, []))
    await server.start(listening)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with aiohttp.ClientSession() as client:

        async def ask(path: str) -> tuple[int, str]:
            async with client.get(url + path) as answer:
                return answer.status, await answer.text()

        assert await ask("/ready") == (503, "starting\n") and await ask("/live") == (200, "live\n")
        table.phase = "open"
        assert await ask("/ready") == (503, "no worker accepts clients\n")
        table.phase = "draining"
        assert await ask("/ready") == (503, "draining\n") and await ask("/live") == (200, "live\n")
    table.close()
