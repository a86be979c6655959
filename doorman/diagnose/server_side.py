"""The server's half of a login: whether a server can be opened for a pool, by really opening one."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator

from doorman.auth.server_login import Credentials, ServerLogin
from doorman.config.resolve import PoolSettings
from doorman.diagnose.report import Report
from doorman.errors import ServerFault
from doorman.shm.table import Table
from doorman.wire.frontend import SSL_REQUEST_PACKET, terminate
from doorman.workers.credentials import credentials_for, learn
from doorman.workers.destination import is_loopback

READ_BYTES = 16_384
WITHOUT_TLS = {"disable": (False,), "allow": (False, True), "prefer": (True, False)}


def walk(pool: PoolSettings, client_key: bytes | None, report: Report) -> None:
    """Open a server as a worker would, log in, and leave."""
    where = server_name(pool)
    faults: list[ServerFault] = []
    for tls in (False,) if pool.server_host.startswith("/") else WITHOUT_TLS.get(pool.server_tls_mode, (True,)):
        try:
            login = open_server(pool, client_key, tls=tls)
        except ServerFault as fault:
            faults.append(fault)
            continue
        version = login.parameters.get("server_version", "?")
        words = f'logged in to {where} as "{pool.server_user}", database "{pool.server_database}"'
        report.ok("server", f"{words}, {'with' if tls else 'without'} TLS (PostgreSQL {version})")
        return
    for failed in faults:
        report.fail("server", f"{where}: {failed.sqlstate} {failed.message}", advice(pool, failed, client_key))


def advice(pool: PoolSettings, fault: ServerFault, client_key: bytes | None) -> str:
    """What to change, by the step that failed."""
    if fault.sqlstate.startswith("08"):
        return "is PostgreSQL running there? see server_host, server_port, server_tls_mode and connect_timeout"
    if fault.sqlstate == "3D000":
        return "see server_database, or create the database"
    if pool.server_password is None and client_key is None and pool.password.startswith("SCRAM"):
        return "give the password (PGPASSWORD), so that the SCRAM key which it proves can be tried"
    if pool.server_password is None:
        return (
            "the stored password must be the one that PostgreSQL has for this role, byte for byte; "
            "or set server_username and server_password"
        )
    return "see server_username, server_password and PostgreSQL's pg_hba.conf"


def open_server(pool: PoolSettings, client_key: bytes | None, *, tls: bool) -> ServerLogin:
    """A login that has come to its end. Raises `ServerFault` that names the step."""
    login = ServerLogin(
        pool.server_user,
        credentials_of(pool, client_key),
        pool.server_database,
        {**pool.startup_parameters, "application_name": pool.application_name},
        encrypted_or_local=tls or pool.server_host.startswith("/") or is_loopback(pool.server_host),
    )
    with guarded(pool), dial(pool) as plain, start_tls(plain, pool) if tls else plain as sock:
        sock.sendall(login.start())
        while not login.done:
            data = sock.recv(READ_BYTES)
            if not data:
                raise login.connection_lost()
            sock.sendall(login.feed(data))
        sock.sendall(terminate())
    return login


def credentials_of(pool: PoolSettings, client_key: bytes | None) -> Credentials:
    """As in a pooler whose first client has just proved `client_key`."""
    table = Table.create(processes=1, pools=1, slots=1, clients=1, max_connections=1)
    try:
        if client_key is not None:
            learn(table, client_key)
        return credentials_for(pool, table)
    finally:
        table.close()


def dial(pool: PoolSettings) -> socket.socket:
    """A connected socket."""
    seconds = (pool.connect_timeout_ms or 3000) / 1000
    if not pool.server_host.startswith("/"):
        return socket.create_connection((pool.server_host, pool.server_port), seconds)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(seconds)
    sock.connect(f"{pool.server_host}/.s.PGSQL.{pool.server_port}")
    return sock


def start_tls(sock: socket.socket, pool: PoolSettings) -> ssl.SSLSocket:
    """TLS as the pool's mode wants it."""
    sock.sendall(SSL_REQUEST_PACKET)
    if sock.recv(1) != b"S":
        raise ServerFault("08006", f"the server does not offer TLS (server_tls_mode is {pool.server_tls_mode})")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = pool.server_tls_mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if pool.server_tls_mode.startswith("verify-") else ssl.CERT_NONE
    if pool.server_tls_ca_cert is not None:
        context.load_verify_locations(pool.server_tls_ca_cert)
    if pool.server_tls_certificate is not None:
        context.load_cert_chain(pool.server_tls_certificate, pool.server_tls_private_key)
    return context.wrap_socket(sock, server_hostname=pool.server_host)


@contextlib.contextmanager
def guarded(pool: PoolSettings) -> Iterator[None]:
    """What the system or TLS says against it, as a fault."""
    try:
        yield
    except ssl.SSLError as error:
        raise ServerFault("08006", f"TLS failed: {error.reason or error}") from None
    except TimeoutError:
        raise ServerFault("08006", f"no answer within {(pool.connect_timeout_ms or 3000) / 1000:g} s") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ServerFault("08006", f"cannot connect: {reason}") from None


def server_name(pool: PoolSettings) -> str:
    """The server's address for people."""
    return f"{pool.server_host}:{pool.server_port}"
