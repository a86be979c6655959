"""The console asked by psql, psycopg 3 and asyncpg, over TCP and with a real login."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import asyncpg
import psycopg
import psycopg.errors
import pytest
from psycopg.rows import dict_row

from doorman.admin.command import Sources
from doorman.admin.console import Console
from doorman.admin.login import console_exchange
from doorman.auth.methods import Applicant
from doorman.config.hba import Admission
from doorman.errors import ClientFault
from doorman.shm.table import Table
from doorman.wire import backend
from doorman.wire.frontend import auth_message_length
from doorman.wire.startup import StartupMessage, parse_startup_packet, startup_length
from tests.harness import Postgres
from tests.unit.admin.conftest import POOLS, VERSION
from tests.unit.auth.waiting import settle

ADMIN, PASSWORD = "admin", "sécret"
POOL_NAMES = sorted(POOLS)


class ConsoleServer:
    """What a worker does for a console: login, greeting, then `feed` until it ends."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._log_in(reader, writer)
            await self._answer(reader, writer)
        except ClientFault as fault:
            writer.write(backend.fault_response(fault))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _log_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup = parse_startup_packet(await _read_startup(reader))
        while not isinstance(startup, StartupMessage):
            writer.write(b"N")
            startup = parse_startup_packet(await _read_startup(reader))
        applicant = Applicant(startup.user, "127.0.0.1", 30.0)
        exchange = console_exchange(Admission("scram-sha-256"), applicant, ADMIN, PASSWORD)
        writer.write(backend.negotiation_answer(startup) + settle(exchange.start()))
        while not exchange.done:
            header = await reader.readexactly(5)
            writer.write(settle(exchange.feed(await reader.readexactly(auth_message_length(header) - 5))))
        greeting = Console(Sources(self._table, [], VERSION)).greeting_parameters()
        statuses = b"".join(backend.parameter_status(*pair) for pair in greeting)
        writer.write(backend.AUTHENTICATION_OK + statuses + backend.backend_key_data(1, bytes(4)) + backend.READY_IDLE)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        console = Console(Sources(self._table, [], VERSION))
        data = b""
        while piece := await reader.read(65_536):
            data += piece
            answer = console.feed(data)
            data = data[answer.consumed :]
            writer.write(answer.output)
            if answer.ended:
                return


