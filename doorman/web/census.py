"""How many sockets our processes have, by kind and state: /proc/<pid>/fd against /proc/net (proc(5)).

A socket that several processes have (a server's, a listening one) is one socket. Called by the keeper in a thread.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from doorman.admin.show_connections import TCP_STATES, UNIX_KINDS

_TCP_COLUMNS: Final = 17
_UNIX_STATES: Final = {1: "unix_unconnected", 2: "unix_connecting", 3: "unix_connected", 4: "unix_disconnecting"}
_UNIX_TYPES: Final = {2: "unix_dgram", 5: "unix_seq_packet"}
_STREAM: Final = 1


def take_census(pids: Iterable[int]) -> list[int]:
    """Counts in the order of SHOW SOCKETS. Raises OSError when /proc cannot be read."""
    inodes: set[int] = set()
    for pid in pids:
        inodes |= inodes_of(pid)
    tables = [count_tcp("/proc/self/net/tcp", inodes), count_tcp("/proc/self/net/tcp6", inodes)]
    unix, found = count_unix("/proc/self/net/unix", inodes)
    counts = [count[state] for count, _ in tables for state in range(1, len(TCP_STATES) + 1)]
    known = found.union(*[seen for _, seen in tables])
    unix["unknown"] = len(inodes - known)
    return counts + [unix[kind] for kind in UNIX_KINDS]


def inodes_of(pid: int) -> set[int]:
    """Inodes of a process's sockets; none when it is gone."""
    found: set[int] = set()
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return found
    for entry in entries:
        try:
            target = os.readlink(entry)  # noqa: PTH115
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found


def count_tcp(path: str, inodes: set[int]) -> tuple[Counter[int], set[int]]:
    """Sockets of ours by the kernel's number of their state, and their inodes."""
    counts: Counter[int] = Counter()
    found = set()
    for columns in read_table(path):
        if len(columns) == _TCP_COLUMNS and (inode := int(columns[9])) in inodes:
            counts[int(columns[3], 16)] += 1
            found.add(inode)
    return counts, found


def count_unix(path: str, inodes: set[int]) -> tuple[Counter[str], set[int]]:
    """Unix sockets of ours by kind, streams by state, and their inodes."""
    counts: Counter[str] = Counter()
    found = set()
    for columns in read_table(path):
        if len(columns) >= 7 and (inode := int(columns[6])) in inodes:
            kind = int(columns[4], 16)
            state = _UNIX_STATES.get(int(columns[5], 16), "unix_free")
            counts[state if kind == _STREAM else _UNIX_TYPES.get(kind, "unknown")] += 1
            found.add(inode)
    return counts, found


def read_table(path: str) -> list[list[str]]:
    """Rows of a table of the kernel without its heading; none where there is no such table."""
    try:
        return [line.split() for line in Path(path).read_text().splitlines()[1:]]
    except FileNotFoundError:
        return []
