"""One torture client: logs in, performs actions, compares every message, and judges what differs.

Rules
1. An action sends through `exchange` and names the whole transcript that must come back.
2. A difference is a WrongAnswer, except an ErrorResponse or a lost connection that the ledger explains: then the
   action ends as Disturbed, the rest of the reply is drained and the session goes on, if it is still there.
3. A message between two actions, or one with somebody else's tag, is always a WrongAnswer.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from tests.torture import wire
from tests.torture.expect import CLOSED, Expected, done, foreign_tag, ready
from tests.torture.ledger import Ledger, Moment
from tests.torture.wire import ConnectionEnded, Hang, Message, Wire

ZONES = ["Etc/UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York", "Australia/Sydney"]
STATEMENT_NAMES = ["s1", "s2", "s3", "stmt", "broken", "left"]  # every client uses these, each for texts of its own

Action = Callable[["Client", str], Awaitable[None]]
Chooser = Callable[[random.Random], Action]

RECONNECT_SECONDS = 0.05  # at most, before the next login
HISTORY = 12  # messages of a transcript that a report shows


class WrongAnswer(Exception):
    """A message that this client must not have got."""


class Unexplained(Exception):
    """An error or a lost connection that no injected fault explains."""


class Disturbed(Exception):
    """An injected fault ended this action, as it may."""

    def __init__(self, cause: str, still_due: int) -> None:
        super().__init__(cause)
        self.still_due = still_due  # ReadyForQuery messages that the pooler still owes


class Left(Exception):
    """The action closed its own connection on purpose."""


@dataclass
class Shared:
    """What all clients of a run have in common."""

    host: str
    port: int
    user: str
    dbname: str
    run: str
    ledger: Ledger
    stop_at: float
    tls: ssl.SSLContext | None = None
    performed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    messages: int = 0
    connections: int = 0


class Client:
    """The life of one client, over many connections."""

    def __init__(self, number: int, shared: Shared, rng: random.Random) -> None:
        self.number, self.shared, self.rng = number, shared, rng
        self.sequence = 0
        self.allowed: set[int] = set()
        self.prepared: dict[str, tuple[str, int]] = {}
        self.history: deque[str] = deque(maxlen=HISTORY)
        self.wire: Wire | None = None
        self.last_port = 0  # of the connection that is open, or was last
        self.zone = ZONES[number % len(ZONES)]
        self.sent_at = self.action_at = self.cancelled_at = 0.0
        self.action_name = "login"

    @property
    def application_name(self) -> str:
        return f"torture-{self.number}"

    @property
    def keeps_prepared(self) -> bool:
        return self.shared.ledger.dialect.keeps_prepared

    def new_tag(self) -> str:
        """A mark that only this action of this client has."""
        self.sequence += 1
        self.allowed.add(self.sequence)
        return f"~{self.shared.run}.{self.number}.{self.sequence}~"

    # -- its life

    async def live(self, choose: Chooser) -> None:
        """Perform actions until the time is over; every way in which one can end is counted here."""
        while time.monotonic() < self.shared.stop_at:
            try:
                if self.wire is None:
                    await self.log_in()
                await self.perform(choose(self.rng))
            except Left:
                self.wire = None
            except WrongAnswer as wrong:
                self._report(self.shared.wrong, str(wrong))
            except Unexplained as unexplained:
                self._report(self.shared.unexplained, str(unexplained))
            except Hang:
                self._report(self.shared.unexplained, f"no answer for {wire.HANG_TIMEOUT:g} s")
            except Disturbed:
                self._vanish()
            if self.wire is None:
                await asyncio.sleep(self.rng.random() * RECONNECT_SECONDS)
        await self.leave()

    async def perform(self, action: Action) -> None:
        """One action from its tag to the check that nothing is left over."""
        self.action_name = action.__name__
        self.action_at = time.monotonic()
        self.allowed.clear()
        self._check_quiet()
        try:
            await action(self, self.new_tag())
        except Disturbed as disturbed:
            await self._recover(disturbed.still_due)
        except ConnectionEnded:
            self._judge_loss()
        self._check_quiet()
        self.shared.performed[self.action_name] += 1

    async def log_in(self) -> None:
        self.action_name, self.action_at = "login", time.monotonic()
        self.sent_at = self.action_at
        self.prepared.clear()
        shared = self.shared
        names = {"application_name": self.application_name, "TimeZone": self.zone, "client_encoding": "UTF8"}
        packet = wire.startup(shared.user, shared.dbname, **names)
        try:
            self.wire = await Wire.open(shared.host, shared.port, packet, shared.tls)
            self.last_port = self.wire.local_port
            shared.ledger.lost_ports.pop(self.last_port, None)
            await self._read_login()
        except (ConnectionEnded, OSError):
            self._judge_loss()
        shared.connections += 1

    async def leave(self) -> None:
        if self.wire is not None:
            self.wire.close_kindly()
            self.wire = None

    def vanish(self, *, reset: bool) -> None:
        """Close in the middle of something, as an action's last deed."""
        self.connected.close_abruptly(reset=reset)
        raise Left

    @property
    def connected(self) -> Wire:
        if self.wire is None:
            raise ConnectionEnded
        return self.wire

    # -- conversation

    async def ask(self, sql: str, *expected: Expected) -> list[Message]:
        """A simple query outside of a transaction."""
        return await self.exchange(wire.query(sql), [*expected, ready("I")])

    async def ask_within(self, sql: str, *expected: Expected, status: str = "T") -> list[Message]:
        """A simple query that leaves a transaction open (T), or failed (E)."""
        return await self.exchange(wire.query(sql), [*expected, ready(status)])

    async def exchange(self, data: bytes, expected: Sequence[Expected]) -> list[Message]:
        await self.send(data)
        return await self.expect(expected)

    async def send(self, data: bytes) -> None:
        chop = self.rng if len(data) < 100_000 and self.rng.random() < 0.08 else None
        self.sent_at = time.monotonic()
        await self.connected.send(data, chop)

    async def expect(self, expected: Sequence[Expected]) -> list[Message]:
        """Read the transcript; the first difference ends the action."""
        got_all = []
        for position, wanted in enumerate(expected):
            got = await self.receive()
            if not wanted.matches(got):
                self._judge(got, wanted, expected[position:])
            got_all.append(got)
        return got_all

    async def collect(self) -> list[Message]:
        """Everything up to ReadyForQuery or a FATAL error, for actions whose reply has no single right form."""
        got_all = [await self.receive()]
        while got_all[-1].kind != b"Z" and not is_fatal(got_all[-1]):
            got_all.append(await self.receive())
        return got_all

    async def fail_within(self, sql: str, failure: Expected) -> None:
        """A simple query that a time-out or a cancel ends, before or after RowDescription; the transaction fails."""
        self.sent_at = time.monotonic()
        await self.send(wire.query(sql))
        reply = [got for got in await self.collect() if got.kind != b"T"]
        for got, wanted in zip(reply, [failure, ready("E")], strict=False):
            if not wanted.matches(got):
                self._judge(got, wanted, [])

    async def receive(self) -> Message:
        got = await self.connected.next()
        self.shared.messages += 1
        self.history.append(got.brief())
        foreign = foreign_tag(got, self.shared.run.encode(), self.number, self.allowed)
        if foreign is not None:
            raise WrongAnswer(f"somebody else's {foreign.decode()} in {got.brief()}")
        return got

    async def cancel(self) -> None:
        """Ask the pooler to cancel what this client runs; a session that has ended meanwhile has nothing to cancel."""
        if self.wire is None:
            return
        self.cancelled_at = time.monotonic()
        self.shared.ledger.injected["own cancel"] += 1
        tls = self.shared.tls if self.rng.random() < 0.5 else None  # libpq sent it in clear until version 17
        await wire.send_cancel(self.shared.host, self.shared.port, self.wire.pid, self.wire.secret, tls)

    async def pause(self, longest: float) -> None:
        await asyncio.sleep(self.rng.random() * longest)

    # -- judgement

    def excuse(self, got: Message, wanted: str) -> str:
        """The cause of an ErrorResponse; raises Unexplained if there is none."""
        fields = got.fields()
        cause = self.shared.ledger.explain_error(fields.get("C", ""), self._moment())
        if cause is None:
            waited = time.monotonic() - self.sent_at
            raise Unexplained(f"got {fields} instead of {wanted}, {waited:.3f} s after sending")
        return cause

    def _judge(self, got: Message, wanted: Expected, rest: Sequence[Expected]) -> None:
        """Raise what a message is that was not expected."""
        if got.kind != b"E":
            raise WrongAnswer(f"got {got.brief()} instead of {wanted}")
        self.disturb(got, str(wanted), sum(item.kind == b"Z" for item in rest))

    def disturb(self, got: Message, wanted: str, still_due: int = 0) -> None:
        """End the action because of an ErrorResponse that a fault explains; a FATAL one ends the connection too."""
        cause = self.excuse(got, wanted)
        if is_fatal(got):
            self._vanish()
            raise Disturbed(cause, 0)
        raise Disturbed(cause, still_due)

    def _judge_loss(self) -> NoReturn:
        cause = self.shared.ledger.explain_loss(self._moment())
        self._vanish()
        if cause is None:
            kills = self.shared.ledger.kills
            last_kill = f"{time.monotonic() - kills[-1]:.3f} s" if kills else "never"
            raise Unexplained(f"the connection ended without an error (last kill of a worker: {last_kill} ago)")
        raise Disturbed(cause, 0)

    def _moment(self) -> Moment:
        port = self.wire.local_port if self.wire else self.last_port
        is_login = self.action_name == "login"
        now = time.monotonic()
        return Moment(self.number, port, self.sent_at, self.action_at, now, self.cancelled_at, is_login)

    def _check_quiet(self) -> None:
        """Nothing may come while nothing was asked; a connection that ended meanwhile is judged."""
        if self.wire is None:
            return
        if self.wire.messages:
            got = self.wire.messages[0]
            if got.kind == b"E":
                self._judge(got, ready("I"), [])
            raise WrongAnswer(f"unasked: {got.brief()}")
        if self.wire.is_lost:
            self._judge_loss()

    async def _recover(self, still_due: int) -> None:
        """After an explained error: read on to the last ReadyForQuery that is due, and end an open transaction."""
        if self.wire is None:
            return
        try:
            while still_due:
                still_due -= (await self.receive()).kind == b"Z"
            await self.send(wire.SYNC)  # the batch may have had none yet
            while (await self.receive()).kind != b"Z":
                pass
            if self.connected.status != b"I":
                await self.ask("ROLLBACK", done("ROLLBACK"))
            if self.keeps_prepared:
                await self._forget_prepared()
        except ConnectionEnded:
            self._vanish()  # the pooler has said why before it closed

    async def _forget_prepared(self) -> None:
        """Whether a Parse counted before the fault is unknown: close every name that actions use."""
        self.prepared.clear()
        data = b"".join(wire.close_statement(name) for name in STATEMENT_NAMES)
        await self.exchange(data + wire.SYNC, [CLOSED] * len(STATEMENT_NAMES) + [ready()])

    async def _read_login(self) -> None:
        while True:
            got = await self.receive()
            if got.kind == b"E":
                self._judge(got, ready("I"), [])
            if got.kind not in b"RKZN":
                raise WrongAnswer(f"during login: {got.brief()}")
            if got.kind == b"Z":
                return

    def _vanish(self) -> None:
        if self.wire is not None:
            self.wire.close_abruptly(reset=False)
            self.wire = None

    def _report(self, findings: list[str], what: str) -> None:
        shown = "\n      ".join(self.history)
        port = self.wire.local_port if self.wire else self.last_port
        head = f"client {self.number} (port {port}) in {self.action_name}, action {self.sequence}: {what}"
        findings.append(f"{head}\n    last messages:\n      {shown}")
        self._vanish()


def is_fatal(got: Message) -> bool:
    """Whether an ErrorResponse ends the session."""
    return got.kind == b"E" and got.fields().get("S") == "FATAL"
