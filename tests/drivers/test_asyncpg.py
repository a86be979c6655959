"""asyncpg, which prepares every statement and keeps a cache of them, on each way to PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.drivers.tagged import CLIENTS, ROUNDS, Route, together
from tests.harness import Doorman


@pytest.fixture
async def connection(route: Route) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(route.url(), timeout=20)
    yield made
    await made.close()


async def test_queries_and_types(connection: asyncpg.Connection) -> None:
    for number in range(10):
        row = await connection.fetchrow(
            "SELECT $1::int AS a, $2::text[] AS b, $3::numeric AS c", number, ["x", None], 1
        )
        assert (row["a"], row["b"], row["c"]) == (number, ["x", None], 1)
    assert await connection.execute("SELECT 1; SELECT 2") == "SELECT 1"


async def test_a_prepared_statement_and_a_cursor(connection: asyncpg.Connection) -> None:
    statement = await connection.prepare("SELECT generate_series(1, $1::int)")
    assert len(await statement.fetch(500)) == 500
    async with connection.transaction():
        assert sum([row[0] async for row in statement.cursor(100, prefetch=7)]) == 5050


async def test_nested_transactions_and_errors(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with connection.transaction():
                await connection.fetch("SELECT 1/0")
        assert await connection.fetchval("SELECT 5") == 5


async def test_executemany(connection: asyncpg.Connection, accounts: str) -> None:
    update = f"UPDATE {accounts} SET balance = $1 / $2 WHERE id = $2"
    await connection.executemany(update, [(number * number, number) for number in range(1, 51)])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.executemany(f"DELETE FROM {accounts} WHERE id = 1 / $1", [(1,), (0,), (1,)])
    total = await connection.fetchval(f"SELECT sum(balance) FROM {accounts} WHERE id <= $1", 50)
    assert total == sum(range(1, 51))


async def test_copy(connection: asyncpg.Connection, accounts: str) -> None:
    rows = [(number, number) for number in range(1000, 4000)]
    assert await connection.copy_records_to_table(accounts, records=rows) == "COPY 3000"
    taken: list[bytes] = []

    async def take(data: bytes) -> None:
        taken.append(data)

    await connection.copy_from_query(f"SELECT id FROM {accounts} WHERE id >= $1 ORDER BY id", 1000, output=take)
    assert b"".join(taken).split() == [str(number).encode() for number in range(1000, 4000)]


async def test_a_time_out_cancels_the_statement(connection: asyncpg.Connection) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await connection.fetch("SELECT pg_sleep(20)", timeout=0.2)
    assert await connection.fetchval("SELECT 1") == 1


async def test_a_type_that_the_driver_must_ask_for(connection: asyncpg.Connection) -> None:
    await connection.execute("DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad', 'happy')")
    for mood in ["happy", "sad"]:
        assert await connection.fetchval("SELECT ARRAY[$1]::mood[]", mood) == [mood]
    await connection.execute("DROP TYPE mood")


@pytest.mark.parametrize("cached", [100, 5, 0])
async def test_many_clients(route: Route, accounts: str, cached: int) -> None:
    """With its cache of statements, with one that is too small, and with unnamed statements bound after a Sync."""

    async def client(tag: int) -> None:
        connection = await asyncpg.connect(route.url(), timeout=20, statement_cache_size=cached)
        own = await connection.prepare(f"SELECT {tag} * 100 + $1::int")
        for number in range(ROUNDS):
            assert await own.fetchval(number) == tag * 100 + number
            assert await connection.fetchval("SELECT $1::text", f"{tag}.{number}") == f"{tag}.{number}"
            assert await connection.fetchval(f"SELECT {number % 7} + $1::int", tag) == tag + number % 7
            async with connection.transaction():
                await connection.execute(f"UPDATE {accounts} SET balance = balance + $1 WHERE id = $2", 1, tag + 1)
                assert await own.fetchval(number) == tag * 100 + number
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with connection.transaction():
                    await connection.execute(f"UPDATE {accounts} SET balance = 0 WHERE id = $1", tag + 1)
                    await connection.fetchval("SELECT 1 / $1::int", 0)
        await connection.close()

    await together(client)
    counted = f"SELECT count(*) FROM {accounts} WHERE balance = {100 + ROUNDS}"
    assert route.server.query(counted, dbname=route.dbname) == [(CLIENTS,)]


async def test_its_own_pool(route: Route) -> None:
    """Which says RESET ALL, UNLISTEN and more of that kind between two users of a connection."""
    async with asyncpg.create_pool(route.url(), min_size=1, max_size=CLIENTS - 2) as pool:
        values = await asyncio.gather(*[pool.fetchval("SELECT $1::int + 1", number) for number in range(200)])
    assert values == [number + 1 for number in range(200)]


CHANGES = [
    "ALTER TABLE {} ADD added text DEFAULT 'text'",
    "ALTER TABLE {} ALTER balance TYPE text",
    "ALTER TABLE {} DROP COLUMN added",
    "ALTER TABLE {} ALTER balance TYPE bigint USING balance::bigint",
]


async def test_tables_that_change_meanwhile(route: Route, accounts: str) -> None:
    """The driver prepares again by itself when the old plan is refused: no client notices, and none must reconnect."""
    seen = [0] * (CLIENTS - 1)  # the change after which each client has read; the driver stands one change at a time
    last = len(CHANGES) * 3

    async def reads(tag: int) -> None:
        connection = await asyncpg.connect(route.url(), timeout=20)
        while seen[tag] < last:
            before = done
            row = await connection.fetchrow(f"SELECT * FROM {accounts} WHERE id = $1", tag + 1)
            assert row["id"] == tag + 1 and row["balance"] in (100, "100") and row.get("added", "text") == "text"
            seen[tag] = before
        await connection.close()

    async def changes() -> None:
        nonlocal done
        connection = await asyncpg.connect(route.url(), timeout=20)
        for change in CHANGES * 3:
            await connection.execute(change.format(accounts))
            done += 1
            while min(seen) < done:
                await asyncio.sleep(0.01)
        await connection.close()

    done = 0
    async with asyncio.TaskGroup() as group:
        for tag in range(CLIENTS - 1):
            group.create_task(reads(tag))
        group.create_task(changes())


async def test_listen(pooler: Doorman) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener, speaker = [await asyncpg.connect(pooler.url(dbname=name), timeout=20) for name in ("session", "postgres")]
    await listener.add_listener("asyncpg_news", lambda *note: heard.put_nowait(note[3]))
    await speaker.execute("NOTIFY asyncpg_news, 'hello'")
    assert await asyncio.wait_for(heard.get(), 5) == "hello"
    await speaker.close()
    await listener.close()
