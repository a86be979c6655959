"""Do the certificate and key files that a configuration names load, and do they belong together?

Called while a configuration is checked. `cryptography` is imported only when there is a file to look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
    from cryptography.x509 import Certificate


class PemFault(Exception):
    """Why a file cannot be used; the text names the file."""


def check_certificates(path: str) -> None:
    """Raise `PemFault` unless the file holds at least one certificate, and only certificates that load."""
    _read_certificates(path)


def check_key_pair(certificate_path: str, key_path: str) -> None:
    """Raise `PemFault` unless both files load and the key belongs to the first certificate."""
    certificate, key = _read_certificates(certificate_path)[0], _read_private_key(key_path)
    if certificate.public_key() != key.public_key():
        raise PemFault(f"{key_path} is not the key of the certificate in {certificate_path}")


def check_rsa_private_key(path: str) -> None:
    """Raise `PemFault` unless the file holds an RSA private key that needs no passphrase."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    if not isinstance(_read_private_key(path), RSAPrivateKey):
        raise PemFault(f"{path} holds no RSA key, which RS256 needs")


def check_rsa_public_key(path: str) -> None:
    """Raise `PemFault` unless the file holds an RSA public key."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if not isinstance(_read_public_key(path), RSAPublicKey):
        raise PemFault(f"{path} holds no RSA key, which RS256 needs")


def check_token_key(path: str) -> None:
    """Raise `PemFault` unless the file holds a public key that tokens can be checked with: RS256, ES256 or EdDSA."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    key = _read_public_key(path)
    is_p256 = isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    if not is_p256 and not isinstance(key, RSAPublicKey | Ed25519PublicKey):
        raise PemFault(f"{path} holds neither an RSA (RS256) nor a P-256 (ES256) nor an Ed25519 (EdDSA) key")


def _read_public_key(path: str) -> PublicKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        return load_pem_public_key(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PemFault(f"{path} holds no public key in PEM form") from None


def _read_certificates(path: str) -> list[Certificate]:
    from cryptography.x509 import load_pem_x509_certificates

    content = _read(path)
    try:
        certificates = load_pem_x509_certificates(content)
        for certificate in certificates:
            certificate.public_key()
    except Exception:  # the parser raises ValueError, UnsupportedAlgorithm, InvalidVersion …
        raise PemFault(f"{path} holds no usable certificate in PEM form") from None
    return certificates


def _read_private_key(path: str) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(_read(path), password=None)
    except TypeError:
        raise PemFault(f"{path} holds an encrypted key; an unencrypted one is needed") from None
    except (ValueError, UnsupportedAlgorithm):
        raise PemFault(f"{path} holds no private key in PEM form") from None


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise PemFault(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a file name'}") from None
