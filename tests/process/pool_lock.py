"""The lock of a running pooler's pool, read from outside; and a process that is stopped while it holds it.

Sections under a lock are a few dozen instructions: stopping by chance finds one in many thousand times. So the process
is led there one instruction after the other (ptrace), which changes nothing of what it does.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doorman.shm.rows import set_up_pool
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from tests.harness import Doorman, procfs

NAMES = (b"postgres\0", b"app\0")
NEAR = 256  # bytes from the one to the other
SINGLE_STEP, ATTACH, DETACH = 9, 16, 17  # sys/ptrace.h
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


class PoolLock:
    """The owner word of the lock of app@postgres: the pid of who holds it, 0 when it is free."""

    def __init__(self, doorman: Doorman) -> None:
        assert doorman.pid is not None
        self.segment = map_segment(doorman.pid)
        self.at = find_pool(self.segment) + owner_offset()

    def owner(self) -> int:
        return int(struct.unpack_from("I", self.segment, self.at)[0])

    def stop_inside(self, pid: int, make_work: Callable[[], None], *, depth: int = 0) -> None:
        """Give a process something to do in the pool and stop it when it holds the lock, `depth` instructions later.
        It stays stopped."""
        steps = Stepper(pid)
        try:
            make_work()
            steps.until(lambda: self.owner() == pid)
            for _ in range(depth):
                steps.step()
        finally:
            steps.leave(signal.SIGSTOP)
        while (fields := procfs.stat_fields(pid)) is not None and fields[0] != "T":
            time.sleep(0.001)
        assert self.owner() == pid

    def length_of_section(self, pid: int, make_work: Callable[[], None]) -> int:
        """For how many instructions a process holds the lock for the first time in this work; it goes on."""
        steps = Stepper(pid)
        try:
            make_work()
            steps.until(lambda: self.owner() == pid)
            return steps.until(lambda: self.owner() != pid)
        finally:
            steps.leave()


class Stepper:
    """A process between two of its instructions."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.signal = 0  # to be delivered with the next step
        trace(ATTACH, pid)
        self.wait()
        self.signal = 0  # that of ATTACH was not the process's own

    def step(self) -> None:
        trace(SINGLE_STEP, self.pid, self.signal)
        self.wait()

    def until(self, holds: Callable[[], bool], seconds: float = 30.0) -> int:
        """Step until that is so; how many steps."""
        end = time.monotonic() + seconds
        steps = 0
        while not holds():
            assert time.monotonic() < end, f"it did not come to that in {steps} instructions"
            self.step()
            steps += 1
        return steps

    def wait(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSTOPPED(status), "it ended"
        number = os.WSTOPSIG(status)
        self.signal = 0 if number == signal.SIGTRAP else number

    def leave(self, number: int = 0) -> None:
        """Let it go on, with this signal."""
        trace(DETACH, self.pid, number or self.signal)


def trace(request: int, pid: int, number: int = 0) -> None:
    """ptrace(2). Some containers forbid it."""
    if libc.ptrace(request, pid, None, number) < 0:
        if request == ATTACH and ctypes.get_errno() == errno.EPERM:
            pytest.skip("ptrace is not permitted here")
        raise OSError(ctypes.get_errno(), f"ptrace request {request}")


def map_segment(master: int) -> mmap.mmap:
    """The shared table, which has no name any more: the largest segment that the master has a descriptor of."""
    links = Path(f"/proc/{master}/fd").iterdir()
    segments = [link for link in links if str(link.readlink()).startswith("/dev/shm/pg_doorman-")]
    with max(segments, key=lambda link: link.stat().st_size).open("rb") as segment:
        return mmap.mmap(segment.fileno(), 0, prot=mmap.PROT_READ)


def find_pool(segment: mmap.mmap | bytes) -> int:
    """Where the row of app@postgres has the database's name; the user's follows near. What its servers reported at
    login has such words too, but anywhere."""
    at = -1
    while (at := segment.find(NAMES[0], at + 1)) >= 0:
        if at % 4 == 0 and segment.find(NAMES[1], at, at + NEAR) >= 0:
            return at
    raise AssertionError("no such pool")


def owner_offset() -> int:
    """From the name to the owner word, by a table of our own: what changes when somebody takes the lock."""
    table = Table.create(processes=1, pools=1, slots=1, clients=1, max_connections=1)
    try:
        set_up_pool(
            table, 0, database="postgres", user="app", session_mode=False, pool_size=1, min_pool_size=0, max_opening=1,
            round_robin=False, check_after_us=0, cleanup=True, statements=False, statement_limit=0,
        )  # fmt: skip
        table.enter(0, 1)
        trial = Trial(table)
        before = trial.snapshot()
        trial.lock_pool(0)
        after = trial.snapshot()
        trial.unlock_pool(0)
        [at] = [at for at in range(0, len(after), 4) if after[at : at + 4] != before[at : at + 4]]
        assert struct.unpack_from("I", after, at)[0] == os.getpid()
        return at - find_pool(before)
    finally:
        table.close()
