"""Keys that tokens are checked with: from PEM files and from a JWKS URL, cached in each process.

Rules
1. The algorithm follows from the key, never from the token: RSA is RS256, P-256 is ES256, Ed25519 is EdDSA.
2. A file is read again when it has changed; one that has become unreadable or bad leaves the last good key in force.
3. A key set is fetched when it is older than `MAX_AGE`, or when a token names a key that is not in it, but at most once
   in `MIN_INTERVAL`: strangers' tokens must not become requests. While the URL fails, the last good set is in force
   for up to `MAX_STALE`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

log = logging.getLogger(__name__)

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MAX_AGE: Final = 300.0
MIN_INTERVAL: Final = 10.0
MAX_STALE: Final = 3600.0
FETCH_SECONDS: Final = 5.0
MAX_SET_BYTES: Final = 1 << 20


class KeyUnavailable(Exception):
    """No key to check a token with; the text is for the log."""


def algorithm_of(key: object) -> str:
    """Rule 1. `KeyUnavailable` for kinds of keys that are not supported."""
    if isinstance(key, RSAPublicKey):
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ES256"
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA"
    raise KeyUnavailable(f"{type(key).__name__} is no RSA, P-256 or Ed25519 key")


class KeyFile:
    """One PEM file with a public key."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.seen: tuple[int, int, int] | None = None
        self.key: Any = None

    def get(self) -> Any:
        """The key; raises `KeyUnavailable` when there never was one."""
        try:
            status = self.path.stat()
            signature = (status.st_ino, status.st_size, status.st_mtime_ns)
            if signature != self.seen:
                key = load_pem_public_key(self.path.read_bytes())
                algorithm_of(key)
                self.key, self.seen = key, signature
        except Exception as error:
            if self.key is None:
                raise KeyUnavailable(f"{self.path}: {getattr(error, 'strerror', None) or 'no public key'}") from None
            log.warning("the key file %s cannot be read any more; the key that it had is used", self.path)
        return self.key


@cache
def key_file(path: str) -> KeyFile:
    """The one object for a path in this process."""
    return KeyFile(path)


class KeySet:
    """The keys behind a JWKS URL (RFC 7517). Methods block; they run in threads, several at once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()
        self.keys: dict[str | None, Any] = {}
        self.tried_at = self.fetched_at = float("-inf")
        self.failure = ""

    def get(self, kid: str | None) -> Any:
        """The key with this id; a token without an id needs a set of one key. Raises `KeyUnavailable`."""
        with self.lock:
            now = time.monotonic()
            is_old = now - self.fetched_at > MAX_AGE
            if (is_old or self._find(kid) is None) and now - self.tried_at > MIN_INTERVAL:
                self._fetch(now)
            if now - self.fetched_at > MAX_STALE:
                raise KeyUnavailable(f"{self.url}: {self.failure or 'not fetched'}")
            key = self._find(kid)
        if key is None:
            raise KeyUnavailable(f"{self.url} has no key {kid!r}")
        return key

    def _find(self, kid: str | None) -> Any:
        if kid is None:
            return next(iter(self.keys.values())) if len(self.keys) == 1 else None
        return self.keys.get(kid)

    def _fetch(self, now: float) -> None:
        self.tried_at = now
        try:
            request = urllib.request.Request(self.url, headers={"Accept": "application/json"})
            with urllib.request.urlopen(request, timeout=FETCH_SECONDS) as answer:
                document = answer.read(MAX_SET_BYTES + 1)
            if len(document) > MAX_SET_BYTES:
                raise ValueError("the document is too large")
            self.keys = read_key_set(json.loads(document))
            self.fetched_at = now
        except Exception as error:
            self.failure = str(error)
            log.warning("the key set %s could not be fetched: %s", self.url, error)


def read_key_set(document: Any) -> dict[str | None, Any]:
    """Key id -> key, of those that are for signatures and of a supported kind. `ValueError` when it is no key set."""
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("no JSON Web Key Set")
    keys: dict[str | None, Any] = {}
    for entry in document["keys"]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = PyJWK(entry).key
            algorithm_of(key)
        except (PyJWTError, KeyUnavailable, ValueError, TypeError):
            continue
        keys[entry.get("kid")] = key
    return keys


@cache
def key_set(url: str) -> KeySet:
    """The one object for a URL in this process."""
    return KeySet(url)
