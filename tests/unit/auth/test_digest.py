"""Digests of libcrypto's and of the standard library: the same, and the same comparison."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.auth.digest import base64, hmac_sha256, is_equal, sha256, use_libcrypto, xor

KEYS = st.binary(max_size=200)
TEXTS = st.binary(max_size=2000)


@pytest.fixture(scope="module", autouse=True, params=["libcrypto", "hashlib"])
def library(request: pytest.FixtureRequest) -> Iterator[None]:
    wanted = request.param == "libcrypto"
    if use_libcrypto(wanted) != wanted:
        pytest.skip("needs OpenSSL's libcrypto")
    yield
    use_libcrypto(True)


@given(KEYS, TEXTS)
def test_the_same_as_the_standard_library(key: bytes, text: bytes) -> None:
    assert sha256(text) == hashlib.sha256(text).digest()
    assert hmac_sha256(key, text) == hmac.digest(key, text, "sha256")


@given(st.binary(max_size=200) | st.binary(min_size=3060, max_size=3090))
def test_base64_is_that_of_the_standard_library(data: bytes) -> None:
    assert base64(data) == b64encode(data)


def test_rfc_4231() -> None:
    """Cases 2 and 6: a short key, and one longer than a block."""
    assert hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    assert hmac_sha256(b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First").hex() == (
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    )


@given(TEXTS, TEXTS)
def test_equal_is_what_equals(left: bytes, right: bytes) -> None:
    assert is_equal(left, right) == (left == right)
    assert is_equal(left, bytes(left))


def test_one_bit_is_a_difference_wherever_it_is() -> None:
    digest = sha256(b"x")
    for at in range(256):
        other = (int.from_bytes(digest, "big") ^ 1 << at).to_bytes(32, "big")
        assert not is_equal(digest, other)
        assert xor(digest, other) == (1 << at).to_bytes(32, "big")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_only_digests_are_mixed(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        xor(bytes(32), bytes(length))
