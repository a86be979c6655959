"""The keeper's part of auth_query: one place that looks users up for all processes. Asked and answering by channel.

Rules
1. One look-up of a user at a time: whoever asks meanwhile, in any process, gets the same answer.
2. Every question is answered, once for each time that it was asked; a keeper that dies takes only those under way
   with it, and their askers ask its successor (lookup_client).
3. Only the log says why a look-up failed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from doorman.auth.auth_query import Found, LookUpProblem, is_possible_name
from doorman.auth.decoy import KindsFound
from doorman.auth.lookup_cache import LookUpCache
from doorman.config.resolve import resolve_server_tls
from doorman.config.schema import AuthQuery, Config, Pool
from doorman.shm.look_ups import close_row, count_look_up, open_row, set_entries
from doorman.shm.table import Table, monotonic_us
from doorman.workers.channel import LookedUp, LookUp
from doorman.workers.destination import is_loopback
from doorman.workers.lookup_connection import Target
from doorman.workers.lookup_executor import Executor

log = logging.getLogger(__name__)

LOG_SECONDS: Final = 1.0
MOST_TOLD: Final = 10_000

Spawn = Callable[[Coroutine[Any, Any, None]], object]
Answer = Callable[[LookedUp], None]


class Source(msgspec.Struct, frozen=True):
    """What the look-ups of a database depend on: while that is the same after a reload, what was learnt is kept."""

    target: Target
    query: AuthQuery
    parameters: tuple[tuple[str, str], ...]
    connect_seconds: float


class LookUps:
    """All databases that have an auth_query."""

    def __init__(self, config: Config, table: Table, spawn: Spawn, answer: Answer) -> None:
        self.table = table
        self.spawn = spawn
        self.answer = answer
        self.desks: dict[str, Desk] = {}
        for database, source in sources_of(config).items():
            self.open_desk(database, source, anew=False)

    def configure(self, config: Config) -> None:
        """After a reload."""
        wanted = sources_of(config)
        for database, desk in list(self.desks.items()):
            if wanted.get(database) != desk.source:
                desk.close()
                del self.desks[database]
                if database not in wanted:
                    close_row(self.table, database)
        for database, source in wanted.items():
            if database not in self.desks:
                self.open_desk(database, source, anew=True)

    def open_desk(self, database: str, source: Source, *, anew: bool) -> None:
        """Look users of a database up from now on. A keeper that takes another's place counts on."""
        if not open_row(self.table, database, anew):
            log.warning("look-ups of %s are not counted: the table has no row left", database)
        self.desks[database] = Desk(database, source, self.table)

    def take(self, message: LookUp) -> None:
        """A question of some process. What is known is answered at once, without a task."""
        desk = self.desks.get(message.database)
        if desk is None:
            self.answer(answer_to(message, None, "the configuration has no auth_query for this database any more"))
            return
        known = desk.recall(message.user, message.failed)
        if known is not None:
            self.answer(answer_to(message, known.found or desk.decoy(message.user)))
        else:
            self.spawn(self.find_out(desk, message))

    async def find_out(self, desk: Desk, message: LookUp) -> None:
        """Rule 2."""
        try:
            found = await desk.look_up(message.user)
            self.answer(answer_to(message, found or desk.decoy(message.user)))
        except LookUpProblem as problem:
            desk.complain(message.user, problem)
            self.answer(answer_to(message, None, "failed"))


class Known(msgspec.Struct, frozen=True):
    """An answer out of the cache."""

    found: Found | None


