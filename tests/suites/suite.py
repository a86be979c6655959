"""What a suite is: what it needs on the server, how it is made and run, and what each of its tests came to."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.harness import Endpoint

SUPERUSER = "postgres"
WHOLE_RUN = "(whole run)"
"""The name of an outcome for a suite that did not come to its end: never the same as anything."""
TAIL = 3000  # characters of what was printed that are shown


class Missing(Exception):
    """Sources or tools of a suite are not to be had here; the message says which."""


@dataclass(frozen=True)
class Outcome:
    """`result` is compared; `detail` is shown where it differs."""

    result: str
    detail: str = ""


Outcomes = dict[str, Outcome]


class Suite(ABC):
    """One suite. `prepare` comes before all else."""

    name: ClassVar[str]
    modes: ClassVar[Sequence[str]] = ("session",)
    databases: ClassVar[Sequence[str]] = ()
    """Made before the run, but for `postgres`."""
    reached: ClassVar[Sequence[str]] = ()
    """Others that it uses, and makes if need be: pools for them."""
    setup: str = ""
    """SQL that the superuser runs in each of `databases`."""
    users: Sequence[str] = (SUPERUSER,)
    """Who logs in."""

    @abstractmethod
    def prepare(self) -> None:
        """Fetch and build; Missing says why that cannot be."""

    @abstractmethod
    def run(self, server: Endpoint, place: Path) -> Outcomes:
        """What each test came to. `place` is an empty directory that PostgreSQL can write to, the same for all runs."""


def run_program(
    argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run it in a session of its own, both outputs in one; all of that session ends when the time is up."""
    process = subprocess.Popen(
        [str(word) for word in argv],
        cwd=cwd,
        env=environment(env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0] + f"\n(took longer than {timeout:g} s)"
    except BaseException:  # we are told to end
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def whole_run(done: subprocess.CompletedProcess[str]) -> Outcomes:
    """Of a program that answers 0 or 1 (some tests failed) at its end."""
    if done.returncode in (0, 1):
        return {}
    return {WHOLE_RUN: Outcome(f"exit code {done.returncode}", done.stdout[-TAIL:])}


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Ours without PG* and PYTHONPATH, which would lead a suite astray."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("PG") and key != "PYTHONPATH"}
    return {**ours, **changes}


def address_of(server: Endpoint, dbname: str) -> dict[str, str]:
    """libpq's variables."""
    return {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": SUPERUSER, "PGDATABASE": dbname}
