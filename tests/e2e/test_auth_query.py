"""Users that auth_query finds: passed through with a pool each, or by one server user. Two workers always."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import sql

from tests.conftest import MakeDoorman
from tests.e2e.raw import wait_until
from tests.harness import Doorman, Postgres, find_debian_postgres
from tests.harness.doorman import pool_of, user_of
from tests.harness.ports import free_port

FINDER = "finder secret"
QUERY = "SELECT * FROM finding.find($1)"
SETUP = """
CREATE SCHEMA finding;
CREATE TABLE finding.calls (name text);
CREATE TABLE finding.overlays (name text, parameters jsonb);
CREATE FUNCTION finding.find(wanted text, OUT passwd text, OUT startup_parameters jsonb) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO finding.calls VALUES (wanted);
    RETURN QUERY SELECT a.rolpassword, (SELECT parameters FROM finding.overlays o WHERE o.name = wanted)
        FROM pg_authid a WHERE a.rolname = wanted AND a.rolcanlogin AND NOT a.rolsuper;
END $$;
CREATE USER finder PASSWORD 'finder secret';
GRANT USAGE ON SCHEMA finding TO finder;
"""
PASSWORDS = {
    "scram": "scram secret",
    "hashed": "md5 secret",
    "Ünï cödé": "p\u00e4ss \u2168 \ud55c\uae00",
    "prepared": "I\u00adX \u00aa",
    "long": "x" * 1000,
}


HBA = "host all app,postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n"


@contextlib.contextmanager
def populated(bindir: Path | None = None) -> Iterator[Postgres]:
    """A PostgreSQL that asks everybody for a password and counts the look-ups."""
    with Postgres(bindir=bindir, hba=HBA) as postgres:
        execute(postgres, SETUP)
        for user, password in PASSWORDS.items():
            make_user(postgres, user, password)
        yield postgres


@pytest.fixture(scope="module")
def directory() -> Iterator[Postgres]:
    with populated() as postgres:
        yield postgres


@pytest.fixture(scope="module")
def old_directory() -> Iterator[Postgres]:
    bindir = find_debian_postgres()
    if bindir is None:
        pytest.skip("needs Debian's package postgresql")
    with populated(bindir) as postgres:
        yield postgres


@pytest.fixture
def own_directory() -> Iterator[Postgres]:
    """One that may be stopped."""
    with populated() as postgres:
        yield postgres


def execute(postgres: Postgres, statement: str | sql.Composed) -> None:
    with postgres.connect(user="postgres", autocommit=True) as connection:
        connection.execute(statement)


def make_user(postgres: Postgres, user: str, password: str) -> None:
    method = "md5" if user.startswith("hashed") else "scram-sha-256"
    words = {"method": sql.Literal(method), "name": sql.Identifier(user), "password": sql.Literal(password)}
    with postgres.connect(user="postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("SET password_encryption = {method}").format(**words))
        exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user]).fetchone()
        verb = sql.SQL("ALTER" if exists else "CREATE")
        connection.execute(sql.SQL("{verb} USER {name} PASSWORD {password}").format(verb=verb, **words))


def calls(postgres: Postgres, user: str | None = None) -> int:
    """How often the query ran."""
    where, values = ("WHERE name = %s", [user]) if user is not None else ("", [])
    return int(postgres.admin(f"SELECT count(*) FROM finding.calls {where}", values)[0][0])


@contextlib.contextmanager
def one_more_look_up(postgres: Postgres, user: str) -> Iterator[None]:
    """What happens here has a user looked up while no client waits for it: wait until PostgreSQL was asked, and long
    enough for the keeper to have read the answer and to be allowed the next question."""
    before = calls(postgres, user)
    yield
    wait_until(lambda: calls(postgres, user) > before, f"another look-up of {user}")
    time.sleep(0.1)


def pooler(make: MakeDoorman, postgres: Postgres, general: dict[str, Any] | None = None, **query: Any) -> Doorman:
    """Everything by default but what `query` (the keys of auth_query) says."""
    block = {"query": QUERY, "user": "finder", "password": FINDER, "pool_size": 3, "database": "postgres", **query}
    pool = pool_of(postgres, users=[], auth_query={key: value for key, value in block.items() if value is not None})
    return make(pools={"shop": pool}, general={"pg_hba": None, **(general or {})})


def log_in(doorman: Doorman, user: str, password: str, statement: str = "SELECT current_user") -> Any:
    keys: dict[str, Any] = {"user": user, "password": password, "host": doorman.host, "port": doorman.port}
    with psycopg.connect(dbname="shop", autocommit=True, connect_timeout=15, **keys) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def refusal(doorman: Doorman, user: str, password: str = "wrong") -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        log_in(doorman, user, password)
    return str(caught.value)


# --- passthrough -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", PASSWORDS)
def test_a_user_logs_in_as_itself_after_one_look_up(make_doorman: MakeDoorman, directory: Postgres, user: str) -> None:
    doorman = pooler(make_doorman, directory)
    before = calls(directory, user)
    for _ in range(6):
        assert log_in(doorman, user, PASSWORDS[user]) == user
    assert calls(directory, user) == before + 1
    assert "password authentication failed" in refusal(doorman, user)


def test_an_older_postgresql_does_as_well(make_doorman: MakeDoorman, old_directory: Postgres) -> None:
    doorman = pooler(make_doorman, old_directory)
    for user, password in PASSWORDS.items():
        assert log_in(doorman, user, password) == user
    assert "password authentication failed" in refusal(doorman, "nobody")


def test_nobody_is_refused_like_somebody_and_asked_for_once(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = pooler(make_doorman, directory)
    before = calls(directory)
    known, unknown = refusal(doorman, "scram"), {refusal(doorman, "nobody") for _ in range(5)}
    assert {text.replace("nobody", "scram").rpartition("FATAL")[2] for text in unknown} == {
        known.rpartition("FATAL")[2]
    }
    assert calls(directory, "nobody") == 1 and calls(directory) <= before + 3
    assert refusal(doorman, "x" * 64).count("password authentication failed") == 1
    assert calls(directory, "x" * 64) == 0
    execute(directory, "DELETE FROM finding.calls WHERE name = 'nobody'")


def test_each_user_has_a_pool_and_a_static_user_comes_first(make_doorman: MakeDoorman, directory: Postgres) -> None:
    block = {"query": QUERY, "user": "finder", "password": FINDER, "pool_size": 3, "database": "postgres"}
    users = [user_of("scram", 2, password="another", server_username="app", server_password="")]
    pool = pool_of(directory, users=users, auth_query=block)
    doorman = make_doorman(pools={"shop": pool}, general={"pg_hba": None})
    before = calls(directory, "scram")
    assert log_in(doorman, "scram", "another") == "app"
    assert calls(directory, "scram") == before
    assert log_in(doorman, "hashed", PASSWORDS["hashed"]) == "hashed"
    assert {row["user"] for row in doorman.console("SHOW POOLS") if row["database"] == "shop"} == {"scram", "hashed"}


def test_pools_are_collected_when_nobody_uses_them(make_doorman: MakeDoorman, directory: Postgres) -> None:
    general = {"retain_connections_time": 100, "idle_timeout": 300}
    doorman = pooler(make_doorman, directory, general)
    assert log_in(doorman, "scram", PASSWORDS["scram"]) == "scram"
    assert doorman.pool_row("shop", "scram")
    doorman.wait_until(lambda: not doorman.pool_row("shop", "scram"), "the pool to be collected", 15)
    doorman.wait_until(lambda: directory.activity_count(user="scram") == 0, "its servers to end")
    assert log_in(doorman, "scram", PASSWORDS["scram"]) == "scram"


def test_a_pool_with_a_client_is_not_collected(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = pooler(make_doorman, directory, {"retain_connections_time": 100, "idle_timeout": 300})
    keys: dict[str, Any] = {"user": "scram", "password": PASSWORDS["scram"]}
    with psycopg.connect(host=doorman.host, port=doorman.port, dbname="shop", autocommit=True, **keys) as session:
        doorman.wait_until(lambda: directory.activity_count(user="scram") == 0, "its servers to end", 15)
        time.sleep(6)  # longer than a pool is spared for being young
        assert session.execute("SELECT current_user").fetchone() == ("scram",)


def test_the_minimum_of_each_pool_is_kept(make_doorman: MakeDoorman, directory: Postgres) -> None:
    general = {"retain_connections_time": 100, "idle_timeout": 300}
    doorman = pooler(make_doorman, directory, general, min_pool_size=2)
    for user in ("scram", "hashed"):
        log_in(doorman, user, PASSWORDS[user])
        doorman.wait_until(lambda user=user: directory.activity_count(user=user) == 2, "the minimum")
    time.sleep(1)
    assert doorman.pool_row("shop", "scram") and doorman.pool_row("shop", "hashed")


def test_what_a_row_adds_is_set_on_the_users_servers(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = with_metrics(pooler(make_doorman, directory, cache_ttl=200))
    for number in (1, 2):
        execute(directory, "DELETE FROM finding.overlays")
        parameters = f'{{"work_mem": "{number}234kB", "role": "postgres", "TIMEZONE": "Asia/Tokyo"}}'
        execute(directory, f"INSERT INTO finding.overlays VALUES ('scram', '{parameters}')")
        time.sleep(0.3)
        for _ in range(3):
            assert log_in(doorman, "scram", PASSWORDS["scram"], "SHOW work_mem") == f"{number}234kB"
        assert log_in(doorman, "scram", PASSWORDS["scram"], "SHOW timezone") == "Asia/Tokyo"
        assert log_in(doorman, "scram", PASSWORDS["scram"]) == "scram"
        assert log_in(doorman, "hashed", PASSWORDS["hashed"], "SHOW work_mem") == "4MB"
    execute(directory, "DELETE FROM finding.overlays")
    assert doorman.log_contains("auth_query_invalid_entry")
    [(reason, count)] = dropped(doorman).items()
    assert reason == "auth_query_invalid_entry" and count >= 2  # once for each look-up; what was found is old in 0.2 s


def with_metrics(doorman: Doorman) -> Doorman:
    """The same with /metrics."""
    doorman.config["web"] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    doorman.update_config()
    doorman.stop()
    return doorman.start()


def dropped(doorman: Doorman) -> dict[str, int]:
    """The counter pg_doorman_startup_parameters_dropped_total of the database, by reason."""
    url = f"http://127.0.0.1:{doorman.config['web']['port']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'startup_parameters_dropped_total\{pool="shop",reason="(\w+)"\} (\d+)', text)
    return {reason: int(count) for reason, count in found}


def test_parameters_that_do_not_fit_are_counted(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = with_metrics(pooler(make_doorman, directory))
    document = '{"search_path": "' + "x" * 9400 + '"}'
    execute(directory, f"INSERT INTO finding.overlays VALUES ('scram', '{document}'), ('hashed', '[1]')")
    try:
        pool = {**doorman.config["pools"]["shop"], "startup_parameters": {"application_name": "y" * 600}}
        doorman.reload(pools={"shop": pool})
        assert "PostgreSQL accepts" in refusal(doorman, "scram", PASSWORDS["scram"])
        assert log_in(doorman, "hashed", PASSWORDS["hashed"]) == "hashed"
    finally:
        execute(directory, "DELETE FROM finding.overlays")
    found = dropped(doorman)
    assert found["auth_query_invalid_shape"] == 1 and found["packet_cap_exceeded"] >= 1, found


def test_a_parameter_that_postgresql_refuses_is_told_in_its_words(
    make_doorman: MakeDoorman, directory: Postgres
) -> None:
    doorman = pooler(make_doorman, directory)
    execute(directory, """INSERT INTO finding.overlays VALUES ('scram', '{"work_mem": "a lot"}')""")
    try:
        assert 'invalid value for parameter "work_mem": "a lot"' in refusal(doorman, "scram", PASSWORDS["scram"])
    finally:
        execute(directory, "DELETE FROM finding.overlays")


@pytest.mark.parametrize("user", ["changing", "hashed_changing"])
def test_a_changed_password_is_known_at_the_next_login(
    make_doorman: MakeDoorman, directory: Postgres, user: str
) -> None:
    """MD5: at once. SCRAM: the first login only finds out, as its proof is bound to the old salt."""
    make_user(directory, user, "old")
    doorman = pooler(make_doorman, directory, {"auth_failure_delay": 0}, min_interval=50)
    assert log_in(doorman, user, "old") == user
    for number in range(3):
        make_user(directory, user, f"new {number}")
        if user == "changing":
            with one_more_look_up(directory, user):
                assert "password authentication failed" in refusal(doorman, user, f"new {number}")
        assert log_in(doorman, user, f"new {number}") == user
        directory.terminate_backends(user=user)
        doorman.wait_pool("shop", user, sv_idle=0, sv_active=0)
        assert log_in(doorman, user, f"new {number}") == user, "with a server opened by the new proof"
        time.sleep(0.1)
        with one_more_look_up(directory, user):
            assert "password authentication failed" in refusal(doorman, user, "old")


def test_a_failed_password_is_looked_up_at_once(make_doorman: MakeDoorman, directory: Postgres) -> None:
    """Not at the worker's next tick, which is up to 100 ms away when nothing else happens."""
    make_user(directory, "hasty", "right")
    doorman = pooler(make_doorman, directory, {"auth_failure_delay": 0}, min_interval=1)
    assert log_in(doorman, "hasty", "right") == "hasty"
    lags = []
    with directory.connect(user="postgres", autocommit=True) as connection:
        statement = "SELECT count(*) FROM finding.calls WHERE name = 'hasty'"
        for number in range(1, 16):
            refusal(doorman, "hasty")
            began = time.monotonic()
            wait_until(lambda number=number: connection.execute(statement).fetchone() == (number + 1,), "a look-up")
            lags.append(time.monotonic() - began)
            time.sleep(0.01)
    assert statistics.median(lags) < 0.04, lags


