"""EMFILE in worker, keeper and master: no spinning, few log lines, no bystander harmed, and it heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Doorman, Postgres, procfs
from tests.harness.doorman import pool_of, user_of
from tests.process.load import kill
from tests.process.session import Session, SqlError, open_many, open_on
from tests.process.watching import Descriptors, wait_for, wait_whole

STARVED = 0.25  # share of one processor that a family without descriptors may use


@contextlib.contextmanager
def starved(spare: int, *pids: int) -> Iterator[None]:
    """These processes may open so many descriptors more, and no more; in the end as many as before."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_unused(pid, spare), hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


async def settle() -> None:
    """Let the connections of the preparation end, so that their descriptors do not come free in the middle."""
    await asyncio.sleep(0.15)


def lowest_unused(pid: int, spare: int) -> int:
    """A limit below which so many numbers are free: it is one of numbers, not of how many descriptors there are."""
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(itertools.islice((number for number in itertools.count() if number not in used), spare, None))


def knock(doorman: Doorman, count: int) -> list[socket.socket]:
    """Connections that the kernel accepts, whoever takes them."""
    return [socket.create_connection((doorman.host, doorman.port)) for _ in range(count)]


def lines(doorman: Doorman, since: int, pattern: str) -> int:
    return sum(pattern in line for line in doorman.log_text(since).splitlines())


async def test_workers_without_descriptors_for_clients_neither_spin_nor_flood_the_log_and_recover(
    make_doorman: Any,
) -> None:
    doorman = make_doorman()
    before = Descriptors(doorman)
    [inside] = await open_many(doorman, 1)
    await inside.query("SELECT 1")
    workers, mark = doorman.pids().workers, doorman.log_mark()
    with starved(3, *workers):
        waiting = knock(doorman, 30)
        cpu, began = doorman.cpu_seconds(), time.monotonic()
        while time.monotonic() - began < 1.5:
            assert await inside.query("SELECT 1") == ["1"]
            await asyncio.sleep(0.1)
        assert doorman.cpu_seconds() - cpu < STARVED * 1.5
        assert 1 <= lines(doorman, mark, "no file descriptor is left") <= 4
    for sock in waiting:
        sock.close()
    sessions = await asyncio.wait_for(open_many(doorman, 30), 2)
    assert await asyncio.gather(*(session.query("SELECT 1") for session in sessions)) == [["1"]] * 30
    for session in [inside, *sessions]:
        session.close()
    before.check()


async def test_a_worker_without_a_descriptor_for_a_server_says_so_and_recovers(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = make_doorman()
    doorman.query("SELECT 1")
    first = doorman.pids().workers[0]
    sessions = await open_on(doorman, first, 3)
    postgres.terminate_backends(user="app")
    wait_for(lambda: not doorman.console("SHOW SERVERS"), "end of the server")
    await settle()
    with starved(0, first):
        results = await asyncio.gather(*(session.query("SELECT 1") for session in sessions), return_exceptions=True)
        for result in results:
            assert isinstance(result, SqlError)
            assert (result.sqlstate, result.fields["V"]) == ("53000", "ERROR")
    await asyncio.sleep(0.15)
    assert await asyncio.gather(*(session.query("SELECT 1") for session in sessions)) == [["1"]] * 3
    wait_whole(doorman, postgres)


async def test_a_client_whose_worker_cannot_receive_a_servers_socket_is_told_so_and_served_later(
    make_doorman: Any, postgres: Postgres
) -> None:
    """The pool's only server is opened by one worker; the other has no descriptor left to receive it."""
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 1)])}
    doorman = make_doorman(pools=pools)
    first, second = doorman.pids().workers
    doorman.query("SELECT 1")
    [opener], [poor] = await open_on(doorman, first), await open_on(doorman, second)
    postgres.terminate_backends(user="app")
    wait_for(lambda: not doorman.console("SHOW SERVERS"), "end of the server")
    await settle()
    with starved(0, second):
        assert await opener.query("SELECT 'opened'") == ["opened"]
        cpu = doorman.cpu_seconds()
        for _ in range(3):
            with pytest.raises(SqlError) as failed:
                await asyncio.wait_for(poor.query("SELECT 'received'"), 1)
            assert (failed.value.sqlstate, failed.value.fields["V"]) == ("53000", "ERROR")
            assert await opener.query("SELECT 'opened'") == ["opened"]
            await asyncio.sleep(0.2)
        assert doorman.cpu_seconds() - cpu < STARVED
    assert await asyncio.wait_for(poor.query("SELECT 'received'"), 1) == ["received"]
    wait_whole(doorman, postgres)


