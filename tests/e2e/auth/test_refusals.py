"""What a failed login costs whoever tries it, and what it costs us: time, nothing, and one line in the log."""

from __future__ import annotations

import re
import statistics
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256

import psycopg
import pytest

from doorman.auth.md5 import md5_hash
from doorman.auth.verifier import MACHINE_ID, ScramVerifier, derive_keys, format_verifier
from tests.e2e.auth.logins import assert_clean_log, assert_enters, guest, refusal
from tests.e2e.raw import Raw, wait_until
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import message, startup

DELAY = 0.4
HBA = """
host rejected all 127.0.0.1/32 reject
host clear all 127.0.0.1/32 password
host postgres all 127.0.0.1/32 trust
host all all 127.0.0.1/32 md5
"""


def verifier(iterations: int, salt: bytes = b"0123456789abcdef") -> str:
    keys = derive_keys("scram-secret", salt, iterations)
    stored = sha256(keys.client_key).digest()
    return format_verifier(ScramVerifier(iterations, b64encode(salt).decode(), stored, keys.server_key))


@pytest.fixture(scope="module")
def pooler(postgres: Postgres) -> Iterator[Doorman]:
    scram = [guest(f"scram_{n}", password=verifier(n)) for n in (4096, 10_000)]
    md5 = [guest(f"md5_{n}", password=md5_hash("md5-secret", f"md5_{n}")) for n in range(2)]
    pools = {
        "shop": pool_of(postgres, users=[*scram, *md5]),
        "clear": pool_of(postgres, users=[guest("plain", password="plain-secret")]),
        "rejected": pool_of(postgres, users=[guest("plain", password="x")]),
        "postgres": pool_of(postgres, users=[user_of("app", 3)]),
    }
    general = {"pg_hba": {"content": HBA}, "auth_failure_delay": "400ms", "auth_failure_log_interval": "1h"}
    with Doorman(postgres, pools=pools, general=general) as doorman:
        yield doorman
        assert_clean_log(doorman)


def ask(doorman: Doorman, user: str, database: str = "shop") -> tuple[Raw, int, bytes]:
    """A client that has said who it is, and what it is asked for: code and data."""
    raw = Raw((doorman.host, doorman.port))
    raw.send(startup(user, database))
    body = raw.next().body
    return raw, int.from_bytes(body[:4], "big"), body[4:]


@pytest.mark.parametrize(
    ("user", "database"),
    [("md5_0", "shop"), ("plain", "clear"), ("plain", "rejected"), ("x", "elsewhere"), ("x", "shop")],
)
def test_the_answer_comes_late(pooler: Doorman, user: str, database: str) -> None:
    began = time.monotonic()
    refusal(pooler, user, "wrong", database)
    assert DELAY <= time.monotonic() - began < DELAY + 1


def test_who_waits_for_its_refusal_holds_nothing_and_nobody_up(pooler: Doorman) -> None:
    raws = []
    for _ in range(150):
        raw, _, _ = ask(pooler, "md5_0")
        raw.send(message(b"p", b"md5wrong\0"), b"and more" * 100)
        raws.append(raw)
    began = time.monotonic()
    with Raw((pooler.host, pooler.port)) as other:
        other.log_in("app", "postgres")
        for _ in range(100):
            assert other.value("SELECT 1") == "1"
    assert time.monotonic() - began < DELAY
    assert all(row["sv_active"] == row["sv_login"] == 0 for row in pooler.console("SHOW POOLS"))
    for raw in raws[::2]:
        raw.close()
    for raw in raws[1::2]:
        assert raw.last_words()["C"] == "28P01"
        raw.close()
    wait_until(lambda: len(pooler.console("SHOW CLIENTS")) == 1, "all are gone", 5)


def test_a_source_is_logged_once_for_a_cause_by_whatever_worker(postgres: Postgres) -> None:
    pools = {"shop": pool_of(postgres, users=[guest("ann", password="secret")])}
    hba = {"content": "host shop all all md5"}
    general = {"auth_failure_delay": 0, "auth_failure_log_interval": "1h", "pg_hba": hba, "worker_threads": 2}
    with Doorman(postgres, pools=pools, general=general) as doorman:
        for _ in range(30):
            refusal(doorman, "ann", "wrong")
        assert len(re.findall(r"ann@shop .* was refused: 28P01", doorman.log_text())) == 1
        for _ in range(6):
            refusal(doorman, "ann", "wrong", "elsewhere")
        assert len(re.findall("was refused: 28000", doorman.log_text())) == 1, "another cause"


