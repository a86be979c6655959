"""Reload: the configuration is read again, and all of it holds in every process, or nothing does. In the master.

Rules
1. Whatever can fail happens before anything is changed: reading and checking (in a child, reading.py), room in the
   table.
2. One at a time. Who asks while one is under way gets the next, which reads the file anew; all who wait get the same.
3. The answer comes when every process works by the new configuration, or after `PATIENCE_SECONDS`, and says so then.
4. Where files for TLS are watched (`tls_watch_interval`), new contents are taken by themselves, under the configuration
   in force: what somebody is writing into that is not for us yet.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from doorman.admin.orders import OrderResult
from doorman.workers.allocation import NoRoom
from doorman.workers.channel import Configure
from doorman.workers.descriptors import find_shortage, raise_descriptor_limit
from doorman.workers.encryption import renewed_servers
from doorman.workers.file_watch import FileWatch
from doorman.workers.reading import Candidate, InForce, Outcome, Reading
from doorman.workers.socket_options import SocketOptions

if TYPE_CHECKING:
    from doorman.workers.master import Child, Master

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 3.0
READ_SECONDS = 30.0
MOST_NOTICES = 200
MOST_LOGGED = 20
CONFIG_FILE_ERROR = "F0000"

Answer = Callable[[OrderResult], None]


class Reloader:
    """The master's reloads."""

    def __init__(self, master: Master) -> None:
        self.master = master
        self.started = master.config  # what restart-only keys hold still
        self.number = 0
        self.shortage: str | None = None
        self.watch = FileWatch()
        self.asking: list[Answer] = []
        self.answering: list[Answer] = []
        self.reading: Reading | None = None
        self.waiting: set[Child] = set()
        self.notices: list[str] = []
        self.deadline: float | None = None

    def ask(self, answer: Answer) -> None:
        """Reload as soon as may be; `answer` is called with what came of it."""
        self.asking.append(answer)

    def look(self) -> None:
        """Called in every round of the master's loop."""
        if self.deadline is not None:
            is_late = time.monotonic() >= self.deadline
            if self.reading is not None and is_late:
                self.stop_reading()
                self.reject([f"the files could not be read within {READ_SECONDS:.0f} seconds"])
            elif self.reading is None and (is_late or not self.waiting):
                self.finish()
        if self.deadline is not None or not self.master.is_open:
            return
        if self.asking:
            self.answering, self.asking = self.asking, []
            self.start()
        elif changed := self.watch.look(self.master.config, time.monotonic()):
            log.info("new contents on disk, reading them: %s", ", ".join(changed))
            self.start(only_files=True)

    @property
    def next_look(self) -> float | None:
        """When `look` has something to do by itself (time.monotonic)."""
        if self.deadline is not None:
            return self.deadline
        return self.watch.next_at if self.master.is_open else None

    def start(self, *, only_files: bool = False) -> None:
        """Have the files read; `only_files`: those that the configuration in force names (rule 4)."""
        master = self.master
        self.watch.note(master.config)
        master.notifier.reloading()
        now = InForce(master.config, self.started, master.materials)
        try:
            self.reading = Reading(None if only_files else master.config_path, now, self.leave_master)
        except OSError as error:
            self.reject([f"no process could be started to read the files: {error.strerror or error}"])
            return
        self.deadline = time.monotonic() + READ_SECONDS
        master.poll.register(self.reading.fd, select.POLLIN)

    def leave_master(self) -> None:
        """In the reading child: it must keep neither the port open nor anybody from noticing the master's end."""
        self.master.let_go()
        self.master.listeners.close()
        self.master.handovers.close()

    def let_go(self) -> None:
        """In any other child."""
        if self.reading is not None:
            os.close(self.reading.fd)

    def is_reading(self, fd: int) -> bool:
        """Is this the pipe from the reading child?"""
        return self.reading is not None and self.reading.fd == fd

    def on_readable(self) -> None:
        """The child has written, or is at its end."""
        assert self.reading is not None
        outcome = self.reading.take()
        if outcome is not None:
            self.stop_reading()
            self.take_outcome(outcome)

    def stop_reading(self) -> None:
        """The child has done its work, or will not."""
        if self.reading is not None:
            self.master.poll.unregister(self.reading.fd)
            self.reading.end()
            self.reading = self.deadline = None

    def take_outcome(self, outcome: Outcome) -> None:
        """Rule 1."""
        master, candidate = self.master, outcome.candidate
        if candidate is None:
            self.reject(outcome.problems)
            return
        try:
            renewed = renewed_servers(master.materials, candidate.materials)
            plan = master.allocation.plan(candidate.config, candidate.pools, renewed)
        except NoRoom as problem:
            self.reject([str(problem)])
            return
        for warning in candidate.warnings:
            log.warning("config: %s", warning)
        self.notices = candidate.changes + self.describe_limits(candidate)
        if candidate.is_same:
            self.finish()
            return
        new = candidate.config
        master.allocation.carry_out(plan)
        if new.general.log_level != master.config.general.log_level:
            master.set_log_level(new.general.log_level or "default")
        master.config, master.materials = new, candidate.materials
        master.table.set_max_connections(new.general.max_connections)
        master.listeners.set_options(SocketOptions.of(new.general))
        self.watch.keep(new)
        self.number += 1
        self.waiting = set(master.children.values())
        self.deadline = time.monotonic() + PATIENCE_SECONDS
        master.tell_all(Configure(self.number, new, master.allocation.roster.entries(), candidate.materials))

    def describe_limits(self, candidate: Candidate) -> list[str]:
        """What the running table is too small for, and the limit of descriptors."""
        lines = []
        wanted, most = candidate.config.general.max_connections, self.master.table.max_clients
        if wanted > most:
            lines.append(f"general.max_connections: {most} at most until a restart")
        servers = sum(pool.pool_size for pool in candidate.pools)
        if servers > self.master.table.slot_count:
            lines.append(
                f"the pools may have {servers} servers, until a restart {self.master.table.slot_count} at most"
            )
        shortage = find_shortage(raise_descriptor_limit(), wanted, candidate.pools, self.master.workers)
        if shortage and shortage != self.shortage:
            log.warning("%s", shortage)
            lines.append(shortage)
        self.shortage = shortage
        return lines

    def reject(self, reasons: list[str]) -> None:
        """Nothing has changed; everybody who asked is told why."""
        log.error("the configuration was not reloaded, the old one holds: %s", "; ".join(reasons))
        detail = "\n".join(reasons[1:]) or None
        result = OrderResult([], CONFIG_FILE_ERROR, f"the configuration was not reloaded: {reasons[0]}", detail)
        self.answer(result)

    def note_configured(self, child: Child, number: int) -> None:
        """A process works by the new configuration."""
        if number == self.number:
            self.waiting.discard(child)

    def note_end(self, child: Child) -> None:
        """A process is gone; its successor is born with the new configuration."""
        self.waiting.discard(child)

    def finish(self) -> None:
        """Rule 3."""
        late = [self.master.name_of(child.row) for child in self.waiting]
        if late:
            self.notices.append(f"not applied yet by {', '.join(sorted(late))}")
        self.waiting.clear()
        self.deadline = None
        log.info("the configuration was reloaded: %s", summarize(self.notices))
        notices = self.notices[:MOST_NOTICES] or ["nothing has changed"]
        if len(self.notices) > MOST_NOTICES:
            notices.append(f"and {len(self.notices) - MOST_NOTICES} more changes")
        self.answer(OrderResult(notices))

    def answer(self, result: OrderResult) -> None:
        """To everybody who asked for this one."""
        self.master.notifier.ready(self.master.describe_self())
        answers, self.answering = self.answering, []
        for answer in answers:
            answer(result)


def summarize(lines: list[str]) -> str:
    """The changes for a log line."""
    if not lines:
        return "nothing has changed"
    more = len(lines) - MOST_LOGGED
    return "; ".join(lines[:MOST_LOGGED]) + (f"; and {more} more" if more > 0 else "")