class Desk:
    """The look-ups of one database."""

    def __init__(self, database: str, source: Source, table: Table) -> None:
        query = source.query
        self.database = database
        self.table = table
        self.source = source
        self.cache = LookUpCache(query.cache_ttl / 1000, query.cache_failure_ttl / 1000, query.min_interval / 1000)
        self.executor = Executor(source.target, query.workers, source.connect_seconds)
        self.kinds = KindsFound()
        self.flights: dict[str, asyncio.Task[Found | None]] = {}
        self.complained_at = 0.0
        self.told: set[tuple[str, str]] = set()  # user and reason

    def recall(self, user: str, failed: str) -> Known | None:
        """What is known of a user; None: a look-up is due. `failed` marks a password that a client did not meet."""
        if not is_possible_name(user):
            return Known(None)
        now = time.monotonic()
        entry = self.cache.get(user, now)
        if entry is None:
            self.count("cache_misses")
            return None
        if failed and failed == entry.mark:
            if user in self.flights:
                return None
            if self.cache.may_ask_again(user, now):
                self.count("cache_refetches")
                return None
            self.count("cache_rate_limited")
        self.count("cache_hits")
        return Known(entry.found)

    def decoy(self, user: str) -> Found:
        """For a user who was not found: what those look like who were."""
        return Found(password=self.kinds.password_for(user), is_decoy=True)

    async def look_up(self, user: str) -> Found | None:
        """Rule 1."""
        flight = self.flights.get(user)
        if flight is None:
            flight = self.flights[user] = asyncio.ensure_future(self.fetch(user))
            flight.add_done_callback(lambda _: self.flights.pop(user, None))
        return await asyncio.shield(flight)

    async def fetch(self, user: str) -> Found | None:
        """Ask PostgreSQL and remember what it said."""
        self.count("executor_queries")
        try:
            found = await self.executor.fetch(user)
        except LookUpProblem:
            self.count("executor_errors")
            raise
        if found is not None:
            found = msgspec.structs.replace(found, found_at=monotonic_us())
            self.kinds.note(found.password)
        self.cache.put(user, found, time.monotonic())
        set_entries(self.table, self.database, len(self.cache))
        if found is not None:
            self.tell_dropped(user, found)
        return found

    def tell_dropped(self, user: str, found: Found) -> None:
        """What of a row's startup parameters goes nowhere: counted, and told once for each user and reason."""
        dropped = list(found.dropped)
        if found.parameters and self.source.query.server_user is not None:
            dropped.append(
                ("dedicated_mode", "startup_parameters is ignored, as all users share server_user's servers")
            )
        for reason, text in dropped:
            self.count(reason)
            if (user, reason) not in self.told and len(self.told) < MOST_TOLD:
                self.told.add((user, reason))
                log.warning("auth_query of %s, user %s: %s (%s)", self.database, user, text, reason)

    def count(self, what: str) -> None:
        """For the console and metrics."""
        count_look_up(self.table, self.database, what)

    def complain(self, user: str, problem: LookUpProblem) -> None:
        """Rule 3, at most once a second."""
        now = time.monotonic()
        if now - self.complained_at >= LOG_SECONDS:
            self.complained_at = now
            log.error("auth_query of %s could not look up %s: %s", self.database, user, problem)

    def close(self) -> None:
        """The configuration has changed."""
        self.executor.close()


def answer_to(message: LookUp, found: Found | None, problem: str = "") -> LookedUp:
    """The answer for whoever asked."""
    if found is not None and found.dropped:
        found = msgspec.structs.replace(found, dropped=())
    return LookedUp(message.request, message.process, found, problem)


def sources_of(config: Config) -> dict[str, Source]:
    """Every database with an auth_query."""
    return {
        database: source_of(config, database, pool, pool.auth_query)
        for database, pool in config.pools.items()
        if pool.auth_query is not None
    }


def source_of(config: Config, database: str, pool: Pool, query: AuthQuery) -> Source:
    """Where to look users of a database up."""
    target = Target(
        host=pool.server_host,
        port=pool.server_port,
        database=query.database or database,
        user=query.user,
        password=query.password,
        query=query.query,
        encrypted_or_local=pool.server_host.startswith("/") or is_loopback(pool.server_host),
        tls=resolve_server_tls(config.general, pool),
    )
    parameters = sorted({**config.general.startup_parameters, **pool.startup_parameters}.items())
    connect_ms = pool.connect_timeout or config.general.connect_timeout or 3000
    return Source(target, query, tuple(parameters), connect_ms / 1000)
