"""Clients that wait for a server: strict order across workers, time-outs, cancels, clients that vanish."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.session import Session, SqlError, first_columns, open_many, open_on
from tests.process.watching import wait_for, wait_whole
from tests.torture import wire


def start(make_doorman: Any, postgres: Postgres, *, size: int = 1, **general: Any) -> Doorman:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", size)])}
    doorman: Doorman = make_doorman(pools=pools, general={"worker_threads": 3, **general})
    return doorman


async def hold(session: Session, seconds: float = 0.5) -> asyncio.Task[list[str | None]]:
    """Keep a server busy for so long; returns when the statement runs."""
    task = asyncio.create_task(session.query(f"SELECT 'held' FROM pg_sleep({seconds})"))
    await asyncio.sleep(0.1)
    return task


def waiting(doorman: Doorman) -> int:
    return int(doorman.pool_row()["cl_waiting"])


# --- order -----------------------------------------------------------------------------------------------------------


async def test_waiters_are_served_strictly_in_the_order_in_which_they_came_whatever_their_worker(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres)
    holder, *sessions = await open_many(doorman, 31)
    random.shuffle(sessions)
    held = await hold(holder, 0.6)
    order: list[int] = []

    async def wait_in_line(place: int, session: Session) -> None:
        await session.query("SELECT 1")
        order.append(place)

    tasks = []
    for place, session in enumerate(sessions):
        tasks.append(asyncio.create_task(wait_in_line(place, session)))
        await asyncio.sleep(0.005)
    await asyncio.gather(held, *tasks)
    assert order == list(range(30))


async def test_who_keeps_asking_gets_no_more_than_who_asks_from_another_worker(
    make_doorman: Any, postgres: Postgres
) -> None:
    """Twelve clients, one server, no pauses: shares must be equal, whichever worker a client is on."""
    doorman = start(make_doorman, postgres)
    first = doorman.pids().workers[0]
    crowd, lonely = await open_on(doorman, first, 11), await open_many(doorman, 1)
    done = [0] * 12
    until = time.monotonic() + 1.0

    async def ask(number: int, session: Session) -> None:
        while time.monotonic() < until:
            await session.query("SELECT pg_sleep(0.001)")
            done[number] += 1

    await asyncio.gather(*(ask(number, session) for number, session in enumerate(crowd + lonely)))
    assert max(done) - min(done) <= 2, done


async def test_a_client_that_comes_while_others_wait_does_not_overtake_them(
    make_doorman: Any, postgres: Postgres
) -> None:
    """A server that comes free goes to the head of the queue, not to who asks at that moment."""
    doorman = start(make_doorman, postgres)
    sessions = await open_many(doorman, 10)
    finished: list[tuple[int, int]] = []

    async def ask(number: int) -> None:
        for turn in range(10):
            await sessions[number].query("SELECT pg_sleep(0.001)")
            finished.append((turn, number))

    await asyncio.gather(*(ask(number) for number in range(10)))
    turns = [turn for turn, _ in finished]
    assert all(abs(turn - index // 10) <= 1 for index, turn in enumerate(turns)), turns


# --- query_wait_timeout ----------------------------------------------------------------------------------------------


async def wait_in_vain(session: Session, data: bytes) -> SqlError:
    """Send while the pool is busy for longer than query_wait_timeout; the error that comes."""
    began = time.monotonic()
    await session.send(data)
    with pytest.raises(SqlError) as failed:
        await session.answer()
    assert 0.35 < time.monotonic() - began < 0.9
    return failed.value


BATCH = wire.parse("INSERT INTO never VALUES (1)") + wire.bind() + wire.execute()


@pytest.mark.parametrize(
    "data",
    [
        wire.query("INSERT INTO never VALUES (1)"),
        BATCH + wire.SYNC,
        wire.query("INSERT INTO never VALUES ('" + "x" * 300_000 + "')"),
        BATCH + wire.parse("INSERT INTO never VALUES ('" + "x" * 300_000 + "')") + wire.SYNC,
    ],
    ids=["simple", "extended", "large simple", "large extended"],
)
async def test_a_timed_out_batch_is_an_error_none_of_it_reaches_a_server_and_the_session_lives_on(
    make_doorman: Any, postgres: Postgres, data: bytes
) -> None:
    doorman = start(make_doorman, postgres, query_wait_timeout=400)
    holder, session = await open_many(doorman, 2)
    await holder.query("DROP TABLE IF EXISTS never; CREATE TABLE never (v text)")
    held = await hold(holder, 1.0)
    error = await wait_in_vain(session, data)
    assert (error.sqlstate, error.fields["V"]) == ("53300", "ERROR")
    assert "app@postgres" in error.fields["D"]
    assert "pool_size 1" in error.fields["D"]
    await held
    assert await session.query("SELECT count(*) FROM never") == ["0"]
    wait_whole(doorman, postgres)


async def test_of_a_pipeline_only_the_batch_that_timed_out_is_lost(make_doorman: Any, postgres: Postgres) -> None:
    """Three batches at once: each waits for itself, in order, and the session stays in step with its answers."""
    doorman = start(make_doorman, postgres, query_wait_timeout=400)
    holder, session = await open_many(doorman, 2)
    held = await hold(holder, 0.6)
    batches = [wire.parse(f"SELECT {number}") + wire.bind() + wire.execute() + wire.SYNC for number in (1, 2, 3)]
    await session.send(b"".join(batches))
    with pytest.raises(SqlError, match="53300"):
        await session.answer()
    assert first_columns(await session.answer()) == ["2"]
    assert first_columns(await session.answer()) == ["3"]
    await held
    wait_whole(doorman, postgres)


async def test_what_follows_a_timed_out_message_before_its_sync_is_skipped_also_when_it_comes_later(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres, query_wait_timeout=400)
    holder, session = await open_many(doorman, 2)
    await holder.query("DROP TABLE IF EXISTS never; CREATE TABLE never (v text)")
    held = await hold(holder, 0.7)
    await session.send(BATCH)
    assert (await session.wire.next()).kind == b"E"
    await held
    await session.send(BATCH + wire.execute() + wire.FLUSH)
    await asyncio.sleep(0.1)
    assert not session.wire.messages
    await session.send(wire.SYNC)
    assert await session.answer() == []
    assert await session.query("SELECT count(*) FROM never") == ["0"]


async def test_a_client_that_times_out_at_login_in_session_mode_is_told_why(
    make_doorman: Any, postgres: Postgres
) -> None:
    pools = {"postgres": pool_of(postgres, pool_mode="session", users=[user_of("app", 1)])}
    doorman = make_doorman(pools=pools, general={"query_wait_timeout": 400})
    holder = await Session.open(doorman)
    with pytest.raises(SqlError) as failed:
        await Session.open(doorman)
    assert (failed.value.sqlstate, failed.value.fields["V"]) == ("53300", "FATAL")
    holder.close()
    assert await (await Session.open(doorman)).query("SELECT 1") == ["1"]


async def test_time_outs_of_many_waiters_leave_the_queue_empty_and_the_pool_in_use(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres, size=2, query_wait_timeout=300)
    sessions = await open_many(doorman, 40)
    held = [asyncio.create_task(session.query("SELECT pg_sleep(0.8)")) for session in sessions[:2]]
    await asyncio.sleep(0.1)
    results = await asyncio.gather(*(s.query("SELECT 1") for s in sessions[2:]), return_exceptions=True)
    assert all(isinstance(result, SqlError) and result.sqlstate == "53300" for result in results)
    assert waiting(doorman) == 0
    await asyncio.gather(*held)
    assert await asyncio.gather(*(session.query("SELECT 1") for session in sessions)) == [["1"]] * 40
    wait_whole(doorman, postgres)


# --- leaving the queue -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_waiting_client_that_vanishes_leaves_the_queue_at_once(
    make_doorman: Any, postgres: Postgres, reset: bool
) -> None:
    doorman = start(make_doorman, postgres)
    sessions = await open_many(doorman, 6)
    held = await hold(sessions[0], 1.0)
    for session in sessions[1:]:
        await session.send(wire.query("INSERT INTO absent VALUES (1)"))
    wait_for(lambda: waiting(doorman) == 5, "five waiters", 1)
    for session in sessions[1:]:
        session.wire.close_abruptly(reset=reset)
    await asyncio.sleep(0)
    assert wait_for(lambda: waiting(doorman) == 0, "end of the queue", 1) < 0.3
    await held
    assert doorman.query("SELECT 1") == [(1,)]
    wait_whole(doorman, postgres)


async def test_a_cancel_of_a_queued_client_takes_it_out_of_the_queue_whichever_worker_gets_it(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = start(make_doorman, postgres)
    sessions = await open_many(doorman, 8)
    held = await hold(sessions[0], 1.0)
    tasks = [asyncio.create_task(session.query("SELECT 'never'")) for session in sessions[1:]]
    await asyncio.sleep(0.1)
    began = time.monotonic()
    for session in sessions[1:]:
        await session.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert time.monotonic() - began < 0.5
    assert [result.sqlstate for result in results if isinstance(result, SqlError)] == ["57014"] * 7
    assert not any(result.is_fatal for result in results if isinstance(result, SqlError))
    assert await held == ["held"]
    assert await asyncio.gather(*(session.query("SELECT 1") for session in sessions)) == [["1"]] * 8
    wait_whole(doorman, postgres)


async def test_a_cancel_of_a_queued_batch_skips_to_its_sync(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres)
    holder, session = await open_many(doorman, 2)
    await holder.query("DROP TABLE IF EXISTS never; CREATE TABLE never (v text)")
    held = await hold(holder, 0.6)
    await session.send(BATCH + BATCH + wire.SYNC)
    await asyncio.sleep(0.05)
    await session.cancel()
    with pytest.raises(SqlError, match="57014"):
        await session.answer()
    await held
    assert await session.query("SELECT count(*) FROM never") == ["0"]


async def test_a_cancel_with_a_wrong_secret_does_nothing(make_doorman: Any, postgres: Postgres) -> None:
    doorman = start(make_doorman, postgres)
    holder, session = await open_many(doorman, 2)
    held = await hold(holder, 0.4)
    queued = asyncio.create_task(session.query("SELECT 'served'"))
    await asyncio.sleep(0.05)
    for victim in (holder, session):
        await wire.send_cancel(doorman.host, doorman.port, victim.wire.pid, b"\0\0\0\0")
    assert (await held, await queued) == (["held"], ["served"])
