"""What the system may do to us without anybody's fault: a send that finds no memory, a wall clock that jumps."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.session import Session, SqlError, open_many
from tests.process.watching import wait_for, wait_whole
from tests.torture.wire import ConnectionEnded

SOURCE = Path(__file__).with_name("faults.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faults.c as a library to preload."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    into = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", into, SOURCE, "-ldl"], check=True)
    return into


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Path]:
    """The directory whose files are the faults; none is left when the pooler ends."""
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()


def start(make_doorman: Any, postgres: Postgres, library: Path, faults: Path, **general: Any) -> Any:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 2)])}
    env = {"LD_PRELOAD": str(library), "DOORMAN_FAULTS": str(faults)}
    return make_doorman(pools=pools, general=general, env=env)


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
        asked = asyncio.create_task(victim.query("SELECT 'lost' FROM pg_sleep(0.3)"))
        await asyncio.sleep(0.15)
        (faults / "send").touch()
    with pytest.raises((SqlError, ConnectionEnded)):
        await asyncio.wait_for(asked, 3)
    assert not list(faults.iterdir())
    assert await asyncio.wait_for(bystander.query("SELECT 'served'"), 2) == ["served"]
    wait_whole(doorman, postgres)


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


async def one_value(session: Session, sql: str) -> str | None:
    [value] = await asyncio.wait_for(session.query(sql), 3)
    return value
