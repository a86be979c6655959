"""A new configuration is read by a short-lived child of the master.

Parsing the YAML of a thousand pools takes most of a second, files may lie on a disk that does not answer, and the
master must not stand still: it replaces dead workers and passes the sockets of new servers on.

Rules
1. The child changes nothing: it reads, checks, compares with what the master had when it forked, and writes one
   message to a pipe. Whatever else becomes of it, the pipe's end without a message means that nothing was read.
2. It holds copies of the master's descriptors only until it has closed them, and dies with the master.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

import msgspec

from doorman.config.diff import find_changes, needs_restart
from doorman.config.load import LoadedConfig, load_config
from doorman.config.resolve import PoolSettings, resolve_pools
from doorman.config.schema import Config
from doorman.errors import ConfigError
from doorman.workers.encryption import Materials, read_materials
from doorman.workers.prctl import die_with_parent, name_process

log = logging.getLogger(__name__)

CHUNK = 1 << 18


class Candidate(msgspec.Struct, frozen=True):
    """A configuration in order. `changes` says what differs from the one in force, restart-only keys last."""

    config: Config
    pools: list[PoolSettings]
    materials: Materials
    warnings: list[str]
    changes: list[str]
    is_same: bool
    """Nothing at all differs, contents of files included."""


class Outcome(msgspec.Struct, frozen=True):
    """A candidate, or what is wrong with the files."""

    candidate: Candidate | None = None
    problems: list[str] = []


class InForce(msgspec.Struct, frozen=True):
    """What a candidate is compared with. `started` is the configuration of the start, whose restart-only keys hold."""

    config: Config
    started: Config
    materials: Materials


def read_candidate(path: str | None, now: InForce) -> Outcome:
    """All that can be said of the files without changing anything. path: None where the configuration stays as it is,
    and only what it names is read again."""
    try:
        loaded = LoadedConfig(now.config, []) if path is None else load_config(path)
        materials = read_materials(loaded.config)
    except ConfigError as error:
        return Outcome(problems=[str(problem) for problem in error.problems])
    new = loaded.config
    changes = [str(change) for change in find_changes(now.config, new) if not needs_restart(change)]
    changes += [f"{change} (needs a restart)" for change in find_changes(now.started, new) if needs_restart(change)]
    if materials != now.materials:
        changes.append("certificates or keys have new contents")
    is_same = materials == now.materials and new == now.config
    warnings = [str(warning) for warning in loaded.warnings]
    return Outcome(Candidate(new, resolve_pools(new), materials, warnings, changes, is_same))


class Reading:
    """One child at work. The master polls `fd` and calls `take` when there is something."""

    def __init__(self, path: str | None, now: InForce, let_go: Callable[[], None]) -> None:
        """Forks. `let_go` closes in the child what is the master's. Raises OSError."""
        self.fd, theirs = os.pipe2(os.O_CLOEXEC)
        self._data = bytearray()
        master = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:
            os.close(self.fd)
            os.close(theirs)
            raise
        if self.pid == 0:
            be_reader(master, path, now, theirs, let_go)
        os.close(theirs)
        os.set_blocking(self.fd, False)

    def take(self) -> Outcome | None:
        """What has come so far: the outcome when it is whole, None when more is to come."""
        while True:
            try:
                data = os.read(self.fd, CHUNK)
            except BlockingIOError:
                return None
            if not data:
                return self._outcome()
            self._data += data

    def _outcome(self) -> Outcome:
        try:
            return msgspec.msgpack.decode(self._data, type=Outcome)
        except msgspec.DecodeError:
            return Outcome(problems=["the process that read the files ended before it was done (see the log)"])

    def end(self) -> None:
        """It is not needed any more. The master reaps it like any child."""
        os.close(self.fd)
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def be_reader(master: int, path: str | None, now: InForce, pipe: int, let_go: Callable[[], None]) -> None:
    """In the child: never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        name_process("doorman reader")
        die_with_parent()
        if os.getppid() == master:
            let_go()
            with os.fdopen(pipe, "wb") as out:
                out.write(msgspec.msgpack.encode(read_candidate(path, now)))
    except BaseException:
        log.exception("the configuration could not be read")
    finally:
        os._exit(0)
