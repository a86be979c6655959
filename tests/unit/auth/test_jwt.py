"""Tokens that open and tokens that do not, and where their keys come from."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorman.auth import public_keys
from doorman.auth.jwt import TokenRefused, check_token
from doorman.auth.public_keys import KeyFile, KeySet, KeyUnavailable
from tests.unit.auth.tokens import KEYS, OTHER_RSA, sign, write_public


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Algorithm -> stored password that names its key."""
    directory = tmp_path_factory.mktemp("keys")
    return {name: f"jwt-pkey-fpath:{write_public(key, directory / f'{name}.pem')}" for name, key in KEYS.items()}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_good_token_opens(sources: dict[str, str], algorithm: str) -> None:
    check_token(sources[algorithm], sign(algorithm), "ann")
    check_token(sources[algorithm], sign(algorithm, nbf=int(time.time()) - 1, iat=int(time.time()) + 99, sub=7), "ann")
    check_token(sources[algorithm], sign(algorithm, iss="https://x", aud="db"), "ann")


BAD = {
    "expired": sign(exp=int(time.time()) - 1),
    "now": sign(exp=int(time.time())),
    "not in force": sign(nbf=int(time.time()) + 3000),
    "without expiry": sign(exp=None),
    "expiry as text": sign(exp="tomorrow"),
    "expiry as list": sign(exp=[1]),
    "somebody else": sign(preferred_username="bob"),
    "nobody": sign(preferred_username=None),
    "name as list": sign(preferred_username=["ann"]),
    "other key": sign(key=OTHER_RSA),
    "RS512": jwt.encode({"preferred_username": "ann", "exp": time.time() + 3600}, KEYS["RS256"], "RS512").encode(),
    "PS256": jwt.encode({"preferred_username": "ann", "exp": time.time() + 3600}, KEYS["RS256"], "PS256").encode(),
    "ES256": sign("ES256"),
    "none": jwt.encode({"preferred_username": "ann", "exp": time.time() + 3600}, None, "none").encode(),
    "empty": b"",
    "dots": b"..",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_token_does_not(sources: dict[str, str], kind: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        check_token(sources["RS256"], BAD[kind], "ann")
    assert not any(part and part.decode("latin1") in str(refused.value) for part in BAD[kind].split(b"."))


def test_a_public_key_is_no_shared_secret(sources: dict[str, str]) -> None:
    """HS256 with the public key's text as secret: the oldest of all tricks."""
    pem = Path(sources["RS256"].partition(":")[2]).read_bytes()
    header, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (
        {"alg": "HS256", "typ": "JWT"}, {"preferred_username": "ann", "exp": int(time.time()) + 60}))  # fmt: skip
    import hashlib
    import hmac

    signature = base64.urlsafe_b64encode(hmac.digest(pem, header + b"." + body, hashlib.sha256)).rstrip(b"=")
    with pytest.raises(TokenRefused):
        check_token(sources["RS256"], b".".join((header, body, signature)), "ann")


def test_issuer_and_audience_are_checked_where_configured(sources: dict[str, str]) -> None:
    source, wanted = sources["RS256"], {"issuer": "https://issuer", "audience": "db"}
    check_token(source, sign(iss="https://issuer", aud="db"), "ann", **wanted)
    check_token(source, sign(iss="https://issuer", aud=["web", "db"]), "ann", **wanted)
    for claims in ({}, {"iss": "https://issuer"}, {"aud": "db"}, {"iss": "https://other", "aud": "db"},
                   {"iss": "https://issuer", "aud": "web"}):  # fmt: skip
        with pytest.raises(TokenRefused):
            check_token(source, sign(**claims), "ann", **wanted)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(sources: dict[str, str], token: bytes) -> None:
    with pytest.raises(TokenRefused):
        check_token(sources["RS256"], token, "ann")


@settings(max_examples=300)
@given(st.data())
def test_a_token_with_a_changed_byte_is_refused_or_means_the_same(sources: dict[str, str], data: st.DataObject) -> None:
    token = bytearray(GOOD)
    at = data.draw(st.integers(0, len(token) - 1))
    token[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != token[at]))
    try:
        check_token(sources["RS256"], bytes(token), "ann")
    except TokenRefused:
        return
    # base64 leaves unused bits at the end of a part, and PyJWT skips what is not of its alphabet: same bytes, then.
    assert [decode(part) for part in bytes(token).split(b".")] == [decode(part) for part in GOOD.split(b".")]


