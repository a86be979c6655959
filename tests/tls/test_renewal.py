"""Files with new contents: taken on reload, or by themselves; servers opened with the old ones are replaced."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psycopg
import pytest

from tests.e2e.raw import SSL_REQUEST
from tests.harness import Doorman
from tests.harness.certificates import Authority, Pair
from tests.tls.conftest import MakePooler
from tests.tls.test_clients import wrap

PID = "SELECT pg_backend_pid()"


def put(pair: Pair, certificate: Path, key: Path) -> None:
    certificate.write_bytes(pair.certificate_path.read_bytes())
    key.write_bytes(pair.key_path.read_bytes())


def served(pooler: Doorman) -> bytes:
    """The certificate that clients are shown."""
    sock = socket.create_connection((pooler.host, pooler.port))
    sock.sendall(SSL_REQUEST)
    assert sock.recv(1) == b"S"
    with wrap(sock) as client:
        return client.getpeercert(binary_form=True) or b""


def test_watched_files_are_taken_by_themselves(make_pooler: MakePooler, authority: Authority, tmp_path: Path) -> None:
    old, new = (authority.issue("localhost", names=("localhost",), label=f"watched-{n}") for n in (1, 2))
    certificate, key = tmp_path / "crt", tmp_path / "key"
    put(old, certificate, key)
    pooler = make_pooler(tls_certificate=str(certificate), tls_private_key=str(key), tls_watch_interval="100ms")
    before = served(pooler)
    with pooler.config_path.open("a") as file:
        file.write("\nnonsense: [")  # what somebody is writing there is not read
    put(new, certificate, key)
    pooler.wait_until(lambda: served(pooler) != before, "the new certificate")
    after = served(pooler)
    mark = pooler.log_mark()
    certificate.write_text("nonsense")
    pooler.wait_until(lambda: pooler.log_contains("not reloaded.*tls_certificate", since=mark), "a refusal")
    assert served(pooler) == after
    put(old, certificate, key)
    pooler.wait_until(lambda: served(pooler) == before, "the old certificate again")
    assert pooler.log_contains("not reloaded", since=mark, times=1), "it is refused once"
    pooler.write_config()


@pytest.mark.parametrize("how", ["reload", "watch"])
def test_servers_of_older_files_are_replaced(
    make_pooler: MakePooler, authority: Authority, tmp_path: Path, how: str
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.path.read_bytes())
    interval = "100ms" if how == "watch" else 0
    pooler = make_pooler(server_tls_mode="verify-ca", server_tls_ca_cert=str(ca), tls_watch_interval=interval)

    def renew(contents: bytes) -> None:
        mark = pooler.log_mark()
        ca.write_bytes(contents)
        if how == "reload":
            os.kill(pooler.pid, signal.SIGHUP)
        pooler.wait_log("was reloaded", since=mark)

    idle, busy = pooler.connect(), pooler.connect()
    first = idle.execute(PID).fetchone()
    os.kill(pooler.pid, signal.SIGHUP)
    pooler.wait_log("nothing has changed")
    assert idle.execute(PID).fetchone() == first
    with busy.transaction():
        held = busy.execute(PID).fetchone()
        renew(authority.path.read_bytes() + b"\n")
        assert busy.execute(PID).fetchone() == held, "it may go on until its transaction is over"
        assert idle.execute(PID).fetchone() not in (first, held)
    assert busy.execute(PID).fetchone() not in (first, held)
    (tmp_path / "unknown").mkdir()
    renew(Authority(tmp_path / "unknown").path.read_bytes())
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        pooler.query(PID)
    renew(authority.path.read_bytes())
    assert pooler.query("SELECT 1") == [(1,)]
    for client in (idle, busy):
        client.close()
