"""pg_doorman as a service: what systemd hears of it, the daemon and its pid file, limits, SHUTDOWN on the console."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness import Doorman, Postgres, procfs
from tests.harness.doorman import ADMIN_PASSWORD, ADMIN_USER, CONSOLE, doorman_command, pool_of
from tests.process.load import stopped
from tests.process.session import Session, SqlError, open_many
from tests.process.watching import wait_for


class Manager:
    """The socket that NOTIFY_SOCKET names."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)

    def hear(self, seconds: float = 10.0) -> dict[str, str]:
        self.sock.settimeout(seconds)
        return dict(line.split("=", 1) for line in self.sock.recv(4096).decode().split("\n"))

    def hear_first(self, key: str, seconds: float = 10.0) -> dict[str, str]:
        """The next message with this key; what comes before it is dropped."""
        deadline = time.monotonic() + seconds
        while key not in (said := self.hear(deadline - time.monotonic())):
            pass
        return said


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.sock.close()


def test_systemd_hears_of_start_reload_and_end(make_doorman: Any, postgres: Postgres, manager: Manager) -> None:
    doorman = make_doorman(env={"NOTIFY_SOCKET": manager.path})
    assert manager.hear() == {"READY": "1", "STATUS": "2 workers, 1 pools"}
    assert doorman.query("SELECT 1") == [(1,)]
    doorman.reload(pools={"postgres": pool_of(postgres), "second": pool_of(postgres)})
    assert manager.hear().keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert manager.hear() == {"READY": "1", "STATUS": "2 workers, 2 pools"}
    doorman.config_path.write_text("general: 5\n")
    doorman.signal(signal.SIGHUP)
    assert "RELOADING" in manager.hear() and manager.hear()["STATUS"] == "2 workers, 2 pools"
    doorman.signal(signal.SIGINT)
    assert manager.hear()["STOPPING"] == "1"
    assert doorman.wait_exit() == 0


def test_the_watchdog_hears_nothing_when_no_worker_works(make_doorman: Any, manager: Manager) -> None:
    doorman = make_doorman(env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"})
    for _ in range(3):
        manager.hear_first("WATCHDOG", 1)
    workers = doorman.pids().workers
    with stopped(workers[0]):
        time.sleep(0.7)
        manager.hear_first("WATCHDOG", 1)
    with stopped(*workers):
        time.sleep(0.7)
        while True:
            manager.sock.setblocking(False)
            try:
                manager.sock.recv(4096)
            except BlockingIOError:
                break
        with pytest.raises(TimeoutError):
            manager.hear(0.6)
    manager.hear_first("WATCHDOG", 2)


def test_a_daemon_serves_and_leaves_no_pid_file(make_doorman: Any, tmp_path: Path) -> None:
    doorman: Doorman = make_doorman(start=False, general={"daemon_pid_file": str(tmp_path / "pid")})
    done = subprocess.run(
        [*doorman_command(), "-d", str(doorman.config_path)], timeout=20, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    pid = int((tmp_path / "pid").read_text())
    try:
        wait_for(doorman.is_serving, "a daemon that serves", 10)
        assert doorman.query("SELECT 1") == [(1,)]
        family = procfs.children(pid)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not any(procfs.is_alive(each) for each in [pid, *family]), "end of the daemon", 5)
    assert not (tmp_path / "pid").exists()


def test_too_few_descriptors_are_named_at_the_start(make_doorman: Any) -> None:
    doorman = make_doorman(limit_files=500, general={"max_connections": 1000})
    assert doorman.log_contains(r"limit of open files is 500 .* \(1000\) .* \(20\) may need 1088: set LimitNOFILE=1088")
    assert doorman.query("SELECT 1") == [(1,)]
    enough = make_doorman(limit_files=2000, general={"max_connections": 1000})
    assert not enough.log_contains("limit of open files")


def admin(doorman: Doorman) -> psycopg.Connection[Any]:
    dsn = doorman.dsn(user=ADMIN_USER, password=ADMIN_PASSWORD, dbname=CONSOLE)
    return psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor)


async def test_shutdown_answers_and_ends_at_once(make_doorman: Any) -> None:
    doorman = make_doorman()
    session = await Session.open(doorman)
    await session.query("BEGIN; SELECT 1")
    with admin(doorman) as console:
        assert console.execute("SHUTDOWN").fetchall() == [("t",)]
    began = time.monotonic()
    with pytest.raises(SqlError) as ended:
        await session.answer()
    assert (ended.value.sqlstate, ended.value.is_fatal) == ("57P01", True)
    assert await asyncio.to_thread(doorman.wait_exit) == 0
    assert time.monotonic() - began < 1


async def test_shutdown_wait_lets_transactions_end(make_doorman: Any) -> None:
    doorman = make_doorman()
    busy, idle = await open_many(doorman, 2)
    await busy.query("BEGIN; SELECT 1")
    with admin(doorman) as console:
        assert console.execute("SHUTDOWN WAIT").fetchall() == [("t",)]
        with pytest.raises(SqlError, match="57P01"):
            await idle.answer()
        assert await busy.query("SELECT 'goes on'") == ["goes on"]
    await busy.query("COMMIT")
    assert await asyncio.to_thread(doorman.wait_exit) == 0


async def test_clients_are_told_when_the_time_for_draining_is_over(make_doorman: Any) -> None:
    doorman = make_doorman(general={"shutdown_timeout": 400})
    session = await Session.open(doorman)
    await session.query("BEGIN; SELECT 1")
    doorman.signal(signal.SIGINT)
    with pytest.raises(SqlError, match="57P01"):
        await session.answer()
    assert await asyncio.to_thread(doorman.wait_exit) == 0


async def test_sigterm_tells_clients_too(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman()
    idle, running = await open_many(doorman, 2)
    statement = asyncio.create_task(running.query("SELECT pg_sleep(1.5)"))
    await asyncio.sleep(0.1)
    doorman.signal(signal.SIGTERM)
    for waiting in (idle.answer(), statement):
        with pytest.raises(SqlError, match="57P01"):
            await waiting
    assert await asyncio.to_thread(doorman.wait_exit) == 0
    wait_for(lambda: postgres.activity_count(user="app") == 0, "end of the statement", 5)


async def test_a_session_mode_client_at_rest_does_not_hold_a_drain_up(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman(pools={"postgres": pool_of(postgres, pool_mode="session")})
    session = await Session.open(doorman)
    await session.query("SELECT 1")
    began = time.monotonic()
    doorman.signal(signal.SIGINT)
    with pytest.raises(SqlError, match="57P01"):
        await session.answer()
    assert await asyncio.to_thread(doorman.wait_exit) == 0
    assert time.monotonic() - began < 2


def test_set_log_level_reaches_every_process_also_those_that_come_later(make_doorman: Any) -> None:
    doorman = make_doorman(general={"log_client_connections": True})
    doorman.console("SET log_level = 'error'")
    mark = doorman.log_mark()
    for _ in range(6):
        doorman.query("SELECT 1")
    dead = doorman.kill_worker()
    doorman.wait_workers(2, without=[dead])
    for _ in range(6):
        doorman.query("SELECT 1")
    assert "logged in" not in doorman.log_text(mark)
    doorman.console("SET log_level = 'default'")
    mark = doorman.log_mark()
    for _ in range(6):
        doorman.query("SELECT 1")
    assert doorman.log_contains("logged in", since=mark, times=6)
