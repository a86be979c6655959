"""Clients over TLS: modes, versions, certificates, bytes where none belong."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import asyncpg
import psycopg
import pytest

from tests.e2e.raw import SSL_REQUEST, Raw
from tests.harness.certificates import DAY, Authority, Pair
from tests.tls.conftest import MakePooler
from tests.torture.wire import startup

IN_USE = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_versions_and_certificates(make_pooler: MakePooler, authority: Authority, version: str, kind: str) -> None:
    pair = authority.issue("localhost", kind=kind, names=("localhost",), label=f"pooler-{kind}")
    pooler = make_pooler(tls_certificate=str(pair.certificate_path), tls_private_key=str(pair.key_path))
    words = {"sslmode": "verify-full", "host": "localhost", "hostaddr": "127.0.0.1", "sslrootcert": str(authority.path)}
    with pooler.connect(**words, ssl_max_protocol_version=version) as client:
        assert client.pgconn.ssl_in_use
        assert client.execute("SELECT length(repeat('x', 3000000))").fetchone() == (3_000_000,)
        assert client.execute("SELECT repeat('x', 3000000)").fetchone() == ("x" * 3_000_000,)
        assert client.execute("SELECT length(%s)", ["y" * 3_000_000]).fetchone() == (3_000_000,)
        assert sorted(row["tls"] for row in pooler.console("SHOW CLIENTS") if row["user"] == "app") == ["true"]


def test_without_a_certificate_tls_is_declined(make_pooler: MakePooler) -> None:
    pooler = make_pooler(tls_mode="disable")
    with Raw((pooler.host, pooler.port)) as client:
        client.send(SSL_REQUEST)
        assert client.read_bytes(1) == b"N"
        client.log_in()


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_plain_text_is_refused_where_tls_is_required(make_pooler: MakePooler, authority: Authority, mode: str) -> None:
    pooler = make_pooler(tls_mode=mode, tls_ca_cert=str(authority.path))
    with pytest.raises(psycopg.OperationalError, match="without SSL is not allowed"):
        pooler.connect(sslmode="disable")


def test_allow_takes_both(make_pooler: MakePooler) -> None:
    pooler = make_pooler(tls_mode="allow")
    for mode, expected in (("disable", False), ("require", True)):
        with pooler.connect(sslmode=mode) as client:
            assert client.pgconn.ssl_in_use is expected
            assert client.execute("SELECT 1").fetchone() == (1,)


def test_verify_full_wants_a_certificate_of_our_authority(make_pooler: MakePooler, authority: Authority) -> None:
    good = authority.issue("app", label="client-good")
    late = authority.issue("app", lifetime=-DAY, label="client-expired")
    bad = authority.issue("app", label="client-revoked")
    (authority.directory / "other").mkdir(exist_ok=True)
    stranger = Authority(authority.directory / "other", "another authority").issue("app", label="client-stranger")
    pooler = make_pooler(tls_mode="verify-full", tls_ca_cert=str(authority.revoke(bad)), auth_failure_log_interval=0)
    with pooler.connect(sslmode="require", **good.client_parameters()) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    for pair, reason in ((late, "expired"), (bad, "revoked"), (stranger, "issuer"), (None, "did not return")):
        words = pair.client_parameters() if pair else {"sslcert": "/none", "sslkey": "/none"}
        mark = pooler.log_mark()
        with pytest.raises(psycopg.OperationalError), pooler.connect(sslmode="require", **words) as client:
            client.execute("SELECT 1")
        pooler.wait_until(lambda reason=reason, mark=mark: pooler.log_contains(reason, since=mark), reason)


def test_bytes_stuffed_behind_the_request_are_refused(make_pooler: MakePooler) -> None:
    pooler = make_pooler()
    with Raw((pooler.host, pooler.port)) as client:
        client.send(SSL_REQUEST + startup("app", "postgres"))
        assert b"received unencrypted data after SSL request" in client.read_to_end()


def wrap(sock: socket.socket, *, alpn: list[str] | None = None) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    return context.wrap_socket(sock)


def log_in(sock: socket.socket) -> bytes:
    sock.sendall(startup("app", "postgres"))
    got = b""
    while not got.endswith(b"Z\0\0\0\x05I"):
        part = sock.recv(65536)
        if not part:
            raise ConnectionError(got)
        got += part
    return got


def test_direct_tls_needs_alpn(make_pooler: MakePooler) -> None:
    pooler = make_pooler()
    with wrap(socket.create_connection((pooler.host, pooler.port)), alpn=["postgresql"]) as client:
        assert client.selected_alpn_protocol() == "postgresql"
        log_in(client)
    with pytest.raises(OSError), wrap(socket.create_connection((pooler.host, pooler.port))) as client:
        log_in(client)
    with pytest.raises(OSError, match="no application protocol"):
        wrap(socket.create_connection((pooler.host, pooler.port)), alpn=["http/1.1"])


def test_another_request_within_tls_is_refused(make_pooler: MakePooler) -> None:
    pooler = make_pooler()
    sock = socket.create_connection((pooler.host, pooler.port))
    sock.sendall(SSL_REQUEST)
    assert sock.recv(1) == b"S"
    with wrap(sock) as client:
        client.sendall(SSL_REQUEST)
        assert b"08P01" in client.recv(1000)


def test_garbage_instead_of_a_handshake_ends_in_an_alert(make_pooler: MakePooler) -> None:
    pooler = make_pooler()
    for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(100), b"\x16\x03\x01\0\x05hello"):
        with Raw((pooler.host, pooler.port)) as client:
            client.send(SSL_REQUEST)
            assert client.read_bytes(1) == b"S"
            client.send(garbage)
            answer = client.read_to_end()
            assert answer == b"" or answer[0] == 0x15
    with pooler.connect(sslmode="require") as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_a_cancel_request_in_clear_and_over_tls(make_pooler: MakePooler) -> None:
    pooler = make_pooler(server_tls_mode="require")
    for encrypted in (False, True):
        with pooler.connect(sslmode="require") as client:
            client.pgconn.send_query(b"SELECT pg_sleep(30)")
            time.sleep(0.3)
            if encrypted:  # libpq 17's cancel functions encrypt as the connection itself
                client.cancel_safe()
            else:
                client.pgconn.get_cancel().cancel()
            result = client.pgconn.get_result()
            assert result is not None and result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
            assert client.pgconn.get_result() is None


def test_handshakes_are_limited_over_all_workers(make_pooler: MakePooler) -> None:
    """40 at 100 a second: not sooner, and not each at its worker's next tick (which took 1.8 s at best)."""
    pooler = make_pooler(tls_rate_limit_per_second=100)
    took = []
    for _ in range(4):
        began = time.monotonic()
        for _ in range(40):
            pooler.connect(sslmode="require").close()
        took.append(time.monotonic() - began)
    assert 0.3 < min(took) < 1.5, took


