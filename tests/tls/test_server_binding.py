"""SCRAM-SHA-256-PLUS is what the pooler chooses towards PostgreSQL over TLS: it finds a man in the middle.

The man in the middle has a certificate of the trusted authority for the right name, so that TLS alone lets him pass; he
speaks TLS on both sides and passes everything on. Only a proof that is bound to the certificate shows the difference.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.harness import Postgres
from tests.harness.certificates import Authority, Pair
from tests.tls.conftest import MakePooler

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class Middle:
    """A proxy that ends TLS and begins it anew."""

    def __init__(self, pair: Pair, target: int) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair.certificate_path, pair.key_path)
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.passed_on = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            assert sock.recv(8, socket.MSG_WAITALL) == SSL_REQUEST
            sock.sendall(b"S")
            near = self.context.wrap_socket(sock, server_side=True)
            plain = socket.create_connection(("127.0.0.1", self.target))
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            far = trusting.wrap_socket(plain)
            threading.Thread(target=self.pump, args=(far, near), daemon=True).start()
            self.pump(near, far)

    def pump(self, source: ssl.SSLSocket, target: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(8192):
                self.passed_on += len(data)
                target.sendall(data)
            target.close()


@pytest.fixture
def middle(authority: Authority, postgres_tls: Postgres) -> Iterator[Middle]:
    pair = authority.issue("localhost", names=("localhost",), addresses=("127.0.0.1",), label="middle")
    middle = Middle(pair, postgres_tls.port)
    yield middle
    middle.listener.close()


def test_a_man_in_the_middle_with_a_good_certificate_is_found(
    make_pooler: MakePooler, middle: Middle, authority: Authority
) -> None:
    tls = {"server_tls_mode": "verify-full", "server_tls_ca_cert": str(authority.path)}
    pooler = make_pooler(pool={"server_port": middle.port}, **tls)
    assert pooler.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(True,)], "trust: he passes"
    assert middle.passed_on
    with pytest.raises(psycopg.OperationalError, match="SCRAM channel binding check failed"):
        pooler.query("SELECT 1", user="scram_user", password="scram-secret")


def test_without_him_the_same_login_succeeds(make_pooler: MakePooler, authority: Authority) -> None:
    pooler = make_pooler(server_tls_mode="verify-full", server_tls_ca_cert=str(authority.path))
    assert pooler.query("SELECT current_user", user="scram_user", password="scram-secret") == [("scram_user",)]
