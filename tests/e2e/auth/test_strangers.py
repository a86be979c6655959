"""A user who does not exist and a wrong password look the same: the same messages, the same bytes, the same time.

What a login draws at random (salts, nonces) is masked, but for its length.
"""

from __future__ import annotations

import itertools
import re
import ssl
import statistics
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from doorman.auth.md5 import md5_hash
from doorman.auth.scram import ScramClient
from doorman.auth.verifier import format_verifier, verifier_of_password
from doorman.wire.frontend import sasl_initial, sasl_response
from tests.e2e.auth.logins import assert_clean_log, assert_enters, guest
from tests.e2e.auth.test_refusals import verifier
from tests.e2e.raw import SSL_REQUEST, Ended, Raw
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
LOOKED_UP = {
    "found_md5": ("md5", md5_hash(SECRET, "ann")),
    "found_scram": ("scram-sha-256", format_verifier(verifier_of_password("ann", SECRET))),
    "found_verifier": ("md5", verifier(15_000)),
    "found_clear": ("password", md5_hash(SECRET, "ann")),
    "found_clear_verifier": ("password", verifier(15_000)),
}
LOOKED_UP |= {f"{name}_anew": found for name, found in LOOKED_UP.items()}  # each failed login asks PostgreSQL again
QUERY = """SELECT CASE WHEN $1 = 'ann' THEN %s END AS passwd"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, authority: Authority) -> Iterator[Doorman]:
    pair = authority.issue("localhost", addresses=("127.0.0.1",))
    pools: dict[str, Any] = {
        name: pool_of(postgres, users=[guest("ann", password=stored)]) for name, (_, stored) in STORED.items()
    }
    rules = [f"host {name} all 127.0.0.1/32 {method}" for name, (method, _) in STORED.items() if method != "cert"]
    rules.append("hostssl cert all 127.0.0.1/32 cert")
    for name, (method, found) in LOOKED_UP.items():
        block = {"query": QUERY % f"'{found}'", "user": "postgres", "database": "postgres", "server_user": "app"}
        block["min_interval"] = 1 if name.endswith("anew") else "1h"
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


def fail(
    doorman: Doorman, database: str, user: str, password: str = "wrong", tls: ssl.SSLContext | None = None
) -> tuple[list[bytes], float]:
    """What somebody hears who answers whatever is asked with a wrong password, masked; and how long that took."""
    heard = []
    scram = ScramClient(password=password)
    with Raw((doorman.host, doorman.port)) as raw:
        if tls is not None:
            raw.send(SSL_REQUEST)
            assert raw.read_bytes(1) == b"S"
            raw.socket = tls.wrap_socket(raw.socket)
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
                    raw.send(sasl_response(without_deriving(got.body[4:])))
        except Ended:
            return heard, time.monotonic() - began


def without_deriving(server_first: bytes) -> bytes:
    """client-final-message with a proof of nothing: what a client spends on keys would be measured too."""
    return b"c=biws," + server_first.partition(b",")[0] + b",p=" + b64encode(bytes(32))


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


@pytest.mark.parametrize("database", [*(name for name in STORED if name != "cert"), *LOOKED_UP])
def test_it_takes_as_long(pooler: Doorman, database: str) -> None:
    """In turns, so that what else the machine does hits both; the quick ones of many, as others are
    waiting for a processor. For look-ups see below."""
    assert_as_long(lambda user: fail(pooler, database, user)[1])


def assert_as_long(ask: Callable[[str], float]) -> None:
    """`ask` says how long a user took."""
    for user in ("ann", "bob"):  # what is found out once and remembered, by each worker
        for _ in range(6):
            ask(user)
    assert_alike(lambda: [in_turns(ask, "ann", "bob", number) for number in range(60)])


def in_turns(ask: Callable[[str], float], known: str, stranger: str, number: int) -> tuple[float, float]:
    """What is looked up in the background after the one may be in the way of the other: so each is first in turn."""
    if number % 2:
        return ask(known), ask(stranger)
    late = ask(stranger)
    return ask(known), late


def assert_alike(measure: Callable[[], Sequence[tuple[float, float]]]) -> None:
    """The quick ones of known users and strangers. What the machine does beside may spoil a measurement or two, but not
    a difference that is there make vanish."""
    seen = []
    for _ in range(3):
        known, stranger = (quick(taken) for taken in zip(*measure(), strict=True))
        if abs(known - stranger) < max(0.25 * min(known, stranger), 0.0004):
            return
        seen.append((known, stranger))
    pytest.fail(f"seconds of known users and strangers, each of three times: {seen}")


def test_a_difference_would_be_seen() -> None:
    """Of half a millisecond, that is: by the same measure."""
    with pytest.raises(pytest.fail.Exception, match="three times"):
        assert_as_long(lambda user: spin(0.0015 if user == "ann" else 0.001))


def spin(seconds: float) -> float:
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        pass
    return time.monotonic() - began


@pytest.mark.parametrize("shown", ["nothing, in plain text", "no certificate", "the certificate of eve"])
def test_certificates_tell_nothing_either(pooler: Doorman, authority: Authority, shown: str) -> None:
    """Only who has a certificate for a name learns whether there is such a user."""
    tls = None
    if shown != "nothing, in plain text":
        tls = ssl.create_default_context(cafile=str(authority.path))
        tls.check_hostname = False
    if tls is not None and shown != "no certificate":
        eve = authority.issue("eve")
        tls.load_cert_chain(eve.certificate_path, eve.key_path)
    known = fail(pooler, "cert", "ann", tls=tls)[0]
    assert known[-1].startswith(b"ESFATAL\0VFATAL\0C28000\0")
    assert all(fail(pooler, "cert", name, tls=tls)[0] == known for name in ("ann", "bob", "x", "Ann", "a" * 63))
    assert_as_long(lambda user: fail(pooler, "cert", user, tls=tls)[1])


@pytest.mark.parametrize("name", ["found_md5", "found_verifier", "found_clear"])
def test_the_first_look_up_takes_as_long_too(postgres: Postgres, name: str) -> None:
    """Every name is new; those of users are found. Strangers look like users from the first one on that was found."""
    method, stored = LOOKED_UP[name]
    query = f"SELECT CASE WHEN $1 LIKE 'user%' THEN '{stored}' END AS passwd"
    block = {"query": query, "user": "postgres", "database": "postgres", "server_user": "app"}
    general = {"pg_hba": {"content": f"host all all all {method}"}, "auth_failure_delay": 0}
    with Doorman(postgres, pools={"shop": pool_of(postgres, users=[], auth_query=block)}, general=general) as doorman:
        for number in range(6):
            first, _ = fail(doorman, "shop", f"user, the first {number}")
        numbers = itertools.count(1)

        def measure() -> list[tuple[float, float]]:
            names = [next(numbers) for _ in range(60)]
            return [in_turns(ask, f"user {number}", f"body {number}", number) for number in names]

        def ask(name: str) -> float:
            heard, taken = fail(doorman, "shop", name)
            assert heard == first
            return taken

        assert_alike(measure)


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
