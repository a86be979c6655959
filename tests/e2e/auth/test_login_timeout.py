"""`client_login_timeout`: a login that stops at whatever point ends in time, holds nothing, and is told so."""

from __future__ import annotations

import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.e2e.auth.logins import assert_clean_log, guest
from tests.e2e.raw import SSL_REQUEST, Ended, Raw
from tests.harness import Doorman, Postgres
from tests.harness.certificates import Authority
from tests.harness.doorman import ADMIN_PASSWORD, ADMIN_USER, pool_of, user_of
from tests.harness.ports import free_port
from tests.torture.wire import message, startup

LIMIT = 0.8
HBA = """
host silent all 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapport={port} ldapbasedn=dc=x
host clear all 127.0.0.1/32 password
host shop all 127.0.0.1/32 scram-sha-256
host hashed all 127.0.0.1/32 md5
host pgdoorman all 127.0.0.1/32 md5
host all all 127.0.0.1/32 trust
"""
FIRST = b"n,,n=,r=abcdefgh"
INITIAL = message(b"p", b"SCRAM-SHA-256\0" + len(FIRST).to_bytes(4, "big") + FIRST)


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doorman]:
    pair = Authority(tmp_path_factory.mktemp("login-timeout")).issue("localhost", addresses=("127.0.0.1",))
    names = ("silent", "clear", "shop", "hashed")
    pools = {name: pool_of(postgres, users=[guest("ann", password="ann-secret")]) for name in names}
    block = {"query": "SELECT $1::text AS passwd FROM pg_sleep(20)", "user": "postgres", "database": "postgres"}
    pools["asked"] = pool_of(postgres, users=[], auth_query=block)
    pools["postgres"] = pool_of(postgres)
    pools["session"] = pool_of(postgres, pool_mode="session", users=[user_of("app", 1)])
    with socket.create_server(("127.0.0.1", 0)) as directory:  # accepts, and never answers
        general = {
            "pg_hba": {"content": HBA.format(port=directory.getsockname()[1])},
            "client_login_timeout": f"{LIMIT * 1000:.0f}ms",
            "auth_failure_log_interval": 0,
            "auth_failure_delay": "2s",
            "tls_certificate": str(pair.certificate_path),
            "tls_private_key": str(pair.key_path),
        }
        doorman = Doorman(postgres, pools=pools, general=general)
        doorman.config["web"] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
        doorman.write_config()
        with doorman:
            yield doorman
            assert_clean_log(doorman)


def nothing(raw: Raw) -> None:
    """On TCP the kernel keeps a silent connection to itself for about a second."""


def half_a_startup_packet(raw: Raw) -> None:
    raw.send(startup("ann", "shop")[:11])


def a_packet_that_comes_byte_by_byte(raw: Raw) -> None:
    for byte in startup("ann", "shop")[:6]:
        raw.send(bytes([byte]))
        time.sleep(0.05)


def declined_encryption(raw: Raw) -> None:
    raw.send((8).to_bytes(4, "big") + (80877104).to_bytes(4, "big"))
    assert raw.read_bytes(1) == b"N"


def no_answer_to_scram(raw: Raw) -> None:
    raw.send(startup("ann", "shop"))
    assert raw.next().body[:4] == b"\0\0\0\x0a"


def half_a_sasl_message(raw: Raw) -> None:
    no_answer_to_scram(raw)
    raw.send(INITIAL[:-3])


def half_a_sasl_exchange(raw: Raw) -> None:
    no_answer_to_scram(raw)
    raw.send(INITIAL)
    assert raw.next().body[:4] == b"\0\0\0\x0b"


def no_answer_to_md5(raw: Raw) -> None:
    raw.send(startup("ann", "hashed"))
    assert raw.next().body[:4] == b"\0\0\0\x05"


def no_password(raw: Raw) -> None:
    raw.send(startup("ann", "clear"))
    assert raw.next().body == b"\0\0\0\x03"


def a_directory_that_is_silent(raw: Raw) -> None:
    raw.send(startup("ann", "silent"))
    assert raw.next().body == b"\0\0\0\x03"
    raw.send(message(b"p", b"ann-secret\0"))


def a_look_up_that_takes_long(raw: Raw) -> None:
    raw.send(startup("somebody", "asked"))


