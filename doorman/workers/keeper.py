"""The keeper: upkeep of the pools. It ends what dead workers left, closes old and idle servers, keeps the minimum open.

No running query needs it; while it is being replaced, upkeep waits.
"""

from __future__ import annotations

import time

from doorman.shm.rows import SlotView, slot_rows
from doorman.shm.table import monotonic_us
from doorman.workers.process import Inheritance, Process


class Keeper(Process):
    """The one process of its kind."""

    def __init__(self, born: Inheritance) -> None:
        super().__init__(born)
        self.period = (born.config.general.retain_connections_time or 30_000) / 1000
        self.next_round = time.monotonic() + self.period
        self.relay.adopt_orphans()

    def upkeep(self) -> None:
        """Ten times a second the pools, once in a period the servers."""
        self.look_at_pools()
        if time.monotonic() >= self.next_round:
            self.next_round = time.monotonic() + self.period
            self.close_old_servers()

    def look_at_pools(self) -> None:
        """Open what is missing: for waiters whose worker died or gave up, and for `min_pool_size`."""
        for number in range(len(self.pools)):
            self.relay.open_minimum(number)

    def close_old_servers(self) -> None:
        """At most `retain_connections_max` (0: all), the oldest first."""
        now = monotonic_us()
        old = sorted((slot for slot in slot_rows(self.table) if is_over(slot, now)), key=lambda slot: slot.opened_at)
        most = self.config.general.retain_connections_max or len(old)
        for slot in old[:most]:
            self.relay.close_idle(slot.number, slot.generation)


def is_over(slot: SlotView, now: int) -> bool:
    """Has this server been idle for too long, or lived for too long? One that was never used is not idle."""
    if slot.state != "idle":
        return False
    if slot.lifetime and now - slot.opened_at > slot.lifetime:
        return True
    return bool(slot.idle_timeout and slot.uses and now - slot.used_at > slot.idle_timeout)
