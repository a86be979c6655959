"""While a new configuration is read: the master goes on, whatever the reading takes and whatever becomes of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.harness import Doorman, Postgres, procfs
from tests.harness.doorman import ADMIN_PASSWORD, ADMIN_USER, CONSOLE, pool_of, user_of
from tests.process.watching import wait_for

POOLS = 1000
LONGEST_SECONDS = 0.3
"""For an order of the console while a thousand pools are read; the machine may be busy with other things."""


def admin(doorman: Doorman) -> psycopg.Connection[Any]:
    dsn = doorman.dsn(user=ADMIN_USER, password=ADMIN_PASSWORD, dbname=CONSOLE)
    return psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor)


@contextmanager
def asleep(doorman: Doorman) -> Iterator[tuple[int, list[BaseException]]]:
    """A reload whose reader waits for a file that nobody writes: the reader's pid, and what RELOAD raised."""
    raised: list[BaseException] = []
    doorman.config_path.unlink()
    os.mkfifo(doorman.config_path)

    def order() -> None:
        try:
            with admin(doorman) as console:
                console.execute("RELOAD")
        except psycopg.Error as error:
            raised.append(error)

    asker = threading.Thread(target=order, daemon=True)
    asker.start()
    found: list[int] = []

    def is_there() -> bool:
        found[:] = [pid for pid in procfs.children(doorman.pid) if procfs.command_name(pid) == "doorman reader"]
        return bool(found)

    wait_for(is_there, "a reader", 5)
    yield found[0], raised
    asker.join(10)
    assert not asker.is_alive()


def test_the_master_works_on_while_a_file_does_not_come(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman(pools={"postgres": pool_of(postgres, users=[user_of("app", 6)])})
    keeper = doorman.pids().keeper
    assert keeper is not None
    with asleep(doorman) as (reader, raised):
        assert doorman.console("SET log_level = 'info'") == []
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: doorman.pids().keeper not in (None, keeper), "another keeper", 5)
        assert doorman.query("SELECT 1") == [(1,)]
        assert not {f"socket:[{inode}]" for inode in procfs.listening_inodes(doorman.port)} & set(
            procfs.fd_targets(reader)
        )
        os.kill(reader, signal.SIGKILL)
    assert "ended before it was done" in str(raised[0])
    wait_for(lambda: not procfs.is_alive(reader), "the end of the reader", 3)  # the pipe ends a moment before it
    doorman.config_path.unlink()
    doorman.reload(pools={"second": pool_of(postgres)})
    wait_for(lambda: [row["database"] for row in doorman.console("SHOW POOLS")] == ["second"], "the new pool alone", 5)


def test_a_reader_goes_with_the_master(make_doorman: Any) -> None:
    doorman = make_doorman()
    with asleep(doorman) as (reader, _):
        doorman.kill_master()
    wait_for(lambda: not procfs.is_alive(reader), "the end of the reader", 3)


def test_a_stop_does_not_wait_for_a_reader(make_doorman: Any) -> None:
    doorman = make_doorman()
    with asleep(doorman) as (reader, _):
        began = time.monotonic()
        doorman.stop()
        assert time.monotonic() - began < 3
    wait_for(lambda: not procfs.is_alive(reader), "the end of the reader", 3)  # the pipe ends a moment before it


def test_a_thousand_pools_hold_nobody_up(make_doorman: Any, postgres: Postgres) -> None:
    """The way through the master and back is asked for again and again while it reloads a thousand pools."""

    def pools(size: int) -> dict[str, Any]:
        return {f"db{number}": pool_of(postgres, users=[user_of("app", size)]) for number in range(POOLS)}

    doorman = make_doorman(pools={"postgres": pool_of(postgres)})
    for size in (2, 3, 3):
        doorman.update_config(pools=pools(size))
        took = while_reloading(doorman)
        assert max(took) < LONGEST_SECONDS, took
        wait_for(lambda: len(doorman.console("SHOW POOLS")) == POOLS, "so many pools", 5)
    assert {row["pool_size"] for row in doorman.console("SHOW DATABASES")} == {3}


def while_reloading(doorman: Doorman) -> list[float]:
    """How long other orders took, in seconds."""
    took: list[float] = []
    with admin(doorman) as console, admin(doorman) as other:
        reloading = threading.Thread(target=lambda: console.execute("RELOAD"), daemon=True)
        reloading.start()
        while reloading.is_alive():
            began = time.monotonic()
            other.execute("SET log_level = 'info'")
            took.append(time.monotonic() - began)
            time.sleep(0.01)
    assert len(took) > 3
    return took


@pytest.mark.parametrize("text", ["", "general: [", "general: {}\n"])
def test_what_is_wrong_is_told_as_before(make_doorman: Any, text: str) -> None:
    doorman = make_doorman()
    doorman.config_path.write_text(text)
    with admin(doorman) as console, pytest.raises(psycopg.Error, match="was not reloaded: ") as refusal:
        console.execute("RELOAD")
    assert refusal.value.sqlstate == "F0000"
