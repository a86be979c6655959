"""LDAP against a real slapd: simple bind, search and bind, groups, StartTLS and ldaps, dead directories."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterator

import pytest

from doorman.auth.ldap import LdapRefused, LdapUnavailable, check_password
from doorman.config.ldap_options import read_settings
from tests.e2e.auth.logins import assert_clean_log, assert_enters, assert_refused, guest, send_password
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.harness.ports import free_port
from tests.harness.slapd import BASE, READER, READER_PASSWORD, Slapd, is_slapd_there

PEOPLE = f"ou=people,{BASE}"
SIMPLE = f'ldapprefix="uid=" ldapsuffix=",{PEOPLE}"'
SEARCH = f'ldapbasedn="{BASE}" ldapbinddn="{READER}" ldapbindpasswd={READER_PASSWORD}'
IN_GROUP = f'"ldapsearchfilter=(&(uid=$username)(memberOf=cn=dba,ou=groups,{BASE}))"'


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    if not is_slapd_there():
        pytest.skip("needs Debian's packages slapd and ldap-utils")
    with Slapd() as directory:
        yield directory


def rules(slapd: Slapd) -> dict[str, str]:
    """Database -> the options of its rule."""
    plain, tls = f"ldapserver=127.0.0.1 ldapport={slapd.port}", f"ldapserver=127.0.0.1 ldapport={slapd.tls_port}"
    return {
        "simple": f"{plain} {SIMPLE}",
        "search": f"{plain} {SEARCH}",
        "mail": f"{plain} {SEARCH} ldapsearchattribute=mail",
        "groups": f"{plain} {SEARCH} {IN_GROUP}",
        "starttls": f"{plain} ldaptls=1 {SIMPLE}",
        "ldaps": f"{tls} ldapscheme=ldaps {SIMPLE}",
        "url": f'ldapurl="{slapd.tls_url}/{BASE}?uid?sub" ldapbinddn="{READER}" ldapbindpasswd={READER_PASSWORD}',
        "anonymous": f'{plain} ldapbasedn="{BASE}"',
        "reader": f'{plain} ldapbasedn="{BASE}" ldapbinddn="{READER}" ldapbindpasswd=wrong-reader',
        "second": f'ldapserver="127.0.0.2 127.0.0.1" ldapport={slapd.port} {SIMPLE}',
        "dead": f"ldapserver=127.0.0.1 ldapport={free_port()} {SIMPLE}",
        "default": "",
    }


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, slapd: Slapd) -> Iterator[Doorman]:
    users = [guest(name, password=None) for name in ("ann", "bob", "twin", "a*", "ann@example.net", "a)(uid=*")]
    lines = [f"host {database} all 127.0.0.1/32 ldap {options}" for database, options in rules(slapd).items()]
    lines += [f"host pgdoorman ann 127.0.0.1/32 ldap {rules(slapd)['simple']}", "host postgres all all trust"]
    pools = {database: pool_of(postgres, users=users) for database in rules(slapd)}
    pools["postgres"] = pool_of(postgres, users=[user_of("app", 3)])
    general = {
        "pg_hba": {"content": "\n".join([*lines, "host pgdoorman all all md5"])},
        "auth_ldap_options": rules(slapd)["simple"],
        "auth_failure_log_interval": 0,
        "auth_wait_timeout": "3s",
        "admin_username": "admin",
    }
    with Doorman(postgres, pools=pools, general=general, env={"LDAPTLS_CACERT": str(slapd.ca)}) as doorman:
        yield doorman
        assert_clean_log(doorman)
        for secret in ("ann-secret", READER_PASSWORD, "wrong-reader", "wrong-password"):
            assert not doorman.log_contains(secret)


@pytest.mark.parametrize("database", ["simple", "search", "groups", "starttls", "ldaps", "url", "second", "default"])
def test_the_right_password_enters_and_a_wrong_one_does_not(pooler: Doorman, database: str) -> None:
    assert_enters(pooler, "ann", "ann-secret", database)
    assert_refused(pooler, "ann", "wrong-password", database, log="LDAP: ldaps?://.* Invalid credentials")
    assert_refused(pooler, "ann", "bob-secret", database)


def test_another_attribute_may_be_the_name(pooler: Doorman) -> None:
    assert_enters(pooler, "ann@example.net", "ann-secret", "mail")
    assert_refused(pooler, "ann", "ann-secret", "mail", log="no entries found")


def test_only_members_of_the_group(pooler: Doorman) -> None:
    assert_enters(pooler, "ann", "ann-secret", "groups")
    assert_refused(pooler, "bob", "bob-secret", "groups", log="no entries found for the filter")


def test_an_ambiguous_search_refuses(pooler: Doorman) -> None:
    assert_refused(pooler, "twin", "twin-secret", "search", log="2 entries found")


@pytest.mark.parametrize("user", ["a*", "a)(uid=*"])
def test_names_cannot_change_the_filter(pooler: Doorman, user: str) -> None:
    assert_refused(pooler, user, "ann-secret", "search", log="character that is not allowed")


def test_a_stranger_is_refused_although_the_directory_knows_it(pooler: Doorman) -> None:
    assert_refused(pooler, "stranger", "stranger-secret", "simple", log="there is no such user here")


def test_an_empty_password_never_reaches_the_directory(pooler: Doorman) -> None:
    with send_password(pooler, "ann", b"", "simple") as raw:
        assert raw.last_words()["C"] == "28P01"


def test_a_search_that_may_not_see_refuses(pooler: Doorman) -> None:
    assert_refused(pooler, "ann", "ann-secret", "anonymous", log="(no entries found|No such object)")
    assert_refused(pooler, "ann", "ann-secret", "reader", log=f'bind as "{READER}": Invalid credentials')


def test_a_directory_that_is_down_is_named_in_the_log(pooler: Doorman) -> None:
    assert_refused(pooler, "ann", "ann-secret", "dead", log="Can't contact LDAP server")


def test_the_console_is_guarded_too(pooler: Doorman) -> None:
    assert_refused(pooler, "ann", "ann-secret", "pgdoorman", log="there is no such user here")


def test_a_certificate_of_another_ca_ends_it(postgres: Postgres, slapd: Slapd) -> None:
    """Neither ldaps nor StartTLS goes on without."""
    hba = "\n".join(f"host {name} all all ldap {rules(slapd)[name]}" for name in ("ldaps", "starttls"))
    pools = {name: pool_of(postgres, users=[guest("ann", password=None)]) for name in ("ldaps", "starttls")}
    general = {"pg_hba": {"content": hba + "\nhost all all all md5"}, "auth_failure_log_interval": 0}
    with Doorman(postgres, pools=pools, general=general) as doorman:
        assert_refused(doorman, "ann", "ann-secret", "ldaps", log="certificate|Can't contact")
        assert_refused(doorman, "ann", "ann-secret", "starttls", log="StartTLS: .*")


def test_a_silent_directory_holds_nobody_up_and_is_given_up(pooler: Doorman, slapd: Slapd) -> None:
    os.kill(slapd.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        waiting = [send_password(pooler, "ann", b"ann-secret", "simple") for _ in range(6)]
        with Raw((pooler.host, pooler.port)) as other:
            other.log_in("app", "postgres")
            for _ in range(50):
                assert other.value("SELECT 1") == "1"
        assert time.monotonic() - began < 2
        for raw in waiting:
            assert raw.last_words()["C"] == "28P01"
            raw.close()
        assert 3 <= time.monotonic() - began < 5
    finally:
        os.kill(slapd.pid, signal.SIGCONT)
    assert_enters(pooler, "ann", "ann-secret", "simple")


def test_libldap_directly(slapd: Slapd) -> None:
    """Many times: what is not freed shows elsewhere, but a crash shows here."""
    for name in ("simple", "search"):
        settings = read_settings(dict(option.split("=", 1) for option in shlex.split(rules(slapd)[name])))
        for _ in range(50):
            check_password(settings, "ann", b"ann-secret")
            with pytest.raises(LdapRefused, match="Invalid credentials"):
                check_password(settings, "ann", b"wrong")
        with pytest.raises(LdapRefused, match="empty password"):
            check_password(settings, "ann", b"")
    with pytest.raises(LdapUnavailable):
        check_password(read_settings({"ldapserver": "127.0.0.1", "ldapport": "1", "ldapprefix": "uid="}), "ann", b"x")
