"""pg_hba lines made by a grammar, and then spoilt: rules that decide as they say, or errors with a line number.

A model says what a line means without looking at the parser: lists of names, one network, one method.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorman.config.hba import HbaRules
from doorman.config.hba_parse import METHODS, parse_rules, read_ldap_options
from doorman.config.ldap_options import read_settings
from doorman.errors import ConfigError

NAMES = ["app", "shop", "all", "ALL", "sameuser", '"all"', '"with space"', '"a,b"', '"say ""hi"""', "user#1"]
ADDRESSES = ["all", "10.0.0.0/8", "10.1.2.3/32", "10.0.0.0 255.0.0.0", "0.0.0.0/0", "fd00::/8", "::ffff:10.0.0.0/104"]
JUNK = ['"', "+role", "/regex", "@file", "example.net", "/33", "\\", ",", "=", "\x00", "é", "#"]
KINDS = ["local", "host", "HOSTSSL", "hostnossl"]
ANSWERING = [method for method in METHODS if method not in ("cert", "ldap")]


Login = tuple[str, str, str | None, bool]
"""Database, user, address (None: Unix socket), TLS."""


class Line(NamedTuple):
    kind: str
    databases: list[str]
    users: list[str]
    address: str
    method: str

    @property
    def text(self) -> str:
        address = "" if self.kind == "local" else self.address
        return f"{self.kind} {','.join(self.databases)} {', '.join(self.users)} {address}\t{self.method}"

    def fits(self, database: str, user: str, address: str | None, tls: bool) -> bool:
        """The model."""
        kind = self.kind.lower()
        if (kind == "local") != (address is None):
            return False
        if kind in ("hostssl", "hostnossl") and tls != (kind == "hostssl"):
            return False
        return (
            self.names_fit(self.databases, database, user)
            and self.names_fit(self.users, user, None)
            and (address is None or self.address_fits(address))
        )

    @staticmethod
    def names_fit(names: list[str], name: str, user: str | None) -> bool:
        for word in names:
            bare = word.partition("#")[0]
            if word.startswith('"'):
                if word[1:-1].replace('""', '"') == name:
                    return True
            elif bare.lower() == "all" or bare == name or (bare == "sameuser" and name == user):
                return True
        return False

    def address_fits(self, address: str) -> bool:
        if self.address == "all":
            return True
        text = self.address.replace(" ", "/").replace("::ffff:10.0.0.0/104", "10.0.0.0/8")
        return ipaddress.ip_address(address) in ipaddress.ip_network(text)


lines = st.builds(
    Line,
    st.sampled_from(KINDS),
    st.lists(st.sampled_from([name for name in NAMES if "#" not in name]), min_size=1, max_size=3),
    st.lists(st.sampled_from([n for n in NAMES if "#" not in n and n != "sameuser"]), min_size=1, max_size=3),
    st.sampled_from(ADDRESSES),
    st.sampled_from(ANSWERING),
)
logins = st.tuples(
    st.sampled_from(["app", "shop", "all", "with space", "a,b", "elsewhere"]),
    st.sampled_from(["app", "shop", "all", 'say "hi"', "nobody"]),
    st.sampled_from([None, "10.1.2.3", "192.0.2.1", "fd00::1", "::1"]),
    st.booleans(),
)


@settings(max_examples=300)
@given(st.lists(lines, max_size=6), st.lists(logins, min_size=1, max_size=5))
def test_the_first_line_that_fits_decides(
    given_lines: list[Line], asked: list[tuple[str, str, str | None, bool]]
) -> None:
    rules = HbaRules(parse_rules("# rules\n" + "\n".join(line.text for line in given_lines)))
    for database, user, address, tls in asked:
        tls = tls and address is not None
        expected = next(
            ((n, line.method) for n, line in enumerate(given_lines, 2) if line.fits(database, user, address, tls)), None
        )
        found = rules.decide(database=database, user=user, address=address, tls=tls)
        assert (None if found is None else (found.line, found.method)) == expected


@settings(max_examples=300)
@given(st.lists(lines, min_size=1, max_size=4), st.data())
def test_a_spoilt_line_is_an_error_with_its_number_or_a_rule(given_lines: list[Line], data: st.DataObject) -> None:
    texts = [line.text for line in given_lines]
    at = data.draw(st.integers(0, len(texts) - 1))
    text, position = texts[at], data.draw(st.integers(0, len(texts[at])))
    junk = data.draw(
        st.sampled_from(['"', "+role", "/regex", "@file", "example.net", "/33", "\\", ",", "=", "\x00", "é"])
    )
    texts[at] = text[:position] + junk + text[position:]
    try:
        rules = parse_rules("\n".join(texts))
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.reason.startswith("line ") and int(problem.reason.split(":")[0].split()[1]) <= len(texts)
        return
    assert len(rules) <= len(texts)
    HbaRules(rules).decide(database="app", user="app", address="10.1.2.3", tls=False)


options = st.lists(
    st.tuples(
        st.sampled_from(["ldapserver", "ldapport", "ldapscheme", "ldaptls", "ldapprefix", "ldapsuffix", "ldapbasedn",
                         "ldapbinddn", "ldapsearchattribute", "ldapsearchfilter", "ldapurl"]),
        st.sampled_from(["", "0", "1", "389", "99999", "ldap", "ldaps", "a b", "::1", "dc=x", "uid=", "(uid=$username)",
                         "ldap://h/dc=x?uid?sub", "ldaps://[::1]:636/dc=x", "ldap://h:x/", "ldapi:///", "http://h/"]),
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=300)
@given(options)
def test_ldap_options_are_settings_or_an_error(given_options: list[tuple[str, str]]) -> None:
    text = " ".join(f'{name}="{value}"' for name, value in given_options)
    try:
        found = read_settings(read_ldap_options(text))
    except (ValueError, ConfigError):
        return
    assert (found.urls and bool(found.base_dn) != bool(found.prefix or found.suffix)) or not found.base_dn
    assert all(url.startswith(("ldap://", "ldaps://")) for url in found.urls)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ldapserver=x", "needs ldapprefix or ldapsuffix"),
        ("ldapprefix=uid=", "needs ldapserver or ldapurl"),
        ("ldapserver=x ldapprefix=a ldapbasedn=b", "exclude each other"),
        ("ldapserver=x ldapbasedn=b ldapsearchattribute=a ldapsearchfilter=(a=$username)", "exclude each other"),
        ("ldapserver=x ldapbasedn=b ldapsearchfilter=(a=b)", "no $username"),
        ("ldapserver=x ldapbasedn=b ldaptls=2", "must be 0 or 1"),
        ("ldapserver=x ldapbasedn=b ldapscheme=ldaps ldaptls=1", "cannot be used with ldaps"),
        ("ldapserver=x ldapbasedn=b ldapport=http", "no port number"),
        ("ldapserver=x ldapbasedn=b ldapscheme=ldapi", "ldap or ldaps"),
        ("ldapurl=ldap://h/dc=x?uid?tree", "the scope must be"),
        ("ldapurl=http://h/dc=x", "ldap:// or ldaps://"),
        ("ldapserver=x ldapbasedn=b pamservice=c", "belongs to the method pam"),
    ],
)
def test_combinations_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="^.*" + words.replace("$", r"\$")):
        read_settings(read_ldap_options(text))
    with pytest.raises(ConfigError) as refused:
        parse_rules(f"host all all all md5\nhost all all all ldap {text}")
    assert str(refused.value).startswith("line 2: ") and words in str(refused.value)
