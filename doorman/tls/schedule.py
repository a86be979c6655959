"""From secrets to keys: the parts of the key schedules of TLS 1.3 (RFC 8446 section 7) and 1.2 (RFC 5246 section 5)
that come after the handshake."""

from __future__ import annotations

import hmac

import msgspec

from doorman.tls.suites import BY_NUMBER, TLS_1_3, Suite


class Keys(msgspec.Struct, frozen=True):
    """One direction: `iv` has 12 bytes, or 4 (TLS 1.2 with AES-GCM, where each record names the rest: `explicit_base`
    plus its sequence number). `secret` is the traffic secret of TLS 1.3. `sequence` is the next record's number."""

    key: bytes
    iv: bytes
    sequence: int = 0
    secret: bytes = b""
    explicit_base: int = 0

    def __repr__(self) -> str:
        return f"Keys(sequence={self.sequence})"


class Session(msgspec.Struct, frozen=True):
    """A finished handshake as data: what this side reads with and what it writes with."""

    version: int
    suite: int
    inbound: Keys
    outbound: Keys


def expand_label(digest: str, secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446 section 7.1)."""
    full = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes((len(full),)) + full + b"\0"
    block, out, count = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(secret, block + info + bytes((count,)), digest)
        out += block
        count += 1
    return out[:length]


def traffic_keys(suite: Suite, secret: bytes, sequence: int = 0) -> Keys:
    """Key and IV of a TLS 1.3 traffic secret."""
    return Keys(
        key=expand_label(suite.digest, secret, b"key", suite.key_bytes),
        iv=expand_label(suite.digest, secret, b"iv", 12),
        sequence=sequence,
        secret=secret,
    )


def next_secret(number: int, secret: bytes) -> bytes:
    """The secret after a KeyUpdate (RFC 8446 section 7.2) of a connection with this cipher suite."""
    suite = BY_NUMBER[number]
    if suite.version != TLS_1_3:
        raise ValueError("TLS 1.2 has no KeyUpdate")
    return expand_label(suite.digest, secret, b"traffic upd", len(secret))


def next_keys(number: int, secret: bytes) -> tuple[bytes, bytes, bytes]:
    """Secret, key and IV after a KeyUpdate."""
    keys = traffic_keys(BY_NUMBER[number], next_secret(number, secret))
    return keys.secret, keys.key, keys.iv


def prf(digest: str, secret: bytes, label: bytes, seed: bytes, length: int) -> bytes:
    """The pseudorandom function of TLS 1.2 (RFC 5246 section 5)."""
    seed = label + seed
    chain, out = seed, b""
    while len(out) < length:
        chain = hmac.digest(secret, chain, digest)
        out += hmac.digest(secret, chain + seed, digest)
    return out[:length]


def key_block(suite: Suite, master: bytes, server_random: bytes, client_random: bytes) -> tuple[Keys, Keys]:
    """Keys of client and server out of a TLS 1.2 master secret (RFC 5246 section 6.3; AEADs have no MAC keys)."""
    key, salt = suite.key_bytes, suite.salt_bytes
    block = prf(suite.digest, master, b"key expansion", server_random + client_random, 2 * (key + salt))
    salts = block[2 * key :]
    return Keys(block[:key], salts[:salt]), Keys(block[key : 2 * key], salts[salt:])
