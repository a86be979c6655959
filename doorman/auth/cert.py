"""Who a client certificate says that its holder is: the `cert` method and the option `clientcert` of pg_hba.

Rules (PostgreSQL's manual, sections 21.2 and 21.12)
1. OpenSSL has verified the chain before anybody asks here; without a certificate nobody is let in.
2. The name is the certificate's common name, or with `clientname=DN` its whole subject (RFC 4514).
3. Without a `map` it must be the user's name. With one, the first line of that map that fits name and user decides; a
   system name that begins with `/` is a regular expression, whose first group stands for `\\1`.
"""

from __future__ import annotations

import re

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from doorman.config.hba import Admission
from doorman.errors import ClientFault


class MapLine(msgspec.Struct, frozen=True):
    """One line of the user map file."""

    map: str
    system: str
    user: str

    def fits(self, name: str, user: str) -> bool:
        """Does this line let the holder of that name in as that user? What the certificate puts in place of `\\1` is a
        name, never the word `all`; where there is nothing to put there, nobody is meant (both as PostgreSQL has it)."""
        if not self.system.startswith("/"):
            return self.system == name and self.user in (user, "all")
        found = re.search(self.system[1:], name)
        if found is None:
            return False
        if "\\1" not in self.user:
            return self.user in (user, "all")
        part = found[1] if found.re.groups else None
        return part is not None and self.user.replace("\\1", part) == user


def parse_user_map(text: str) -> list[MapLine]:
    """The lines of a user map file (pg_ident.conf). `ValueError` names the line that cannot be used."""
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        words = [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|([^\s"#]+)', line.partition("#")[0])]
        if not words:
            continue
        if len(words) != 3:
            raise ValueError(f"line {number}: expected MAP-NAME SYSTEM-USERNAME DATABASE-USERNAME")
        if words[1].startswith("/"):
            try:
                re.compile(words[1][1:])
            except re.error as error:
                raise ValueError(f"line {number}: {words[1]} is no regular expression: {error}") from None
        lines.append(MapLine(*words))
    return lines


def check_certificate(
    admission: Admission, user: str, certificate: x509.Certificate | None, maps: tuple[MapLine, ...]
) -> None:
    """Raise `ClientFault` 28000 unless the rule's certificate is there and fits the user."""
    wanted = "verify-full" if admission.method == "cert" else admission.options.get("clientcert")
    if wanted is None:
        return
    if certificate is None:
        raise _refusal(user, "the client sent no certificate")
    if wanted == "verify-full" and not is_user(admission, user, certificate, maps):
        raise _refusal(user, f"the certificate is of {certificate.subject.rfc4514_string()!r}")


def is_user(admission: Admission, user: str, certificate: x509.Certificate, maps: tuple[MapLine, ...]) -> bool:
    """Rules 2 and 3."""
    names = [str(entry.value) for entry in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)][:1]
    if admission.options.get("clientname", "CN").upper() == "DN":
        names = [certificate.subject.rfc4514_string()]
    if "map" not in admission.options:
        return names == [user]
    lines = [line for line in maps if line.map == admission.options["map"]]
    return any(line.fits(name, user) for name in names for line in lines)


def _refusal(user: str, for_log: str) -> ClientFault:
    return ClientFault("28000", f'certificate authentication failed for user "{user}"', for_log=for_log)
