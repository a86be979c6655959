"""`max_connections` admits exactly that many clients, over all workers, and gives every place back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.harness import Doorman
from tests.process.load import kill
from tests.process.session import Session, SqlError
from tests.process.watching import no_clients, wait_for
from tests.torture.wire import ConnectionEnded

LIMIT = 12


async def fill(doorman: Doorman, count: int, **options: Any) -> tuple[list[Session], list[SqlError]]:
    """Try so many logins at once: who got in, and what the others were told."""
    results = await asyncio.gather(*(Session.open(doorman, **options) for _ in range(count)), return_exceptions=True)
    unexpected = [result for result in results if not isinstance(result, Session | SqlError)]
    assert not unexpected
    return [r for r in results if isinstance(r, Session)], [r for r in results if isinstance(r, SqlError)]


async def test_exactly_max_connections_get_in_across_workers_and_the_others_are_told(make_doorman: Any) -> None:
    doorman = make_doorman(general={"max_connections": LIMIT, "worker_threads": 3})
    await settle(doorman)
    admitted, refused = await fill(doorman, 40)
    assert len(admitted) == LIMIT
    assert {(error.sqlstate, error.fields["V"]) for error in refused} == {("53300", "FATAL")}
    assert len(await asyncio.gather(*(session.query("SELECT 1") for session in admitted))) == LIMIT


async def test_every_place_comes_back_however_a_client_leaves(make_doorman: Any) -> None:
    doorman = make_doorman(general={"max_connections": LIMIT, "worker_threads": 3})
    await settle(doorman)
    for leave in ("close", "vanish", "reset"):
        admitted, _ = await fill(doorman, LIMIT + 3)
        assert len(admitted) == LIMIT, leave
        for session in admitted:
            if leave == "close":
                session.close()
            else:
                session.wire.close_abruptly(reset=leave == "reset")
        await settle(doorman)


async def test_places_of_a_killed_workers_clients_come_back(make_doorman: Any) -> None:
    doorman = make_doorman(general={"max_connections": LIMIT, "worker_threads": 2})
    await settle(doorman)
    for _ in range(3):
        admitted, _ = await fill(doorman, LIMIT)
        assert len(admitted) == LIMIT
        for pid in doorman.pids().workers:
            kill(pid)
        for session in admitted:
            with pytest.raises(ConnectionEnded):
                await session.query("SELECT 1")
        doorman.wait_workers(2)
        await settle(doorman)


async def test_a_login_that_fails_takes_no_place(make_doorman: Any) -> None:
    doorman = make_doorman(general={"max_connections": LIMIT})
    for _ in range(2 * LIMIT):
        with pytest.raises(SqlError):
            await Session.open(doorman, user="nobody", dbname="absent")
    await settle(doorman)
    admitted, _ = await fill(doorman, LIMIT)
    assert len(admitted) == LIMIT


async def test_a_cancel_request_gets_through_when_all_places_are_taken(make_doorman: Any) -> None:
    doorman = make_doorman(general={"max_connections": 2})
    await settle(doorman)
    admitted, _ = await fill(doorman, 2)
    asked = asyncio.create_task(admitted[0].query("SELECT pg_sleep(10)"))
    await asyncio.sleep(0.2)
    await admitted[0].cancel()
    with pytest.raises(SqlError, match="57014"):
        await asyncio.wait_for(asked, 2)


async def settle(doorman: Doorman) -> None:
    """Until no client is counted any more; the console's own connection is one while it asks."""
    await asyncio.sleep(0.02)
    wait_for(lambda: no_clients(doorman), "end of the clients")
    await asyncio.sleep(0.1)
