"""What was decided of a client's first packet, for the next client that says the same from the same address.

An application's connections all begin alike, so a worker need not parse, look up and decide the same for each of them.

Rules
1. A route says who the client would be and how it has to prove that; never that it has.
2. Strangers are remembered like users: time tells nobody which is which.
3. When a pool or the configuration changes, everything is forgotten. What may change besides is asked each time: is the
   pool enabled, does the pooler stop, is the client one too many.
4. Only what is asked for in plain text, in a packet of an ordinary length.
"""

from __future__ import annotations

from doorman.auth.exchange import ScramExchange, TrustExchange
from doorman.wire.startup import REMEMBERED_BYTES, StartupMessage
from doorman.workers.roster import Roster

MOST = 1024


class Route:
    """One decision. `exchange` is a model: each client gets one of its own (`again`)."""

    __slots__ = ("address", "exchange", "generation", "has_settings", "kind", "pool", "startup")

    def __init__(
        self,
        startup: StartupMessage,
        address: str | None,
        exchange: ScramExchange | TrustExchange,
        kind: str,
        pool: int,
        generation: int,
        has_settings: bool,
    ) -> None:
        self.startup = startup
        self.address = address
        self.exchange = exchange
        self.kind = kind
        self.pool = pool  # -1: who proves to be somebody learns that there is no such pool
        self.generation = generation
        self.has_settings = has_settings


class Routes:
    """The routes of one process under one configuration."""

    __slots__ = ("_changes", "_known", "_roster")

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._changes = -1
        self._known: dict[tuple[bytes, bytes], Route] = {}

    def find(self, packet: bytes, peer: bytes) -> Route | None:
        """peer: the client's address in network order, empty on the Unix socket."""
        if self._changes != self._roster.changes:
            self._known.clear()
            self._changes = self._roster.changes
        return self._known.get((packet, peer))

    def keep(self, packet: bytes, peer: bytes, route: Route) -> None:
        """Remember it, unless there was a change since `find` was asked for the same."""
        if self._changes != self._roster.changes or len(packet) > REMEMBERED_BYTES:
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[packet, peer] = route
