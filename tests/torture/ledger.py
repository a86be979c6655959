"""Which faults were injected, when, and which error of which client each of them explains. No I/O.

Rules
1. An error is explained only by a fault that can have hit that very client at that time.
2. A cancel explains 57014 of the client that asked for it, and nobody else's.
3. A time-out in the queue explains only clients that have waited about that long.
4. A killed worker explains the loss of the connections that it held at that moment, known by their port,
   and of those that were logging in.
5. `pg_terminate_backend` explains no more clients than there were calls.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

KILL_SECONDS = 2.0  # after a worker's death in which a login may fail; the design allows one to be whole again
TERMINATE_SECONDS = 1.0  # between the call and the moment in which the client may learn of it

QUEUE_TIMEOUT, CANCEL, TERMINATED, WORKER_KILLED = (
    "query_wait_timeout",
    "own cancel",
    "pg_terminate_backend",
    "worker SIGKILL",
)


@dataclass(frozen=True)
class Dialect:
    """How a pooler words what it must say itself."""

    name: str
    queue_timeout: frozenset[str]
    server_lost: frozenset[str]
    keeps_prepared: bool
    cleans_sessions: bool
    keeps_pipelines: bool  # several Sync or Query in flight, cut anywhere: PgBouncer 1.18 mixes these up
    late_cancel_seconds: float  # in which a cancel that came too late may still hit the same client


DOORMAN = Dialect("pg_doorman", frozenset({"53300"}), frozenset({"57P01", "08006"}), True, True, True, 0.0)
PGBOUNCER = Dialect("pgbouncer", frozenset({"08P01"}), frozenset({"57P01", "08P01"}), False, False, False, 1.0)
DIRECT = Dialect("postgresql", frozenset(), frozenset({"57P01"}), True, False, True, 1.0)
DIALECTS = {dialect.name: dialect for dialect in (DOORMAN, PGBOUNCER, DIRECT)}


@dataclass
class Moment:
    """What a client was doing when something went wrong; times are of the event loop's clock."""

    client: int
    port: int
    sent_at: float
    action_at: float
    now: float
    cancelled_at: float = 0.0
    is_logging_in: bool = False


@dataclass
class Ledger:
    dialect: Dialect
    query_wait_timeout: float
    terminations: list[float] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    lost_ports: dict[int, float] = field(default_factory=dict)
    injected: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)

    def note_termination(self, now: float) -> None:
        self.terminations.append(now)
        self.injected[TERMINATED] += 1

    def note_kill(self, now: float, ports: set[int]) -> None:
        """A worker was killed while it held the clients on these ports."""
        self.kills.append(now)
        self.lost_ports.update(dict.fromkeys(ports, now))
        self.injected[WORKER_KILLED] += 1

    def explain_error(self, sqlstate: str, moment: Moment) -> str | None:
        """The cause of an ErrorResponse, None if no fault can have caused it."""
        cause = self._cause_of_error(sqlstate, moment)
        if cause:
            self.explained[cause] += 1
        return cause

    def explain_loss(self, moment: Moment) -> str | None:
        """The cause of a connection that ended without a word."""
        cause = None
        if moment.port in self.lost_ports and moment.now >= self.lost_ports[moment.port]:
            cause = WORKER_KILLED
        elif moment.is_logging_in and self._is_recent(self.kills, moment.action_at, moment.now, KILL_SECONDS):
            cause = f"{WORKER_KILLED} during login"
        if cause:
            self.explained[cause] += 1
        return cause

    def overdrawn(self) -> list[str]:
        """Causes that explain more clients than they can have hit."""
        if self.explained[TERMINATED] > self.injected[TERMINATED]:
            return [f"{self.explained[TERMINATED]} clients lost a server, {self.injected[TERMINATED]} were terminated"]
        return []

    def _cause_of_error(self, sqlstate: str, moment: Moment) -> str | None:
        waited = moment.now - moment.sent_at
        if sqlstate in self.dialect.queue_timeout and waited >= 0.8 * self.query_wait_timeout:
            return QUEUE_TIMEOUT
        if sqlstate == "57014" and moment.cancelled_at:
            is_own = moment.cancelled_at >= moment.action_at - self.dialect.late_cancel_seconds
            return CANCEL if is_own else None
        if sqlstate in self.dialect.server_lost and self._was_terminated(moment):
            return TERMINATED
        return None

    def _was_terminated(self, moment: Moment) -> bool:
        return self._is_recent(self.terminations, moment.action_at, moment.now, TERMINATE_SECONDS)

    @staticmethod
    def _is_recent(times: list[float], since: float, now: float, grace: float) -> bool:
        """Whether one of the times lies between `since` (less the grace) and now."""
        return any(since - grace <= at <= now for at in reversed(times[-200:]))
