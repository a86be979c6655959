"""No password, hash, verifier or token in a log (at the most talkative level), in SHOW, in an error, or in a core."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import psycopg
import pytest
import yaml

from doorman.auth.md5 import md5_hash
from doorman.auth.verifier import format_verifier, verifier_of_password
from tests.e2e.auth.cores import cores_allowed
from tests.e2e.auth.logins import guest, refusal, whoami
from tests.harness import Doorman, Postgres
from tests.harness.doorman import ADMIN_PASSWORD, pool_of, user_of

PASSWORDS = {"ann": "aNn-Secret-1", "bob": "bOb-Secret-2", "eve": "eVe-Secret-3", "srv": "sRv-Secret-4"}
TRIED = "tRied-Secret-5"
VERIFIER = format_verifier(verifier_of_password("bob", PASSWORDS["bob"]))
HASH = md5_hash(PASSWORDS["eve"], "eve")
LDAP_SECRET = "lDap-Secret-6"
SECRETS = [*PASSWORDS.values(), TRIED, LDAP_SECRET, *VERIFIER.split("$")[2].split(":"), HASH[3:], ADMIN_PASSWORD]
HBA = f"""
host clear all all password
host ldap  all all ldap ldapserver=127.0.0.1 ldapport=1 ldapbasedn=dc=x ldapbinddn=cn=x ldapbindpasswd={LDAP_SECRET}
host all   all all md5
"""


@pytest.fixture(scope="module")
def pooler(postgres: Postgres) -> Iterator[Doorman]:
    users = [
        guest("ann", password=PASSWORDS["ann"]),
        guest("bob", password=VERIFIER),
        guest("eve", password=HASH),
        user_of("srv", 2, password="x", server_username="app", server_password=PASSWORDS["srv"]),
        user_of("lost", 2, password=PASSWORDS["ann"], server_username="nosuchrole", server_password=PASSWORDS["srv"]),
    ]
    pools = {name: pool_of(postgres, users=users) for name in ("shop", "clear", "ldap")}
    general = {"pg_hba": {"content": HBA}, "auth_failure_log_interval": 0, "auth_failure_delay": 0,
               "log_client_connections": True, "log_client_disconnections": True}  # fmt: skip
    with Doorman(postgres, pools=pools, general=general, arguments=["-l", "trace"]) as doorman:
        yield doorman


def assert_no_secret(text: str) -> None:
    found = [secret for secret in SECRETS if secret in text]
    assert not found, found


def test_neither_good_nor_bad_logins_leave_one_in_the_log(pooler: Doorman) -> None:
    for database in ("shop", "clear"):
        for user in ("ann", "bob", "eve"):
            assert whoami(pooler, user, PASSWORDS[user], database) == "app"
            assert_no_secret(refusal(pooler, user, TRIED, database))
    assert_no_secret(refusal(pooler, "ann", TRIED, "ldap"))
    assert_no_secret(refusal(pooler, "lost", PASSWORDS["ann"]))
    assert_no_secret(refusal(pooler, "admin", TRIED, "pgdoorman"))
    assert whoami(pooler, "srv", "x") == "app"
    assert_no_secret(pooler.log_text())


def test_show_tells_none(pooler: Doorman) -> None:
    whoami(pooler, "ann", PASSWORDS["ann"])
    shown = ""
    for what in ("CONFIG", "DATABASES", "POOLS", "CLIENTS", "SERVERS", "USERS", "LISTS", "STATS", "VERSION", "SOCKETS",
                 "AUTH_QUERY", "STARTUP_PARAMETERS", "CONNECTIONS", "PREPARED_STATEMENTS"):  # fmt: skip
        with contextlib.suppress(psycopg.Error):
            shown += str(pooler.console(f"SHOW {what}"))
    assert "shop" in shown
    assert_no_secret(shown)


def test_a_configuration_that_is_refused_is_told_without_them(pooler: Doorman) -> None:
    """Secrets in the wrong places, at reload and on the console."""
    mark = pooler.log_mark()
    before = pooler.config_path.read_text()
    for break_it in (
        lambda tree: tree["general"].update(admin_password=[ADMIN_PASSWORD]),
        lambda tree: tree["general"].update(pg_hba=f"host all all all ldap ldapbindpasswd={LDAP_SECRET}"),
        lambda tree: tree["general"].update(auth_ldap_options=f"ldapbindpasswd={LDAP_SECRET}"),
        lambda tree: tree["general"].update(auth_ldap_options=f"{LDAP_SECRET}"),
        lambda tree: tree["pools"]["shop"]["users"][0].update(password={"value": PASSWORDS["ann"]}),
        lambda tree: tree["pools"]["shop"].update(users=VERIFIER),
    ):
        tree = yaml.safe_load(before)
        break_it(tree)
        pooler.config_path.write_text(yaml.safe_dump(tree))
        with contextlib.suppress(psycopg.Error):
            pooler.console("RELOAD")
        pooler.signal(signal.SIGHUP)
        time.sleep(0.3)
    pooler.config_path.write_text(before)
    assert len(pooler.log_text(mark).splitlines()) >= 6, "nothing was refused"
    assert_no_secret(pooler.log_text(mark))
    assert whoami(pooler, "ann", PASSWORDS["ann"]) == "app"


def core_of(doorman: Doorman, pid: int) -> bytes:
    """Have a worker crash; its core."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSEGV)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        cores = [path for path in doorman.directory.glob("core*") if path.stat().st_size]
        if cores and pid not in doorman.pids().workers:
            return cores[0].read_bytes()
        time.sleep(0.1)
    pytest.skip("this kernel writes no cores here")


@pytest.mark.parametrize("whole", [False, True])
def test_a_core_has_none_unless_it_is_asked_to(postgres: Postgres, whole: bool) -> None:
    """`whole` shows that the secrets would be found otherwise."""
    with cores_allowed():
        pools = {"shop": pool_of(postgres, users=[guest("ann", password=PASSWORDS["ann"])])}
        env = {"PG_DOORMAN_CORE_DUMPS": "full"} if whole else {}
        hba = {"content": "host all all all md5"}
        with Doorman(postgres, pools=pools, general={"pg_hba": hba}, env=env) as doorman:
            whoami(doorman, "ann", PASSWORDS["ann"])
            core = core_of(doorman, doorman.pids().workers[0])
            assert (PASSWORDS["ann"].encode() in core) == whole
            for path in doorman.directory.glob("core*"):
                path.unlink()
            assert whoami(doorman, "ann", PASSWORDS["ann"]) == "app"
