"""Who may log in from where, and how: the rules of `pg_hba` and the legacy address list, as data.

Read while the configuration is loaded, asked by every worker at login. Nothing here does I/O but reading the
rules file and the interface list at load.

Rules (PostgreSQL's manual, section 21.1):
1. The first rule that fits type, database, user and address decides; later rules are not looked at.
2. No rule that fits means refused (`decide` returns None), also when the set of rules is empty.
3. `local` fits Unix clients alone, `host*` TCP clients alone. An IPv4 address mapped into IPv6 counts as IPv4.
4. What cannot be parsed or is not supported is an error that names its line, never a rule that fits nobody or all.
5. Deliberately wider than PostgreSQL: keywords in any case and the spellings `scram_sha_256`, `scramsha256`.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

import msgspec

from doorman.config.redact import Redacted

REJECT = "reject"


class Names(msgspec.Struct, frozen=True):
    """The DATABASE or USER field of a rule."""

    names: tuple[str, ...] = ()
    every: bool = False
    same_as_user: bool = False

    def fits(self, name: str, user: str) -> bool:
        """Does `name` (a database or a user) fit, for a login of `user`?"""
        return self.every or name in self.names or (self.same_as_user and name == user)


class HbaRule(Redacted, frozen=True):
    """One line. `networks` holds CIDR texts; None means every address (`all`) or a Unix client (`local`)."""

    line: int
    kind: str
    databases: Names
    users: Names
    networks: tuple[str, ...] | None
    method: str
    options: dict[str, str]

    def fits(self, database: str, user: str, address: str | None, tls: bool) -> bool:
        """Does this rule speak about that login?"""
        return (
            self._fits_transport(address is None, tls)
            and self.databases.fits(database, user)
            and self.users.fits(user, user)
            and (address is None or self.networks is None or is_in_networks(address, self.networks))
        )

    def _fits_transport(self, is_unix: bool, tls: bool) -> bool:
        if self.kind == "local" or is_unix:
            return self.kind == "local" and is_unix
        return self.kind == "host" or tls == (self.kind == "hostssl")


class Admission(Redacted, frozen=True):
    """What has been decided: how the client must prove itself, `"reject"`, or None: as its stored password says.

    `options` are those of the rule (`ldapserver`, `pamservice`, `clientcert`), `line` is where it stands.
    """

    method: str | None
    options: dict[str, str] = msgspec.field(default_factory=dict)
    line: int | None = None


class HbaRules(Redacted, frozen=True):
    """Everything that decides admission: `rules` of pg_hba (None: not configured) or the legacy list `allow`.

    `ldap_options` hold for `ldap` rules without options. A value: a reload puts another one in its place.
    """

    rules: tuple[HbaRule, ...] | None = None
    allow: tuple[str, ...] = ()
    ldap_options: dict[str, str] = msgspec.field(default_factory=dict)

    def decide(self, *, database: str, user: str, address: str | None, tls: bool) -> Admission | None:
        """What the first rule that fits says; None: nothing fits.

        `address` is the peer's IP address as text, None for a client on the Unix socket.
        """
        if self.rules is None:
            return Admission(None) if self._is_listed(address) else None
        rule = self.find(database=database, user=user, address=address, tls=tls)
        if rule is None:
            return None
        is_bare = rule.method == "ldap" and not rule.options
        return Admission(rule.method, self.ldap_options if is_bare else rule.options, rule.line)

    def find(self, *, database: str, user: str, address: str | None, tls: bool) -> HbaRule | None:
        """The rule that decides."""
        return next((rule for rule in self.rules or () if rule.fits(database, user, address, tls)), None)

    def _is_listed(self, address: str | None) -> bool:
        return address is None or not self.allow or is_in_networks(address, self.allow)


class RememberedRules:
    """Rules with what they decided before: many clients are of the same user and address. Of a few thousand at most."""

    MOST = 4096

    def __init__(self, rules: HbaRules) -> None:
        self._rules = rules
        self._decided: dict[tuple[str, str, str | None, bool], Admission | None] = {}

    def decide(self, database: str, user: str, address: str | None, tls: bool) -> Admission | None:
        """As `HbaRules.decide`."""
        asked = (database, user, address, tls)
        try:
            return self._decided[asked]
        except KeyError:
            pass
        if len(self._decided) >= self.MOST:
            self._decided.clear()
        found = self._decided[asked] = self._rules.decide(database=database, user=user, address=address, tls=tls)
        return found


def is_in_networks(address: str, networks: tuple[str, ...]) -> bool:
    """Is the IP address within one of the CIDR texts? Text that is no address is within none."""
    peer = _peer(address)
    return peer is not None and any(peer in _network(text) for text in networks)


@lru_cache(maxsize=4096)
def _peer(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        peer = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(peer, "ipv4_mapped", None) or peer


@lru_cache(maxsize=4096)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)
