"""The one error tree. Faults of a peer carry what an ErrorResponse needs; everything else is a bug of ours.

`ClientFault` and `ServerFault` become an ErrorResponse at exactly one place (the relay's `report`);
`ConfigProblem` is data, collected in a list and shown all at once.
"""

from __future__ import annotations

import msgspec


class DoormanError(Exception):
    """Base of every error that this package raises on purpose."""


class PeerFault(DoormanError):
    """A fault that a client is told about: SQLSTATE (5 characters), message, optional detail and hint.

    `for_log` is what only the operator may know (why a directory refused, that the user does not exist).
    """

    def __init__(
        self,
        sqlstate: str,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        for_log: str | None = None,
    ) -> None:
        super().__init__(message)
        self.for_log = for_log
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint


class ClientFault(PeerFault):
    """The client broke a rule: bad packet, unknown database, wrong password. Ends that client's connection."""


class ServerFault(PeerFault):
    """A server connection could not be made, or PostgreSQL refused it. `sqlstate` is PostgreSQL's where it sent one."""


class ProtocolViolation(ClientFault):
    """Bytes that are no PostgreSQL message (SQLSTATE 08P01)."""

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__("08P01", message, detail=detail, hint=hint)


class ConfigProblem(msgspec.Struct, frozen=True):
    """One thing that is wrong in a configuration file: `key` is its path (`pools.app.users[0].pool_size`)."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" if self.key else self.reason


class ConfigError(DoormanError):
    """A configuration that cannot be used; `problems` holds every reason, in file order."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
