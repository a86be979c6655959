"""Logins with real partners: `join_server` logs in at PostgreSQL, `Listener` lets libpq log in at us."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from doorman.auth.exchange import ClientExchange
from doorman.auth.server_login import ServerLogin
from doorman.errors import ClientFault
from doorman.wire import backend, frontend
from doorman.wire.startup import SslRequest, StartupMessage, parse_startup_packet, startup_length
from tests.harness import Postgres
from tests.unit.auth.waiting import settle

TIMEOUT = 10.0


def join_server(
    postgres: Postgres, attempt: ServerLogin, *, piece: int = 65536, local: bool = False, tls: bool = False
) -> socket.socket:
    """A socket that is logged in. Closes it and raises `ServerFault` where the attempt does."""
    if local:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        sock.connect(f"{postgres.socket_directory}/.s.PGSQL.{postgres.port}")
    else:
        sock = socket.create_connection((postgres.host, postgres.port), TIMEOUT)
    try:
        if tls:
            sock = _start_tls(sock)
        sock.sendall(attempt.start())
        while not attempt.done:
            data = sock.recv(piece)
            if not data:
                raise attempt.connection_lost()
            sock.sendall(attempt.feed(data))
    except BaseException:
        sock.close()
        raise
    return sock


def _start_tls(sock: socket.socket) -> ssl.SSLSocket:
    sock.sendall(frontend.ssl_request())
    assert sock.recv(1) == b"S"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


class Listener:
    """Serves one client after the other: exchange, session start, and the row `hello` for any query."""

    def __init__(self, choose: Callable[[StartupMessage], ClientExchange], tls: ssl.SSLContext | None = None) -> None:
        self._choose = choose
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.port: int = self._listener.getsockname()[1]
        self.exchanges: list[ClientExchange] = []
        self.errors: list[BaseException] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(TIMEOUT)
        assert not self.errors

    def _serve(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            client.settimeout(TIMEOUT)
            self._serve_client(client)

    def _serve_client(self, client: socket.socket) -> None:
        try:
            client, packet = self._start_tls(client)
            self._log_in(client, packet)
            while _read(client, 1) == b"Q":
                _read(client, int.from_bytes(_read(client, 4), "big") - 4)
                row = backend.row_description([backend.Column("greeting")]) + backend.data_row(["hello"])
                client.sendall(row + backend.command_complete("SELECT 1") + backend.READY_IDLE)
        except ClientFault as fault:
            client.sendall(backend.fault_response(fault))
        except (OSError, EOFError):
            pass
        except BaseException as error:
            self.errors.append(error)
        finally:
            client.close()

    def _start_tls(self, client: socket.socket) -> tuple[socket.socket, bytes]:
        """The connection to go on with, and its startup packet."""
        packet = _read_startup(client)
        if not isinstance(parse_startup_packet(packet), SslRequest):
            return client, packet
        client.sendall(b"S" if self._tls else b"N")
        if self._tls:
            client = self._tls.wrap_socket(client, server_side=True)
        return client, _read_startup(client)

    def _log_in(self, client: socket.socket, packet: bytes) -> None:
        startup = parse_startup_packet(packet)
        assert isinstance(startup, StartupMessage)
        exchange = self._choose(startup)
        self.exchanges.append(exchange)
        client.sendall(backend.negotiation_answer(startup) + settle(exchange.start()))
        while not exchange.done:
            size = frontend.auth_message_length(header := _read(client, frontend.AUTH_HEADER_BYTES))
            client.sendall(settle(exchange.feed(_read(client, size - len(header)))))
        status = backend.parameter_status("client_encoding", "UTF8")
        secret = bytes(32 if startup.spoken_minor == 2 else 4)
        client.sendall(backend.AUTHENTICATION_OK + status + backend.backend_key_data(1, secret) + backend.READY_IDLE)


def _read_startup(client: socket.socket) -> bytes:
    head = _read(client, 4)
    return head + _read(client, startup_length(head) - 4)


def _read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


@pytest.fixture
def roles(postgres: Postgres) -> Iterator[Callable[[str], str]]:
    """`roles(stored)` makes a role whose stored password is that text, with a rule that asks for it; gives its name."""
    made: list[str] = []

    def make(stored: str) -> str:
        name = f"made_{len(made)}"
        made.append(name)
        postgres.admin(f"CREATE ROLE {name} LOGIN PASSWORD '{stored}'")
        return name

    hba = postgres.data / "pg_hba.conf"
    before = hba.read_text()
    postgres.write_hba(r"host all /^made_\d 127.0.0.1/32 md5" + "\n" + before)
    postgres.reload()
    yield make
    postgres.write_hba(before)
    postgres.reload()
    for name in made:
        postgres.admin(f"DROP ROLE {name}")