def test_a_password_that_changes_under_load_ends_no_session(make_doorman: MakeDoorman, directory: Postgres) -> None:
    make_user(directory, "loaded", "0")
    doorman = pooler(make_doorman, directory, {"auth_failure_delay": 0}, min_interval=20, pool_size=2)
    stop, current, problems, logins = threading.Event(), ["0"], [], []

    def connect() -> psycopg.Connection[Any]:
        """With the password as it is now; a change under way may cost two tries or three."""
        for attempt in range(20):
            try:
                keys: dict[str, Any] = {"user": "loaded", "password": current[0]}
                return psycopg.connect(host=doorman.host, port=doorman.port, dbname="shop", autocommit=True, **keys)
            except psycopg.OperationalError as error:
                if "password authentication failed" not in str(error):
                    raise
                time.sleep(0.02 * attempt)
        raise AssertionError("the password is right and is refused")

    def work() -> None:
        try:
            while not stop.is_set():
                with connect() as session:
                    logins.append(1)
                    for _ in range(20):
                        assert session.execute("SELECT current_user").fetchone() == ("loaded",)
        except Exception as error:
            problems.append(error)
            stop.set()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for number in range(1, 9):
        time.sleep(0.4)
        make_user(directory, "loaded", str(number))
        current[0] = str(number)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == [] and len(logins) > 50


