"""Certificates and keys as file contents: read once, compared on reload, turned into contexts by `contexts`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from doorman.config.pem import PemFault


class Material(msgspec.Struct, frozen=True):
    """What one side of TLS is set up with, as PEM; empty where nothing is configured.

    `certificates`: leaf first. `authorities`: trusted certificates, and revocation lists where there are any.
    """

    certificates: bytes = b""
    key: bytes = b""
    authorities: bytes = b""

    def __repr__(self) -> str:
        return f"Material({len(self.certificates)}, {len(self.authorities)} bytes)"


class Paths(msgspec.Struct, frozen=True):
    """Where a `Material` is read from."""

    certificate: str | None
    private_key: str | None
    ca_cert: str | None


def read_material(paths: Paths) -> Material:
    """The contents of the files. Raises `PemFault`, which names the file."""
    return Material(_read(paths.certificate), _read(paths.private_key), _read(paths.ca_cert))


def _read(path: str | None) -> bytes:
    if path is None:
        return b""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise PemFault(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a file name'}") from None
