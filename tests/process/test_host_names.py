"""A DNS server that is silent about one host: others are found all the same. In namespaces of its own, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "resolv.conf": "nameserver 127.0.0.1\n",
    "hosts": "127.0.0.1 localhost\n127.0.0.1 good.test\n",
    "nsswitch.conf": "hosts: files dns\n",
}
STAGE = """
import socket, threading, time

from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import query

silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
with Postgres() as postgres:
    pools = {name: pool_of(postgres, server_host=f"{name}.test", users=[user_of("app", 5)])
             for name in ("good", "bad0", "bad1", "bad2", "bad3")}
    with Doorman(postgres, pools=pools) as doorman:
        def ask(pool):
            with Raw((doorman.host, doorman.port)) as raw:
                raw.socket.settimeout(40)
                try:
                    return raw.log_in(database=pool).ask(query("SELECT 1"))
                except Exception as error:
                    return repr(error)
        def ask_on(pool):
            while not over.is_set():
                ask(pool)
        over = threading.Event()
        others = [threading.Thread(target=ask_on, args=(f"bad{n % 4}",)) for n in range(8)]
        for other in others:
            other.start()
        time.sleep(2)
        for _ in range(12):
            doorman.console("RECONNECT good")
            began = time.monotonic()
            answer = ask("good")
            print(answer, "at once" if time.monotonic() - began < 1 else f"after {time.monotonic() - began:.1f} s")
            time.sleep(0.3)
        over.set()
        for other in others:
            other.join()
"""


def test_a_silent_dns_server_holds_up_no_other_name(tmp_path: Path) -> None:
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if not unshare or not ip or subprocess.run([unshare, "-mn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces of its own (root, unshare, ip)")
    mounts = [f"{ip} link set lo up"]
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
        mounts.append(f"mount --bind {tmp_path / name} /etc/{name}")
    (tmp_path / "stage.py").write_text(STAGE)
    command = " && ".join([*mounts, f"exec {sys.executable} {tmp_path / 'stage.py'}"])
    told = subprocess.run(
        [unshare, "-mn", "sh", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert told.stdout.splitlines() == ["T D C ZI at once"] * 12, told.stdout + told.stderr
