"""Writing small configuration files and loading them; certificates and keys that real loaders accept."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption as Encrypted
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from doorman.config.load import LoadedConfig, load_config
from doorman.errors import ConfigError


class Loader:
    """Loads configurations given as sections of YAML flow text."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def load(self, text: str, name: str = "pg_doorman.yaml") -> LoadedConfig:
        return load_config(self.write(name, text))

    def general(self, keys: str = "", rest: str = "pools: {}") -> LoadedConfig:
        return self.load(self.compose(keys, rest))

    def compose(self, keys: str, rest: str) -> str:
        admin = "admin_username: admin, admin_password: s3cret-admin"
        return f"general: {{{admin}{', ' + keys if keys else ''}}}\n{rest}\n"

    def pool(self, keys: str = "", *, general: str = "", rest: str = "") -> LoadedConfig:
        return self.general(general, f"pools: {{app: {{{keys}}}}}\n{rest}")

    def user(self, keys: str, *, pool: str = "", general: str = "", rest: str = "") -> LoadedConfig:
        tail = f", {pool}" if pool else ""
        return self.pool(f"users: [{{{keys}}}]{tail}", general=general, rest=rest)


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


@pytest.fixture
def refused() -> Callable[..., list[str]]:
    """Calls and returns the problems of the `ConfigError` that must come, as text."""

    def call(load: Callable[..., object], *args: object, **kwargs: object) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(*args, **kwargs)
        return [str(problem) for problem in caught.value.problems]

    return call


class Pem:
    """Paths of freshly made PEM files."""

    def __init__(self, directory: Path) -> None:
        key, other = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
        self.certificate = _store(directory / "front.crt", _certify(key).public_bytes(Encoding.PEM))
        self.key = _store(directory / "front.key", _private(key, NoEncryption()))
        self.other_key = _store(directory / "other.key", _private(other, NoEncryption()))
        self.encrypted_key = _store(directory / "encrypted.key", _private(key, Encrypted(b"x")))
        self.public = _store(directory / "pub.pem", _public(key))
        self.elliptic_public = _store(directory / "ec.pem", _public(ec.generate_private_key(ec.SECP256R1())))
        self.garbage = _store(directory / "garbage.pem", b"-----BEGIN CERTIFICATE-----\nnope\n")
        self.missing = str(directory / "missing.pem")


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Pem:
    return Pem(tmp_path_factory.mktemp("pem"))


def _store(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def _private(key: rsa.RSAPrivateKey, encryption: Encrypted | NoEncryption) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _certify(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pooler.test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256())
