"""PAM: the system's libpam with a service of the test's own, whose module runs a script that we can read and delay."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from doorman.auth.pam import PamRefused, check_password
from tests.e2e.auth.logins import assert_clean_log, assert_enters, assert_refused, guest, send_password, whoami
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of

SERVICES = Path("/etc/pam.d")
NAME = f"doorman_test_{os.getpid()}"
SCRIPT = """#!/bin/sh
given=$(tr -d '\\000')
echo "$PAM_USER $PAM_RHOST $PAM_SERVICE" >>{directory}/asked
[ "$given" = sleepy ] && sleep 4
[ "$given" = "$PAM_USER-pam" ]
"""
HBA = """
host by_rule  all 127.0.0.1/32 pam pamservice={name}
host nobody   all 127.0.0.1/32 pam pamservice={name}_locked
host missing  all 127.0.0.1/32 pam pamservice={name}_missing
host by_name  all 127.0.0.1/32 pam pamservice={name} pam_use_hostname=1
host postgres all 127.0.0.1/32 trust
host pgdoorman all 127.0.0.1/32 md5
host all      all 127.0.0.1/32 scram-sha-256
local all     all              pam pamservice={name}
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The services; the file that tells who was asked for, from where, by which service."""
    if not os.access(SERVICES, os.W_OK):
        pytest.skip(f"needs to write a service file into {SERVICES} (root)")
    directory = tmp_path_factory.mktemp("pam")
    script = directory / "check"
    script.write_text(SCRIPT.format(directory=directory))
    script.chmod(0o755)
    auth = f"auth required pam_exec.so expose_authtok quiet {script}\n"
    made = {SERVICES / NAME: auth + "account required pam_permit.so\n"}
    made[SERVICES / f"{NAME}_locked"] = auth + "account required pam_deny.so\n"
    for path, text in made.items():
        path.write_text(text)
    yield directory / "asked"
    for path in made:
        path.unlink()


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, asked: Path) -> Iterator[Doorman]:
    users = [guest("ann", password=None), guest("bob", password="text", auth_pam_service=NAME)]
    pools = {name: pool_of(postgres, users=users) for name in ("by_rule", "by_name", "nobody", "missing", "shop")}
    pools["postgres"] = pool_of(postgres, users=[user_of("app", 3)])
    general = {"pg_hba": {"content": HBA.format(name=NAME)}, "auth_wait_timeout": "2s", "auth_failure_log_interval": 0}
    with Doorman(postgres, pools=pools, general=general) as doorman:
        doorman.update_config(general={"unix_socket_dir": str(doorman.directory)})
        doorman.stop()
        yield doorman.start()
        assert_clean_log(doorman)


def test_a_rule_asks_pam(pooler: Doorman, asked: Path) -> None:
    assert_enters(pooler, "ann", "ann-pam", "by_rule")
    assert asked.read_text().splitlines()[-1] == f"ann 127.0.0.1 {NAME}"
    assert_refused(pooler, "ann", "wrong", "by_rule", log=rf"PAM service {NAME}: pam_authenticate: .*\(4\)")


def test_pam_may_be_told_the_name_of_the_host(pooler: Doorman, asked: Path) -> None:
    assert_enters(pooler, "ann", "ann-pam", "by_name")
    assert asked.read_text().splitlines()[-1].split()[1] == "localhost"


def test_a_client_of_the_unix_socket_is_local(pooler: Doorman, asked: Path) -> None:
    with psycopg.connect(
        host=str(pooler.directory), port=pooler.port, user="ann", dbname="by_rule", password="ann-pam"
    ) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    assert asked.read_text().splitlines()[-1] == f"ann [local] {NAME}"


def test_a_users_own_service_comes_before_its_password(pooler: Doorman) -> None:
    assert_enters(pooler, "bob", "bob-pam")
    assert_refused(pooler, "bob", "text")


def test_the_account_is_checked_too(pooler: Doorman) -> None:
    assert_refused(pooler, "ann", "ann-pam", "nobody", log="pam_acct_mgmt")


def test_a_service_that_does_not_exist_refuses(pooler: Doorman) -> None:
    assert_refused(pooler, "ann", "ann-pam", "missing", log=f"PAM service {NAME}_missing")


def test_a_stranger_is_asked_alike_and_refused_though_pam_says_yes(pooler: Doorman, asked: Path) -> None:
    assert_refused(pooler, "carl", "carl-pam", "by_rule", log="accepted, but there is no such user here")
    assert asked.read_text().splitlines()[-1].startswith("carl ")


def test_slow_modules_hold_nobody_up_and_are_given_up(pooler: Doorman) -> None:
    began = time.monotonic()
    waiting = [send_password(pooler, "ann", b"sleepy", "by_rule") for _ in range(6)]
    with Raw((pooler.host, pooler.port)) as other:
        other.log_in("app", "postgres")
        slowest = max(timed(other) for _ in range(50))
    assert whoami(pooler, "ann", "ann-pam", "by_rule") == "app"
    assert time.monotonic() - began < 1.9 and slowest < 0.2
    for raw in waiting:
        assert raw.last_words()["C"] == "28P01"
        raw.close()
    assert 2 <= time.monotonic() - began < 3.9
    pooler.wait_log(r"no answer within auth_wait_timeout \(2 s\)")


def timed(raw: Raw) -> float:
    began = time.monotonic()
    assert raw.value("SELECT 1") == "1"
    return time.monotonic() - began


def test_many_at_once(pooler: Doorman) -> None:
    raws = [send_password(pooler, "ann", b"ann-pam" if n % 2 else b"wrong", "by_rule") for n in range(40)]
    for n, raw in enumerate(raws):
        if n % 2:
            raw.until("Z")
        else:
            assert raw.last_words()["C"] == "28P01"
        raw.close()


@pytest.mark.parametrize("password", [b"\xff\xfe not utf-8", b"x" * 5000, b"'; rm -rf / #", b"%s%n" * 50])
def test_odd_passwords_are_only_wrong(pooler: Doorman, password: bytes) -> None:
    with send_password(pooler, "ann", password, "by_rule") as raw:
        assert raw.last_words()["C"] == "28P01"


def test_libpam_directly(asked: Path) -> None:
    check_password(NAME, "zoé", "zoé-pam".encode(), "192.0.2.1")
    assert asked.read_text().splitlines()[-1] == f"zoé 192.0.2.1 {NAME}"
    for _ in range(50):
        with pytest.raises(PamRefused):
            check_password(NAME, "zoé", b"wrong", "192.0.2.1")
