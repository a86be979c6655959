"""SQLAlchemy over its usual drivers on each way to PostgreSQL, its own pools included."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, selectinload
from sqlalchemy.orm import relationship as related

from tests.drivers.tagged import CLIENTS, ROUNDS, Route, in_threads, together


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(sa.ARRAY(sa.String))
    parts: Mapped[list[Part]] = related(cascade="all, delete-orphan")


class Part(Base):
    __tablename__ = "parts"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(sa.ForeignKey(Item.id))
    number: Mapped[int]


@pytest.fixture(params=["psycopg", "psycopg2", "pg8000"])
def engine(route: Route, request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """Fewer connections than there are threads, so that each serves several of them in turn."""
    made = sa.create_engine(route.url(f"postgresql+{request.param}"), pool_size=CLIENTS - 2, max_overflow=0)
    yield made
    made.dispose()


@pytest.fixture(params=["asyncpg", "psycopg"])
async def async_engine(route: Route, request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(route.url(f"postgresql+{request.param}"), pool_size=CLIENTS - 2, max_overflow=0)
    yield made
    await made.dispose()


@pytest.fixture
def tables(route: Route) -> Iterator[None]:
    """Made and dropped for each test: the same statements then meet new tables."""
    made = sa.create_engine(route.url("postgresql+psycopg"), poolclass=sa.NullPool)
    Base.metadata.drop_all(made)
    Base.metadata.create_all(made)
    yield
    Base.metadata.drop_all(made)


@pytest.mark.usefixtures("tables")
def test_the_orm(engine: sa.Engine) -> None:
    with Session(engine) as session:
        parts = [Part(number=number) for number in range(5)]
        session.add(Item(name="whole", tags=[], parts=parts))
        session.add_all([Item(name=f"item {number}", tags=["a", str(number)]) for number in range(200)])
        session.commit()
        found = session.scalars(sa.select(Item).where(sa.literal("7") == sa.any_(Item.tags))).one()
        assert found.name == "item 7"
        session.delete(found)
        session.rollback()
        assert session.scalar(sa.select(sa.func.count(Item.id))) == 201
        whole = session.scalars(sa.select(Item).options(selectinload(Item.parts)).where(Item.name == "whole")).one()
        assert sorted(part.number for part in whole.parts) == [0, 1, 2, 3, 4]
    assert sa.inspect(engine).get_columns("items")[1]["name"] == "name"


@pytest.mark.usefixtures("tables")
def test_many_threads(engine: sa.Engine) -> None:
    def client(tag: int) -> None:
        for number in range(ROUNDS):
            with Session(engine) as session:
                session.add(Item(name=f"of {tag}", tags=[str(number)]))
                session.commit()
                session.add(Item(name=f"of {tag}", tags=["lost"]))
                with pytest.raises(sa.exc.DBAPIError, match="zero"):
                    session.scalar(sa.text("SELECT 1 / CAST(:n AS int)"), {"n": 0})
                session.rollback()
                found = session.scalars(sa.select(Item).where(Item.name == f"of {tag}").order_by(Item.id)).all()
                assert [item.tags for item in found] == [[str(step)] for step in range(number + 1)]

    in_threads(client)


async def test_many_tasks(async_engine: AsyncEngine) -> None:
    async def client(tag: int) -> None:
        for number in range(ROUNDS):
            async with async_engine.begin() as connection:
                values = {"tag": tag, "number": number}
                asked = await connection.execute(sa.text("SELECT CAST(:tag AS int), CAST(:number AS int)"), values)
                assert tuple(asked.one()) == (tag, number)
                own = sa.text(f"SELECT {tag} * 100 + CAST(:number AS int)")
                assert await connection.scalar(own, {"number": number}) == tag * 100 + number
            with pytest.raises(sa.exc.DBAPIError, match="zero"):
                async with async_engine.begin() as connection:
                    await connection.scalar(sa.text("SELECT 1 / CAST(:n AS int)"), {"n": 0})

    await together(client)


async def test_streaming(async_engine: AsyncEngine) -> None:
    async with async_engine.connect() as connection:
        rows = await connection.stream(sa.text("SELECT generate_series(1, 5000)"))
        assert sum([row[0] async for row in rows]) == 12_502_500


@pytest.mark.usefixtures("tables")
async def test_tables_that_are_made_anew(async_engine: AsyncEngine) -> None:
    """As the test suites of applications do: drop and create, and ask the same as before."""
    for _ in range(4):
        async with async_engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
        for name in ["one", "two"]:
            async with async_engine.begin() as connection:
                await connection.execute(sa.insert(Item).values(name=name, tags=[name]))
        async with async_engine.connect() as connection:
            found = await connection.execute(sa.select(Item.name, Item.tags).order_by(Item.id))
            assert [tuple(row) for row in found] == [("one", ["one"]), ("two", ["two"])]
