"""What the log of a whole pooler says, in which form, how often, and what it never says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
from typing import Any

import psycopg
import pytest

from tests.harness import Doorman, Postgres
from tests.harness.doorman import TRUST_RULES, pool_of, user_of
from tests.harness.ports import free_port
from tests.process.load import Load
from tests.process.session import Session, SqlError, open_on
from tests.process.watching import wait_for

PASSWORD, WRONG, PARAMETER, NEW_PASSWORD = "hunter2-right", "hunter2-wrong", "hunter2-parameter", "hunter2-new"


async def test_each_session_is_one_line_with_its_totals(make_doorman: Any, postgres: Postgres) -> None:
    doorman = make_doorman(general={"log_client_disconnections": True})
    for count, pid in enumerate(doorman.pids().workers, 3):
        (session,) = await open_on(doorman, pid)
        for _ in range(count):
            await session.query("SELECT 1")
        with pytest.raises(SqlError):
            await session.query("SELECT 1/0")
        session.close()
        totals = rf"transactions={count + 1} queries={count + 1} errors=1 wait=\d+\.\d{{3}}s"
        doorman.wait_log(rf"client \[app@postgres #c\d+\] from 127\.0\.0\.1:\d+ disconnected: session=\S+s {totals}")


def test_who_never_logged_in_is_no_session(make_doorman: Any) -> None:
    doorman = make_doorman(general={"log_client_disconnections": True})
    for _ in range(3):
        with pytest.raises(psycopg.Error):
            doorman.query("SELECT 1", dbname="nowhere")
    doorman.query("SELECT 1")
    doorman.wait_log("disconnected")
    assert doorman.log_contains("disconnected", times=1)


async def test_structured_lines_are_json_whoever_writes_them(make_doorman: Any) -> None:
    general = {"log_client_connections": True, "log_client_disconnections": True}
    doorman = make_doorman(arguments=["-F", "structured", "-l", "trace"], general=general)
    async with Load(doorman, 8, expected=frozenset({"connection lost", "killed"})) as load:
        await load.run(0.5)
        doorman.kill_worker()
        await load.run(0.5)
    for evil in ('qu"ote\\', "new\nline", "ünï\x1b[31m"):
        with pytest.raises(psycopg.Error):
            doorman.query("SELECT 1", dbname=evil)
    doorman.console("RELOAD")
    entries = [json.loads(line) for line in doorman.log_text().splitlines()]
    assert len(entries) > 20
    for entry in entries:
        assert list(entry) == ["timestamp", "level", "file", "line", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["timestamp"])
        assert entry["level"] in ("ERROR", "WARN", "INFO", "DEBUG", "TRACE")


async def test_no_secret_and_no_parameter_is_logged_at_any_level(make_doorman: Any, postgres: Postgres) -> None:
    hashed = "md5" + hashlib.md5((PASSWORD + "app").encode()).hexdigest()
    changed = "md5" + hashlib.md5((NEW_PASSWORD + "app").encode()).hexdigest()

    def pools(password: str, server_password: str) -> dict[str, Any]:
        user = user_of("app", password=password, server_username="app", server_password=server_password)
        return {"postgres": pool_of(postgres, users=[user])}

    doorman: Doorman = make_doorman(
        arguments=["-l", "trace"],
        general={
            "pg_hba": {"content": "host pgdoorman all 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n"},
            "log_client_connections": True,
            "log_client_disconnections": True,
            "auth_failure_delay": 0,
        },
        pools=pools(hashed, PASSWORD),
    )
    with psycopg.connect(doorman.dsn(password=PASSWORD), autocommit=True) as connection:
        connection.execute("SELECT %s::text", [PARAMETER], prepare=True)
        for query in ("SELECT %s::int", "SELECT * FROM nowhere WHERE name = %s"):
            with pytest.raises(psycopg.Error):
                connection.execute(query, [PARAMETER])
        with pytest.raises(psycopg.Error):
            connection.execute(f"SELECT '{PARAMETER}' FROM nowhere")
        connection.execute(f"SET search_path = '{PARAMETER}'")
    with pytest.raises(psycopg.Error):
        psycopg.connect(doorman.dsn(password=WRONG))
    doorman.reload(pools=pools(changed, NEW_PASSWORD))
    text = doorman.log_text()
    assert "logged in" in text and "was refused" in text and "server_password: changed" in text
    for secret in (PASSWORD, WRONG, PARAMETER, NEW_PASSWORD, hashed, changed, "adminpw", "nowhere"):
        assert secret not in text, secret


async def test_a_flood_of_one_failure_is_cut_short_and_counted(make_doorman: Any, postgres: Postgres) -> None:
    nobody = {**pool_of(postgres), "server_port": free_port()}
    doorman = make_doorman(pools={"postgres": nobody}, general={"auth_failure_log_interval": 0})

    async def fail(number: int) -> None:
        with pytest.raises(SqlError):
            await Session.open(doorman, dbname=f"nowhere{number}")

    await asyncio.gather(*(fail(number) for number in range(150)))
    shown = len(re.findall("was refused", doorman.log_text()))
    assert shown <= 40, "20 by each of two workers"
    doorman.wait_log(r"\(\d+ more like .* were left out in 5 s\)", timeout=8)
    left_out = sum(int(count) for count in re.findall(r"\((\d+) more like", doorman.log_text()))
    wait_for(lambda: len(re.findall("more like", doorman.log_text())) == 2, "summary of both workers", 6)
    left_out = sum(int(count) for count in re.findall(r"\((\d+) more like", doorman.log_text()))
    assert shown + left_out == 150


def test_the_level_of_the_configuration_holds_at_the_start_and_from_a_reload_on(make_doorman: Any) -> None:
    doorman = make_doorman(general={"log_level": "error", "pg_hba": {"content": TRUST_RULES}})
    doorman.query("SELECT 1")
    assert doorman.log_text() == ""
    doorman.update_config(general={"log_level": "info,doorman.workers.opening=debug"})
    doorman.signal(signal.SIGHUP)
    doorman.wait_log(r"general\.log_level: error -> info,doorman\.workers\.opening=debug")
    doorman.reload(pools={**doorman.config["pools"], "second": doorman.config["pools"]["postgres"]})
    doorman.query("SELECT 1", dbname="second")
    doorman.wait_log(r"DEBUG .*: opened server pid=\d+ pool=app@second")
    doorman.update_config(general={"log_level": "loud"})
    doorman.signal(signal.SIGHUP)
    doorman.wait_log("not reloaded.*general.log_level.*unknown level 'loud'")


def test_the_command_line_wins_over_the_configuration(make_doorman: Any) -> None:
    doorman = make_doorman(arguments=["-l", "info"], general={"log_level": "error"})
    doorman.wait_log("is ready")


async def test_pools_with_clients_are_summed_up_in_each_window(make_doorman: Any, postgres: Postgres) -> None:
    pools = {"postgres": pool_of(postgres), "unused": pool_of(postgres)}
    doorman = make_doorman(pools=pools, env={"PG_DOORMAN_TEST_WINDOW": "0.5"})
    session = await Session.open(doorman)
    for _ in range(50):
        await session.query("SELECT 1")
    times = r"p50=\d+\.\d\d p90=\d+\.\d\d p95=\d+\.\d\d p99=\d+\.\d\d"
    doorman.wait_log(
        r"INFO \S+: \[app@postgres\] qps=[1-9]\d* tps=[1-9]\d* \| clients=1 active=0 idle=1 wait=0 "
        rf"\| servers=1 active=0 idle=1 \| query_ms {times} \| xact_ms {times} \| wait_ms {times} "
        r"\| avg_wait=\d+\.\d{3}ms$"
    )
    doorman.wait_log(r"INFO \S+: \[sockets\] tcp=[1-9]\d* tcp4=[1-9]\d* tcp6=\d+ \| tcp_est=[1-9]\d* tcp_lstn=[12] ")
    session.close()
    assert not doorman.log_contains(r"\[app@unused\]")


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_changed_parameters_are_logged_when_asked_for(make_doorman: Any, postgres: Postgres, mode: str) -> None:
    pools = {
        name: pool_of(postgres, pool_mode=mode, log_client_parameter_status_changes=name == "told")
        | {"server_database": "postgres"}
        for name in ("told", "untold")
    }
    doorman = make_doorman(pools=pools)
    for name in pools:
        with psycopg.connect(doorman.dsn(dbname=name), autocommit=True) as client:
            client.execute("SET application_name = 'changed in mid-session'")
    doorman.wait_log(
        r"INFO .*: client \[app@told #c\d+\] changed a parameter: application_name = 'changed in mid-session'"
    )
    assert not doorman.log_contains("untold.*changed a parameter")
