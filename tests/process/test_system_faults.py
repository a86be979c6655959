"""What the system may do to us without anybody's fault: calls that find no memory, a wall clock that jumps."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.raw import Raw
from tests.harness import Postgres, procfs
from tests.harness.clients import client_ports
from tests.harness.doorman import pool_of, user_of
from tests.process.faulty import environment
from tests.process.session import Session, SqlError, open_many, open_on
from tests.process.watching import wait_for, wait_whole
from tests.torture.wire import TERMINATE, ConnectionEnded, query

EXIT_FAILURE = 1
ROOT = Path(__file__).parents[2]
SLEEP = """
import ctypes, signal, time
class Moment(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]
libc, semaphore = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.sem_init(semaphore, 0, 0)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.5)
until = time.time_ns() + 2_000_000
began = time.monotonic()
libc.sem_timedwait(semaphore, ctypes.byref(Moment(*divmod(until, 10**9))))
print(time.monotonic() - began)
"""
"""Sleeps 2 ms by the wall clock, or until an alarm after half a second."""
ON_LOCKS = [
    "tests/simulate/test_kill.py::test_two_dead_processes_with_locks_do_not_stop_the_repair_of_the_first",
    "tests/unit/shm/test_lock.py::test_only_one_process_at_a_time_is_inside",
    "tests/unit/shm/test_lock.py::test_a_waiting_process_sleeps_and_is_woken",
]


def start(make_doorman: Any, postgres: Postgres, library: Path, faults: Path, **general: Any) -> Any:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 2)])}
    return make_doorman(pools=pools, general=general, env=environment(library, faults))


def test_workers_that_die_at_boot_again_and_again_end_the_start_with_a_clear_error(
    make_doorman: Any, library: Path, faults: Path
) -> None:
    """The master needs no event loop; for those of the workers there is no descriptor."""
    (faults / "epoll").touch()
    doorman = make_doorman(start=False, env=environment(library, faults))
    doorman.spawn_only()
    assert doorman.wait_exit(10) == EXIT_FAILURE
    assert doorman.log_contains(
        r"ERROR.*the start was given up: (worker \d|the keeper) died 3 times before it was ready"
    )
    assert doorman.log_contains("(?i)too many open files")
    doorman.log_path.write_text("")  # the workers' tracebacks are what this test is about


@pytest.mark.parametrize("half", ["the query", "the answer"])
async def test_bytes_that_the_kernel_had_no_memory_for_end_the_connection_and_are_never_just_missing(
    make_doorman: Any, postgres: Postgres, library: Path, faults: Path, half: str
) -> None:
    doorman = start(make_doorman, postgres, library, faults)
    victim, bystander = await open_many(doorman, 2)
    for session in (victim, bystander):
        await session.query("SELECT 1")
    if half == "the query":
        (faults / "send").touch()
        asked = asyncio.create_task(victim.query("SELECT 'lost'"))
    else:
        asked = asyncio.create_task(victim.query("SELECT 'lost' FROM pg_sleep(1)"))
        running = {"user": "app", "state": "active"}
        await asyncio.to_thread(wait_for, lambda: postgres.activity_count(**running) == 1, "it to run", 5)
        (faults / "send").touch()
    with pytest.raises((SqlError, ConnectionEnded)):
        await asyncio.wait_for(asked, 5)
    assert not list(faults.iterdir())
    assert await asyncio.wait_for(bystander.query("SELECT 'served'"), 2) == ["served"]
    wait_whole(doorman, postgres)


def test_settings_are_set_again_when_a_slow_reader_has_taken_what_comes_before(
    make_doorman: Any, postgres: Postgres, library: Path, faults: Path
) -> None:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 2)], pool_mode="session")}
    doorman = make_doorman(pools=pools, env=environment(library, faults))
    with Raw(("127.0.0.1", doorman.port)) as raw:
        raw.log_in(TimeZone="Asia/Tokyo")
        for _ in range(5):
            (faults / "full.T").touch()
            assert raw.ask(query("SELECT 1; SET TimeZone = 'UTC'; RESET ALL")).endswith("ZI")
            assert not list(faults.iterdir())
            assert raw.parameters["TimeZone"] == "Asia/Tokyo"
            assert raw.value("SHOW TimeZone") == "Asia/Tokyo"


async def test_a_worker_that_is_slow_to_let_go_of_whom_it_handed_over_harms_nobody(
    make_doorman: Any, postgres: Postgres, library: Path, faults: Path
) -> None:
    """Its descriptor keeps the socket alive that the other worker has closed: what comes there is not for the next
    client that gets this number."""
    doorman = start(make_doorman, postgres, library, faults)
    first, second = doorman.pids().workers
    crowd = await open_on(doorman, first, 6)
    wait_for(lambda: not client_ports(second, doorman.port), "the second worker has no client")
    (faults / f"sendmsg.{first}").touch()
    for _ in range(20):
        leaver = await Session.open(doorman)
        if leaver.port in client_ports(first, doorman.port) & client_ports(second, doorman.port):
            break
        leaver.close()
    else:
        raise AssertionError("nobody was handed over")
    await leaver.send(TERMINATE)
    wait_for(lambda: leaver.port not in client_ports(second, doorman.port), "the second worker has closed it")
    followers = [asyncio.create_task(Session.open(doorman)) for _ in range(10)]
    assert (await asyncio.wait(followers, timeout=0.2))[0], "the first worker sleeps, but not all go there"
    assert leaver.port in client_ports(first, doorman.port)
    leaver.wire.close_abruptly(reset=True)
    await asyncio.sleep(0.1)
    for session in [*await asyncio.gather(*followers), *crowd]:
        assert await asyncio.wait_for(session.query("SELECT 'served'"), 5) == ["served"]


async def test_a_wall_clock_that_jumps_ends_nothing_and_stops_nothing(
    make_doorman: Any, postgres: Postgres, library: Path, faults: Path
) -> None:
    """A day back, then a day ahead: no time-out strikes early, and each strikes in its time."""
    doorman = start(make_doorman, postgres, library, faults, query_wait_timeout=700)
    sessions = await open_many(doorman, 3)
    backends = {await one_value(session, "SELECT pg_backend_pid()") for session in sessions}
    for jump in ("back", "ahead"):
        (faults / jump).touch()
        await asyncio.sleep(0.3)
        holders = [asyncio.create_task(session.query("SELECT pg_sleep(1.2)")) for session in sessions[:2]]
        await asyncio.sleep(0.05)
        wait_for(lambda: doorman.pool_row()["sv_active"] == 2, "two busy servers")
        began = asyncio.get_running_loop().time()
        with pytest.raises(SqlError) as failed:
            await asyncio.wait_for(sessions[2].query("SELECT 'too late'"), 3)
        assert failed.value.sqlstate == "53300"
        assert 0.6 < asyncio.get_running_loop().time() - began < 1.5
        await asyncio.gather(*holders)
        assert await one_value(sessions[2], "SELECT 'served'") == "served"
        late = await Session.open(doorman)
        assert await one_value(late, "SELECT 'new'") == "new"
        late.close()
        (faults / jump).unlink()
    assert backends <= {str(row["pid"]) for row in postgres.activity(usename="app")}
    wait_whole(doorman, postgres)


def test_nobody_oversleeps_at_a_lock_when_the_wall_clock_is_set_back(library: Path, faults: Path) -> None:
    """The clock as it is read is a day ahead of the one that the kernel waits by, as if it had been set back.
    The master naps while it waits for the lock of a dead process; by that clock it would for a day."""
    (faults / "ahead").touch()
    env = {**os.environ, "LD_PRELOAD": str(library), "DOORMAN_FAULTS": str(faults)}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=env, cwd=ROOT, timeout=60, check=True, capture_output=True, text=True).stdout

    assert float(run("-c", SLEEP)) > 0.4, "the fault does not act"
    assert f"{len(ON_LOCKS)} passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", *ON_LOCKS)


@pytest.mark.parametrize("who", ["worker", "keeper"])
async def test_a_channel_that_finds_no_memory_is_no_dead_master(
    make_doorman: Any, postgres: Postgres, library: Path, faults: Path, who: str
) -> None:
    """What the master says waits until there is memory; nobody dies of it, and nobody spins."""
    doorman = start(make_doorman, postgres, library, faults)
    family = doorman.pids()
    first, second = family.workers
    [session], [other] = await open_on(doorman, first), await open_on(doorman, second)
    for asker in (session, other):
        assert await one_value(asker, "SELECT 'served'") == "served"
    victim = first if who == "worker" else family.keeper
    assert victim is not None
    fault = faults / f"recvmsg.{victim}"
    fault.touch()
    mark = doorman.log_mark()
    doorman.update_config(general={"query_wait_timeout": 700})
    doorman.signal(signal.SIGHUP)
    await asyncio.sleep(0.2)
    used = procfs.cpu_seconds([victim])
    holder = asyncio.create_task(other.query("SELECT 'new' FROM pg_sleep(0.5)"))  # perhaps on a new server
    await asyncio.sleep(0.8)
    assert procfs.cpu_seconds([victim]) - used < 0.3, "it spins"
    assert await holder == ["new"]
    assert await one_value(session, "SELECT 'served'") == "served"
    assert doorman.pids() == family
    assert "the configuration was reloaded" not in doorman.log_text()[mark:]
    fault.unlink()
    doorman.wait_log("the configuration was reloaded", since=mark)
    doorman.wait_log("channel to the master could not be used", since=mark)
    for asker in (session, other):
        assert await one_value(asker, "SELECT 'served'") == "served"
    assert doorman.pids() == family
    wait_whole(doorman, postgres)


async def one_value(session: Session, sql: str) -> str | None:
    [value] = await asyncio.wait_for(session.query(sql), 3)
    return value


async def test_a_master_that_finds_no_memory_for_a_message_hears_it_later(
    make_doorman: Any, postgres: Postgres, library: Path, faults: Path
) -> None:
    """Meanwhile a socket that is asked for is not said to be over either."""
    doorman = start(make_doorman, postgres, library, faults)
    first, second = doorman.pids().workers
    [session], [other] = await open_on(doorman, first), await open_on(doorman, second)
    await one_value(session, "SELECT 1")
    postgres.terminate_backends(user="app")
    wait_for(lambda: not doorman.console("SHOW SERVERS"), "end of the servers")
    fault = faults / f"recvmsg.{doorman.pid}"
    fault.touch()
    pid = await one_value(session, "SELECT pg_backend_pid()")
    asked = asyncio.create_task(one_value(other, "SELECT pg_backend_pid()"))
    await asyncio.sleep(0.2)
    used = procfs.cpu_seconds([doorman.pid])
    await asyncio.sleep(0.8)
    assert procfs.cpu_seconds([doorman.pid]) - used < 0.3, "it spins"
    assert not asked.done()
    fault.unlink()
    assert await asked == pid
    assert await one_value(session, "SELECT pg_backend_pid()") == pid
    wait_whole(doorman, postgres)
