"""What Linux says about a process of ours: processor time, memory. Read by whoever is asked, not by the process."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(msgspec.Struct, frozen=True):
    """Processor time since its start (user and system) and resident memory, shared pages included."""

    cpu_ms: int = 0
    rss_bytes: int = 0


def usage_of(pid: int) -> Usage:
    """Of a process; zeros when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return Usage()
    return Usage((int(fields[11]) + int(fields[12])) * _TICK_MS, int(fields[21]) * _PAGE)
