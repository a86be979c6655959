"""A user who does not exist and a wrong password look the same: the same messages, the same bytes, the same time.

What a login draws at random (salts, nonces) is masked, but for its length.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from doorman.auth.md5 import md5_hash
from doorman.auth.scram import ScramClient
from doorman.auth.verifier import format_verifier, verifier_of_password
from doorman.wire.frontend import sasl_initial, sasl_response
from tests.e2e.auth.logins import assert_clean_log, assert_enters, guest
from tests.e2e.auth.test_refusals import verifier
from tests.e2e.raw import Ended, Raw
from tests.harness import Doorman, Postgres
from tests.harness.certificates import Authority
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import message, startup

SECRET = "ann-secret"
STORED = {
    "md5": ("md5", SECRET),
    "md5_hash": ("md5", md5_hash(SECRET, "ann")),
    "md5_verifier": ("md5", format_verifier(verifier_of_password("ann", SECRET))),
    "scram": ("scram-sha-256", SECRET),
    "scram_verifier": ("scram-sha-256", verifier(15_000)),
    "scram_hash": ("scram-sha-256", md5_hash(SECRET, "ann")),  # nobody can get in
    "clear": ("password", SECRET),
    "clear_hash": ("password", md5_hash(SECRET, "ann")),
    "clear_verifier": ("password", verifier(15_000)),
    "no_password": ("md5", ""),
    "cert": ("cert", ""),
}
LOOKED_UP = {"found_md5": "md5", "found_scram": "scram-sha-256", "found_clear": "password"}
QUERY = """SELECT CASE WHEN $1 = 'ann' THEN %s END AS passwd"""


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doorman]:
    authority = Authority(tmp_path_factory.mktemp("strangers"))
    pair = authority.issue("localhost", addresses=("127.0.0.1",))
    pools: dict[str, Any] = {
        name: pool_of(postgres, users=[guest("ann", password=stored)]) for name, (_, stored) in STORED.items()
    }
    rules = [f"host {name} all 127.0.0.1/32 {method}" for name, (method, _) in STORED.items() if method != "cert"]
    rules.append("hostssl cert all 127.0.0.1/32 cert")
    for name, method in LOOKED_UP.items():
        found = format_verifier(verifier_of_password("ann", SECRET)) if "scram" in name else md5_hash(SECRET, "ann")
        block = {"query": QUERY % f"'{found}'", "user": "postgres", "database": "postgres", "server_user": "app"}
        pools[name] = pool_of(postgres, users=[], auth_query=block)
        rules.append(f"host {name} all 127.0.0.1/32 {method}")
    general = {
        "pg_hba": {"content": "\n".join([*rules, "host pgdoorman all all md5"])},
        "auth_failure_delay": 0,
        "auth_failure_log_interval": 0,
        "tls_certificate": str(pair.certificate_path),
        "tls_private_key": str(pair.key_path),
        "tls_ca_cert": str(authority.path),
    }
    with Doorman(postgres, pools=pools, general=general) as doorman:
        yield doorman
        assert_clean_log(doorman)


def fail(doorman: Doorman, database: str, user: str, password: str = "wrong") -> tuple[list[bytes], float]:
    """What somebody hears who answers whatever is asked with a wrong password, masked; and how long that took."""
    heard = []
    scram = ScramClient(password=password)
    with Raw((doorman.host, doorman.port)) as raw:
        began = time.monotonic()
        raw.send(startup(user, database))
        try:
            while True:
                got = raw.next()
                heard.append(got.kind + masked(got.body).replace(user.encode(), b"USER"))
                code = int.from_bytes(got.body[:4], "big") if got.kind == b"R" else None
                if code == 3:
                    raw.send(message(b"p", password.encode() + b"\0"))
                elif code == 5:
                    raw.send(message(b"p", b"md5" + b"0" * 32 + b"\0"))
                elif code == 10:
                    raw.send(sasl_initial(scram.mechanism, scram.first()))
                elif code == 11:
                    raw.send(sasl_response(scram.final(got.body[4:])))
        except Ended:
            return heard, time.monotonic() - began


def quick(taken: Sequence[float]) -> float:
    """One in eight is quicker."""
    return sorted(taken)[len(taken) // 8]


def masked(body: bytes) -> bytes:
    """Without what is drawn at random."""
    code = body[:4]
    if code == b"\0\0\0\x05":
        return code + b"*" * len(body[4:])
    if code == b"\0\0\0\x0b":
        return re.sub(rb"(?<=[rs]=)[^,]*", lambda drawn: b"*" * len(drawn[0]), body)
    return body


@pytest.mark.parametrize("database", [*STORED, *LOOKED_UP])
def test_they_hear_the_same(pooler: Doorman, database: str) -> None:
    """Of several strangers, whoever resembles whom: here is only one user."""
    known = [fail(pooler, database, "ann")[0] for _ in range(4)]
    strangers = [fail(pooler, database, name)[0] for name in ("bob", "eve", "x", "ann ", "Ann", "a" * 63)]
    assert known[0] and all(heard == known[0] for heard in known + strangers), (known, strangers)
    assert known[0][-1].startswith(b"E")


@pytest.mark.parametrize("database", [name for name in STORED if name != "cert"])
def test_it_takes_as_long(pooler: Doorman, database: str) -> None:
    """In turns, so that what else the machine does hits both; the quick ones of many, as others are
    waiting for a processor. For look-ups see below."""
    for user in ("ann", "bob"):  # what is found out once and remembered, by each worker
        for _ in range(6):
            fail(pooler, database, user)
    times: dict[str, list[float]] = {"ann": [], "bob": []}
    for _ in range(60):
        for user, taken in times.items():
            taken.append(fail(pooler, database, user)[1])
    known, stranger = (quick(taken) for taken in times.values())
    assert abs(known - stranger) < max(0.25 * min(known, stranger), 0.0005), (known, stranger)


def test_the_first_time_takes_as_long_too(postgres: Postgres) -> None:
    """Nobody has logged in before: what a password in clear is made into is not there yet. It is made when the proof
    has come, within the delay of a refusal; for strangers it would cost milliseconds for each invented name.

    A worker tells refusals ten times a second, the two workers not at the same moments: most take 100 ms here.
    """
    users = [guest(f"user {number}", password=f"secret {number}") for number in range(80)]
    general = {"pg_hba": {"content": "host all all all scram-sha-256"}, "auth_failure_delay": "50ms"}
    with Doorman(postgres, pools={"shop": pool_of(postgres, users=users)}, general=general) as doorman:
        fail(doorman, "shop", "warm up")
        pairs = [(challenge(doorman, f"user {n}"), challenge(doorman, f"nobody {n}")) for n in range(40)]
        known, stranger = (quick(taken) for taken in zip(*pairs, strict=True))
        assert abs(known - stranger) < 0.0005, ("challenge", known, stranger)
        pairs = [(fail(doorman, "shop", f"user {n}")[1], fail(doorman, "shop", f"body {n}")[1]) for n in range(40, 80)]
        known, stranger = (statistics.median(taken) for taken in zip(*pairs, strict=True))
        assert abs(known - stranger) < 0.01, (known, stranger)


def challenge(doorman: Doorman, user: str) -> float:
    """How long the first challenge of SCRAM takes from where the client says its name; seconds."""
    scram = ScramClient(password="wrong")
    with Raw((doorman.host, doorman.port)) as raw:
        raw.send(startup(user, "shop"))
        began = time.monotonic()
        assert raw.next().body[:4] == b"\0\0\0\x0a"
        raw.send(sasl_initial(scram.mechanism, scram.first()))
        assert raw.next().body[:4] == b"\0\0\0\x0b"
        return time.monotonic() - began


def test_a_look_up_after_a_failure_does_not_show(postgres: Postgres) -> None:
    """A user's password may have changed, so it is looked up anew: that happens within the delay of the answer."""
    postgres.admin("CREATE SEQUENCE asked; GRANT ALL ON asked TO PUBLIC")
    found = md5_hash(SECRET, "ann")
    query = f"SELECT CASE WHEN $1 = 'ann' THEN '{found}' END AS passwd FROM pg_sleep(0.4), nextval('public.asked')"
    block = {"query": query, "user": "postgres", "database": "postgres", "server_user": "app", "min_interval": "1ms"}
    pools = {
        "shop": pool_of(postgres, users=[], auth_query=block),
        "postgres": pool_of(postgres, users=[user_of("app")]),
    }
    general = {"pg_hba": {"content": "host shop all all md5\nhost all all all trust"}, "auth_failure_delay": "600ms"}
    with Doorman(postgres, pools=pools, general=general) as doorman:
        assert_enters(doorman, "ann", SECRET)
        fail(doorman, "shop", "bob")
        before = postgres.query("SELECT last_value FROM asked")[0][0]
        known = [fail(doorman, "shop", "ann")[1] for _ in range(2)]
        assert postgres.query("SELECT last_value FROM asked")[0][0] == before + 2, "it was not looked up anew"
        stranger = [fail(doorman, "shop", "bob")[1] for _ in range(2)]
        assert all(0.6 <= taken < 0.8 for taken in known + stranger), (known, stranger)
    postgres.admin("DROP SEQUENCE asked")
