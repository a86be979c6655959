"""Commands that act on pools and clients: PAUSE, RESUME, RECONNECT, WAIT_CLOSE, KILL, DISABLE, ENABLE, RESET INTERNER.

Rules
1. It is done in the shared table at once (shm/orders), whichever worker is asked. What concerns the pooler as a whole
   is the master's (orders.py).
2. A command that waits (`Pending`) has already done what it does; only its answer waits. If its client goes, what was
   done stays done.
3. A statement is understood when it is parsed; what it names is looked for when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from doorman.admin.command import Command, Pending, Rows, Sources, host_of
from doorman.admin.statements import Words
from doorman.errors import ClientFault
from doorman.shm.orders import (
    busy_servers,
    condemn_client,
    enable_pool,
    outdated_servers,
    pause_pool,
    reconnect_pool,
    resume_pool,
)
from doorman.shm.rows import PoolView, client_rows, pool_rows
from doorman.shm.table import Table, monotonic_us
from doorman.wire.codes import SqlState

KILL_PATIENCE_US: Final = 5_000_000
"""So long KILL waits for workers to send their clients away before it answers all the same."""


def find_control(words: Words) -> Command | None:
    """The command of a statement; None when there is none of that name here."""
    make = _CONTROLS.get(words[0].upper())
    return make(words) if make else None


# Databases and pools


def match_pools(table: Table, target: str | None) -> list[PoolView]:
    """All pools, those of a database, or the one of `user@database`. Raises `ClientFault` 3D000 when there is none."""
    pools = pool_rows(table)
    if target is None:
        return pools
    matched = [pool for pool in pools if target in (pool.database, f"{pool.user}@{pool.database}")]
    if not matched:
        raise ClientFault(
            "3D000",
            f'No pool for database "{target}"',
            hint="SHOW POOLS lists the pools. Name a database, or a pool as user@database.",
        )
    return matched


def _target_of(words: Words, *options: str) -> tuple[str | None, set[str]]:
    """The database or pool that a statement names, and which of the options stand behind it."""
    rest = list(words[1:])
    given = set()
    while rest and rest[-1].upper() in options:
        given.add(rest.pop().upper())
    if len(rest) > 1:
        usage = f"{words[0].upper()} [database | user@database] {' '.join(f'[{option}]' for option in options)}"
        raise ClientFault(SqlState.SYNTAX_ERROR, f'unexpected word "{rest[1]}"', hint=f"Usage: {usage.strip()}")
    return (rest[0] if rest else None), given


def _required_target(words: Words) -> str:
    target, _ = _target_of(words)
    if target is None:
        name = words[0].upper()
        raise ClientFault(
            SqlState.SYNTAX_ERROR, f"{name} needs a database", hint=f"Usage: {name} database, or {name} user@database"
        )
    return target


def _for_each(sources: Sources, target: str | None, act: Callable[[Table, int], int]) -> list[PoolView]:
    """Do something to every pool that is meant, and wake who must know."""
    pools = match_pools(sources.table, target)
    wake = 0
    for pool in pools:
        wake |= act(sources.table, pool.number)
    host_of(sources).wake(wake)
    return pools


def _pause(words: Words) -> Command:
    """PAUSE [target] [NOWAIT]: answers when no server of these pools is lent any more, or at once."""
    target, options = _target_of(words, "NOWAIT")

    def run(sources: Sources) -> Rows | Pending:
        pools = _for_each(sources, target, pause_pool)
        if "NOWAIT" in options:
            return []
        return Pending(lambda: None if any(busy_servers(sources.table, pool.number) for pool in pools) else [])

    return Command((), run, "PAUSE", changes=True)


def _resume(words: Words) -> Command:
    target, _ = _target_of(words)

    def run(sources: Sources) -> Rows:
        _for_each(sources, target, resume_pool)
        return []

    return Command((), run, "RESUME", changes=True)


def _reconnect(words: Words) -> Command:
    target, _ = _target_of(words)

    def run(sources: Sources) -> Rows:
        _for_each(sources, target, reconnect_pool)
        return []

    return Command((), run, "RECONNECT", changes=True)


def _wait_close(words: Words) -> Command:
    """WAIT_CLOSE [target]: answers when all servers that RECONNECT or RELOAD outdated are gone."""
    target, _ = _target_of(words)

    def run(sources: Sources) -> Pending:
        pools = match_pools(sources.table, target)
        return Pending(lambda: None if any(outdated_servers(sources.table, pool.number) for pool in pools) else [])

    return Command((), run, "WAIT_CLOSE", changes=True)


def _enable(words: Words, *, enabled: bool) -> Command:
    target = _required_target(words)

    def run(sources: Sources) -> Rows:
        for pool in match_pools(sources.table, target):
            enable_pool(sources.table, pool.number, enabled)
        return []

    return Command((), run, "ENABLE" if enabled else "DISABLE", changes=True)


# Clients


def _kill(words: Words) -> Command:
    """KILL [target] as PgBouncer: pauses, sends the clients away, outdates the servers. KILL CLIENT id: one client."""
    if len(words) > 1 and words[1].upper() == "CLIENT" and len(words) > 2:
        return _kill_client(words[1:])
    target, _ = _target_of(words)

    def run(sources: Sources) -> Pending:
        pools = {pool.number for pool in _for_each(sources, target, pause_pool)}
        meant = [(client.number, client.connection_id) for client in client_rows(sources.table) if client.pool in pools]
        wake = 0
        for number, connection_id in meant:
            wake |= condemn_client(sources.table, number, connection_id)
        for pool in pools:
            wake |= reconnect_pool(sources.table, pool)
        host_of(sources).wake(wake)
        return _until_gone(sources, {connection_id for _, connection_id in meant})

    return Command((), run, "KILL", changes=True)


def _kill_client(words: Words) -> Command:
    """KILL CLIENT id, KILL_CLIENT id: the number that SHOW CLIENTS gives, with `#c` or without."""
    usage = "Usage: KILL CLIENT id, with a client_id of SHOW CLIENTS, as in KILL CLIENT #c12"
    wanted = words[1].lower().removeprefix("#c") if len(words) == 2 else ""
    if not wanted.isdigit():
        raise ClientFault(SqlState.SYNTAX_ERROR, "KILL CLIENT needs one client_id", hint=usage)

    def run(sources: Sources) -> Pending:
        for client in client_rows(sources.table):
            if client.connection_id == int(wanted):
                host_of(sources).wake(condemn_client(sources.table, client.number, client.connection_id))
                return _until_gone(sources, {client.connection_id})
        raise ClientFault("42704", f"there is no client #c{wanted}", hint="SHOW CLIENTS lists the clients.")

    return Command((), run, "KILL", changes=True)


def _until_gone(sources: Sources, clients: set[int]) -> Pending:
    deadline = monotonic_us() + KILL_PATIENCE_US

    def look() -> Rows | None:
        left = clients & {client.connection_id for client in client_rows(sources.table)}
        return None if left and monotonic_us() < deadline else []

    return Pending(look)


def _reset(words: Words) -> Command:
    if len(words) != 2 or words[1].upper() != "INTERNER":
        raise ClientFault(SqlState.SYSTEM_ERROR, "only RESET INTERNER is supported")

    def run(sources: Sources) -> Rows:
        host_of(sources).forget_statements()
        return []

    return Command((), run, "RESET", changes=True)


def _upgrade(words: Words) -> Command:
    raise ClientFault(SqlState.FEATURE_NOT_SUPPORTED, "UPGRADE is not supported by this version")


_CONTROLS: Final[dict[str, Callable[[Words], Command]]] = {
    "PAUSE": _pause,
    "RESUME": _resume,
    "RECONNECT": _reconnect,
    "WAIT_CLOSE": _wait_close,
    "DISABLE": lambda words: _enable(words, enabled=False),
    "ENABLE": lambda words: _enable(words, enabled=True),
    "KILL": _kill,
    "KILL_CLIENT": _kill_client,
    "RESET": _reset,
    "UPGRADE": _upgrade,
}

CONTROL_HELP: Final = (
    ("PAUSE [db | user@db] [NOWAIT]", "lend no servers; answers when none is lent any more (NOWAIT: at once)"),
    ("RESUME [db | user@db]", "lend servers again"),
    ("RECONNECT [db | user@db]", "close idle servers now and others when they come back"),
    ("WAIT_CLOSE [db | user@db]", "answers when all servers that RECONNECT or RELOAD outdated are closed"),
    ("DISABLE db | user@db", "refuse new clients"),
    ("ENABLE db | user@db", "take new clients again"),
    ("KILL [db | user@db]", "pause, send the clients away, close the servers; RESUME goes on"),
    ("KILL CLIENT id", "send one client away (a client_id of SHOW CLIENTS)"),
    ("SET log_level = '<filter>'", "a level, or level,module=level,…; default: as at the start"),
    ("RESET INTERNER", "forget the texts of prepared statements"),
    ("RELOAD", "read the configuration file again"),
    ("SHUTDOWN [WAIT]", "stop at once, or when transactions have ended"),
    ("UPGRADE", "replace the running program, keeping all connections"),
)
