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
from doorman.wire.backend import parameter_status
from doorman.wire.startup import REMEMBERED_BYTES, StartupMessage
from doorman.wire.text import encode
from doorman.workers.roster import Roster

MOST = 1024


def application_name_of(startup: StartupMessage) -> str:
    """As the client gave it; the reference's default otherwise."""
    return startup.parameters.get("application_name", "pg_doorman")


def secret_bytes_of(startup: StartupMessage) -> int:
    """How long a cancel key the client understands."""
    return 32 if startup.spoken_minor >= 2 else 4


class Route:
    """One decision. `scram` is a model, of which each client gets one of its own (`again`); None: no question is asked.
    `name` is the application's, `report` the ParameterStatus that repeats it."""

    __slots__ = (
        "address",
        "generation",
        "has_settings",
        "kind",
        "name",
        "pool",
        "report",
        "scram",
        "secret_bytes",
        "startup",
    )

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
        self.scram = exchange if isinstance(exchange, ScramExchange) else None
        self.name = encode(application_name_of(startup))
        self.report = parameter_status("application_name", application_name_of(startup))
        self.secret_bytes = secret_bytes_of(startup)
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
