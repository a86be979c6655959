"""What /proc tells about processes: families, processor time, memory, descriptors, listening sockets.

Processes that vanish while being read count as absent, never as an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
TCP_LISTEN = "0A"


def stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the command name: [0] is the state, [1] the parent (proc(5) numbers them 3, 4)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def children(pid: int) -> list[int]:
    """Zombies included. The kernel's own list where there is one; else by asking every process for its parent."""
    try:
        return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        pass
    return sorted(child for child in all_pids() if (fields := stat_fields(child)) and int(fields[1]) == pid)


def descendants(pid: int) -> list[int]:
    """The process itself and all below it, parents first."""
    by_parent: dict[int, list[int]] = {}
    for child in all_pids():
        if fields := stat_fields(child):
            by_parent.setdefault(int(fields[1]), []).append(child)
    family = [pid] if stat_fields(pid) else []
    for member in family:
        family.extend(sorted(by_parent.get(member, ())))
    return family


def marked_members(mark: str) -> list[int]:
    """Living processes with this entry (NAME=value) in the environment that they or a forebear were started with,
    wherever they hang in the tree and whatever session they made for themselves: finds orphans as well."""
    entry = mark.encode()
    return [pid for pid in all_pids() if is_alive(pid) and entry in _environment(pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """User + system time that these processes have used since they were born."""
    ticks = 0
    for pid in pids:
        if fields := stat_fields(pid):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS


def pss_bytes(pids: Iterable[int]) -> int:
    """Proportional set size of all these processes together: shared pages count once."""
    return sum(_pss_of(pid) for pid in pids)


def _pss_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def fd_count(pid: int) -> int:
    """Open descriptors, 0 if the process is gone."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def fd_targets(pid: int) -> list[str]:
    """What each open descriptor points at (`socket:[123]`, `anon_inode:[eventpoll]`, a path)."""
    targets = []
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []
    for link in links:
        try:
            targets.append(str(link.readlink()))
        except OSError:
            continue
    return targets


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def command_name(pid: int) -> str:
    """The kernel's short name (15 characters), what prctl(PR_SET_NAME) sets."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def shared_memory_names(pid: int) -> set[str]:
    """Names in /dev/shm that the process has mapped, also those that are unlinked already."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return set()
    return {found[1] for found in re.finditer(r"/dev/shm/(\S+)", maps)}


def listening_inodes(port: int) -> set[str]:
    """Socket inodes listening on this TCP port, v4 and v6."""
    return {fields[9] for fields in _tcp_rows(port) if fields[3] == TCP_LISTEN}


def accepted_connections(port: int) -> list[tuple[str, int]]:
    """Socket inode and client-side port of every connection to this local TCP port."""
    return [(fields[9], _port_of(fields[2])) for fields in _tcp_rows(port) if fields[3] != TCP_LISTEN]


def _tcp_rows(port: int) -> list[list[str]]:
    """Rows of /proc/net/tcp and tcp6 whose local port this is."""
    rows = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        suffix = f":{port:04X} "
        rows += [line.split() for line in lines if suffix in line]
    return [fields for fields in rows if _port_of(fields[1]) == port]


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def is_listening(pid: int, port: int) -> bool:
    """Whether the process holds a listening socket of this TCP port."""
    wanted = {f"socket:[{inode}]" for inode in listening_inodes(port)}
    return bool(wanted.intersection(fd_targets(pid)))
