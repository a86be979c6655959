"""A certificate authority of the test's own, and certificates of every kind from it, as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.harness.postgres import server_user

DAY = datetime.timedelta(days=1)
MAKERS: dict[str, Callable[[], CertificateIssuerPrivateKeyTypes]] = {
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in memory and on disk."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes
    certificate_path: Path
    key_path: Path

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def client_parameters(self) -> dict[str, str]:
        """For libpq."""
        return {"sslcert": str(self.certificate_path), "sslkey": str(self.key_path)}


class Authority:
    """`authority.issue("localhost")`; every certificate's files are in `directory`, named after its `label`."""

    def __init__(self, directory: Path, name: str = "test authority", parent: Authority | None = None) -> None:
        """`parent`: who vouches for this one; nobody has to know it by itself then."""
        self.directory = directory
        self.name = name
        self.count = 0
        self.revoked: list[x509.Certificate] = []
        self.key = MAKERS["ec"]()
        subject = _name(name)
        serial = 1 if parent is None else parent._next_serial()
        issuer = subject if parent is None else parent.certificate.subject
        builder = _builder(subject, issuer, self.key, DAY, serial)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate: x509.Certificate = builder.sign(self.key if parent is None else parent.key, hashes.SHA256())
        self.path = directory / f"{name.replace(' ', '-')}.pem"
        self.path.write_bytes(self.pem)
        self.chain: bytes = b"" if parent is None else self.pem + parent.chain

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        common_name: str | None,
        *,
        kind: str = "ec",
        names: tuple[str, ...] = (),
        addresses: tuple[str, ...] = (),
        lifetime: datetime.timedelta = DAY,
        label: str = "",
    ) -> Pair:
        """A certificate with this common name (None: none), alternative names, IP addresses; negative: expired."""
        key = MAKERS[kind]()
        subject = _name(common_name) if common_name is not None else x509.Name([])
        builder = _builder(subject, self.certificate.subject, key, lifetime, self._next_serial())
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=common_name is None)
        certificate = builder.sign(self.key, hashes.SHA256())
        return self._write(certificate, key, label or f"{common_name or 'nameless'}-{self.count}".replace(" ", "-"))

    def _next_serial(self) -> int:
        self.count += 1
        return 100 + self.count

    def revoke(self, which: Pair | Authority) -> Path:
        """The authority's file with a revocation list behind it."""
        self.revoked.append(which.certificate)
        path = self.directory / f"{self.path.stem}-with-revocations.pem"
        path.write_bytes(self.pem + self.revocations())
        return path

    def revocations(self) -> bytes:
        """The list of what is revoked, PEM."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - DAY).next_update(now + DAY)
        for certificate in self.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now - DAY)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _write(self, certificate: x509.Certificate, key: CertificateIssuerPrivateKeyTypes, label: str) -> Pair:
        paths = self.directory / f"{label}.crt", self.directory / f"{label}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM) + self.chain)
        paths[1].touch(mode=0o600)
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Pair(certificate, key, *paths)


def readable_by_servers(pair: Pair) -> Pair:
    """PostgreSQL and PgBouncer, which do not run as root, get the key and the way to it."""
    pair.key_path.parent.chmod(0o755)
    owner = server_user()
    if owner is not None:
        os.chown(pair.key_path, owner, -1)
    return pair


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificateIssuerPrivateKeyTypes,
    lifetime: datetime.timedelta,
    serial: int,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    start = now - 2 * DAY
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(now + lifetime)
    )
