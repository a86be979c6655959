"""A process that a test starts and stops: its own session, a log file, waiting for a port, nothing left behind.

Rules
1. Every service runs in a session of its own, away from the terminal, and carries a mark in its environment by which
   orphans are found.
2. Only processes of that session are ever signalled, by pid.
3. The kernel ends a service when the thread that started it ends (PR_SET_PDEATHSIG), so that a killed test run
   leaves no orphans: start services from the main thread.
4. `stop` can be called twice; `start` after `stop` starts again on the same directory and port.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.harness import procfs

START_TIMEOUT = 30.0  # seconds; a loaded machine with two cores starts PostgreSQL in one or two
STOP_TIMEOUT = 20.0
PR_SET_PDEATHSIG = 1  # prctl(2)


class ServiceFailed(AssertionError):
    """A service did not start, died, or left something behind. The message ends with the tail of its log."""


class Service:
    """One process family. Subclasses say how to start (`start`) and how to end (`STOP_SIGNAL`)."""

    name = "service"
    STOP_SIGNAL: ClassVar[int] = signal.SIGTERM
    running: ClassVar[list[Service]] = []

    def __init__(self, directory: Path | None = None) -> None:
        self._owns_directory = directory is None
        self.directory = directory or temporary_directory(self.name)
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._owns_directory:
            atexit.register(shutil.rmtree, self.directory, ignore_errors=True)
        self.log_path = self.directory / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._mark = ""

    def __enter__(self) -> Self:
        if self.process is None:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Self:
        raise NotImplementedError

    def stop(self) -> None:
        """Ask it to end, wait, kill what does not listen."""
        process = self.process
        if process is None:
            return
        self.process = None
        self._forget()
        if process.poll() is None:
            process.send_signal(self.STOP_SIGNAL)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._kill_left()
                process.wait(STOP_TIMEOUT)
                raise ServiceFailed(f"{self.name} did not stop in {STOP_TIMEOUT:g} s\n{self.log_tail()}") from None

    def close(self) -> None:
        """Stop, and remove the directory if this object made it."""
        try:
            self.stop()
        finally:
            if self._owns_directory:
                shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        if self.process is None:
            raise ServiceFailed(f"{self.name} is not running")
        return self.process.pid

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def family(self) -> list[int]:
        """Pids of the process and all its descendants."""
        return procfs.descendants(self.pid)

    def cpu_seconds(self) -> float:
        return procfs.cpu_seconds(self.family())

    def pss_bytes(self) -> int:
        return procfs.pss_bytes(self.family())

    # -- the log

    def log_text(self, since: int = 0) -> str:
        """The log from byte offset `since` (see `log_mark`)."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(since)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def log_mark(self) -> int:
        """Where the log ends now, to be given as `since` later."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def log_contains(self, pattern: str, *, since: int = 0, times: int | None = None) -> bool:
        """Whether the regular expression matches somewhere in the log; with `times`, exactly so often."""
        count = len(re.findall(pattern, self.log_text(since), re.MULTILINE))
        return count > 0 if times is None else count == times

    def wait_log(self, pattern: str, *, since: int = 0, timeout: float = 10.0) -> None:
        self.wait_until(lambda: self.log_contains(pattern, since=since), f"log line {pattern!r}", timeout)

    def log_tail(self, lines: int = 40) -> str:
        tail = "\n".join(self.log_text().splitlines()[-lines:])
        return f"--- last lines of {self.log_path} ---\n{tail}"

    # -- for subclasses

    def wait_until(self, is_done: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
        """Poll until true; a process that died meanwhile, or the time-out, is a failure that shows the log."""
        deadline = time.monotonic() + timeout
        while not is_done():
            if self.process is not None and self.process.poll() is not None:
                code = self.process.returncode
                raise ServiceFailed(f"{self.name} ended with code {code} before {what}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServiceFailed(f"{self.name}: no {what} within {timeout:g} s\n{self.log_tail()}")
            time.sleep(0.02)

    def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        limit_files: int | None = None,
    ) -> None:
        """Start the process: output to the log file, no stdin, own session, optionally as another user id."""
        groups: list[int] | None = None if user is None else []
        self._mark = f"TEST_SERVICE={uuid.uuid4()}"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **(env or {}), **dict([self._mark.split("=")])},
                start_new_session=True,
                preexec_fn=_preparation(self.STOP_SIGNAL, limit_files),
                user=user,
                group=user,
                extra_groups=groups,
            )
        Service.running.append(self)

    def _forget(self) -> None:
        with contextlib.suppress(ValueError):
            Service.running.remove(self)

    def members(self) -> list[int]:
        """Pids of all living processes that come from the last `spawn`, orphans as well."""
        return procfs.marked_members(self._mark)

    def _kill_left(self) -> list[int]:
        """SIGKILL to what is left of the last `spawn`; answers whom it hit."""
        left = self.members()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def port_answers(host: str, port: int) -> bool:
    """Whether a TCP connection to the port is accepted."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def temporary_directory(name: str) -> Path:
    """A new directory that other users can enter, in memory where there is room for it."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 1 << 30 else None
    path = Path(tempfile.mkdtemp(prefix=f"{name}-test-", dir=parent))
    path.chmod(0o755)
    return path


def _preparation(stop_signal: int, limit_files: int | None) -> Callable[[], None]:
    """What the child does before exec: die with its parent, and have so many descriptors, more or fewer than we."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, stop_signal)
        if limit_files is not None and raise_file_limit(limit_files) > limit_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit_files, limit_files))

    return prepare


def raise_file_limit(wanted: int) -> int:
    """Raise this process's limit of descriptors, as far as it may; answers the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for soft_wanted, hard_wanted in ((wanted, max(wanted, hard)), (min(wanted, hard), hard)):
        if soft >= wanted:
            break
        with contextlib.suppress(ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft_wanted, hard_wanted))
            soft = soft_wanted
    return soft
