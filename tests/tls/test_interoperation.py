"""Peers that are not ours: OpenSSL's own programs, libpq of PostgreSQL 15 (psql) and 18 (psycopg's), and what a cancel
looks like on the wire. Drivers with TLS of their own (Node, Go, Java, rustls) are in tests/drivers/test_programs.py."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from doorman.tls.contexts import make_connector
from doorman.tls.handshake import Handshake
from doorman.tls.material import Material
from doorman.tls.record import RecordLayer, private_layer
from doorman.tls.suites import SUITES, TLS_1_2, TLS_1_3, Suite
from tests.harness import Postgres, find_debian_postgres, free_port
from tests.harness.certificates import Authority, Pair
from tests.tls.conftest import MakePooler
from tests.torture import wire

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
PATIENCE = 10.0


# --- openssl s_server, and our record layer as its client -------------------------------------------------------------


@contextmanager
def s_server(pair: Pair, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """What it reads from a client is on its output, what is written to it goes to the client."""
    port = free_port()
    files = ["-cert", str(pair.certificate_path), "-key", str(pair.key_path)]
    argv = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", *files, *arguments]
    program = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert program.stdout is not None
        while b"ACCEPT" not in program.stdout.readline():
            assert program.poll() is None, "openssl s_server did not start"
        yield program, port
    finally:
        program.kill()
        program.communicate()


def shake_hands(port: int) -> tuple[socket.socket, RecordLayer, bytes]:
    """A socket, its record layer, and what came with the end of the handshake."""
    handshake = Handshake(make_connector(Material(), verifies=False, verifies_host=False), host="localhost")
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.sendall(handshake.start())
    while handshake.session is None:
        sock.sendall(handshake.feed(sock.recv(16_384)))
    return sock, private_layer(handshake.session, is_client=True), handshake.rest


def read_until(sock: socket.socket, layer: RecordLayer, wanted: bytes, first: bytes = b"") -> bytes:
    got = layer.open_bytes(first)
    while wanted not in got:
        data = sock.recv(65_536)
        assert data, (got, layer.fault)
        got += layer.open_bytes(data)
        assert not layer.fault
    return got


def wait_output(program: subprocess.Popen[bytes], wanted: bytes) -> None:
    assert program.stdout is not None
    end = time.monotonic() + PATIENCE
    got = b""
    while wanted not in got and time.monotonic() < end:
        got += program.stdout.readline()
    assert wanted in got, got


@needs_openssl
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_records_to_and_from_s_server(authority: Authority, suite: Suite) -> None:
    """`-rev` answers each line turned round."""
    kind = "rsa" if "-RSA-" in suite.name else "ec"
    pair = authority.issue("localhost", kind=kind, names=("localhost",), label=f"s-server-{kind}")
    option = ["-tls1_3", "-ciphersuites"] if suite.version == TLS_1_3 else ["-tls1_2", "-cipher"]
    with s_server(pair, "-rev", *option, suite.name) as (_, port):
        sock, layer, rest = shake_hands(port)
        with sock:
            assert (layer.version, layer.suite) == (suite.version, suite.number)
            for line in (b"hello", b"x" * 10_000 + b"y", b"the end"):
                sock.sendall(layer.seal_bytes(line + b"\n"))
                assert line[::-1] in read_until(sock, layer, line[::-1], rest)
                rest = b""
            sock.sendall(layer.farewell())


@needs_openssl
def test_key_updates_with_s_server(authority: Authority) -> None:
    """`K` makes it change its key and ask for a change of ours; a line that begins otherwise is sent."""
    pair = authority.issue("localhost", names=("localhost",), label="s-server-updates")
    with s_server(pair, "-tls1_3") as (program, port):
        sock, layer, rest = shake_hands(port)
        assert program.stdin is not None
        with sock:
            for turn in range(5):
                program.stdin.write(b"K\n")
                program.stdin.flush()
                time.sleep(0.1)
                program.stdin.write(b"turn %d\n" % turn)
                program.stdin.flush()
                read_until(sock, layer, b"turn %d\n" % turn, rest)
                rest = b""
                sock.sendall(layer.seal_bytes(b"answer %d\n" % turn) + layer.update_key())
                wait_output(program, b"answer %d" % turn)


# --- openssl s_client, and the pooler ---------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_session_of_s_client(make_pooler: MakePooler, version: int) -> None:
    """A login and statements; in TLS 1.3 with changes of its key, which ask for changes of ours."""
    pooler = make_pooler(server_tls_mode="require")
    option = "-tls1_3" if version == TLS_1_3 else "-tls1_2"
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{pooler.port}", "-starttls", "postgres", option]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdin is not None and program.stdout is not None

        def say(data: bytes) -> None:
            assert program.stdin is not None
            program.stdin.write(data)
            program.stdin.flush()

        def hear(wanted: bytes) -> bytes:
            assert program.stdout is not None
            got = b""
            while wanted not in got:
                part = os.read(program.stdout.fileno(), 65_536)
                assert part, got
                got += part
            return got

        say(wire.startup("app", "postgres"))
        hear(b"Z\0\0\0\x05I")
        for turn in range(4):
            if version == TLS_1_3:
                say(b"K\n")  # a command of the program's, if it comes alone
                time.sleep(0.1)
            ask = wire.parse(f"SELECT 'turn {turn}', repeat('x', 50000)") + wire.bind() + wire.execute() + wire.SYNC
            say(ask)
            assert b"turn %d" % turn in hear(b"Z\0\0\0\x05I")
        program.kill()


# --- libpq ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_psql_of_debian(make_pooler: MakePooler, authority: Authority, version: str) -> None:
    """PostgreSQL 15's, which knows no direct TLS; the wheel's psql (18) is built without SSL."""
    bindir = find_debian_postgres()
    assert bindir is not None, "postgres_tls has skipped already where there is none"
    pooler = make_pooler(server_tls_mode="require", tls_mode="require")
    words = f"sslmode=verify-full sslrootcert={authority.path} ssl_max_protocol_version={version}"
    argv = [str(bindir / "psql"), "-X", f"{pooler.dsn(dbname='postgres')} {words}", "-c", "\\conninfo", "-c"]
    argv += ["SELECT repeat('x', 300000) AS wide", "-c", "\\copy (SELECT generate_series(1, 50000)) TO STDOUT"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"SSL connection (protocol: {version}" in done.stdout
    assert "x" * 300_000 in done.stdout and "\n50000\n" in done.stdout


@pytest.mark.skipif(psycopg.pq.version() < 170000, reason="needs a libpq that knows sslnegotiation (17)")
@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_libpq_18(make_pooler: MakePooler, authority: Authority, negotiation: str) -> None:
    pooler = make_pooler(server_tls_mode="require", tls_mode="require")
    words = {"sslmode": "verify-full", "sslrootcert": str(authority.path), "sslnegotiation": negotiation}
    with pooler.connect(**words) as client:
        assert client.execute("SELECT repeat('x', 300000)").fetchone() == ("x" * 300_000,)
        assert client.pgconn.ssl_in_use


# --- a cancel ---------------------------------------------------------------------------------------------------------


class Recorder:
    """Between pooler and PostgreSQL: keeps what the pooler sends first on each connection."""

    host = "127.0.0.1"

    def __init__(self, target: Postgres) -> None:
        self.target = target
        self.seen: list[bytearray] = []
        self.listener = socket.create_server((self.host, 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                pooler, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection((self.target.host, self.target.port))
            self.seen.append(bytearray())
            threading.Thread(target=self.copy, args=(pooler, server, self.seen[-1]), daemon=True).start()
            threading.Thread(target=self.copy, args=(server, pooler, bytearray()), daemon=True).start()

    @staticmethod
    def copy(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
        try:
            while data := source.recv(65_536):
                seen += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            sink.close()


@pytest.mark.parametrize("mode", ["require", "verify-full", "prefer", "allow"])
def test_a_cancel_to_an_encrypted_server_is_encrypted(
    make_pooler: MakePooler, postgres_tls: Postgres, authority: Authority, mode: str
) -> None:
    """With `allow`, for a user whom PostgreSQL lets in over TLS alone."""
    recorder = Recorder(postgres_tls)
    user = "tls_only" if mode == "allow" else "app"
    pool = {"server_port": recorder.port, "server_tls_mode": mode, "server_tls_ca_cert": str(authority.path)}
    pooler = make_pooler(pool=pool)
    with pooler.connect(user=user) as client:
        assert client.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
        before = len(recorder.seen)
        threading.Timer(0.3, client.cancel_safe).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("SELECT pg_sleep(20)")
    cancels = recorder.seen[before:]
    assert len(cancels) == 1, "one connection for the cancel"
    assert bytes(cancels[0][:8]) == wire.SSL_REQUEST
    assert wire.CANCEL_REQUEST.to_bytes(4, "big") not in cancels[0]
    recorder.listener.close()
