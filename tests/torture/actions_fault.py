"""What a client does to itself: cancels, time-outs, and vanishing in the middle of everything."""

from __future__ import annotations

import asyncio
import struct

from tests.torture import wire
from tests.torture.actions_copy import start_copy_in
from tests.torture.actions_simple import series_sql
from tests.torture.client import Action, Client, Left, WrongAnswer
from tests.torture.expect import done, error, row, selected


async def cancel_own(client: Client, tag: str) -> None:
    """Cancel a statement that runs, or waits for a server; it may also end before the cancel comes."""
    await client.send(wire.query(f"SELECT '{tag}', pg_sleep(3)"))
    await client.pause(0.15)
    cancelling = asyncio.create_task(client.cancel())
    try:
        reply = await client.collect()
    finally:
        await cancelling
    for got in reply:
        if got.kind == b"E":
            if got.fields().get("C") != "57014":
                client.disturb(got, "a cancelled or finished pg_sleep")
            client.excuse(got, "a cancelled or finished pg_sleep")
        elif got.kind not in b"TDCZ":
            raise WrongAnswer(f"got {got.brief()} for a cancelled pg_sleep")


async def cancel_in_transaction(client: Client, tag: str) -> None:
    """The transaction fails, and nobody else's does."""
    await client.ask_within(f"BEGIN; SELECT '{tag}'", done("BEGIN"), *selected(row(tag)))
    is_over = asyncio.Event()
    cancelling = asyncio.create_task(cancel_until(client, is_over))
    try:
        await client.fail_within(f"SELECT '{tag}', pg_sleep(10)", error("57014", "user request"))
    finally:
        is_over.set()
        await cancelling
    await client.ask("ROLLBACK", done("ROLLBACK"))


async def cancel_until(client: Client, is_over: asyncio.Event) -> None:
    """A cancel that reaches PostgreSQL before its statement is ignored: ask again."""
    wait = 0.02 + client.rng.random() * 0.05
    while not await has_come(is_over, wait):
        await client.cancel()
        wait = 0.5


async def has_come(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def cancel_too_late(client: Client, tag: str) -> None:
    """A cancel for a statement that is over must hit nobody, neither this client nor whoever has its server now."""
    await client.ask(f"SELECT '{tag}'", *selected(row(tag)))
    await client.cancel()
    await client.ask(f"SELECT '{tag}'", *selected(row(tag)))


async def cancel_with_wrong_secret(client: Client, tag: str) -> None:
    """Somebody guesses: nothing happens to anybody."""
    shared, own = client.shared, client.connected
    guess = bytes(client.rng.randrange(256) for _ in own.secret)
    shared.ledger.injected["cancel with a wrong secret"] += 1
    cancelling = asyncio.create_task(wire.send_cancel(shared.host, shared.port, own.pid, guess))
    await client.ask(f"SELECT '{tag}', pg_sleep(0.02)", *selected(row(tag, "")))
    await cancelling


async def statement_timeout(client: Client, tag: str) -> None:
    client.shared.ledger.injected["statement_timeout"] += 1
    await client.ask_within("BEGIN; SET LOCAL statement_timeout = 60", done("BEGIN"), done("SET"))
    await client.fail_within(f"SELECT '{tag}', pg_sleep(10)", error("57014", "statement timeout"))
    client.shared.ledger.explained["statement_timeout"] += 1
    await client.ask("ROLLBACK", done("ROLLBACK"))


async def vanish_in_result(client: Client, tag: str) -> None:
    mark = client.connected.mark()
    await client.send(wire.query(series_sql(tag, 3000, 20)))
    await client.connected.wait_bytes(client.rng.choice((1, 5000, 200_000)), mark)
    vanish(client)


async def vanish_before_result(client: Client, tag: str) -> None:
    """Gone while the statement runs, or while the client still waits for a server."""
    await client.send(wire.query(f"SELECT '{tag}', pg_sleep(0.3)"))
    await client.pause(0.1)
    vanish(client)


async def vanish_in_transaction(client: Client, tag: str) -> None:
    """What it did must be rolled back, what it set must be gone."""
    await client.ask_within("BEGIN", done("BEGIN"))
    await client.ask_within(f"SELECT set_config('my.tag', '{tag}', true)", *selected(row(tag)))
    if client.rng.random() < 0.5:
        await client.send(wire.query(f"SELECT '{tag}', pg_sleep(0.2)"))
    vanish(client)


async def terminate_in_transaction(client: Client, tag: str) -> None:
    """Terminate, politely, with a transaction open."""
    await client.ask_within(f"BEGIN; SET LOCAL my.tag = '{tag}'", done("BEGIN"), done("SET"))
    await client.connected.send(wire.TERMINATE)
    vanish(client)


async def vanish_in_copy_in(client: Client, tag: str) -> None:
    await start_copy_in(client)
    await client.send(wire.copy_data(f"{tag}\t1\n".encode()) * 50)
    vanish(client)


async def vanish_in_copy_out(client: Client, tag: str) -> None:
    mark = client.connected.mark()
    await client.send(wire.query(f"COPY ({series_sql(tag, 5000, 10)}) TO STDOUT"))
    await client.connected.wait_bytes(client.rng.choice((1, 100_000)), mark)
    vanish(client)


async def vanish_after_parse(client: Client, tag: str) -> None:
    """Parse, and nothing more: no Sync ever comes."""
    data = wire.parse(f"SELECT '{tag}', $1::text", client.rng.choice(("", "s1", "left")))
    await client.send(data + (wire.FLUSH if client.rng.random() < 0.5 else b""))
    await client.pause(0.02)
    vanish(client)


async def vanish_before_sync(client: Client, tag: str) -> None:
    """A statement ran, its answer is on the way, and Sync never comes."""
    data = wire.parse(series_sql(tag, 500)) + wire.bind() + wire.execute()
    await client.send(data + (wire.FLUSH if client.rng.random() < 0.5 else b""))
    await client.pause(0.02)
    vanish(client)


async def vanish_in_message(client: Client, tag: str) -> None:
    """Half a Query message."""
    whole = wire.query(f"SELECT '{tag}', pg_sleep(0.1)" + " " * 5000)
    await client.send(whole[: client.rng.randrange(1, len(whole))])
    vanish(client)


async def vanish_in_login(client: Client, tag: str) -> None:
    """Half a startup packet on a second connection; this client goes on."""
    shared = client.shared
    packet = wire.startup(shared.user, shared.dbname, application_name=tag)
    if client.rng.random() < 0.3:
        packet = struct.pack("!ii", 8, 80877103)  # SSLRequest
    try:
        half = await wire.Wire.open(shared.host, shared.port, packet[: client.rng.randrange(1, len(packet))])
    except OSError:
        return
    await client.pause(0.02)
    half.close_abruptly(reset=client.rng.random() < 0.5)


async def leave_and_come_back(client: Client, tag: str) -> None:
    await client.ask(f"SELECT '{tag}'", *selected(row(tag)))
    client.connected.close_kindly()
    raise Left


def vanish(client: Client) -> None:
    client.shared.ledger.injected["client vanished"] += 1
    client.vanish(reset=client.rng.random() < 0.5)


def hold_server(seconds: float) -> Action:
    """An action that keeps its server busy for so long."""

    async def hold(client: Client, tag: str) -> None:
        await client.ask(f"SELECT '{tag}', pg_sleep({seconds:.3f})", *selected(row(tag, "")))

    return hold
