"""Reload: the master reads the configuration again, and all of it holds in every process, or nothing does.

Rules
1. Whatever can fail happens before anything is changed: reading, checking, room in the table.
2. One at a time. Who asks while one is under way gets the next, which reads the file anew; all who wait get the same.
3. The answer comes when every process works by the new configuration, or after `PATIENCE_SECONDS`, and says so then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from doorman.admin.orders import OrderResult
from doorman.config.diff import find_changes, needs_restart
from doorman.config.load import load_config
from doorman.config.resolve import resolve_pools
from doorman.config.schema import Config
from doorman.errors import ConfigError
from doorman.workers.allocation import NoRoom
from doorman.workers.channel import Configure
from doorman.workers.descriptors import find_shortage, raise_descriptor_limit
from doorman.workers.encryption import read_materials
from doorman.workers.socket_options import SocketOptions

if TYPE_CHECKING:
    from doorman.workers.master import Child, Master

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 3.0
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
        self.asking: list[Answer] = []
        self.answering: list[Answer] = []
        self.waiting: set[Child] = set()
        self.notices: list[str] = []
        self.deadline: float | None = None

    def ask(self, answer: Answer) -> None:
        """Reload as soon as may be; `answer` is called with what came of it."""
        self.asking.append(answer)

    def look(self) -> None:
        """Called in every round of the master's loop."""
        if self.deadline is not None and (not self.waiting or time.monotonic() >= self.deadline):
            self.finish()
        if self.asking and self.deadline is None and self.master.is_open:
            self.answering, self.asking = self.asking, []
            self.start()

    def start(self) -> None:
        """Rule 1."""
        master = self.master
        master.notifier.reloading()
        try:
            loaded = load_config(master.config_path)
            materials = read_materials(loaded.config)
            plan = master.allocation.plan(loaded.config)
        except (ConfigError, NoRoom) as problem:
            self.reject(problem)
            return
        for warning in loaded.warnings:
            log.warning("config: %s", warning)
        self.notices = self.describe(loaded.config)
        if materials != master.materials:
            self.notices.append("certificates or keys have new contents")
        elif loaded.config == master.config:
            self.finish()
            return
        master.allocation.carry_out(plan)
        if loaded.config.general.log_level != master.config.general.log_level:
            master.set_log_level(loaded.config.general.log_level or "default")
        master.config, master.materials = loaded.config, materials
        master.table.set_max_connections(loaded.config.general.max_connections)
        master.listeners.set_options(SocketOptions.of(loaded.config.general))
        self.number += 1
        self.waiting = set(master.children.values())
        self.deadline = time.monotonic() + PATIENCE_SECONDS
        master.tell_all(Configure(self.number, loaded.config, master.allocation.roster.entries(), materials))

    def describe(self, new: Config) -> list[str]:
        """What changes, what needs a restart, and what the running table is too small for."""
        lines = [str(change) for change in find_changes(self.master.config, new) if not needs_restart(change)]
        lines += [f"{change} (needs a restart)" for change in find_changes(self.started, new) if needs_restart(change)]
        most = self.master.table.max_clients
        if new.general.max_connections > most:
            lines.append(f"general.max_connections: {most} at most until a restart")
        servers = sum(pool.pool_size for pool in resolve_pools(new))
        if servers > self.master.table.slot_count:
            lines.append(
                f"the pools may have {servers} servers, until a restart {self.master.table.slot_count} at most"
            )
        shortage = find_shortage(raise_descriptor_limit(), new.general.max_connections, resolve_pools(new))
        if shortage and shortage != self.shortage:
            log.warning("%s", shortage)
            lines.append(shortage)
        self.shortage = shortage
        return lines

    def reject(self, problem: Exception) -> None:
        """Nothing has changed; everybody who asked is told why."""
        reasons = [str(each) for each in problem.problems] if isinstance(problem, ConfigError) else [str(problem)]
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