def test_an_expired_password_lets_nobody_in(make_doorman: MakeDoorman, directory: Postgres) -> None:
    make_user(directory, "temporary", "secret")
    doorman = pooler(make_doorman, directory)
    execute(directory, "DO $$BEGIN EXECUTE format('ALTER ROLE temporary VALID UNTIL %L', now() + '2 seconds'); END$$")
    assert log_in(doorman, "temporary", "secret") == "temporary"
    time.sleep(2.2)
    assert "password authentication failed" in refusal(doorman, "temporary", "secret")


def test_trust_asks_for_no_password_but_there_must_be_such_a_user(
    make_doorman: MakeDoorman, directory: Postgres
) -> None:
    rules = {"pg_hba": {"content": "host all all 127.0.0.1/32 trust\n"}}
    doorman = pooler(make_doorman, directory, rules)
    assert log_in(doorman, "hashed", "") == "hashed"
    assert "password authentication failed" in refusal(doorman, "nobody trusts", "")
    assert "has not logged in by SCRAM yet" in refusal(doorman, "scram", "")


def test_a_password_in_clear(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = pooler(make_doorman, directory, {"pg_hba": {"content": "host all all 127.0.0.1/32 password\n"}})
    for user in ("scram", "hashed", "Ünï cödé"):
        assert log_in(doorman, user, PASSWORDS[user]) == user
    assert "password authentication failed" in refusal(doorman, "scram", "wrong")


def test_asyncpg_logs_in(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = pooler(make_doorman, directory)

    async def ask(user: str) -> Any:
        keys: dict[str, Any] = {"user": user, "password": PASSWORDS[user], "database": "shop"}
        connection = await asyncpg.connect(host=doorman.host, port=doorman.port, **keys)
        try:
            return await connection.fetchval("SELECT current_user")
        finally:
            await connection.close()

    for user in PASSWORDS:
        assert asyncio.run(ask(user)) == user


def test_guessing_does_not_reach_postgresql_more_than_once_in_an_interval(
    make_doorman: MakeDoorman, directory: Postgres
) -> None:
    doorman = pooler(make_doorman, directory, {"auth_failure_delay": 0}, min_interval="1h")
    for user in ("scram", "hashed"):
        before = calls(directory, user)
        log_in(doorman, user, PASSWORDS[user])
        for number in range(10):
            assert "password authentication failed" in refusal(doorman, user, f"guess {number}")
        doorman.wait_until(lambda before=before, user=user: calls(directory, user) == before + 2, "one more look-up")
        assert log_in(doorman, user, PASSWORDS[user]) == user
        assert calls(directory, user) == before + 2


def test_the_console_counts(make_doorman: MakeDoorman, directory: Postgres) -> None:
    general = {"auth_failure_delay": 0, "retain_connections_time": 100, "idle_timeout": 300}
    doorman = pooler(make_doorman, directory, general, min_interval="1h")
    log_in(doorman, "hashed", PASSWORDS["hashed"])
    log_in(doorman, "hashed", PASSWORDS["hashed"])
    for _ in range(2):
        refusal(doorman, "hashed", "wrong")
    refusal(doorman, "nobody there")
    expected = {
        "database": "shop", "cache_entries": 2, "cache_hits": 4, "cache_misses": 2, "cache_refetches": 2,
        "cache_rate_limited": 1, "auth_success": 2, "auth_failure": 3, "executor_queries": 4, "executor_errors": 0,
        "dynamic_pools_current": 1, "dynamic_pools_created": 1, "dynamic_pools_destroyed": 0,
    }  # fmt: skip
    assert doorman.console("SHOW AUTH_QUERY") == [expected]
    keeper = doorman.pids().keeper
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    doorman.wait_until(lambda: doorman.pids().keeper not in (None, keeper), "another keeper")
    doorman.wait_until(lambda: doorman.console("SHOW AUTH_QUERY")[0]["dynamic_pools_destroyed"] == 1, "collection", 15)
    row = doorman.console("SHOW AUTH_QUERY")[0]
    assert (row["cache_entries"], row["cache_hits"], row["dynamic_pools_current"]) == (0, 4, 0)


def test_nothing_secret_is_logged(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = pooler(make_doorman, directory, {"log_client_connections": True})
    stored = dict(directory.admin("SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL"))
    for user in ("scram", "hashed"):
        log_in(doorman, user, PASSWORDS[user])
        refusal(doorman, user, "a wrong one")
    text = doorman.log_text() + str([doorman.console(f"SHOW {what}") for what in ("POOLS", "SERVERS", "CLIENTS")])
    secrets = [FINDER, "a wrong one", PASSWORDS["hashed"], stored["hashed"], *stored["scram"].split("$")[1:]]
    assert not [secret for secret in secrets if secret in text]


# --- dedicated -------------------------------------------------------------------------------------------------------


def test_one_server_user_serves_all(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = pooler(make_doorman, directory, server_user="app")
    for user in PASSWORDS:
        assert log_in(doorman, user, PASSWORDS[user]) == "app"
    assert [row["user"] for row in doorman.console("SHOW POOLS") if row["database"] == "shop"] == ["app"]
    assert "password authentication failed" in refusal(doorman, "nobody at all")
    assert "password authentication failed" in refusal(doorman, "scram", "wrong")
    assert "password authentication failed" in refusal(doorman, "app", "any"), "app has no password in PostgreSQL"


def test_what_a_row_adds_is_nothing_to_a_server_user(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = with_metrics(pooler(make_doorman, directory, server_user="app", cache_ttl=100))
    execute(directory, """INSERT INTO finding.overlays VALUES ('scram', '{"work_mem": "1234kB"}')""")
    try:
        for _ in range(3):
            assert log_in(doorman, "scram", PASSWORDS["scram"], "SHOW work_mem") == "4MB"
            time.sleep(0.15)
    finally:
        execute(directory, "DELETE FROM finding.overlays")
    assert dropped(doorman) == {"dedicated_mode": 3}
    assert len(re.findall("dedicated_mode", doorman.log_text())) == 1, "told once for a user"


def test_a_server_user_with_a_password(make_doorman: MakeDoorman, directory: Postgres) -> None:
    doorman = pooler(make_doorman, directory, server_user="scram", server_password=PASSWORDS["scram"], min_pool_size=2)
    assert log_in(doorman, "hashed", PASSWORDS["hashed"]) == "scram"


def processor_time(doorman: Doorman) -> list[int]:
    """Of each worker, in milliseconds."""
    return [int(row["cpu_ms"]) for row in doorman.console("SHOW WORKERS") if row["role"] == "worker"]


@pytest.mark.slow
def test_five_thousand_users_log_in_with_one_look_up_each(make_doorman: MakeDoorman, directory: Postgres) -> None:
    """From a table, in a hurry, some of them twice at the same time; two workers, two look-up connections."""
    execute(
        directory,
        """CREATE TABLE finding.people AS
           SELECT 'user ' || n AS name, 'md5' || md5('secret ' || n || 'user ' || n) AS hash
           FROM generate_series(1, 5000) n;
           ALTER TABLE finding.people ADD PRIMARY KEY (name);
           CREATE FUNCTION finding.person(wanted text, OUT passwd text) RETURNS SETOF text
           LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
           BEGIN
               INSERT INTO finding.calls VALUES (wanted);
               RETURN QUERY SELECT hash FROM finding.people WHERE name = wanted;
           END $$""",
    )
    query = "SELECT passwd FROM finding.person($1)"
    doorman = pooler(make_doorman, directory, server_user="app", query=query)

    async def visit(number: int) -> None:
        keys: dict[str, Any] = {"user": f"user {number}", "password": f"secret {number}", "database": "shop"}
        connection = await asyncpg.connect(host=doorman.host, port=doorman.port, timeout=30, **keys)
        await connection.close()

    async def all_of_them() -> None:
        turns = asyncio.Semaphore(50)

        async def visit_in_turn(number: int) -> None:
            async with turns:
                await asyncio.gather(*(visit(number) for _ in range(2 if number % 20 == 0 else 1)))

        await asyncio.gather(*(visit_in_turn(number) for number in range(1, 5001)))

    before, worked = calls(directory), processor_time(doorman)
    asyncio.run(all_of_them())
    assert calls(directory) == before + 5000
    assert calls(directory, "user 77") == 1
    shares = [now - then for now, then in zip(processor_time(doorman), worked, strict=True)]
    assert len(shares) == 2 and min(shares) > 0.2 * sum(shares), "one worker took all logins"
    assert directory.activity_count(application_name="pg_doorman_auth_query") <= 2
    asyncio.run(visit(77))
    assert calls(directory, "user 77") == 1


# --- when things go wrong --------------------------------------------------------------------------------------------


def test_a_postgresql_that_is_down_fails_look_ups_and_nothing_else(
    make_doorman: MakeDoorman, own_directory: Postgres
) -> None:
    doorman = pooler(make_doorman, own_directory)
    log_in(doorman, "scram", PASSWORDS["scram"])
    own_directory.stop()
    said = refusal(doorman, "another one")
    assert "authentication service unavailable" in said and str(own_directory.port) not in said
    assert doorman.log_contains("auth_query of shop could not look up another one")
    own_directory.start()
    assert "password authentication failed" in refusal(doorman, "another one")
    assert log_in(doorman, "scram", PASSWORDS["scram"]) == "scram"


SLOW = """CREATE FUNCTION finding.slow(wanted text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO finding.calls VALUES ('slow ' || wanted);
    PERFORM pg_sleep(1.5);
    RETURN (SELECT passwd FROM finding.find(wanted));
END $$"""


def test_a_slow_look_up_is_made_once_for_all_workers_and_holds_up_nobody(
    make_doorman: MakeDoorman, own_directory: Postgres
) -> None:
    execute(own_directory, SLOW)
    block = {"query": "SELECT finding.slow($1)", "user": "finder", "password": FINDER, "database": "postgres"}
    users = [user_of("app", 2, password="open")]
    pools = {"shop": pool_of(own_directory, users=users, auth_query=block)}
    doorman = make_doorman(pools=pools, general={"pg_hba": None})
    with ThreadPoolExecutor(16) as threads:
        logins = [threads.submit(log_in, doorman, "scram", PASSWORDS["scram"]) for _ in range(12)]
        time.sleep(0.3)
        began = time.monotonic()
        for _ in range(20):
            assert log_in(doorman, "app", "open") == "app"
        assert time.monotonic() - began < 1.0
        assert not any(login.done() for login in logins)
        assert [login.result() for login in logins] == ["scram"] * 12
    assert calls(own_directory, "slow scram") == 1


def test_the_death_of_the_keeper_costs_a_look_up_some_time_only(
    make_doorman: MakeDoorman, own_directory: Postgres
) -> None:
    execute(own_directory, SLOW)
    doorman = pooler(make_doorman, own_directory, query="SELECT finding.slow($1)")
    keeper = doorman.pids().keeper
    assert keeper is not None
    with ThreadPoolExecutor(8) as threads:
        logins = [threads.submit(log_in, doorman, "scram", PASSWORDS["scram"]) for _ in range(6)]
        doorman.wait_until(lambda: calls_now(own_directory), "the look-up")
        os.kill(keeper, signal.SIGKILL)
        assert [login.result() for login in logins] == ["scram"] * 6
    assert doorman.pids().keeper not in (None, keeper)


def calls_now(postgres: Postgres) -> bool:
    return bool(postgres.activity(application_name="pg_doorman_auth_query", state="active"))


def test_a_worker_that_dies_while_it_waits_takes_nobody_else_with_it(
    make_doorman: MakeDoorman, own_directory: Postgres
) -> None:
    execute(own_directory, SLOW)
    doorman = pooler(make_doorman, own_directory, query="SELECT finding.slow($1)")
    workers = doorman.pids().workers
    with ThreadPoolExecutor(16) as threads:
        logins = [threads.submit(log_in, doorman, "scram", PASSWORDS["scram"]) for _ in range(12)]
        doorman.wait_until(lambda: calls_now(own_directory), "the look-up")
        doorman.kill_worker()
        outcomes = [login.exception() for login in logins]
    assert None in outcomes and all(isinstance(one, psycopg.OperationalError) for one in outcomes if one)
    doorman.wait_workers(2, without=[pid for pid in workers if pid not in doorman.pids().workers])
    assert log_in(doorman, "scram", PASSWORDS["scram"]) == "scram"


@pytest.mark.parametrize("lie", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I" * 2])
def test_a_postgresql_that_lies_lets_nobody_in(make_doorman: MakeDoorman, own_directory: Postgres, lie: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        stop = threading.Event()

        def pretend() -> None:
            impostor.settimeout(0.1)
            while not stop.is_set():
                try:
                    connection, _ = impostor.accept()
                except TimeoutError:
                    continue
                connection.recv(1000)
                connection.sendall(lie)
                connection.close()

        thread = threading.Thread(target=pretend)
        thread.start()
        try:
            block = {"query": QUERY, "user": "finder", "password": FINDER}
            pool = pool_of(own_directory, users=[], auth_query=block, server_port=impostor.getsockname()[1])
            doorman = make_doorman(pools={"shop": pool}, general={"pg_hba": None})
            assert "authentication service unavailable" in refusal(doorman, "scram", PASSWORDS["scram"])
            assert not doorman.log_contains("Traceback") and not doorman.log_contains(FINDER)
        finally:
            stop.set()
            thread.join()


def test_a_reload_with_another_query_forgets_what_was_found(make_doorman: MakeDoorman, own_directory: Postgres) -> None:
    doorman = pooler(make_doorman, own_directory)
    log_in(doorman, "scram", PASSWORDS["scram"])
    assert calls(own_directory, "scram") == 1
    block = doorman.config["pools"]["shop"]["auth_query"]
    pools = {"shop": pool_of(own_directory, users=[], auth_query={**block, "workers": 1})}
    doorman.reload(pools=pools)
    log_in(doorman, "scram", PASSWORDS["scram"])
    assert calls(own_directory, "scram") == 2
    doorman.reload(pools={"shop": pool_of(own_directory, users=[user_of("other", 1)])})
    assert "password authentication failed" in refusal(doorman, "scram", PASSWORDS["scram"])
    assert calls(own_directory, "scram") == 2
