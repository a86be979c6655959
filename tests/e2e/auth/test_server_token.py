"""A token as password towards PostgreSQL: signed anew for each server, and checked by the other side for real.

PostgreSQL asks for a password in clear (`pam`); the PAM service's program verifies the token with openssl.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.harness import Doorman, Postgres, find_debian_postgres
from tests.harness.doorman import pool_of, user_of
from tests.harness.service import temporary_directory
from tests.unit.auth.tokens import KEYS, OTHER_RSA, write_public

PAM = Path("/etc/pam.d") / f"doorman_token_{os.getpid()}"
VERIFY = """#!/usr/bin/python3
import base64, json, os, subprocess, sys, time
token = sys.stdin.buffer.read().rstrip(b"\\0")
signed, _, signature = token.rpartition(b".")
decode = lambda part: base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
there = os.path.dirname(os.path.abspath(__file__))
reading, writing = os.pipe()
os.write(writing, decode(signature))
os.close(writing)
command = ["openssl", "dgst", "-sha256", "-verify", there + "/key.pem", "-signature", f"/dev/fd/{reading}"]
verified = subprocess.run(command, input=signed, pass_fds=[reading], stdout=subprocess.DEVNULL).returncode == 0
claims = json.loads(decode(signed.partition(b".")[2]))
names = claims["preferred_username"] == os.environ["PAM_USER"] == "bearer"
sys.exit(not (verified and names and 0 < claims["exp"] - time.time() <= 120))
"""


def write_private(key: rsa.RSAPrivateKey, path: Path) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.fixture(scope="module")
def checking() -> Iterator[Postgres]:
    """A PostgreSQL that lets `bearer` in by a token."""
    bindir = find_debian_postgres()
    if bindir is None or not os.access(PAM.parent, os.W_OK) or not shutil.which("openssl", path="/usr/bin"):
        pytest.skip("needs Debian's postgresql (with PAM), openssl, and to write into /etc/pam.d")
    directory = temporary_directory("token")
    directory.chmod(0o755)
    write_public(KEYS["RS256"], directory / "key.pem").chmod(0o644)
    program = directory / "verify"
    program.write_text(VERIFY)
    program.chmod(0o755)
    PAM.write_text(f"auth required pam_exec.so expose_authtok quiet {program}\naccount required pam_permit.so\n")
    try:
        with Postgres(bindir=bindir, hba=f"host all bearer 127.0.0.1/32 pam pamservice={PAM.name}\n") as server:
            server.admin("CREATE USER bearer")
            yield server
    finally:
        PAM.unlink()
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def pooler(checking: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doorman]:
    directory = tmp_path_factory.mktemp("signers")
    signers = {"good": KEYS["RS256"], "bad": OTHER_RSA}
    pools = {}
    for name, key in signers.items():
        secret = f"jwt-priv-key-fpath:{write_private(key, directory / name)}"
        users = [user_of("app", 2, server_username="bearer", server_password=secret)]
        pools[name] = pool_of(checking, users=users)
    with Doorman(checking, pools=pools) as doorman:
        yield doorman
        assert not doorman.log_contains("Traceback")
        assert not doorman.log_contains("eyJ"), "a token in the log"


def test_servers_are_opened_with_a_token(pooler: Doorman) -> None:
    pids = set()
    for _ in range(3):
        [(name, pid)] = pooler.query("SELECT current_user, pg_backend_pid()", dbname="good")
        assert name == "bearer"
        pids.add(pid)
        pooler.console("RECONNECT good")
    assert len(pids) == 3, "each server was to be opened with a token of its own"


def test_a_token_of_another_key_opens_none(pooler: Doorman) -> None:
    with pytest.raises(psycopg.OperationalError, match='PAM authentication failed for user "bearer"'):
        pooler.query("SELECT 1", dbname="bad")