STAGES: dict[Callable[[Raw], None], str] = {
    nothing: "before the startup packet was whole",
    half_a_startup_packet: "before the startup packet was whole",
    a_packet_that_comes_byte_by_byte: "before the startup packet was whole",
    declined_encryption: "before the startup packet was whole",
    no_answer_to_scram: "before it has proved who it is",
    half_a_sasl_message: "before it has proved who it is",
    half_a_sasl_exchange: "before it has proved who it is",
    no_answer_to_md5: "before it has proved who it is",
    no_password: "before it has proved who it is",
    a_directory_that_is_silent: "waiting for an answer about it",
    a_look_up_that_takes_long: "waiting for an answer about it",
}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_client_that_stops_there(pooler: Doorman, stage: Callable[[Raw], None]) -> None:
    mark = pooler.log_mark()
    counted = refused_for_time(pooler)

    def stop(_: int) -> tuple[dict[str, str], float]:
        with Raw((pooler.host, pooler.port)) as raw:
            stage(raw)
            began = time.monotonic()
            return raw.last_words(), time.monotonic() - began

    with ThreadPoolExecutor(4) as threads:  # both workers have some
        ends = list(threads.map(stop, range(4)))
    for words, took in ends:
        assert (words["S"], words["C"]) == ("FATAL", "57014")
        assert words["M"] == "canceling authentication due to timeout"
        assert took < LIMIT + (3.5 if stage is nothing else 0.7)
    assert pooler.log_text(mark).count(f"[client_login_timeout, {STAGES[stage]}]") == 4
    assert refused_for_time(pooler) == counted + 4
    with pooler.connect(user="app") as other:
        assert other.execute("SELECT 1").fetchone() == (1,)


def refused_for_time(doorman: Doorman) -> int:
    """As the metrics have it."""
    url = f"http://127.0.0.1:{doorman.config['web']['port']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(r'^pg_doorman_login_failures_total{cause="timeout"} (\d+)$', text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


def test_libpq_is_told(pooler: Doorman) -> None:
    with pytest.raises(psycopg.OperationalError, match="canceling authentication due to timeout"):
        pooler.connect(user="somebody", dbname="asked", password="x")


@pytest.mark.parametrize("sent", [0, 1, 5, 200], ids=lambda sent: f"{sent}_bytes")
def test_a_client_that_stops_in_the_tls_handshake(pooler: Doorman, sent: int) -> None:
    """It would take words in clear for a broken record, so there are none."""
    mark = pooler.log_mark()
    ours, _ = ssl.MemoryBIO(), ssl.MemoryBIO()
    shaking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), ours, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        shaking.do_handshake()
    with Raw((pooler.host, pooler.port)) as raw:
        raw.send(SSL_REQUEST)
        assert raw.read_bytes(1) == b"S"
        raw.send(ours.read()[:sent])
        began = time.monotonic()
        with pytest.raises(Ended):
            raw.read_bytes(1)
        assert LIMIT - 0.2 < time.monotonic() - began < LIMIT + 0.7
    pooler.wait_log("57014 .*client_login_timeout, in the TLS handshake", since=mark)


def test_a_client_that_stops_within_tls_is_told_there(pooler: Doorman) -> None:
    with socket.create_connection((pooler.host, pooler.port)) as sock:
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(sock) as client:
            client.sendall(startup("ann", "shop")[:9])
            client.settimeout(5)
            assert b"C57014\0" in client.recv(1000)


def test_a_refusal_that_is_on_its_way_is_not_told_otherwise(pooler: Doorman) -> None:
    """`auth_failure_delay` is longer here."""
    with Raw((pooler.host, pooler.port)) as raw:
        no_password(raw)
        raw.send(message(b"p", b"wrong\0"))
        assert raw.last_words()["C"] == "28P01"


def test_waiting_for_a_server_is_no_part_of_the_login(pooler: Doorman) -> None:
    """That is `query_wait_timeout`'s, which is five seconds here."""
    with pooler.connect(user="app", dbname="session") as holder, ThreadPoolExecutor(1) as threads:
        holder.execute("SELECT 1")
        other = threads.submit(pooler.query, "SELECT 2", dbname="session")
        time.sleep(LIMIT + 0.8)
        assert not other.done()
        holder.close()
        assert other.result() == [(2,)]


def test_a_session_lives_longer(pooler: Doorman) -> None:
    administrator = {"user": ADMIN_USER, "password": ADMIN_PASSWORD}
    with pooler.connect(user="app") as client, pooler.connect(**administrator, dbname="pgdoorman"):
        time.sleep(LIMIT + 0.5)
        assert client.execute("SELECT 3").fetchone() == (3,)


def test_a_reload_holds_for_logins_under_way(postgres: Postgres) -> None:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 2)])}
    with Doorman(postgres, pools=pools, general={"client_login_timeout": 0}) as doorman:
        raws = [Raw((doorman.host, doorman.port)) for _ in range(6)]
        for raw in raws:
            raw.send(startup("app", "postgres")[:8])
        assert raws[0].is_silent(1.0), "0 is no limit"
        doorman.reload(general={"client_login_timeout": "200ms"})
        for raw in raws:
            assert raw.last_words()["C"] == "57014"
            raw.close()
