"""SCRAM-SHA-256-PLUS (tls-server-end-point) with real partners: libpq as client, PostgreSQL as server."""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from doorman.auth.exchange import choose_exchange
from doorman.auth.server_login import Credentials, ServerLogin, ServerRefusal
from tests.harness import Postgres, find_debian_postgres
from tests.harness.postgres import PASSWORDS, server_user
from tests.unit.auth.conftest import Listener, join_server


class Certificate:
    """A self-signed certificate in files, and its end-point hash (RFC 5929 section 4.1)."""

    def __init__(self, directory: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        certificate = builder.sign(key, hashes.SHA256())
        self.certificate_file, self.key_file = directory / "server.crt", directory / "server.key"
        self.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.end_point = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_postgres(certificate: Certificate) -> Iterator[Postgres]:
    bindir = find_debian_postgres()
    if bindir is None:
        pytest.skip("needs Debian's package postgresql (a PostgreSQL built with SSL)")
    with Postgres(bindir=bindir) as server:
        for source in (certificate.certificate_file, certificate.key_file):
            copy = Path(shutil.copy(source, server.data))
            copy.chmod(0o600)
            if (owner := server_user()) is not None:
                os.chown(copy, owner, owner)
        server.admin("ALTER SYSTEM SET ssl = on")
        server.restart()
        yield server


@pytest.mark.parametrize("channel_binding", ["require", "disable"])
def test_libpq_binds_to_us(certificate: Certificate, channel_binding: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate_file, certificate.key_file)
    with Listener(
        lambda startup: choose_exchange(None, startup.user, "secret", binding=certificate.end_point), context
    ) as listener:
        words = f"sslmode=require channel_binding={channel_binding} connect_timeout=10"
        psycopg.connect(f"host=127.0.0.1 port={listener.port} user=app password=secret {words}").close()
    assert listener.exchanges[0].done


def attempt_with(binding: bytes | None) -> ServerLogin:
    password = PASSWORDS["scram_user"]
    return ServerLogin(
        "scram_user", Credentials(password=password), "postgres", {}, encrypted_or_local=True, binding=binding
    )


def test_we_bind_to_postgresql(tls_postgres: Postgres, certificate: Certificate) -> None:
    attempt = attempt_with(certificate.end_point)
    join_server(tls_postgres, attempt, tls=True).close()
    assert attempt.done


def test_we_may_do_without(tls_postgres: Postgres) -> None:
    join_server(tls_postgres, attempt_with(None), tls=True).close()


def test_another_certificate_is_found(tls_postgres: Postgres) -> None:
    with pytest.raises(ServerRefusal, match="SCRAM channel binding check failed"):
        join_server(tls_postgres, attempt_with(bytes(32)), tls=True)
