"""Access rules at run time: a file that changes and is loaded again, one that is bad, and rules for the console."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.auth.logins import assert_clean_log, assert_enters, guest, refusal
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.harness.doorman import ADMIN_PASSWORD, pool_of

CONSOLE_RULE = "host pgdoorman,pgbouncer admin 127.0.0.1/32 md5\n"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "pg_hba.conf"
    path.write_text(CONSOLE_RULE + "host shop ann samehost scram-sha-256\n")
    return path


@pytest.fixture
def pooler(postgres: Postgres, rules: Path) -> Iterator[Doorman]:
    users = [guest("ann", password="ann-secret"), guest("bob", password="bob-secret")]
    pools = {"shop": pool_of(postgres, users=users)}
    general = {"pg_hba": {"path": str(rules)}, "auth_failure_delay": 0, "auth_failure_log_interval": 0}
    with Doorman(postgres, pools=pools, general=general) as doorman:
        yield doorman
        assert_clean_log(doorman)


def load(pooler: Doorman, rules: Path, text: str) -> str:
    """Change the file and RELOAD; what the console says against it."""
    rules.write_text(CONSOLE_RULE + text)
    try:
        pooler.reload()
    except psycopg.Error as error:
        return str(error)
    return ""


def test_a_file_that_changed_holds_from_the_next_login(pooler: Doorman, rules: Path) -> None:
    with Raw((pooler.host, pooler.port)):
        assert_enters(pooler, "ann", "ann-secret")
        assert "not permitted by HBA" in refusal(pooler, "bob", "bob-secret")
        assert pooler.log_contains(r"bob@shop .*\[no pg_hba rule fits\]")
        assert load(pooler, rules, "host shop ann all reject\nhost shop all samenet scram-sha-256\n") == ""
        assert_enters(pooler, "bob", "bob-secret")
        assert "not permitted by HBA" in refusal(pooler, "ann", "ann-secret")
        assert pooler.log_contains(r"ann@shop .*\[rejected by line 2 of pg_hba\]")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("host shop ann example.net md5", "host names are not supported"),
        ("host shop +dba all md5", r"role membership \(\+role\) is not supported"),
        ("host shop ann 10.0.0.0/33 md5", "does not appear to be|is no network"),
        ("host shop ann all ldap ldapserver=x", "ldap needs ldapprefix or ldapsuffix"),
        ("host shop ann all gss", "method 'gss' is not supported"),
    ],
)
def test_a_bad_line_changes_nothing_and_is_named(pooler: Doorman, rules: Path, line: str, words: str) -> None:
    said = load(pooler, rules, f"host shop all all trust\n{line}\n")
    pooler.wait_log(f"line 3: .*({words})")
    assert "line 3" in said
    assert_enters(pooler, "ann", "ann-secret")
    assert "not permitted by HBA" in refusal(pooler, "bob", "bob-secret")


def test_the_console_has_rules_too(pooler: Doorman, rules: Path) -> None:
    """`trust` there is for the administrator alone; what rejects him is not got around by the other name."""
    rules.write_text("host pgdoorman all all trust\nhost pgbouncer all all reject\n")
    pooler.reload()
    for _ in range(3):
        with psycopg.connect(pooler.dsn(user="admin", dbname="pgdoorman", password="")) as console:
            assert console.info.user == "admin"
    assert 'password authentication failed for user "ann"' in refusal(pooler, "ann", "ann-secret", "pgdoorman")
    assert "not permitted by HBA" in refusal(pooler, "admin", ADMIN_PASSWORD, "pgbouncer")
    rules.write_text(CONSOLE_RULE)
    with contextlib.suppress(psycopg.Error):
        pooler.reload()
