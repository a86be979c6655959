"""proxy_copy_data_timeout: who takes nothing of a large row gives its server up, who takes little does not."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from tests.harness import Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.session import Session, first_columns, open_many
from tests.torture.wire import query

SIZE = 30 << 20


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
async def test_who_takes_nothing_of_a_large_row_is_ended(make_doorman: Any, postgres: Postgres, pool_mode: str) -> None:
    pools = {"postgres": pool_of(postgres, pool_mode=pool_mode, users=[user_of("app", 1)])}
    general = {"proxy_copy_data_timeout": "1s", "query_wait_timeout": "10s"}
    doorman = make_doorman(pools=pools, general=general)
    stalled = await Session.open(doorman)
    stalled.wire.transport.pause_reading()
    await stalled.send(query(f"SELECT repeat('x', {SIZE})"))
    await asyncio.sleep(0.3)
    began = time.monotonic()
    other = await Session.open(doorman)
    assert await other.query("SELECT 1") == ["1"]
    assert 0.5 < time.monotonic() - began < 5
    doorman.wait_log(r"client \[app@postgres #c\d+\] from \S+ took nothing of a large message")
    stalled.vanish()
    other.close()


def limit_receive_buffer(session: Session, size: int) -> None:
    session.wire.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


async def test_who_reads_slowly_and_who_copies_are_left_alone(make_doorman: Any, postgres: Postgres) -> None:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 4)])}
    doorman = make_doorman(pools=pools, general={"proxy_copy_data_timeout": "1s"})
    slow, copying = await open_many(doorman, 2)
    await slow.query(f"SELECT repeat('x', {SIZE})")  # the sender's buffer grows: up to 4 MiB
    # The sender's kernel asks for more when a third of that is free, which takes seconds. (With a large receive buffer
    # nobody could tell: its kernel offers room again when a sixteenth is free, 2 MiB of 32.)
    limit_receive_buffer(slow, 16 << 10)
    await copying.send(query(f"COPY (SELECT repeat('x', {SIZE})) TO STDOUT"))
    await slow.send(query(f"SELECT repeat('x', {SIZE})"))
    copying.wire.transport.pause_reading()
    until = time.monotonic() + 4
    while time.monotonic() < until:
        slow.wire.transport.pause_reading()
        await asyncio.sleep(0.4)
        slow.wire.transport.resume_reading()
        await asyncio.sleep(0.001)
    limit_receive_buffer(slow, 4 << 20)
    copying.wire.transport.resume_reading()
    (row,) = first_columns(await slow.answer())
    assert row is not None and len(row) == SIZE
    copied = sum(len(one.body) for one in await copying.answer() if one.kind == b"d")
    assert copied == SIZE + 1
    assert not doorman.log_contains("took nothing")
    for session in (slow, copying):
        session.close()
