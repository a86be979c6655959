"""PostgreSQL's side of the protocol as far as it decides which answers follow: tcop/postgres.c and commands/copyfrom.c.

Rules
1. Query and FunctionCall end with ReadyForQuery, also after an error. So does Sync.
2. An error in an extended message makes everything up to the next Sync be ignored.
3. In COPY IN only CopyData, CopyDone, CopyFail, Flush and Sync are taken; the last two do nothing. Others are fatal.
4. Outside of COPY, CopyData, CopyDone and CopyFail do nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

EXTENDED = "PBDEC"


@dataclass(frozen=True)
class Sent:
    """One message and what comes of it: `fails`, or (Query and Execute) starts so many COPY IN."""

    kind: str
    fails: bool = False
    copies: int = 0


@dataclass
class PostgresModel:
    """Takes messages one by one, leaves its answers (Z E G, others do not matter) in `answers`."""

    inbox: deque[Sent] = field(default_factory=deque)
    answers: deque[str] = field(default_factory=deque)
    is_ignoring: bool = False
    is_unsynced: bool = False
    is_dead: bool = False
    copying: Sent | None = None
    copies_left: int = 0

    def work(self) -> None:
        """Process the oldest message."""
        if self.inbox and not self.is_dead:
            sent = self.inbox.popleft()
            if self.copying is not None:
                self._copy(sent)
            else:
                self._command(sent)

    @property
    def is_at_rest(self) -> bool:
        """Nothing is under way and nothing half done: the next client would find a fresh session."""
        busy = self.inbox or self.answers or self.copying is not None
        return not busy and not self.is_ignoring and not self.is_unsynced

    def _command(self, sent: Sent) -> None:
        if sent.kind == "S":  # Sync
            self.is_ignoring = self.is_unsynced = False
            self.answers.append("Z")
        elif self.is_ignoring or sent.kind in "dcfH":
            return
        elif sent.kind in EXTENDED:
            self.is_unsynced = True
            self._run(sent)
        else:  # Query, FunctionCall
            self._run(sent)
            self._end_cycle(sent)

    def _run(self, sent: Sent) -> None:
        if sent.fails:
            self._fail(sent)
        elif sent.copies:
            self.copying, self.copies_left = sent, sent.copies
            self.answers.append("G")

    def _copy(self, sent: Sent) -> None:
        assert self.copying is not None
        command = self.copying
        if sent.kind in "HS" or (sent.kind == "d" and not sent.fails):
            return
        if sent.kind not in "dcf":
            self.is_dead = True
        elif sent.kind == "c" and not sent.fails and self.copies_left > 1:
            self.copies_left -= 1
            self.answers.append("G")
        else:
            self.copying = None
            if sent.kind != "c" or sent.fails:
                self._fail(command)
            self._end_cycle(command)

    def _fail(self, command: Sent) -> None:
        self.answers.append("E")
        if command.kind in EXTENDED:
            self.is_ignoring = True

    def _end_cycle(self, command: Sent) -> None:
        if command.kind not in EXTENDED and self.copying is None:
            self.is_unsynced = False
            self.answers.append("Z")