GOOD = sign(exp=int(time.time()) + 3600)


def decode(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def test_a_key_file_is_read_again_when_it_changed_and_kept_when_it_is_bad(tmp_path: Path) -> None:
    path = write_public(KEYS["RS256"], tmp_path / "key.pem")
    keys = KeyFile(str(path))
    first = keys.get()
    assert keys.get() is first
    write_public(OTHER_RSA, path)
    path.touch()
    second = keys.get()
    assert second.public_numbers() == OTHER_RSA.public_key().public_numbers()
    path.write_text("garbage")
    assert keys.get() is second
    path.unlink()
    assert keys.get() is second
    with pytest.raises(KeyUnavailable, match="No such file"):
        KeyFile(str(path)).get()


class Jwks:
    """A key set behind HTTP; counts how often it was fetched."""

    def __init__(self) -> None:
        self.document: Any = {}
        self.status = 200
        self.fetched = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetched += 1
                body = outer.document if isinstance(outer.document, bytes) else json.dumps(outer.document).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def serve(self, **keys: Any) -> None:
        self.document = {"keys": [jwk_of(kid, key) for kid, key in keys.items()]}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def jwk_of(kid: str, key: Any) -> dict[str, Any]:
    algorithm = next((name for name, one in KEYS.items() if one is key), "RS256")
    handler = jwt.get_algorithm_by_name(algorithm)
    return {**json.loads(handler.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


@pytest.fixture
def jwks() -> Iterator[Jwks]:
    served = Jwks()
    yield served
    served.close()


def test_keys_of_a_set_are_found_by_their_id(jwks: Jwks) -> None:
    jwks.serve(a=KEYS["RS256"], b=KEYS["ES256"], c=KEYS["EdDSA"])
    source = f"jwt-jwks-url:{jwks.url}"
    for kid, algorithm in (("a", "RS256"), ("b", "ES256"), ("c", "EdDSA")):
        check_token(source, sign(algorithm, headers={"kid": kid}), "ann")
    for headers in ({"kid": "b"}, {"kid": "z"}, {"kid": ["a"]}, {}):
        with pytest.raises((TokenRefused, jwt.PyJWTError)):
            check_token(source, sign("RS256", headers=headers), "ann")
    assert jwks.fetched == 1  # an unknown id asks again, but not within MIN_INTERVAL


def test_a_set_is_fetched_again_for_a_new_key_but_not_for_every_stranger(
    jwks: Jwks, monkeypatch: pytest.MonkeyPatch
) -> None:
    jwks.serve(old=KEYS["RS256"])
    keys = KeySet(jwks.url)
    keys.get("old")
    jwks.serve(new=OTHER_RSA)
    for _ in range(20):
        with pytest.raises(KeyUnavailable):
            keys.get("new")
    assert jwks.fetched == 1
    monkeypatch.setattr(public_keys, "MIN_INTERVAL", 0.0)
    keys.get("new")
    with pytest.raises(KeyUnavailable):
        keys.get("old")


@pytest.mark.parametrize("document", [b"{", {"keys": 1}, [], {}, b"x" * ((1 << 20) + 1)])
def test_while_the_url_fails_the_last_set_holds(jwks: Jwks, monkeypatch: pytest.MonkeyPatch, document: Any) -> None:
    monkeypatch.setattr(public_keys, "MIN_INTERVAL", 0.0)
    jwks.serve(a=KEYS["RS256"])
    keys = KeySet(jwks.url)
    key = keys.get("a")
    jwks.document = document
    monkeypatch.setattr(public_keys, "MAX_AGE", 0.0)
    assert keys.get("a") is key and jwks.fetched == 2
    monkeypatch.setattr(public_keys, "MAX_STALE", 0.0)
    with pytest.raises(KeyUnavailable):
        keys.get("a")


def test_without_an_id_a_set_of_one_key_will_do(jwks: Jwks) -> None:
    jwks.serve(only=KEYS["ES256"])
    check_token(f"jwt-jwks-url:{jwks.url}", sign("ES256"), "ann")


def test_concurrent_logins_fetch_once(jwks: Jwks) -> None:
    jwks.serve(a=KEYS["RS256"])
    keys = KeySet(jwks.url)
    threads = [threading.Thread(target=keys.get, args=("a",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert jwks.fetched == 1
