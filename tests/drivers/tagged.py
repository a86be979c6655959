"""Many clients of a Python driver at the same time, each with a tag that it must find again in whatever it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.harness import Endpoint

CLIENTS = 12  # four times as many as there are servers in transaction mode
ROUNDS = 12


@dataclass(frozen=True)
class Route:
    """Where a test connects to: PostgreSQL itself, or a pool in front of it."""

    server: Endpoint
    dbname: str

    def dsn(self, **words: str | int) -> str:
        return self.server.dsn(dbname=self.dbname, **words)

    def url(self, scheme: str = "postgresql") -> str:
        return self.server.url(scheme, dbname=self.dbname)


async def together(client: Callable[[int], Awaitable[None]], clients: int = CLIENTS) -> None:
    """`client(tag)` for each tag, all at the same time; the first failure ends the test."""
    async with asyncio.TaskGroup() as group:
        for tag in range(clients):
            group.create_task(_awaited(client(tag)))


async def _awaited(work: Awaitable[None]) -> None:
    await work


def in_threads(client: Callable[[int], None], clients: int = CLIENTS) -> None:
    """The same for drivers that block."""
    with ThreadPoolExecutor(clients) as threads:
        for done in [threads.submit(client, tag) for tag in range(clients)]:
            done.result()
