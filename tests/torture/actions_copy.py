"""COPY in both directions, in pieces, and ended by CopyFail."""

from __future__ import annotations

from tests.torture import wire
from tests.torture.actions_simple import digest
from tests.torture.client import Client
from tests.torture.expect import BOUND, COPY_END, COPY_IN, COPY_OUT, PARSED, copied, done, error, ready, row, selected

CREATE = "CREATE TEMP TABLE torture_copy (tag text, n int) ON COMMIT DROP"


async def copy_out(client: Client, tag: str) -> None:
    count = client.rng.choice((1, 20, 1500))
    sql = f"COPY (SELECT '{tag}', g, md5('{tag}' || g) FROM generate_series(1, {count}) g) TO STDOUT"
    lines = [copied(f"{tag}\t{number}\t{digest(f'{tag}{number}')}") for number in range(1, count + 1)]
    await client.ask(sql, COPY_OUT, *lines, COPY_END, done(f"COPY {count}"))


async def copy_in(client: Client, tag: str) -> None:
    """Rows go in by many CopyData messages and are counted in the same transaction."""
    count = client.rng.choice((1, 50, 2000))
    await start_copy_in(client)
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        await client.send(b"".join(wire.copy_data(f"{tag}\t{number}\n".encode()) for number in numbers))
        await client.pause(0.005)
    await client.exchange(wire.COPY_DONE, [done(f"COPY {count}"), ready("T")])
    sql = f"SELECT count(*), sum(n) FROM torture_copy WHERE tag = '{tag}'"
    await client.ask_within(sql, *selected(row(count, count * (count - 1) // 2)))
    await client.ask("COMMIT", done("COMMIT"))


async def copy_fails(client: Client, tag: str) -> None:
    """The client gives up: CopyFail, whose reason comes back in the error."""
    await start_copy_in(client)
    await client.send(wire.copy_data(f"{tag}\t1\n".encode()))
    await client.exchange(wire.copy_fail(tag), [error("57014", tag), ready("E")])
    await client.ask("ROLLBACK", done("ROLLBACK"))


async def copy_bad_data(client: Client, tag: str) -> None:
    """The server gives up while the client is still sending: the rest of the data is swallowed."""
    await start_copy_in(client)
    data = wire.copy_data(f"{tag}\tnot a number {tag}\n".encode()) + wire.copy_data(f"{tag}\t1\n".encode()) * 200
    await client.exchange(data + wire.COPY_DONE, [error("22P02", tag), ready("E")])
    await client.ask("ROLLBACK", done("ROLLBACK"))


async def copy_in_extended(client: Client, tag: str) -> None:
    """COPY by Parse, Bind, Execute: Sync comes after CopyDone."""
    await client.ask_within(f"BEGIN; {CREATE}", done("BEGIN"), done("CREATE TABLE"))
    data = wire.parse("COPY torture_copy FROM STDIN") + wire.bind() + wire.execute() + wire.FLUSH
    await client.send(data)
    await client.expect([PARSED, BOUND, COPY_IN])
    data = wire.copy_data(f"{tag}\t7\n".encode()) + wire.COPY_DONE + wire.SYNC
    await client.exchange(data, [done("COPY 1"), ready("T")])
    await client.ask_within("SELECT * FROM torture_copy", *selected(row(tag, 7)))
    await client.ask("ROLLBACK", done("ROLLBACK"))


async def start_copy_in(client: Client) -> None:
    """A transaction with a temporary table that waits for CopyData."""
    await client.ask_within(f"BEGIN; {CREATE}", done("BEGIN"), done("CREATE TABLE"))
    await client.exchange(wire.query("COPY torture_copy FROM STDIN"), [COPY_IN])
