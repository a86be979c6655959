"""OpenLDAP's slapd on free ports of 127.0.0.1, with people, groups and a certificate of its own CA.

Entries: `uid=NAME,ou=people` with the password `NAME-secret` for each of PEOPLE, `cn=dba,ou=groups` with `ann` in it,
`cn=reader` with the password `reader-secret`, who may search; nobody else may.
"""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.harness.ports import free_port
from tests.harness.service import Service, port_answers

BASE = "dc=example,dc=net"
PEOPLE = ("ann", "bob", "stranger")
MODULES = Path("/usr/lib/ldap")
SCHEMAS = Path("/etc/ldap/schema")
ADMIN, ADMIN_PASSWORD = f"cn=admin,{BASE}", "directory-admin"
READER, READER_PASSWORD = f"cn=reader,{BASE}", "reader-secret"

CONFIG = """
{schemas}
modulepath {modules}
moduleload back_mdb
moduleload memberof
pidfile {directory}/slapd.pid
TLSCACertificateFile {directory}/ca.pem
TLSCertificateFile {directory}/server.pem
TLSCertificateKeyFile {directory}/server.key
database mdb
suffix {base}
rootdn {admin}
rootpw {admin_password}
directory {directory}/data
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact={reader} read by * none
"""


class Slapd(Service):
    """One directory. `url` is plain (and speaks StartTLS), `tls_url` is ldaps; `ca` is the file to trust."""

    name = "slapd"
    host: ClassVar[str] = "127.0.0.1"

    def __init__(self, directory: Path | None = None) -> None:
        super().__init__(directory)
        self.port, self.tls_port = free_port(), free_port()
        self.ca = self.directory / "ca.pem"
        (self.directory / "data").mkdir(exist_ok=True)
        make_certificates(self.directory)
        schemas = "\n".join(f"include {SCHEMAS}/{name}.schema" for name in ("core", "cosine", "inetorgperson"))
        self.config_path = self.directory / "slapd.conf"
        self.config_path.write_text(
            CONFIG.format(
                schemas=schemas,
                modules=MODULES,
                directory=self.directory,
                base=BASE,
                admin=ADMIN,
                admin_password=ADMIN_PASSWORD,
                reader=READER,
            )
        )
        self.is_filled = False

    @property
    def url(self) -> str:
        return f"ldap://{self.host}:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"ldaps://{self.host}:{self.tls_port}"

    def start(self) -> Self:
        self.spawn(["/usr/sbin/slapd", "-f", self.config_path, "-h", f"{self.url} {self.tls_url}", "-d", "stats"])
        self.wait_until(lambda: port_answers(self.host, self.tls_port), f"listening on port {self.tls_port}")
        if not self.is_filled:
            self.fill()
        return self

    def fill(self) -> None:
        """Add the entries, by LDAP so that the overlay sees them."""
        command = ["ldapadd", "-x", "-H", self.url, "-D", ADMIN, "-w", ADMIN_PASSWORD]
        subprocess.run(command, input=entries(), text=True, check=True, capture_output=True, timeout=30)
        self.is_filled = True


def entries() -> str:
    """LDIF of the whole tree."""
    people = "".join(
        f"dn: uid={name},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\n"
        f"mail: {name}@example.net\nuserPassword: {name}-secret\n\n"
        for name in PEOPLE
    )
    twins = "".join(
        f"dn: cn=twin{n},ou=people,{BASE}\nobjectClass: inetOrgPerson\ncn: twin{n}\nsn: twin\nuid: twin\n"
        "userPassword: twin-secret\n\n"
        for n in (1, 2)
    )
    return (
        f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n"
        f"dn: ou=people,{BASE}\nobjectClass: organizationalUnit\nou: people\n\n"
        f"dn: ou=groups,{BASE}\nobjectClass: organizationalUnit\nou: groups\n\n"
        f"dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: reader\n"
        f"userPassword: {READER_PASSWORD}\n\n"
        f"{people}{twins}"
        f"dn: cn=dba,ou=groups,{BASE}\nobjectClass: groupOfNames\ncn: dba\nmember: uid=ann,ou=people,{BASE}\n"
    )


def make_certificates(directory: Path) -> None:
    """`ca.pem`, `server.pem`, `server.key`: for localhost and 127.0.0.1."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name, name = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in ("Test CA", "localhost"))
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey, *, is_ca: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder(ca_name, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=2))
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        if not is_ca:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (directory / "ca.pem").write_bytes(certificate(ca_name, ca_key.public_key(), is_ca=True).public_bytes(pem))
    (directory / "server.pem").write_bytes(certificate(name, key.public_key(), is_ca=False).public_bytes(pem))
    (directory / "server.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


def is_slapd_there() -> bool:
    return Path("/usr/sbin/slapd").exists() and shutil.which("ldapadd") is not None
