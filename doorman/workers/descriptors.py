"""How many file descriptors the pooler may have, and whether that is enough: clients and servers are descriptors."""

from __future__ import annotations

import resource
from collections.abc import Iterable

from doorman.config.resolve import PoolSettings

OWN = 64
"""For listeners, channels, logs, look-ups and the like, in one process."""
FOR_EACH_WORKER = 2
"""By which a process wakes it, and hands it clients."""


def raise_descriptor_limit() -> int:
    """Take what the hard limit allows; the limit that now holds for each process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def find_shortage(limit: int, max_connections: int, pools: Iterable[PoolSettings], workers: int) -> str | None:
    """What a process may come to need that the limit does not allow; None when it is enough.

    Every process has a descriptor of each server (of all pools), and one worker may happen to get all clients.
    """
    servers = sum(pool.pool_size for pool in pools)
    needed = max_connections + servers + OWN + workers * FOR_EACH_WORKER
    if limit >= needed:
        return None
    return (
        f"the limit of open files is {limit} for each process, but max_connections ({max_connections}) and the "
        f"servers of all pools ({servers}) may need {needed}: set LimitNOFILE={needed} in the unit, or ulimit -n"
    )
