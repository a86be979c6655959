"""Clients that work without a pause and account for every error, and a killer that notes whose clients it kills."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Set

from tests.harness import Doorman, procfs
from tests.harness.clients import client_ports
from tests.process.session import Session, SqlError
from tests.torture import wire
from tests.torture.wire import ConnectionEnded

STATEMENTS = (
    "SELECT '{tag}'",
    "SELECT '{tag}' FROM pg_sleep(0.002)",
    "BEGIN; SELECT '{tag}'; COMMIT",
    "SELECT '{tag}' FROM generate_series(1, 200)",
)


class Load:
    """`clients` sessions, each of which checks that every answer is its own."""

    def __init__(self, doorman: Doorman, clients: int, *, seed: int = 1, expected: Set[str] = frozenset()) -> None:
        """`expected`: SQLSTATEs that the test provokes, so that a client may get them; it then goes on or returns."""
        self.doorman = doorman
        self.count = clients
        self.random = random.Random(seed)
        self.expected = expected
        self.killed_ports: set[int] = set()
        self.answers = 0
        self.last_answer = [0.0] * clients
        self.errors: Counter[str] = Counter()
        self.unexplained: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.is_over = False

    async def __aenter__(self) -> Load:
        self.tasks = [asyncio.create_task(self._live(number)) for number in range(self.count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self, seconds: float = 5.0) -> None:
        """Every client finishes its statement; one that cannot is stuck."""
        self.is_over = True
        done, stuck = await asyncio.wait(self.tasks, timeout=seconds)
        for task in stuck:
            task.cancel()
        for task in done:
            task.result()
        assert not stuck, f"{len(stuck)} clients are stuck"

    async def run(self, seconds: float) -> None:
        """Work on; a client that failed unexplained ends it early."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.unexplained:
            await asyncio.sleep(0.05)

    def check(self) -> None:
        assert not self.unexplained, self.unexplained[:5]

    async def _live(self, number: int) -> None:
        while not self.is_over:
            session = await self._open()
            if session is None:
                continue
            try:
                await self._work(number, session)
            except (ConnectionEnded, OSError):
                self._note_end(session)
            except SqlError as error:
                self._note_error(error)
                session.vanish()

    async def _open(self) -> Session | None:
        """None when that failed, which is explained if the worker was killed meanwhile."""
        start = wire.startup("app", "postgres")
        try:
            connection = await wire.Wire.open(self.doorman.host, self.doorman.port, start)
        except OSError as error:
            self._note_failure(f"connect: {error}")
            await asyncio.sleep(0.01)
            return None
        session = Session(self.doorman, connection)
        try:
            await session.answer()
        except (ConnectionEnded, OSError):
            self._note_end(session)
        except SqlError as error:
            self._note_error(error)
            await asyncio.sleep(0.01)
        else:
            return session
        session.vanish()
        return None

    async def _work(self, number: int, session: Session) -> None:
        step = 0
        while not self.is_over:
            tag = f"{number}/{step}"
            values = await session.query(self.random.choice(STATEMENTS).format(tag=tag))
            if set(values) != {tag}:
                self.unexplained.append(f"{tag} got {values[:3]}")
            self.answers += 1
            self.last_answer[number] = time.monotonic()
            step += 1
            if self.random.random() < 0.02:
                break
            await asyncio.sleep(0.002)
        session.close()

    def _note_end(self, session: Session) -> None:
        if session.port in self.killed_ports:
            self.errors["killed"] += 1
        else:
            self._note_failure("ended")

    def _note_error(self, error: SqlError) -> None:
        self.errors[error.sqlstate] += 1
        if error.sqlstate not in self.expected:
            self.unexplained.append(str(error))

    def _note_failure(self, what: str) -> None:
        self.errors[what] += 1
        if what not in self.expected and "connection lost" not in self.expected:
            self.unexplained.append(what)


def kill(pid: int, load: Load | None = None) -> bool:
    """SIGKILL; stopped first, so that the list of its clients is exact. False when it was gone already."""
    try:
        stop(pid)
        if load is not None:
            load.killed_ports |= client_ports(pid, load.doorman.port)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    while procfs.is_alive(pid):  # dying takes a while: who asks next for a victim must not get this one
        time.sleep(0)
    return True


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """These processes stand still meanwhile."""
    for pid in pids:
        stop(pid)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def stop(pid: int) -> None:
    """SIGSTOP, and wait until it holds: the signal reaches a process on another processor a little later."""
    os.kill(pid, signal.SIGSTOP)
    while (fields := procfs.stat_fields(pid)) and fields[0] not in "TtZX":
        time.sleep(0)
