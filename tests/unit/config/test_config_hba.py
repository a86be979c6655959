"""Who may log in: one table of questions per rule form, and the lines that are refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.config import interfaces
from doorman.config.hba import Admission, HbaRules, is_in_networks
from doorman.config.hba_parse import parse_rules
from doorman.errors import ConfigError

UNIX = None


def decide(
    text: str, *, database: str = "app", user: str = "bob", address: str | None = "10.1.2.3", tls: bool = False
) -> str | None:
    found = HbaRules(parse_rules(text)).decide(database=database, user=user, address=address, tls=tls)
    return found.method if found is not None else None


def refuse(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_rules(text)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("kind", "plain", "encrypted", "unix"),
    [
        ("local", None, None, "md5"),
        ("host", "md5", "md5", None),
        ("hostssl", None, "md5", None),
        ("hostnossl", "md5", None, None),
        ("HostSSL", None, "md5", None),
    ],
)
def test_the_type_fits_the_transport(kind: str, plain: str | None, encrypted: str | None, unix: str | None) -> None:
    rule = f"{kind} all all md5" if kind == "local" else f"{kind} all all all md5"
    assert decide(rule) == plain
    assert decide(rule, tls=True) == encrypted
    assert decide(rule, address=UNIX) == unix


@pytest.mark.parametrize(
    ("field", "database", "user", "fits"),
    [
        ("all", "app", "bob", True),
        ("ALL", "app", "bob", True),
        ('"all"', "app", "bob", False),
        ('"all"', "all", "bob", True),
        ("app", "app", "bob", True),
        ("App", "app", "bob", False),
        ("one,app", "app", "bob", True),
        ("one, app", "app", "bob", True),
        ('one,"a,b"', "a,b", "bob", True),
        ('"a b"', "a b", "bob", True),
        ('"a""b"', 'a"b', "bob", True),
        ('"a#b"', "a#b", "bob", True),
        ('pre"fix ed"', "prefix ed", "bob", True),
        ("sameuser", "bob", "bob", True),
        ("sameuser", "app", "bob", False),
        ("sameuser", "sameuser", "bob", False),
        ('"sameuser"', "sameuser", "bob", True),
        ("sameuser,app", "app", "bob", True),
        ("replication", "replication", "bob", False),
        ('"replication"', "replication", "bob", True),
        ('"+x"', "+x", "bob", True),
        ('"/x"', "/x", "bob", True),
    ],
)
def test_databases(field: str, database: str, user: str, fits: bool) -> None:
    assert decide(f"host {field} all all md5", database=database, user=user) == ("md5" if fits else None)


@pytest.mark.parametrize(
    ("field", "user", "fits"),
    [
        ("all", "bob", True),
        ("bob", "bob", True),
        ("Bob", "bob", False),
        ("alice,bob", "bob", True),
        ("alice,bob", "eve", False),
        ("sameuser", "app", False),
        ('"all"', "bob", False),
        ('"+role"', "+role", True),
    ],
)
def test_users(field: str, user: str, fits: bool) -> None:
    assert decide(f"host all {field} all md5", user=user) == ("md5" if fits else None)


@pytest.mark.parametrize(
    ("field", "address", "fits"),
    [
        ("all", "10.1.2.3", True),
        ("all", "2001:db8::1", True),
        ("0.0.0.0/0", "10.1.2.3", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "10.1.2.3", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.9.9.9/8", "10.1.2.3", True),
        ("10.1.2.3/32", "10.1.2.3", True),
        ("10.1.2.3/32", "10.1.2.4", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("10.0.0.0 255.0.0.0", "10.1.2.3", True),
        ("10.0.0.0 255.0.0.0", "11.1.2.3", False),
        ("10.1.2.3 255.255.255.255", "10.1.2.3", True),
        ("fd00:: ff00::", "fd12::1", True),
        ("fd00::/8", "fd12::1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ('"10.0.0.0/8"', "10.1.2.3", True),
        ("samehost", "127.0.0.1", True),
        ("samehost", "127.0.0.2", False),
        ("samenet", "127.9.9.9", True),
        ("samenet", "203.0.113.1", False),
    ],
)
def test_addresses(field: str, address: str, fits: bool) -> None:
    assert decide(f"host all all {field} md5", address=address) == ("md5" if fits else None)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("trust", "trust"),
        ("reject", "reject"),
        ("md5", "md5"),
        ("scram-sha-256", "scram-sha-256"),
        ("scram_sha_256", "scram-sha-256"),
        ("scramsha256", "scram-sha-256"),
        ("SCRAM-SHA-256", "scram-sha-256"),
        ("password", "password"),
        ("pam", "pam"),
        ("ldap", "ldap"),
    ],
)
def test_methods(method: str, answer: str) -> None:
    assert decide(f"host all all all {method}") == answer
    assert decide(f"local all all {method}", address=UNIX) == answer


def test_cert_is_for_tls() -> None:
    assert decide("hostssl all all all cert", tls=True) == "cert"
    assert refuse("host all all all cert") == ["line 1: method cert works with hostssl only"]


def test_the_first_rule_that_fits_decides() -> None:
    rules = "host all eve all reject\nhost all all 10.0.0.0/8 md5\nhost all all all trust\n"
    assert decide(rules, user="eve") == "reject"
    assert decide(rules) == "md5"
    assert decide(rules, address="192.0.2.1") == "trust"


def test_a_rule_with_another_method_is_not_passed_over() -> None:
    assert decide("host all all all md5\nhost all all all scram-sha-256\n") == "md5"


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "   \t \r\n"])
def test_no_rule_admits_nobody(text: str) -> None:
    assert decide(text) is None
    assert decide(text, address=UNIX) is None


def test_comments_and_continued_lines() -> None:
    text = "# first\nhost all \\\n  all all md5 # why\r\nlocal all all trust#end\nhost nope\n"
    assert refuse(text) == ["line 5: too few fields: host needs DATABASE USER ADDRESS METHOD"]
    rules = parse_rules(text.removesuffix("host nope\n"))
    assert [(rule.line, rule.kind, rule.method) for rule in rules] == [(2, "host", "md5"), (4, "local", "trust")]


def test_options_are_kept_for_the_method() -> None:
    text = 'host all all all ldap ldapserver=ldap.test "ldapbasedn=dc=a, dc=b" ldapbinddn=cn=x,dc=a ldaptls=1\n'
    rule = HbaRules(parse_rules(text)).find(database="app", user="bob", address="10.1.2.3", tls=False)
    assert rule is not None
    assert rule.options == {
        "ldapserver": "ldap.test",
        "ldapbasedn": "dc=a, dc=b",
        "ldapbinddn": "cn=x,dc=a",
        "ldaptls": "1",
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hst all all all md5", "unknown type 'hst'"),
        ("hostgssenc all all all md5", "hostgssenc is not supported"),
        ("include other.conf", "include is not supported"),
        ("host,local all all all md5", "one type expected"),
        ("local all all", "too few fields: local needs DATABASE USER METHOD"),
        ("host all all md5", "too few fields"),
        ("host", "too few fields"),
        ("host all +dba all md5", "'+dba': role membership (+role) is not supported"),
        ("host samerole all all md5", "samerole is not supported"),
        ("host samegroup all all md5", "samegroup is not supported"),
        ("host /^db all all md5", "regular expressions are not supported"),
        ("host all /^b all md5", "regular expressions are not supported"),
        ("host @dbs all all md5", "files of names (@file) are not supported"),
        ("host all @users all md5", "files of names (@file) are not supported"),
        ("host all all localhost md5", "'localhost': host names are not supported"),
        ("host all all .example.com md5", "host names are not supported"),
        ("host all all 10.0.0.1 md5", "10.0.0.1 needs a prefix length (such as /32) or a mask"),
        ("host all all 10.0.0.0/33 md5", "10.0.0.0/33"),
        ("host all all 10.0.0/8 md5", "is no network"),
        ("host all all host/8 md5", "is no network"),
        ("host all all 10.0.0.0/255.0.0.0 md5", "is no network"),
        ("host all all 10.0.0.0 255.0.255.0 md5", "255.0.255.0 is no mask for 10.0.0.0"),
        ("host all all 10.0.0.0 ff00:: md5", "is no mask for"),
        ("host all all 10.0.0.0/8,11.0.0.0/8 md5", "one address expected"),
        ("host all all 10.0.0.0 255.0.0.0", "the method is missing"),
        ("host all all all peer", "method 'peer' is not supported"),
        ("local all all ident", "method 'ident' is not supported"),
        ("host all all all md5,trust", "one method expected"),
        ("host all all all pam extra", "'extra' is not in the form name=value"),
        ("host all all all ldap ldapsrver=x", "did you mean ldapserver?"),
        ("host all all all cert map=x", "method cert works with hostssl only"),
        ("hostssl all all all cert mapp=x", "option 'mapp' is not supported"),
        ('host "all all all md5', "a quote is not closed"),
    ],
)
def test_lines_that_are_refused_by_name(line: str, words: str) -> None:
    [problem] = refuse(f"# first\n{line}\n")
    assert problem.startswith("line 2: ") and words in problem


def test_every_bad_line_is_named() -> None:
    assert [p.partition(":")[0] for p in refuse("x\nlocal all all trust\ny\n")] == ["line 1", "line 3"]


def test_a_misplaced_password_is_not_shown() -> None:
    [problem] = refuse("local all all ldapbindpasswd=hunter2 ldap\n")
    assert "hunter2" not in problem and "ldapbindpasswd" in problem


# The legacy list, and nothing at all


@pytest.mark.parametrize(
    ("allow", "address", "answer"),
    [
        ((), "10.1.2.3", Admission(None)),
        ((), UNIX, Admission(None)),
        (("10.0.0.0/8",), "10.1.2.3", Admission(None)),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", Admission(None)),
        (("10.0.0.0/8",), "11.1.2.3", None),
        (("10.0.0.0/8",), UNIX, Admission(None)),
        (("127.0.0.0/8", "fd00::/8"), "fd00::1", Admission(None)),
        (("127.0.0.0/8", "fd00::/8"), "fe00::1", None),
    ],
)
def test_without_rules_the_stored_password_decides(allow: tuple[str, ...], address: str | None, answer: str) -> None:
    assert HbaRules(None, allow).decide(database="app", user="bob", address=address, tls=False) == answer


def test_text_that_is_no_address_is_nowhere() -> None:
    assert not is_in_networks("unix", ("0.0.0.0/0", "::/0"))


# Properties


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_networks_are_compared_like_bits(base: ipaddress.IPv4Address, prefix: int, peer: ipaddress.IPv4Address) -> None:
    shift = 32 - prefix
    fits = int(base) >> shift == int(peer) >> shift
    for address in (str(peer), f"::ffff:{peer}"):
        assert decide(f"host all all {base}/{prefix} md5", address=address) == ("md5" if fits else None)


@given(st.text())
def test_any_text_is_rules_or_named_lines(text: str) -> None:
    try:
        parse_rules(text)
    except ConfigError as error:
        assert all(str(problem).startswith("line ") for problem in error.problems)


@given(st.text(st.characters(blacklist_characters="\n\r\\", blacklist_categories=("Cs",)), min_size=1))
def test_a_quoted_name_is_that_very_name(name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    assert decide(f"host {quoted} all all md5", database=name) == "md5"
    assert decide(f"host {quoted} all all md5", database=name + "x") is None


def test_the_loopback_interface_is_seen() -> None:
    assert "127.0.0.1/32" in interfaces.list_networks(hosts_only=True)
    assert "127.0.0.0/8" in interfaces.list_networks(hosts_only=False)
