"""The two libraries for records do the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from doorman.tls.cipher import use_libcrypto
from tests.unit.tls.test_record import every_suite, pair


@pytest.fixture(autouse=True)
def libcrypto() -> None:
    if not use_libcrypto(True):
        pytest.skip("needs OpenSSL's libcrypto.so.3")


@every_suite
def test_what_one_seals_the_other_opens(number: int) -> None:
    sizes = [1, 2, 15, 16, 17, 255, 4079, 4080, 4095, 4096, 4097, 16_384, 16_385, 50_000]
    for has_library in (True, False):
        (client, _), (twin, server) = pair(number), pair(number)
        for size in sizes:
            use_libcrypto(has_library)
            data = os.urandom(size)
            sealed = client.seal_bytes(data)
            use_libcrypto(not has_library)
            assert server.open_bytes(sealed) == data
            assert twin.seal_bytes(data) == sealed, size


@every_suite
def test_a_forgery_is_refused_by_both(number: int) -> None:
    for has_library in (True, False):
        use_libcrypto(has_library)
        client, server = pair(number)
        sealed = bytearray(client.seal_bytes(b"x" * 100))
        sealed[-1] ^= 1
        assert server.open_bytes(bytes(sealed)) == b""
        assert server.fault


def test_the_environment_turns_libcrypto_off() -> None:
    """Nothing else maps OpenSSL's library into a process that has only loaded the record layer."""
    program = (
        "import doorman.tls.cipher, pathlib\n"
        "print('libcrypto.so' in pathlib.Path('/proc/self/maps').read_text(), end='')"
    )
    found = {}
    for choice in ("cryptography", ""):
        env = {**os.environ, "PG_DOORMAN_AEAD": choice}
        found[choice] = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True).stdout
    assert found == {"cryptography": "False", "": "True"}
