"""Secrets and core dumps: passwords live in the memory of all our processes, and a core is a copy of it on a disk.

Called once in the master, before the first fork; children inherit it. The shared segment is marked on its own
(MADV_DONTDUMP, shm/table).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

FILTER: Final = Path("/proc/self/coredump_filter")
HEADERS_ONLY: Final = "0x10"
"""core(5): no mapping is dumped but the first page of ELF files. Registers and the list of mappings remain."""
VARIABLE: Final = "PG_DOORMAN_CORE_DUMPS"
"""Set it to "full" to have whole cores, with all secrets in them, while looking for a fault."""


def leave_memory_out_of_cores() -> None:
    """A kernel without the file dumps no cores of that kind."""
    if os.environ.get(VARIABLE) != "full":
        with suppress(OSError):
            FILTER.write_text(HEADERS_ONLY)