def test_certificates_are_reloaded_and_bad_ones_are_not(
    make_pooler: MakePooler, authority: Authority, tmp_path: Path
) -> None:
    old, new = (authority.issue("localhost", names=("localhost",), label=f"reload-{n}") for n in (1, 2))
    certificate, key = tmp_path / "crt", tmp_path / "key"

    def put(pair: Pair) -> None:
        certificate.write_bytes(pair.certificate_path.read_bytes())
        key.write_bytes(pair.key_path.read_bytes())

    def served() -> bytes:
        sock = socket.create_connection((pooler.host, pooler.port))
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"
        with wrap(sock) as client:
            return client.getpeercert(binary_form=True) or b""

    put(old)
    pooler = make_pooler(tls_certificate=str(certificate), tls_private_key=str(key))
    before = served()
    with pooler.connect(sslmode="require") as client:
        put(new)
        os.kill(pooler.pid, signal.SIGHUP)
        pooler.wait_until(lambda: served() != before, "the new certificate")
        certificate.write_text("nonsense")
        mark = pooler.log_mark()
        os.kill(pooler.pid, signal.SIGHUP)
        pooler.wait_until(lambda: pooler.log_contains("not reloaded", since=mark), "a refusal")
        assert served() != before
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_scram_with_channel_binding(make_pooler: MakePooler, authority: Authority) -> None:
    pooler = make_pooler(server_tls_mode="require", pg_hba={"content": "host all all 127.0.0.1/32 scram-sha-256\n"})
    words = {"user": "scram_user", "password": "scram-secret", "sslmode": "require"}
    with pooler.connect(**words, channel_binding="require") as client:
        assert client.execute("SELECT current_user").fetchone() == ("scram_user",)


async def test_asyncpg(make_pooler: MakePooler) -> None:
    pooler = make_pooler(server_tls_mode="require")
    client = await asyncpg.connect(host=pooler.host, port=pooler.port, user="app", database="postgres", ssl="require")
    assert await client.fetchval("SELECT $1::text || 'b'", "a") == "ab"
    assert await client.fetchval(IN_USE) is True
    await client.close()


def test_openssl_s_client(make_pooler: MakePooler) -> None:
    pooler = make_pooler()
    for version in ("-tls1_2", "-tls1_3"):
        argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{pooler.port}", "-starttls", "postgres", version]
        done = subprocess.run(argv, input=startup("app", "postgres"), capture_output=True, timeout=20)
        assert b"New, TLSv1" in done.stdout, done.stdout
    for version in ("-tls1_1",):
        done = subprocess.run([*argv[:-1], version], input=b"", capture_output=True, timeout=20)
        assert b"New, (NONE)" in done.stdout, done.stdout
