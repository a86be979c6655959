"""SCRAM-SHA-256-PLUS is what the pooler chooses towards PostgreSQL over TLS: it finds a man in the middle.

The man in the middle has a certificate of the trusted authority for the right name, so that TLS alone lets him pass; he
speaks TLS on both sides and passes everything on. Only a proof that is bound to the certificate shows the difference.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.harness import Doorman, Postgres
from tests.harness.certificates import Authority, Pair
from tests.harness.doorman import pool_of, user_of
from tests.tls.conftest import MakePooler
from tests.torture.wire import message

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
NO_ENCRYPTION = message(b"E", b"SFATAL\0VFATAL\0C28000\0Mno encryption\0\0")


MECHANISM = re.compile(rb"p\0\0\0.(SCRAM-SHA-256(?:-PLUS)?)\0\0\0\0.(n|y|p=[^,]*),,", re.DOTALL)
"""A SASLInitialResponse: the mechanism, and the flag with which the client says what it knows (RFC 5802 section 7)."""


class Middle:
    """A proxy that ends TLS and begins it anew; keeps what it reads of clients."""

    def __init__(self, pair: Pair, target: int) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair.certificate_path, pair.key_path)
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.passed_on = 0
        self.read: list[bytearray] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if sock.recv(8, socket.MSG_WAITALL) != SSL_REQUEST:
                sock.recv(8192)
                sock.sendall(NO_ENCRYPTION)  # `allow` tries plain text first
                sock.close()
                return
            sock.sendall(b"S")
            near = self.context.wrap_socket(sock, server_side=True)
            plain = socket.create_connection(("127.0.0.1", self.target))
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            far = trusting.wrap_socket(plain)
            self.read.append(bytearray())
            with near, far:
                while self.pump(far, near, bytearray()) and self.pump(near, far, self.read[-1]):
                    if not near.pending() and not far.pending():
                        select.select([near, far], [], [])

    def pump(self, source: ssl.SSLSocket, target: ssl.SSLSocket, read: bytearray) -> bool:
        """Pass on what is there, by one thread: OpenSSL takes no two calls for one connection at a time."""
        if not source.pending() and not select.select([source], [], [], 0)[0]:
            return True
        source.setblocking(False)
        try:
            data = source.recv(8192)
        except ssl.SSLWantReadError:  # part of a record, or a session ticket
            return True
        finally:
            source.setblocking(True)
        self.passed_on += len(data)
        read += data
        target.sendall(data)
        return bool(data)


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


@pytest.fixture
def reader(server_pair: Pair, postgres_tls: Postgres) -> Iterator[Middle]:
    """One who has PostgreSQL's own certificate and key: a binding to the certificate does not show him."""
    reader = Middle(server_pair, postgres_tls.port)
    yield reader
    reader.listener.close()


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("passed", [False, True], ids=["server_password", "passed_through"])
def test_plus_is_what_postgresql_is_asked_for(
    postgres_tls: Postgres, reader: Middle, authority: Authority, mode: str, passed: bool
) -> None:
    """Read within TLS: with the password, and with nothing but the key that a client has proved."""
    [(stored,)] = postgres_tls.admin("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram_user'")
    keys = {} if passed else {"server_username": "scram_user", "server_password": "scram-secret"}
    users = [user_of("scram_user", 2, password=str(stored), **keys)]
    pool = pool_of(postgres_tls, users=users, server_port=reader.port, server_tls_mode=mode)
    general = {"pg_hba": {"content": "host all all all scram-sha-256"}, "server_tls_ca_cert": str(authority.path)}
    with Doorman(postgres_tls, pools={"postgres": pool}, general=general) as pooler:
        for _ in range(4):
            assert pooler.query("SELECT current_user", user="scram_user", password="scram-secret") == [("scram_user",)]
    chosen = [MECHANISM.search(read) for read in reader.read]
    assert chosen and all(found and found[1] == b"SCRAM-SHA-256-PLUS" for found in chosen), reader.read
    assert all(found and found[2] == b"p=tls-server-end-point" for found in chosen)


def test_without_him_the_same_login_succeeds(make_pooler: MakePooler, authority: Authority) -> None:
    pooler = make_pooler(server_tls_mode="verify-full", server_tls_ca_cert=str(authority.path))
    assert pooler.query("SELECT current_user", user="scram_user", password="scram-secret") == [("scram_user",)]
