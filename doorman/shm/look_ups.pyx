"""Counters of auth_query, a row for each database that has one. The keeper opens and closes rows, anybody counts.

Rules
1. Only the keeper, of which there is one, gives a row to a database or takes it away: no lock is needed. The name is
   written before the state, and the state goes first.
2. Numbers are added atomically, so any process may count. They outlive the keeper; they begin anew, with another
   generation, when a reload changes the look-ups of the database.
"""

import msgspec

from libc.stdint cimport uint64_t
from libc.string cimport memset

from doorman.shm.atomics cimport add64, store32
from doorman.shm.layout cimport LOOK_UP_ROWS, NAME_BYTES, LookUpRow
from doorman.shm.table cimport Table, copy_text, read_text

DROPPED = (
    "auth_query_oversize", "auth_query_overlay_oversize", "auth_query_bad_type", "auth_query_invalid_json",
    "auth_query_invalid_shape", "auth_query_invalid_entry", "dedicated_mode", "cascade_budget_exceeded",
    "packet_cap_exceeded",
)
"""Why startup parameters were not sent."""
COUNTS = (
    "cache_hits", "cache_misses", "cache_refetches", "cache_rate_limited", "auth_success", "auth_failure",
    "executor_queries", "executor_errors", "dynamic_pools_created", "dynamic_pools_destroyed", *DROPPED,
)
"""In the order of the row's counts."""

cdef dict NUMBER_OF = {name: number for number, name in enumerate(COUNTS)}


class LookUpView(msgspec.Struct, frozen=True):
    """One row. `generation` tells numbers that began anew from those before."""

    database: str
    generation: int
    cache_entries: int
    counts: dict[str, int]


def open_row(Table table, str database, bint anew) -> bool:
    """Keeper: count for this database; False when there is no row left. anew: from zero."""
    cdef int number = find_row(table, database)
    cdef LookUpRow *row
    if number < 0:
        number = find_row(table, None)
        anew = True
    if number < 0:
        return False
    row = &table.look_ups[number]
    if anew:
        memset(row.counts, 0, sizeof(row.counts))
        row.generation += 1
        copy_text(row.database, NAME_BYTES, database.encode("utf-8", "surrogateescape"))
    row.entries = 0
    store32(&row.state, 1)
    return True


def close_row(Table table, str database) -> None:
    """Keeper: the configuration has no auth_query for it any more."""
    cdef int number = find_row(table, database)
    if number >= 0:
        store32(&table.look_ups[number].state, 0)


def set_entries(Table table, str database, uint64_t entries) -> None:
    """Keeper: so many users are remembered now."""
    cdef int number = find_row(table, database)
    if number >= 0:
        table.look_ups[number].entries = entries


def count_look_up(Table table, str database, str what) -> None:
    """One more of one of COUNTS; nothing where the database has no row."""
    cdef int number = find_row(table, database)
    if number >= 0:
        add64(&table.look_ups[number].counts[<int>NUMBER_OF[what]], 1)


def look_up_rows(Table table) -> list[LookUpView]:
    """All databases with auth_query, by name."""
    cdef LookUpRow *row
    cdef int number, at
    rows = []
    for number in range(LOOK_UP_ROWS):
        row = &table.look_ups[number]
        if row.state:
            counts = {name: row.counts[at] for at, name in enumerate(COUNTS)}
            rows.append(LookUpView(read_text(row.database, NAME_BYTES), row.generation, row.entries, counts))
    return sorted(rows, key=lambda view: view.database)


cdef int find_row(Table table, database):
    """The row of a database, None: an unused one; -1 when there is none."""
    cdef int number
    for number in range(LOOK_UP_ROWS):
        if database is None:
            if not table.look_ups[number].state:
                return number
        elif table.look_ups[number].state and read_text(table.look_ups[number].database, NAME_BYTES) == database:
            return number
    return -1
