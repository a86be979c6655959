"""asyncpg through the pooler: everything in session mode; in transaction mode inside transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.drivers.conftest import CLIENTS, POOL_SIZE
from tests.harness import Doorman


async def connect(pooler: Doorman, dbname: str) -> asyncpg.Connection:
    return await asyncpg.connect(pooler.url(dbname=dbname), timeout=20)


@pytest.fixture
async def session(pooler: Doorman) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(pooler, "session")
    yield connection
    await connection.close()


async def test_queries_and_types(session: asyncpg.Connection) -> None:
    for number in range(10):
        row = await session.fetchrow("SELECT $1::int AS a, $2::text[] AS b, $3::numeric AS c", number, ["x", None], 1)
        assert (row["a"], row["b"], row["c"]) == (number, ["x", None], 1)
    assert await session.execute("SELECT 1; SELECT 2") == "SELECT 1"


async def test_a_prepared_statement_and_a_cursor(session: asyncpg.Connection) -> None:
    statement = await session.prepare("SELECT generate_series(1, $1::int)")
    assert len(await statement.fetch(500)) == 500
    async with session.transaction():
        assert sum([row[0] async for row in statement.cursor(100, prefetch=7)]) == 5050


async def test_nested_transactions_and_errors(session: asyncpg.Connection) -> None:
    async with session.transaction():
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with session.transaction():
                await session.fetch("SELECT 1/0")
        assert await session.fetchval("SELECT 5") == 5


async def test_copy(session: asyncpg.Connection) -> None:
    await session.execute("CREATE TEMP TABLE copied (a int, b text)")
    rows = [(number, f"name {number}") for number in range(3000)]
    assert await session.copy_records_to_table("copied", records=rows) == "COPY 3000"
    taken: list[bytes] = []

    async def take(data: bytes) -> None:
        taken.append(data)

    await session.copy_from_query("SELECT a FROM copied ORDER BY a", output=take)
    assert b"".join(taken).split() == [str(number).encode() for number in range(3000)]


async def test_listen(pooler: Doorman, session: asyncpg.Connection) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await session.add_listener("asyncpg_news", lambda *note: heard.put_nowait(note[3]))
    speaker = await connect(pooler, "session")
    await speaker.execute("NOTIFY asyncpg_news, 'hello'")
    assert await asyncio.wait_for(heard.get(), 5) == "hello"
    await speaker.close()


async def test_a_time_out_cancels_the_statement(session: asyncpg.Connection) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await session.fetch("SELECT pg_sleep(20)", timeout=0.2)
    assert await session.fetchval("SELECT 1") == 1


async def test_asyncpgs_own_pool_in_session_mode(pooler: Doorman) -> None:
    async with asyncpg.create_pool(pooler.url(dbname="session"), min_size=1, max_size=POOL_SIZE) as pool:
        values = await asyncio.gather(*[pool.fetchval("SELECT $1::int + 1", number) for number in range(40)])
    assert values == [number + 1 for number in range(40)]


async def test_more_clients_than_servers_inside_transactions(pooler: Doorman, accounts: str) -> None:
    async def work(number: int) -> None:
        connection = await asyncpg.connect(pooler.url(), statement_cache_size=0, timeout=20)
        for _ in range(10):
            async with connection.transaction():
                await connection.execute(f"UPDATE {accounts} SET balance = balance + $1 WHERE id = $2", 1, number)
                assert await connection.fetchval("SELECT $1::text", f"of {number}") == f"of {number}"
        await connection.close()

    await asyncio.gather(*[work(number) for number in range(1, CLIENTS + 1)])
    assert pooler.query(f"SELECT count(*) FROM {accounts} WHERE balance = 110") == [(CLIENTS,)]
