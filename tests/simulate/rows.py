"""Names for the numbers of doorman/shm/layout.pxd, and small tables for the simulations."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from doorman.shm.lifecycle import change_pool
from doorman.shm.rows import set_up_pool
from doorman.shm.table import Table

NONE = -1
WORKER, KEEPER = 1, 2
BACK_IDLE, BACK_GRANTED, BACK_HELD, BACK_CLOSE, BACK_REFUSED = -1, -2, -3, -4, -5
ATTEND_WAITERS, ATTEND_POOLS, ATTEND_CONDEMNED = 1, 2, 4
RETRY_AFTER_US = 100_000
HOME_LOOKS = 16


class Slot(IntEnum):
    FREE = 0
    OPENING = 1
    IDLE = 2
    ACTIVE = 3
    RESETTING = 4
    GRANTED = 5
    CLOSING = 6


class Wait(IntEnum):
    NO = 0
    QUEUED = 1
    GRANTED = 2
    FAILED = 3
    CANCELLED = 4


def make_table(
    *,
    processes: int = 4,
    pool_sizes: Sequence[int] = (2, 3),
    slots: int = 16,
    clients: int = 16,
    max_connections: int = 12,
    max_opening: int = 2,
    round_robin: bool = False,
    spare_pools: int = 0,
) -> Table:
    """A table with one live pool for each size, and rows for some more."""
    table = Table.create(
        processes=processes,
        pools=len(pool_sizes) + spare_pools,
        slots=slots,
        clients=clients,
        max_connections=max_connections,
    )
    for number, size in enumerate(pool_sizes):
        add_pool(table, number, size, max_opening, round_robin=round_robin)
    return table


def add_pool(table: Table, number: int, size: int, max_opening: int = 2, *, round_robin: bool = False) -> None:
    """A live pool in this row."""
    set_up_pool(
        table,
        number,
        database=f"db{number}",
        user="app",
        session_mode=False,
        pool_size=size,
        min_pool_size=0,
        max_opening=max_opening,
        round_robin=round_robin,
        check_after_us=0,
    )


def resize_pool(
    table: Table, number: int, size: int, max_opening: int = 2, *, version: int = 0
) -> tuple[list[tuple[int, int]], int]:
    """`change_pool` with another size, and perhaps with servers that are opened otherwise."""
    return change_pool(
        table,
        number,
        session_mode=False,
        pool_size=size,
        min_pool_size=0,
        max_opening=max_opening,
        round_robin=False,
        check_after_us=0,
        cleanup=True,
        statements=False,
        statement_limit=0,
        version=version,
    )
