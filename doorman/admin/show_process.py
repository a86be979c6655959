"""SHOW commands about the pooler itself: HELP, VERSION, CONFIG, WORKERS, MEM, LOG_LEVEL."""

from __future__ import annotations

from typing import Final

from doorman.admin.command import Rows, Sources, config_of, host_of, one_row
from doorman.admin.procfs import usage_of
from doorman.admin.result import numeric, text
from doorman.config.flatten import flatten
from doorman.shm.counters import process_totals
from doorman.shm.rows import client_rows, process_rows, regions
from doorman.shm.table import monotonic_us

VERSION_COLUMNS: Final = (text("version"),)


def version_rows(sources: Sources) -> Rows:
    """SHOW VERSION."""
    return one_row(f"PgDoorman {sources.version}")


# SHOW CONFIG

CONFIG_COLUMNS: Final = (text("key"), text("value"), text("default"), text("changeable"))


def config_rows(sources: Sources) -> Rows:
    """SHOW CONFIG: everything. Keys of `general` go without their section; durations are milliseconds."""
    config = config_of(sources)
    if config is None:
        return []
    rows: Rows = []
    for entry in flatten(config):
        key = entry.key.removeprefix("general.")
        rows.append((key, entry.value, entry.default, "yes" if entry.is_changeable else "no"))
    for name, pool in config.pools.items():
        rows.append((f'pools."{name}".users', ", ".join(user.username for user in pool.users), "-", "yes"))
    return rows


# SHOW LOG_LEVEL

LOG_LEVEL_COLUMNS: Final = (text("log_level"),)


def log_level_rows(sources: Sources) -> Rows:
    """SHOW LOG_LEVEL."""
    return one_row(host_of(sources).log_level())


# SHOW WORKERS

WORKER_COLUMNS: Final = (
    numeric("pid"),
    text("role"),
    numeric("generation"),
    numeric("clients"),
    numeric("cpu_ms"),
    numeric("memory"),
    numeric("loop_delay_us"),
    numeric("loop_delay_max_us"),
    numeric("heartbeat_age_ms"),
)


def workers_rows(sources: Sources) -> Rows:
    """SHOW WORKERS: the master, the workers, the keeper."""
    table = sources.table
    clients = [client.worker for client in client_rows(table)]
    now = monotonic_us()
    master = usage_of(table.master_pid)
    rows: Rows = [(table.master_pid, "master", 1, 0, master.cpu_ms, master.rss_bytes, 0, 0, 0)]
    for process in process_rows(table):
        usage, totals = usage_of(process.pid), process_totals(table, process.number)
        rows.append(
            (
                process.pid,
                process.role,
                process.generation,
                clients.count(process.number),
                usage.cpu_ms,
                usage.rss_bytes,
                totals.loop_delay,
                totals.loop_delay_high,
                max(0, now - process.heartbeat) // 1000,
            )
        )
    return rows


# SHOW MEM

MEM_COLUMNS: Final = (text("name"), numeric("size"), numeric("used"), numeric("free"), numeric("memtotal"))


def mem_rows(sources: Sources) -> Rows:
    """SHOW MEM: the regions of the shared table. `memtotal` is what a full region would take; pages that nobody has
    touched take nothing."""
    return [(name, size, used, rows - used, size * rows) for name, size, used, rows in regions(sources.table)]
