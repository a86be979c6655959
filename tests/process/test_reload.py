"""RELOAD and SIGHUP: what they change, what they say, and that a reload which fails changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from typing import Any

import psycopg
import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import ADMIN_PASSWORD, ADMIN_USER, CONSOLE, pool_of, user_of
from tests.harness.endpoint import psql_binary
from tests.process.load import Load
from tests.process.session import Session, SqlError, open_many, open_on
from tests.process.watching import wait_for, wait_whole


def reload(doorman: Doorman, **changes: Any) -> list[str]:
    """RELOAD on the console; the notices that it answers with."""
    doorman.update_config(**changes)
    notices: list[str] = []
    with admin(doorman) as console:
        console.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        console.execute("RELOAD")
    return notices


def admin(doorman: Doorman) -> psycopg.Connection[Any]:
    dsn = doorman.dsn(user=ADMIN_USER, password=ADMIN_PASSWORD, dbname=CONSOLE)
    return psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor)


def test_the_answer_says_what_changed_and_what_needs_a_restart(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman()
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 7)]), "second": pool_of(postgres)}
    changes = {"query_wait_timeout": 1500, "worker_threads": 3, "admin_password": "other"}
    notices = reload(doorman, general=changes, pools=pools)
    wanted = [
        "general.admin_password: changed",
        "general.query_wait_timeout: 5000 -> 1500",
        "pools.postgres.users.app.pool_size: 20 -> 7",
        "pools.second: added",
        "general.worker_threads: 2 -> 3 (needs a restart)",
    ]
    assert notices == wanted
    assert doorman.log_contains("the configuration was reloaded: general.admin_password: changed; ")
    assert "adminpw" not in doorman.log_text() and '"other"' not in doorman.log_text()


def test_what_needs_a_restart_is_said_until_it_is_done(make_doorman: Any) -> None:
    doorman = make_doorman()
    assert reload(doorman, general={"backlog": 50}) == ["general.backlog: 0 -> 50 (needs a restart)"]
    assert reload(doorman) == ["general.backlog: 0 -> 50 (needs a restart)"]
    assert reload(doorman, general={"backlog": None}) == ["nothing has changed"]


def test_a_reload_that_fails_says_why_on_the_console_and_changes_nothing(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman()
    session = psycopg.connect(doorman.dsn(), autocommit=True)
    server = session.execute("SELECT pg_backend_pid()").fetchone()
    doorman.update_config(pools={"second": pool_of(postgres), "third": pool_of(postgres, pool_mode="sideways")})
    with admin(doorman) as console:
        with pytest.raises(psycopg.Error, match=r"not reloaded: pools\.third\.pool_mode") as failure:
            console.execute("RELOAD")
        assert failure.value.sqlstate == "F0000"
        assert console.execute("SHOW VERSION").fetchall()
        doorman.config_path.write_text("general: [\n")
        with pytest.raises(psycopg.Error, match="YAML"):
            console.execute("RELOAD")
        doorman.config_path.unlink()
        with pytest.raises(psycopg.Error, match="No such file"):
            console.execute("RELOAD")
    assert [row["database"] for row in doorman.console("SHOW POOLS")] == ["postgres"]
    assert session.execute("SELECT pg_backend_pid()").fetchone() == server
    session.close()
    doorman.write_config()
    reload(doorman, pools={"second": pool_of(postgres)})
    assert doorman.query("SELECT 1", dbname="second") == [(1,)]


def test_psql_shows_the_answer(make_doorman: Any) -> None:
    doorman = make_doorman()
    doorman.update_config(general={"server_round_robin": True})
    dsn = doorman.dsn(user=ADMIN_USER, password=ADMIN_PASSWORD, dbname=CONSOLE)
    done = subprocess.run([psql_binary(), "-X", "-d", dsn, "-c", "RELOAD"], capture_output=True, text=True, timeout=20)
    assert done.stdout.strip() == "RELOAD"
    assert "NOTICE:  general.server_round_robin: false -> true" in done.stderr


async def test_rules_users_and_limits_hold_at_once_in_every_worker(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman()
    workers = doorman.pids().workers
    sessions = [session for pid in workers for session in await open_on(doorman, pid)]
    rules = {"content": "host pgdoorman all 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 reject\n"}
    reload(doorman, general={"pg_hba": rules})
    for _ in range(8):
        with pytest.raises(SqlError, match="28000"):
            await Session.open(doorman)
    for session in sessions:
        assert await session.query("SELECT 1") == ["1"]
    reload(doorman, general={"pg_hba": {"content": "host all all 127.0.0.1/32 trust\n"}, "max_connections": 4})
    more = await open_many(doorman, 2)
    with pytest.raises(SqlError, match="53300"):
        await Session.open(doorman)
    for session in more:
        session.close()


async def test_a_shorter_wait_holds_for_the_next_waiter(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman(pools={"postgres": pool_of(postgres, users=[user_of("app", 1)])})
    holder, waiter = await open_many(doorman, 2)
    await holder.query("BEGIN")
    await holder.query("SELECT 1")
    reload(doorman, general={"query_wait_timeout": 300})
    began = time.monotonic()
    with pytest.raises(SqlError, match="53300"):
        await waiter.query("SELECT 1")
    assert time.monotonic() - began < 2


def test_reloads_that_come_together_are_all_answered(make_doorman: Any) -> None:
    doorman = make_doorman()

    async def storm() -> None:
        async def one() -> None:
            dsn = doorman.dsn(user=ADMIN_USER, password=ADMIN_PASSWORD, dbname=CONSOLE)
            console = await psycopg.AsyncConnection.connect(
                dsn, autocommit=True, cursor_factory=psycopg.AsyncClientCursor
            )
            for _ in range(10):
                await console.execute("RELOAD")
            await console.close()

        await asyncio.gather(*(one() for _ in range(8)))

    asyncio.run(storm())
    assert not doorman.log_contains("not applied yet")


async def test_a_stopped_worker_holds_nobody_up_for_long_and_follows_later(
    make_doorman: Any, postgres: Postgres
) -> None:
    doorman = make_doorman()
    first = doorman.pids().workers[0]
    os.kill(first, signal.SIGSTOP)
    try:
        mark = doorman.log_mark()
        doorman.update_config(pools={"second": pool_of(postgres)})
        doorman.signal(signal.SIGHUP)
        doorman.wait_log("not applied yet by worker", since=mark)
    finally:
        os.kill(first, signal.SIGCONT)
    until = time.monotonic() + 5
    while True:
        try:
            (late,) = await open_on(doorman, first, dbname="second")
            break
        except SqlError as error:  # it may take up a client before the master's message
            assert error.sqlstate == "3D000" and time.monotonic() < until
    assert await late.query("SELECT 1") == ["1"]


async def test_a_reload_storm_loses_no_query(make_doorman: Any, postgres: Postgres) -> None:
    """Sizes, modes of clean-up, pools and users change as fast as they can while clients work."""
    doorman = make_doorman(pools={"postgres": pool_of(postgres, users=[user_of("app", 4)])})
    variants = [
        {"postgres": pool_of(postgres, users=[user_of("app", size)], **keys), **others}
        for size, keys, others in (
            (1, {}, {}),
            (6, {"startup_parameters": {"work_mem": "5MB"}}, {"second": pool_of(postgres)}),
            (3, {"application_name": "other"}, {"third": pool_of(postgres, pool_mode="session")}),
            (4, {"idle_timeout": 5000}, {"second": pool_of(postgres, users=[user_of("app", 2), user_of("postgres")])}),
        )
    ]
    reloads = 0
    async with Load(doorman, 16) as load:
        until = time.monotonic() + 6
        while time.monotonic() < until and not load.unexplained:
            doorman.update_config(pools=variants[reloads % len(variants)])
            doorman.signal(signal.SIGHUP)
            reloads += 1
            await asyncio.sleep(0.03)
        answers = load.answers
    load.check()
    assert reloads > 50 and answers > 500
    wait_for(lambda: doorman.console("RELOAD") == [], "a last reload")
    wait_whole(doorman, postgres, 3)


async def test_workers_may_die_in_a_reload_storm(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman()
    for round_number in range(12):
        with contextlib.suppress(IndexError, ProcessLookupError):
            doorman.kill_worker(round_number % 2)
        size = 3 + round_number
        doorman.update_config(pools={"postgres": pool_of(postgres, users=[user_of("app", size)])})
        doorman.signal(signal.SIGHUP)
        await asyncio.sleep(0.05)
    doorman.wait_workers(2)
    assert reload(doorman) == ["nothing has changed"]
    assert doorman.query("SELECT 1") == [(1,)]
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 99)])}
    assert reload(doorman, pools=pools) == ["pools.postgres.users.app.pool_size: 14 -> 99"]
