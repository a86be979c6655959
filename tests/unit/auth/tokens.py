"""Tokens and their keys, made here, signed for real."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHER_RSA = rsa.generate_private_key(65537, 2048)


def write_public(key: Any, path: Path) -> Path:
    """The public half as PEM."""
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def sign(algorithm: str = "RS256", key: Any = None, headers: dict[str, Any] | None = None, **claims: Any) -> bytes:
    """A token for `ann`, good for an hour, as the tests may take; `claims` add to that, None takes a claim away."""
    merged = {"preferred_username": "ann", "exp": int(time.time()) + 3600, **claims}
    kept = {name: value for name, value in merged.items() if value is not None}
    return jwt.encode(kept, key or KEYS[algorithm], algorithm, headers=headers).encode()