async def _read_startup(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(startup_length(head) - 4)


@pytest.fixture
async def port(table: Table) -> AsyncIterator[int]:
    server = await asyncio.start_server(ConsoleServer(table).serve, "127.0.0.1", 0)
    async with server:
        number: int = server.sockets[0].getsockname()[1]
        yield number


# psql


async def run_psql(postgres: Postgres, port: int, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        postgres.bindir / "psql",
        *("-X", "-A", "-t", "-F,", "-h", "127.0.0.1", "-p", str(port), "-U", ADMIN, *arguments, "pgdoorman"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PGPASSWORD": PASSWORD, "PGCLIENTENCODING": "UTF8"},
    )
    output, errors = await process.communicate(stdin.encode())
    return process.returncode or 0, output.decode(), errors.decode()


async def test_psql_shows_pools(postgres: Postgres, port: int) -> None:
    code, output, errors = await run_psql(postgres, port, "-c", "SHOW POOLS;")
    assert (code, errors) == (0, "")
    assert [tuple(line.split(",")[:2]) for line in output.splitlines()] == POOL_NAMES


async def test_psql_runs_a_script_and_survives_an_error(postgres: Postgres, port: int) -> None:
    script = "SHOW VERSION; -- a comment\n\\d\nSHOW 'me';\nshow help\\;show version;\nSHOW VERSION \\bind \\g\n"
    _, output, errors = await run_psql(postgres, port, stdin=script)
    assert output.count("PgDoorman 9.8.7") == 3 and "SHOW HELP|CONFIG|" in output
    assert errors.count("ERROR:  unsupported") == 2 and "FATAL" not in errors and "lost" not in errors


async def test_psql_is_refused_with_a_wrong_password(postgres: Postgres, port: int) -> None:
    code, _, errors = await run_psql(postgres, port, "-U", "somebody", "-c", "SHOW POOLS")
    assert code and 'FATAL:  password authentication failed for user "somebody"' in errors


# psycopg 3


async def connect_psycopg(port: int, **options: Any) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=port, user=ADMIN, password=PASSWORD, dbname="pgdoorman", autocommit=True, **options
    )


@pytest.mark.parametrize("cursor_class", [psycopg.AsyncClientCursor, psycopg.AsyncCursor, psycopg.AsyncRawCursor])
async def test_psycopg_in_both_protocols(port: int, cursor_class: type[psycopg.AsyncCursor[Any]]) -> None:
    async with await connect_psycopg(port, cursor_factory=cursor_class, row_factory=dict_row) as connection:
        rows = await (await connection.execute("SHOW POOLS")).fetchall()
        assert [(row["database"], row["user"]) for row in rows] == POOL_NAMES
        assert rows[0]["pool_size"] == Decimal(12) and rows[0]["pool_mode"] == "session"
        assert connection.info.server_version == 90807


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("prepare", [False, True])
async def test_psycopg_prepared_and_binary(port: int, binary: bool, prepare: bool) -> None:
    async with await connect_psycopg(port) as connection:
        for _ in range(3):
            cursor = connection.cursor(binary=binary)
            await cursor.execute("SHOW POOLS", prepare=prepare, binary=binary)
            assert cursor.description and len(cursor.description) == 18
            row = await cursor.fetchone()
            assert row is not None and row[:4] == ("books", "app", "session", Decimal(0)) and row[11] == Decimal(12)


async def test_psycopg_in_a_pipeline(port: int) -> None:
    async with await connect_psycopg(port) as connection:
        async with connection.pipeline() as pipeline:
            first = await connection.execute("SHOW POOLS")
            second = await connection.execute("SHOW VERSION")
            await pipeline.sync()
            assert len(await first.fetchall()) == 3
            assert await second.fetchone() == ("PgDoorman 9.8.7",)
        with pytest.raises(psycopg.errors.SystemError):
            async with connection.pipeline():
                await connection.execute("SHOW ME")
                await connection.execute("SHOW VERSION")
        cursor = await connection.execute("SHOW VERSION")
        assert await cursor.fetchone() == ("PgDoorman 9.8.7",)


@pytest.mark.parametrize("cursor_class", [psycopg.AsyncClientCursor, psycopg.AsyncCursor])
async def test_psycopg_survives_an_error(port: int, cursor_class: type[psycopg.AsyncCursor[Any]]) -> None:
    async with await connect_psycopg(port, cursor_factory=cursor_class) as connection:
        with pytest.raises(psycopg.errors.SystemError) as caught:
            await connection.execute("SELECT 1")
        assert caught.value.diag.severity == "ERROR" and "SHOW HELP" in (caught.value.diag.message_hint or "")
        assert await (await connection.execute("SHOW VERSION")).fetchone() == ("PgDoorman 9.8.7",)


async def test_psycopg_streams_row_by_row(port: int) -> None:
    async with await connect_psycopg(port) as connection:
        cursor = connection.cursor()
        assert [row[:2] async for row in cursor.stream("SHOW POOLS")] == POOL_NAMES


# asyncpg


async def connect_asyncpg(port: int) -> asyncpg.Connection[Any]:
    return await asyncpg.connect(host="127.0.0.1", port=port, user=ADMIN, password=PASSWORD, database="pgdoorman")


async def test_asyncpg_asks_for_binary_and_gets_it(port: int) -> None:
    connection = await connect_asyncpg(port)
    for _ in range(3):
        rows = await connection.fetch("SHOW POOLS")
        assert [(row["database"], row["user"]) for row in rows] == POOL_NAMES
        assert rows[0]["pool_size"] == Decimal(12) and rows[0]["maxwait"] == 0
    assert await connection.fetchval("SHOW VERSION") == "PgDoorman 9.8.7"
    await connection.close()


async def test_asyncpg_prepares_and_survives_an_error(port: int) -> None:
    connection = await connect_asyncpg(port)
    statement = await connection.prepare("SHOW CLIENTS")
    assert [attribute.name for attribute in statement.get_attributes()][:2] == ["client_id", "database"]
    assert await statement.fetch() == []
    for _ in range(2):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await connection.fetch("SHOW ME")
        assert caught.value.sqlstate == "58000"
    assert await connection.fetchval("SHOW VERSION") == "PgDoorman 9.8.7"
    assert (await connection.execute("SHOW VERSION; SHOW HELP")) == "SHOW"
    await connection.close()
