"""SQLAlchemy over psycopg and asyncpg through the pooler, in session mode."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from tests.drivers.conftest import CLIENTS, POOL_SIZE
from tests.harness import Doorman


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(sa.ARRAY(sa.String))


@pytest.fixture
def engine(pooler: Doorman) -> sa.Engine:
    return sa.create_engine(pooler.url("postgresql+psycopg", dbname="session"), poolclass=NullPool)


def test_the_orm_over_psycopg(engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)
    try:
        with Session(engine) as session:
            session.add_all([Item(name=f"item {number}", tags=["a", str(number)]) for number in range(200)])
            session.commit()
            found = session.scalars(sa.select(Item).where(sa.literal("7") == sa.any_(Item.tags))).one()
            assert found.name == "item 7"
            session.delete(found)
            session.rollback()
            assert session.scalar(sa.select(sa.func.count(Item.id))) == 200
        assert sa.inspect(engine).get_columns("items")[1]["name"] == "name"
    finally:
        Base.metadata.drop_all(engine)


def test_many_threads_share_few_servers(engine: sa.Engine) -> None:
    def ask(number: int) -> int:
        with engine.connect() as connection:
            return int(connection.scalar(sa.text("SELECT :n + 1"), {"n": number}) or 0)

    with ThreadPoolExecutor(CLIENTS) as threads:
        assert list(threads.map(ask, range(60))) == [number + 1 for number in range(60)]


async def test_asyncpg_with_its_own_pool(pooler: Doorman) -> None:
    url = pooler.url("postgresql+asyncpg", dbname="session")
    engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0)

    async def ask(number: int) -> int:
        async with engine.begin() as connection:
            return int((await connection.scalar(sa.text("SELECT CAST(:n AS int) + 1"), {"n": number})) or 0)

    assert await asyncio.gather(*[ask(number) for number in range(40)]) == [number + 1 for number in range(40)]
    await engine.dispose()


async def test_streaming_over_asyncpg(pooler: Doorman) -> None:
    engine = create_async_engine(pooler.url("postgresql+asyncpg", dbname="session"), poolclass=NullPool)
    async with engine.connect() as connection:
        rows = await connection.stream(sa.text("SELECT generate_series(1, 5000)"))
        assert sum([row[0] async for row in rows]) == 12_502_500
    await engine.dispose()