async def test_a_master_without_descriptors_does_not_spin_and_servers_are_shared_when_it_has_some_again(
    make_doorman: Any, postgres: Postgres
) -> None:
    """What the master cannot take over it cannot pass on: each worker must do with servers of its own meanwhile."""
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 2)])}
    doorman = make_doorman(pools=pools, general={"query_wait_timeout": 3000})
    first, second = doorman.pids().workers
    [one], [two] = await open_on(doorman, first), await open_on(doorman, second)
    doorman.query("SELECT 1")
    postgres.terminate_backends(user="app")
    wait_for(lambda: not doorman.console("SHOW SERVERS"), "end of the servers")
    await asyncio.sleep(1.3)  # the master is told within a second, and has its duplicates no longer
    mark = doorman.log_mark()
    with starved(0, doorman.pid):
        cpu = doorman.cpu_seconds()
        assert await one.query("SELECT 1") == ["1"]
        for session in (two, one, two):
            assert await asyncio.wait_for(session.query("SELECT 1"), 4) == ["1"]
        await asyncio.sleep(1.2)
        assert doorman.cpu_seconds() - cpu < 2 * STARVED
        assert 1 <= lines(doorman, mark, "no file descriptor was left") <= 2
    await asyncio.sleep(0.7)
    for session in (one, two, one, two):
        assert await asyncio.wait_for(session.query("SELECT 1"), 2) == ["1"]
    wait_whole(doorman, postgres)


async def test_a_worker_that_dies_while_the_master_has_no_descriptors_is_replaced_later(make_doorman: Any) -> None:
    doorman = make_doorman(general={"worker_threads": 3})
    with starved(0, doorman.pid):
        await asyncio.to_thread(kill_all, doorman)
        wait_for(lambda: doorman.log_contains("could not be started"), "log line", 3)
    doorman.wait_workers(3, timeout=5)
    assert doorman.query("SELECT 1") == [(1,)]


def kill_all(doorman: Doorman) -> None:
    """Every child. The limit falls below the numbers of their channels, so that these cannot be used for new ones."""
    hard = resource.prlimit(doorman.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(doorman.pid, resource.RLIMIT_NOFILE, (8, hard))
    family = doorman.pids()
    for pid in [*family.workers, family.keeper]:
        if pid is not None:
            kill(pid)


async def test_nothing_leaks_when_sessions_come_and_go(make_doorman: Any, postgres: Postgres) -> None:
    """Logins that end in every way: in order, half way, refused, cut in a transaction, cancelled."""
    doorman = make_doorman()
    doorman.query("SELECT 1")
    before = Descriptors(doorman)
    for _ in range(4):
        sessions = await open_many(doorman, 20)
        asks = [asyncio.create_task(session.query("BEGIN; SELECT pg_sleep(5)")) for session in sessions[:6]]
        halves = knock(doorman, 10)
        for half in halves:
            half.sendall(b"\0\0\0\x40\0\3")
        with pytest.raises(SqlError):
            await Session.open(doorman, dbname="absent")
        await asyncio.sleep(0.05)
        for session in sessions[:3]:
            await session.cancel()
        for session in sessions:
            session.vanish()
        for half in halves:
            half.close()
        await asyncio.gather(*asks, return_exceptions=True)
    wait_whole(doorman, postgres, 3)
    before.check()


async def test_a_server_costs_descriptors_where_it_is_used(make_doorman: Any, postgres: Postgres) -> None:
    """Its opener's, one in the vault, one in each other process that comes to use it; when it is over, none."""
    doorman = make_doorman(pools={"postgres": pool_of(postgres, users=[user_of("app", 1)])})
    first, second = doorman.pids().workers
    [user], [other] = await open_on(doorman, first), await open_on(doorman, second)
    postgres.terminate_backends(user="app")
    wait_for(lambda: not doorman.console("SHOW SERVERS"), "end of the server")
    await asyncio.sleep(1.3)  # until the master has collected what is over
    before = {pid: procfs.fd_count(pid) for pid in doorman.pids().all()}

    def more() -> list[int]:
        family = doorman.pids()
        return [procfs.fd_count(pid) - before[pid] for pid in (family.master, family.keeper, first, second)]

    [backend] = await user.query("SELECT pg_backend_pid()")
    wait_for(lambda: more() == [1, 0, 1, 0], "the vault's own", 2)
    assert await other.query("SELECT pg_backend_pid()") == [backend]
    assert more() == [1, 0, 1, 1]
    assert await user.query("SELECT pg_backend_pid()") == [backend]
    doorman.console("RECONNECT")
    wait_for(lambda: more() == [0, 0, 0, 0], "end of all descriptors", 4)