def test_another_interval_and_no_delay_at_all(postgres: Postgres) -> None:
    pools = {"shop": pool_of(postgres, users=[guest("ann", password="secret")])}
    hba = {"content": "host all all all md5"}
    general = {"auth_failure_delay": 0, "auth_failure_log_interval": "1s", "pg_hba": hba, "worker_threads": 2}
    with Doorman(postgres, pools=pools, general=general) as doorman:
        began = time.monotonic()
        for _ in range(20):
            refusal(doorman, "ann", "wrong")
        assert time.monotonic() - began < 1, "the refusals were delayed"
        time.sleep(1.1)
        for _ in range(8):
            refusal(doorman, "ann", "wrong")
        told = re.findall(r"\((\d+) more by this source were not logged\)", doorman.log_text())
        assert told == ["19"]
        assert_enters(doorman, "ann", "secret")


def first_message(doorman: Doorman, user: str) -> tuple[int, bytes, bytes]:
    """Code of the request, and for SCRAM salt and iterations."""
    raw, code, _ = ask(doorman, user)
    with raw:
        if code != 10:
            return code, b"", b""
        first = b"n,,n=,r=abcdefgh"
        raw.send(message(b"p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first))
        fields = dict(part.split(b"=", 1) for part in raw.next().body[4:].split(b","))
        return code, fields[b"s"], fields[b"i"]


def test_strangers_look_like_users(pooler: Doorman) -> None:
    """The same stranger always alike, whichever worker it meets; all together like the users of the database."""
    strangers = {f"nobody_{n}": [first_message(pooler, f"nobody_{n}") for _ in range(6)] for n in range(40)}
    assert all(len(set(seen)) == 1 for seen in strangers.values())
    looks = [seen[0] for seen in strangers.values()]
    kinds = {(code, iterations) for code, _, iterations in looks}
    assert kinds == {(5, b""), (10, b"4096"), (10, b"10000")}
    salts = [salt for code, salt, _ in looks if code == 10]
    assert len(set(salts)) == len(salts) and {len(salt) for salt in salts} == {24}


@pytest.mark.skipif(not MACHINE_ID.exists(), reason="no /etc/machine-id: their salts are drawn at each start")
def test_a_restart_does_not_give_strangers_away(pooler: Doorman, postgres: Postgres) -> None:
    with Doorman(postgres, pools=pooler.config["pools"], general={"pg_hba": {"content": HBA}}) as again:
        for name in (f"nobody_{n}" for n in range(10)):
            assert first_message(again, name) == first_message(pooler, name)


def test_strangers_take_as_long(pooler: Doorman) -> None:
    """Passwords in clear: one known user, one stranger, in turns."""
    times: dict[str, list[float]] = {"plain": [], "nobody": []}
    for _ in range(5):
        for user, taken in times.items():
            began = time.monotonic()
            refusal(pooler, user, "wrong", "clear")
            taken.append(time.monotonic() - began)
    medians = {user: statistics.median(taken) for user, taken in times.items()}
    assert abs(medians["plain"] - medians["nobody"]) < 0.11, medians  # refusals leave in steps of a tenth of a second


def test_an_administrator_may_be_stored_as_a_hash(postgres: Postgres) -> None:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 3)])}
    for stored, password in ((md5_hash("md5-secret", "admin"), "md5-secret"), (verifier(4096), "scram-secret")):
        with Doorman(postgres, pools=pools, general={"pg_hba": {"content": HBA}}) as doorman:
            doorman.update_config(general={"admin_password": stored})
            doorman.stop()
            doorman.start()
            for _ in range(4):
                dsn = doorman.dsn(user="admin", dbname="pgbouncer", password=password)
                with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as console:
                    assert console.execute("SHOW VERSION").fetchall()
            for user, wrong in (("admin", "wrong"), ("admin", stored), ("guest", password)):
                assert "password authentication failed" in refusal(doorman, user, wrong, "pgdoorman")


def test_a_database_that_does_not_exist_is_told_to_users_alone(pooler: Doorman) -> None:
    """PostgreSQL asks who it is first, and only then says that there is no such database."""
    for _ in range(3):
        assert "No connection pool configured for database: elsewhere" in refusal(
            pooler, "scram_4096", "scram-secret", "elsewhere"
        )
        assert "password authentication failed" in refusal(pooler, "scram_4096", "wrong", "elsewhere")
        assert "password authentication failed" in refusal(pooler, "nobody", "scram-secret", "elsewhere")
    known, unknown = (ask(pooler, "nobody", database) for database in ("shop", "elsewhere"))
    assert known[1] in (5, 10) and unknown[1] in (5, 10)
    for raw, _, _ in (known, unknown):
        raw.close()
    with Raw((pooler.host, pooler.port)) as raw:
        raw.send(startup("scram_4096", "elsewhere"))
        raw.next()
        raw.send(message(b"p", b"SCRAM-SHA-256\0\xff\xff\xff\xff"))
        assert raw.next().body[:4] == b"\0\0\0\x0b"
