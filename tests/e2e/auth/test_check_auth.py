"""`pg_doorman check-auth` against real servers: each way a login can fail is named, and the good ones are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from doorman.auth.md5 import md5_hash
from doorman.auth.verifier import format_verifier, verifier_of_password
from tests.e2e.auth.logins import guest
from tests.harness import Postgres
from tests.harness.doorman import default_config, pool_of, user_of
from tests.harness.ports import free_port
from tests.harness.postgres import PASSWORDS, server_user
from tests.harness.slapd import make_certificates
from tests.unit.auth.tokens import KEYS, sign, write_public

ROOT = Path(__file__).resolve().parents[3]
HBA = """
host rejected all all reject
host trusted all all trust
host clear all all password
hostssl tls_only all all scram-sha-256
host nowhere all 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapport=1 ldapprefix=uid=
host bad_service all all pam pamservice=no_such_service_here
host all all 127.0.0.1/32 scram-sha-256
local all all md5
"""


class Check:
    """`check("ann", "shop", "password")` gives exit code and text."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        path.write_text(yaml.safe_dump(config))

    def __call__(self, user: str, database: str, password: str | None = None, *more: str) -> tuple[int, str]:
        env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        env["PYTHONPATH"] = str(ROOT)
        if password is not None:
            env["PGPASSWORD"] = password
        command = [sys.executable, "-m", "doorman.cli", "check-auth", "--database", database, "--user", user, *more]
        done = subprocess.run(
            [*command, str(self.path)], env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert password is None or len(password) < 3 or password not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    def fails(self, user: str, database: str, password: str | None, step: str, words: str, *more: str) -> str:
        code, text = self(user, database, password, *more)
        assert code == 1 and "The login would fail." in text, text
        failed = next(line for line in text.splitlines() if line.startswith("FAILED"))
        assert failed.startswith(f"FAILED {step}: ") and words in failed, text
        assert "-> " in text
        return text


@pytest.fixture(scope="module")
def check(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Check:
    directory = tmp_path_factory.mktemp("check")
    key = write_public(KEYS["RS256"], directory / "key.pem")
    stored = postgres.admin("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram_user'")[0][0]
    users = [
        guest("ann", password="ann-secret"),
        guest("hashed", password=md5_hash("md5-secret", "hashed")),
        guest("broken", password="SCRAM-SHA-256$4096:oops"),
        guest("empty", password=""),
        guest("token", password=f"jwt-pkey-fpath:{key}"),
        user_of("scram_user", 2, password=str(stored)),
        user_of("app", 2, password=format_verifier(verifier_of_password("app", "app-secret"))),
        user_of("lost", 2, password="lost-secret", server_username="no_such_role", server_password="x-secret"),
        user_of("pw", 2, password="pw-secret", server_username="plain_user", server_password="wrong-secret"),
    ]
    names = ("shop", "rejected", "trusted", "clear", "tls_only", "nowhere", "bad_service")
    pools = {name: pool_of(postgres, users=users) for name in names}
    pools["closed"] = pool_of(postgres, users=users, server_port=free_port())
    pools["no_database"] = pool_of(postgres, users=users, server_database="no such database")
    pools["secured"] = pool_of(postgres, users=users, server_tls_mode="require")
    query = {"query": "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1", "user": "postgres"}
    query["database"] = "postgres"
    pools["looked_up"] = pool_of(postgres, users=[], auth_query=query)
    pools["dedicated"] = pool_of(postgres, users=[], auth_query={**query, "server_user": "app"})
    pools["forbidden"] = pool_of(postgres, users=[], auth_query={**query, "user": "app"})
    pools["unasked"] = pool_of(postgres, users=[], auth_query=query, server_port=free_port())
    config = default_config(free_port(), postgres)
    config["general"]["pg_hba"] = {"content": HBA}
    return Check(directory / "pg_doorman.yaml", {**config, "pools": pools})


@pytest.mark.parametrize(
    ("user", "database", "password", "words"),
    [
        ("ann", "shop", "ann-secret", "line 8 of general.pg_hba fits"),
        ("ann", "clear", "ann-secret", "method password"),
        ("ann", "trusted", None, "none is asked for (trust)"),
        ("token", "shop", sign(preferred_username="token").decode(), "a token is asked for"),
        ("scram_user", "shop", PASSWORDS["scram_user"], "logged in to 127.0.0.1:"),
        ("admin", "pgdoorman", "adminpw", "is general.admin_username"),
    ],
)
def test_good_logins(check: Check, user: str, database: str, password: str | None, words: str) -> None:
    code, text = check(user, database, password)
    assert code == 0 and words in text and "would succeed" in text, text
    assert ("logged in to" in text) == (database != "pgdoorman")


def test_which_rule_depends_on_where_the_client_is(check: Check) -> None:
    assert "line 9 of general.pg_hba" in check("ann", "shop", "ann-secret", "--address", "local")[1]
    assert "line 5 of general.pg_hba" in check("ann", "tls_only", "ann-secret", "--address", "10.0.0.1", "--tls")[1]
    check.fails("ann", "tls_only", "ann-secret", "rule", "no rule", "--address", "10.0.0.1")
    check.fails("ann", "shop", "ann-secret", "rule", "no rule of general.pg_hba fits ann@shop", "--address", "::1")


@pytest.mark.parametrize(
    ("user", "database", "password", "step", "words"),
    [
        ("ann", "shop", "wrong", "password", "password authentication failed"),
        ("ann", "rejected", "ann-secret", "rule", "line 2 of general.pg_hba rejects"),
        ("ann", "shoop", "x", "database", "pools.shoop does not exist"),
        ("carl", "shop", "x", "user", '"carl" is no user of pools.shop'),
        ("hashed", "shop", "md5-secret", "method", "is an MD5 hash, which a scram-sha-256 rule cannot use"),
        ("broken", "shop", "x", "method", "begins like a SCRAM verifier but is none"),
        ("empty", "shop", "x", "method", "missing or empty"),
        ("token", "shop", "junk", "password", "JWT: this is no token"),
        ("ann", "nowhere", "ann-secret", "password", "Can't contact LDAP server"),
        ("ann", "bad_service", "ann-secret", "method", "no service file for the PAM service no_such_service_here"),
        ("lost", "shop", "lost-secret", "server", "28000"),
        ("pw", "shop", "pw-secret", "server", "28P01"),
        ("ann", "closed", "ann-secret", "server", "Connection refused"),
        ("ann", "no_database", "ann-secret", "server", "3D000"),
        ("ann", "secured", "ann-secret", "server", "does not offer TLS"),
        ("admin", "pgdoorman", "wrong", "password", "password authentication failed"),
        ("ann", "pgbouncer", "x", "user", "only general.admin_username gets into the console"),
    ],
)
def test_each_failure_is_named(check: Check, user: str, database: str, password: str, step: str, words: str) -> None:
    check.fails(user, database, password, step, words)


def test_without_a_password_that_step_is_left_out(check: Check) -> None:
    code, text = check("ann", "shop")
    assert code == 0 and "not tried: none was given" in text
    text = check.fails("scram_user", "shop", None, "server", "has not logged in by SCRAM yet")
    assert "PGPASSWORD" in text


def test_users_of_an_auth_query_are_looked_up(check: Check) -> None:
    password = PASSWORDS["scram_user"]
    for database, role in (("looked_up", "scram_user"), ("dedicated", "app")):
        code, text = check("scram_user", database, password)
        assert code == 0 and 'finds "scram_user"' in text and f'as "{role}"' in text, text
    check.fails("scram_user", "looked_up", "wrong", "password", "password authentication failed")
    check.fails("whoever", "looked_up", "x", "user", 'finds no password for "whoever"')
    check.fails("scram_user", "forbidden", password, "user", "permission denied")
    check.fails("scram_user", "unasked", password, "user", "auth_query at 127.0.0.1:")
    code, text = check("scram_user", "unasked", password, "--no-server")
    assert code == 0 and "auth_query would be asked" in text


def test_usage_and_a_broken_configuration(check: Check, tmp_path: Path) -> None:
    assert check("ann", "shop", "x", "--address", "example.net")[0] == 2
    assert check("ann", "shop", "x", "--password", "x")[0] == 2, "a password on the command line"
    broken = Check(tmp_path / "broken.yaml", {"general": {"admin_username": "a"}, "pools": {}})
    code, text = broken("ann", "shop", "x")
    assert code == 78 and "general.admin_password: missing" in text


def test_a_server_with_tls(postgres_debian: Postgres, tmp_path: Path, check: Check) -> None:
    make_certificates(tmp_path)
    with Postgres(bindir=postgres_debian.bindir) as server:
        for name in ("server.pem", "server.key"):
            copy = Path(shutil.copy(tmp_path / name, server.data))
            copy.chmod(0o600)
            if (owner := server_user()) is not None:
                os.chown(copy, owner, owner)
        server.admin("ALTER SYSTEM SET ssl_cert_file = 'server.pem'")
        server.admin("ALTER SYSTEM SET ssl_key_file = 'server.key'")
        server.admin("ALTER SYSTEM SET ssl = on")
        server.restart()
        users = [guest("ann", password="ann-secret")]
        modes = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
        ca = {"server_tls_ca_cert": str(tmp_path / "ca.pem")}
        pools = {mode: pool_of(server, users=users, server_tls_mode=mode, **ca) for mode in modes}
        pools["other"] = {**pools["verify-ca"], "server_tls_ca_cert": str(other_ca(tmp_path))}
        tls = Check(tmp_path / "tls.yaml", {**check.config, "pools": pools})
        seen = {mode: tls("ann", mode, "ann-secret") for mode in modes}
        assert {mode: ", with TLS" in text for mode, (code, text) in seen.items() if code == 0} == {
            mode: mode not in ("disable", "allow") for mode in modes
        }, seen
        tls.fails("ann", "other", "ann-secret", "server", "TLS failed: CERTIFICATE_VERIFY_FAILED")


def other_ca(directory: Path) -> Path:
    (directory / "other").mkdir()
    make_certificates(directory / "other")
    return directory / "other" / "ca.pem"
