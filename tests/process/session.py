"""One client of the process tests: the raw protocol of the torture's `Wire`, with a login and whole statements."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from tests.harness import Doorman
from tests.harness.clients import worker_of
from tests.harness.endpoint import Endpoint
from tests.torture import wire
from tests.torture.wire import Message, Wire


class SqlError(Exception):
    """An ErrorResponse: `fields` by letter, `sqlstate`, and whether it ended the session."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(f"{fields['S']} {fields['C']} {fields['M']}")
        self.fields = fields
        self.sqlstate = fields["C"]
        self.message = fields["M"]
        self.is_fatal = fields["V"] == "FATAL"


class Session:
    """A logged-in client. Every answer is awaited in full: up to ReadyForQuery, also after an error."""

    def __init__(self, endpoint: Endpoint, connection: Wire) -> None:
        self.endpoint = endpoint
        self.wire = connection

    @classmethod
    async def open(cls, endpoint: Endpoint, *, user: str = "app", dbname: str = "postgres", **parameters: str) -> Self:
        """Log in; raises SqlError, ConnectionEnded or OSError."""
        connection = await Wire.open(endpoint.host, endpoint.port, wire.startup(user, dbname, **parameters))
        session = cls(endpoint, connection)
        try:
            await session.answer()
        except BaseException:
            connection.transport.abort()
            raise
        return session

    @property
    def port(self) -> int:
        """The client's own port, by which /proc/net/tcp tells whose it is."""
        return self.wire.local_port

    async def query(self, sql: str) -> list[str | None]:
        """First column of the rows of a simple query."""
        await self.send(wire.query(sql))
        return first_columns(await self.answer())

    async def send(self, data: bytes) -> None:
        await self.wire.send(data)

    async def answer(self) -> list[Message]:
        """All messages up to ReadyForQuery; raises the first error of them, at once if it is FATAL."""
        got: list[Message] = []
        failed: SqlError | None = None
        while (message := await self.wire.next()).kind != b"Z":
            got.append(message)
            if message.kind == b"E" and failed is None:
                failed = SqlError(message.fields())
                if failed.is_fatal:
                    raise failed
        if failed is not None:
            raise failed
        return got

    async def is_ended(self, seconds: float = 5.0) -> bool:
        """Does the other side close the connection within this time?"""
        async with asyncio.timeout(seconds):
            while not self.wire.is_lost:
                await asyncio.sleep(0.005)
        return True

    async def cancel(self) -> None:
        """A cancel request for what this client runs, on a connection of its own."""
        await wire.send_cancel(self.endpoint.host, self.endpoint.port, self.wire.pid, self.wire.secret)

    def close(self) -> None:
        self.wire.close_kindly()

    def vanish(self) -> None:
        self.wire.close_abruptly(reset=False)


def first_columns(messages: list[Message]) -> list[str | None]:
    values = [message.columns()[0] for message in messages if message.kind == b"D"]
    return [None if value is None else value.decode() for value in values]


async def open_many(endpoint: Endpoint, count: int, **options: Any) -> list[Session]:
    return list(await asyncio.gather(*(Session.open(endpoint, **options) for _ in range(count))))


async def open_on(doorman: Doorman, pid: int, count: int = 1, **options: Any) -> list[Session]:
    """So many clients of one worker. Clients are spread over all; those that went elsewhere are closed at the end: if
    they went sooner, others would be handed over in their place."""
    found: list[Session] = []
    elsewhere: list[Session] = []
    try:
        for _ in range(40 * count):
            session = await Session.open(doorman, **options)
            if worker_of(doorman, session.port) == pid:
                found.append(session)
                if len(found) == count:
                    return found
            else:
                elsewhere.append(session)
    finally:
        for session in elsewhere:
            session.close()
    raise AssertionError(f"no {count} connections went to worker {pid}")
