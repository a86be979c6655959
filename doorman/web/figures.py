"""What a scrape is made of. Apart from metrics.py, which only the process that serves HTTP imports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from doorman.config.schema import Config
from doorman.shm.table import Table


class LookUpFigures(msgspec.Struct, frozen=True):
    """The auth_query of one database: `counts` by the names of `shm.look_ups.COUNTS`."""

    database: str
    entries: int
    counts: Mapping[str, int]
    dynamic_pools: int


class Figures(msgspec.Struct):
    """What a scrape is made of: the table, and what is known beside it."""

    table: Table
    config: Config
    version: str
    log_filter: str
    attempts: Counter[tuple[str, str]]
    responses: Counter[tuple[str, str]]
    look_ups: Sequence[LookUpFigures] = ()
