"""Console commands that the master carries out for the whole pooler: RELOAD, SHUTDOWN, SET log_level.

The console turns such a statement into an `Order` and stops; whoever drives it (workers.login) has the master carry
it out and hands the `OrderResult` back with `Console.finish_order`. So no worker waits, and the other clients notice
nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from doorman.admin.result import text
from doorman.admin.statements import Words
from doorman.errors import ClientFault
from doorman.log import parse_filter
from doorman.wire.backend import Column
from doorman.wire.codes import SqlState

GRACEFUL: Final = frozenset({"WAIT", "WAIT_FOR_CLIENTS", "WAIT_FOR_SERVERS"})


class Order(msgspec.Struct, frozen=True):
    """What the master is to do (`name` is RELOAD, SHUTDOWN, DRAIN or LOG_LEVEL), and how its success is answered."""

    name: str
    argument: str = ""
    tag: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


class OrderResult(msgspec.Struct, frozen=True):
    """What came of it: notices about what was done, or a SQLSTATE and the reason why nothing was."""

    notices: list[str]
    sqlstate: str = ""
    problem: str = ""
    detail: str | None = None


def find_order(words: Words) -> Order | None:
    """The order that a statement gives, None when it is something else. Raises `ClientFault` for a wrong one."""
    make = _ORDERS.get(words[0].upper())
    return make(words) if make is not None else None


def _reload(words: Words) -> Order:
    return Order("RELOAD", tag="RELOAD")


def _shutdown(words: Words) -> Order:
    is_graceful = len(words) > 1 and words[1].upper() in GRACEFUL
    if len(words) > 1 and not is_graceful:
        raise ClientFault(
            SqlState.SYNTAX_ERROR,
            f"SHUTDOWN does not know {words[1]!a}",
            hint="SHUTDOWN stops at once; SHUTDOWN WAIT lets transactions end first, for shutdown_timeout at most.",
        )
    return Order("DRAIN" if is_graceful else "SHUTDOWN", "", "SHUTDOWN", (text("success"),), (("t",),))


def _set(words: Words) -> Order:
    """`SET log_level = 'f'`, with TO or without anything between, with or without blanks."""
    name, _, rest = " ".join(words[1:]).partition("=")
    first, *others = name.split() or [""]
    if first.lower() != "log_level":
        raise ClientFault(SqlState.SYNTAX_ERROR, "the console can SET only log_level", hint=SET_HINT)
    if others[:1] and others[0].upper() == "TO":
        del others[0]
    wanted = ",".join(f"{' '.join(others)}={rest}".strip("=").split())
    if not wanted:
        raise ClientFault(SqlState.SYNTAX_ERROR, "SET log_level needs a value", hint=SET_HINT)
    try:
        parse_filter(wanted)
    except ValueError as error:
        raise ClientFault(SqlState.INVALID_PARAMETER_VALUE, f"invalid log_level: {error}", hint=SET_HINT) from None
    return Order("LOG_LEVEL", wanted, "SET")


SET_HINT: Final = "SET log_level = 'info', 'debug', 'info,doorman.workers=debug' or 'default'."
_ORDERS: Final = {"RELOAD": _reload, "SHUTDOWN": _shutdown, "SET": _set}
