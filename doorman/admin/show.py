"""The registry of SHOW commands, SHOW HELP, and what psql's tab completion asks.

`find_command` turns the words of a statement into a `Command`, or says why not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from doorman.admin import show_connections as connections
from doorman.admin import show_pools as pools
from doorman.admin import show_process as process
from doorman.admin.command import Command, Rows, Sources
from doorman.admin.control import CONTROL_HELP, find_control
from doorman.admin.orders import find_order
from doorman.admin.result import text
from doorman.admin.statements import Words
from doorman.errors import ClientFault
from doorman.wire.backend import Column
from doorman.wire.codes import SqlState


class Show(msgspec.Struct, frozen=True):
    """One SHOW command: its columns, its rows now, and what it is about."""

    columns: tuple[Column, ...]
    rows: Callable[[Sources], Rows]
    about: str


def find_command(words: Words) -> Command:
    """The command that a statement names, in any case. Raises `ClientFault`: 58000 for what there is not."""
    if words[0].upper() == "SHOW":
        return _find_show(words)
    if (control := find_control(words)) is not None:
        return control
    if is_driver_setting(words):
        return Command((), lambda _: [], "SET")
    order = find_order(words)
    if order is None:
        raise _unsupported("unsupported query against the admin database")
    return Command(order.columns, lambda _: order, order.tag, changes=True)


DRIVER_SETTINGS: Final = frozenset(
    ("application_name", "client_encoding", "client_min_messages", "datestyle", "extra_float_digits", "intervalstyle",
     "names", "session", "standard_conforming_strings", "statement_timeout", "timezone")
)  # fmt: skip
"""What drivers set in every session of theirs, asked or not (pgjdbc: extra_float_digits); here it changes nothing."""


def is_driver_setting(words: Words) -> bool:
    """Is this a SET that a driver sends by itself?"""
    return words[0].upper() == "SET" and len(words) > 1 and words[1].partition("=")[0].lower() in DRIVER_SETTINGS


def _find_show(words: Words) -> Command:
    """Surplus words are ignored."""
    if len(words) == 1:
        raise _unsupported("unsupported query against the admin database: SHOW needs to be told what")
    name = words[1].upper()
    if name == "INTERNER":
        return connections.show_interner(words)
    show = SHOWS.get(ALIASES.get(name, name))
    if show is None:
        raise _unsupported("unsupported SHOW query against the admin database")
    return Command(show.columns, show.rows)


def _unsupported(message: str) -> ClientFault:
    hint = "SHOW HELP lists the commands. There are no transactions here: turn autocommit on."
    return ClientFault(SqlState.SYSTEM_ERROR, message, hint=hint)


HELP_COLUMNS: Final = (text("item"), text("about"))


def help_rows(sources: Sources) -> Rows:
    """SHOW HELP."""
    rows: Rows = [("SHOW " + "|".join(SHOWS), "")]
    rows += [(f"SHOW {name}", show.about) for name, show in SHOWS.items()]
    return rows + list(CONTROL_HELP)


SHOWS: Final[dict[str, Show]] = {
    "HELP": Show(HELP_COLUMNS, help_rows, "this list"),
    "CONFIG": Show(process.CONFIG_COLUMNS, process.config_rows, "the configuration in force, secrets masked"),
    "DATABASES": Show(
        pools.DATABASE_COLUMNS, pools.databases_rows, "where the servers of each pool are, and its limits"
    ),
    "POOLS": Show(pools.POOL_COLUMNS, pools.pools_rows, "clients and servers of each pool now"),
    "POOLS_EXTENDED": Show(
        pools.EXTENDED_COLUMNS, pools.extended_rows, "bytes and percentiles of times, in microseconds"
    ),
    "POOLS_MEMORY": Show(pools.MEMORY_COLUMNS, pools.memory_rows, "prepared statements of servers and clients"),
    "POOL_COORDINATOR": Show(
        pools.COORDINATOR_COLUMNS, pools.coordinator_rows, "databases with max_db_connections, and how full they are"
    ),
    "POOL_SCALING": Show(pools.SCALING_COLUMNS, pools.scaling_rows, "how servers were opened"),
    "PREPARED_STATEMENTS": Show(
        connections.PREPARED_COLUMNS, connections.prepared_rows, "prepared statements that servers hold"
    ),
    "INTERNER": Show(
        connections.INTERNER_COLUMNS, lambda _: [], "texts of prepared statements; SHOW INTERNER n: the longest"
    ),
    "CLIENTS": Show(connections.CLIENT_COLUMNS, connections.clients_rows, "every client of every worker"),
    "SERVERS": Show(connections.SERVER_COLUMNS, connections.servers_rows, "every connection to PostgreSQL"),
    "CONNECTIONS": Show(
        connections.CONNECTION_COLUMNS, connections.connections_rows, "connections accepted since the start"
    ),
    "STATS": Show(pools.STATS_COLUMNS, pools.stats_rows, "totals, and averages of the last 15 seconds"),
    "VERSION": Show(process.VERSION_COLUMNS, process.version_rows, "the version"),
    "USERS": Show(pools.USER_COLUMNS, pools.users_rows, "the user of each pool"),
    "AUTH_QUERY": Show(pools.AUTH_QUERY_COLUMNS, pools.auth_query_rows, "look-ups of users by auth_query"),
    "STARTUP_PARAMETERS": Show(pools.PARAMETER_COLUMNS, pools.parameters_rows, "what servers are opened with"),
    "LOG_LEVEL": Show(process.LOG_LEVEL_COLUMNS, process.log_level_rows, "the log filter in force"),
    "LISTS": Show(connections.LIST_COLUMNS, connections.lists_rows, "how many there are of what"),
    "SOCKETS": Show(connections.SOCKET_COLUMNS, connections.sockets_rows, "sockets by state, counted every 15 seconds"),
    "WORKERS": Show(
        process.WORKER_COLUMNS, process.workers_rows, "our processes: clients, processor time, memory, delays"
    ),
    "MEM": Show(process.MEM_COLUMNS, process.mem_rows, "regions of the shared table"),
    "DNS_HOSTS": Show(connections.DNS_COLUMNS, connections.dns_rows, "host names of servers and their addresses"),
}
"""By name, in the order of SHOW HELP: first as in the reference, then ours."""
ALIASES: Final = {"POOL_MEMORY": "POOLS_MEMORY"}


# psql's tab completion

COMPLETION_MARK: Final = "pg_catalog.pg_settings"
_LEVELS: Final = ("error", "warn", "info", "debug", "trace", "off", "default")


def complete(query: str) -> Command:
    """The answer to a query of psql's tab completion."""
    lowered = query.lower()
    values: tuple[str, ...]
    if "unnest(enumvals)" in lowered:
        column, values = "val", _LEVELS
    elif "vartype" in lowered:
        column, values = "vartype", ("enum",)
    elif "context" in lowered:
        column, values = "name", ("log_level",)
    else:
        column, values = "name", tuple(name.lower() for name in SHOWS)
    return Command((text(column),), lambda _: [(value,) for value in values], "SELECT")
