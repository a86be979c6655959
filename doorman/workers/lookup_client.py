"""Asks the keeper to look a user up, for logins in any process.

Rules
1. A question is asked again when the keeper has a successor: the first one may have taken it with it.
2. Nobody waits longer than WAIT_SECONDS; the answer that comes later is for nobody.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

from doorman.auth.auth_query import Found, is_possible_name
from doorman.errors import ServerFault
from doorman.shm.rows import process_rows
from doorman.shm.table import Table
from doorman.wire.codes import SqlState
from doorman.workers.channel import LookedUp, LookUp

WAIT_SECONDS: Final = 10.0


class LookUpClient:
    """The questions of this process that are not answered yet."""

    def __init__(self, table: Table, tell: Callable[[LookUp], None]) -> None:
        self.table = table
        self.tell = tell
        self.requests = itertools.count(1)
        self.waiting: dict[int, tuple[LookUp, asyncio.Future[LookedUp]]] = {}
        self.generation = 0

    async def ask(self, database: str, user: str, failed: str = "") -> Found | None:
        """The user; if there is none a decoy, or None for a name that no role can have. Raises ServerFault when that
        cannot be found out. `failed` marks the stored password that a client did not meet: it may have been changed."""
        if not is_possible_name(user):
            return None
        message = LookUp(next(self.requests), self.table.process, database, user, failed)
        future: asyncio.Future[LookedUp] = asyncio.get_running_loop().create_future()
        if not self.waiting:
            self.generation = keeper_generation(self.table)
        self.waiting[message.request] = message, future
        try:
            self.tell(message)
            answer = await future
        finally:
            del self.waiting[message.request]
        if answer.problem:
            raise unavailable(user)
        return answer.found

    def report(self, database: str, user: str, failed: str) -> None:
        """Have a stored password looked up anew; nobody waits for the answer."""
        self.tell(LookUp(next(self.requests), self.table.process, database, user, failed))

    def take(self, answer: LookedUp) -> None:
        """The keeper has answered."""
        waiting = self.waiting.get(answer.request)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(answer)

    def look_at_keeper(self) -> None:
        """Rule 1; called ten times a second while a question waits."""
        generation = keeper_generation(self.table)
        if generation != self.generation:
            self.generation = generation
            for message, _ in list(self.waiting.values()):
                self.tell(message)


def unavailable(user: str) -> ServerFault:
    """All that a client is told of a look-up that failed."""
    return ServerFault(
        SqlState.SYSTEM_ERROR, f'authentication service unavailable: user "{user}" could not be looked up'
    )


def keeper_generation(table: Table) -> int:
    """How many keepers there have been."""
    return sum(row.generation for row in process_rows(table) if row.role == "keeper")
