"""Runs look-ups of one auth_query on its few connections. Lives in the keeper.

Rules
1. At most `workers` look-ups at once, each alone on its connection; connections are opened when one is needed and
   stay. Whoever finds none waits in line, and nobody longer than LOOK_UP_SECONDS in all.
2. A connection that turns out to be dead when it is used again is replaced once; what a fresh one says counts.
3. The set heals by itself: a connection that was closed makes room for the next.
"""

from __future__ import annotations

import asyncio
from typing import Final

from doorman.auth.auth_query import Found, LookUpProblem
from doorman.errors import ServerFault
from doorman.workers.lookup_connection import LookUpConnection, Target

LOOK_UP_SECONDS: Final = 8.0
"""For one user, waiting in line included. Less than clients wait (lookup_client), so that they are told why."""


class Executor:
    """`queries` counts what was sent."""

    def __init__(self, target: Target, workers: int, connect_seconds: float) -> None:
        self.target = target
        self.connect_seconds = connect_seconds
        self.places = asyncio.Semaphore(workers)
        self.idle: list[LookUpConnection] = []
        self.is_closed = False
        self.queries = 0

    async def fetch(self, user: str) -> Found | None:
        """Ask PostgreSQL. Raises LookUpProblem, whatever the reason."""
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS), self.places:
                return await self.fetch_in_place(user)
        except TimeoutError:
            problem = LookUpProblem(f"{self.where()} did not answer the look-up within {LOOK_UP_SECONDS:g} s")
        except LookUpProblem as known:
            problem = known
        except (ServerFault, OSError) as error:
            problem = LookUpProblem(f"{self.where()}: {error}")
        raise problem from None

    async def fetch_in_place(self, user: str) -> Found | None:
        """Rule 2."""
        while (connection := self.take_idle()) is not None:
            try:
                return await self.use(connection, user)
            except (ServerFault, OSError):
                continue
        return await self.use(await self.open(), user)

    def take_idle(self) -> LookUpConnection | None:
        """One that seems to be alive."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.has_ended:
                return connection
            connection.close()
        return None

    async def use(self, connection: LookUpConnection, user: str) -> Found | None:
        """One look-up; the connection is kept if it may be."""
        self.queries += 1
        try:
            return await connection.look_up(user)
        finally:
            if connection.is_usable and not self.is_closed:
                self.idle.append(connection)
            else:
                connection.close()

    async def open(self) -> LookUpConnection:
        """A fresh connection, or why there is none."""
        try:
            async with asyncio.timeout(self.connect_seconds):
                return await LookUpConnection.open(self.target)
        except TimeoutError:
            raise ServerFault("08006", f"no login within connect_timeout ({self.connect_seconds:g} s)") from None

    def where(self) -> str:
        """The server for people."""
        return f"{self.target.host}:{self.target.port}, database {self.target.database}, user {self.target.user}"

    def close(self) -> None:
        """No more look-ups; those under way end as they would."""
        self.is_closed = True
        while self.idle:
            self.idle.pop().close()
