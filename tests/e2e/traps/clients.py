"""What clients of these tests say and hear: batches, answers as short words, one server after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.e2e.conftest import Connect
from tests.e2e.raw import Raw
from tests.torture.wire import SYNC, Message, bind, execute, parse, query

SERVERS = 2
"""Of each pool."""

KEEPS = ["keeps_0", "keeps_1", "keeps_2", "postgres"]
"""Pools by the number of statements that a server holds, the last one many."""

WORK = query("BEGIN; SELECT 1")


def run(name: str = "", values: Sequence[bytes | None] = ()) -> bytes:
    """Bind and Execute of a statement."""
    return bind(values, name) + execute()


def whole(sql: str, name: str = "", values: Sequence[bytes | None] = ()) -> bytes:
    """Parse, Bind, Execute."""
    return parse(sql, name) + run(name, values)


def words(messages: Sequence[Message]) -> list[str]:
    """First column of each row, SQLSTATE of each error."""
    heard = []
    for got in messages:
        if got.kind == b"D":
            heard.append((got.columns()[0] or b"").decode())
        elif got.kind == b"E":
            heard.append(got.fields()["C"])
    return heard


def ask(raw: Raw, *data: bytes) -> list[str]:
    """The words that answer one batch, whose Sync is added."""
    return words(raw.converse(*data, SYNC))


def on_each_server(connect: Connect, database: str = "postgres") -> Iterator[str]:
    """Once for each server of the pool, while all others are taken: the pid of the free one."""
    first, second = connect(database), connect(database)
    taken = [backend(first, begin=True), backend(second, begin=True)]
    second.ask(query("COMMIT"))
    yield taken[1]
    assert backend(second, begin=True) == taken[1]
    first.ask(query("COMMIT"))
    yield taken[0]
    second.ask(query("COMMIT"))
    first.quit()
    second.quit()


def backend(raw: Raw, *, begin: bool = False) -> str:
    """The pid of the server that answers; with `begin` the client keeps it."""
    if begin:
        raw.ask(query("BEGIN"))
    return raw.value("SELECT pg_backend_pid()") or ""


HELD = "SELECT statement FROM pg_prepared_statements WHERE name <> '' ORDER BY 1"


def held(raw: Raw) -> list[str]:
    """Texts that the server holds by name."""
    return [row[0] or "" for row in raw.rows(HELD)]
