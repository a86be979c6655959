"""The options of an `ldap` rule, with PostgreSQL's names and defaults (manual, "LDAP Authentication").

Read while a configuration is loaded, so that a bad combination is a configuration error, and again when a rule is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from doorman.config.redact import Redacted

SCOPES: Final = ("base", "one", "sub")


class LdapSettings(Redacted, frozen=True, kw_only=True):
    """What the options of an `ldap` rule come to. `urls` in the order in which they are tried.

    Simple bind: `prefix` + user + `suffix` is the name. Search and bind: `base_dn` is set.
    """

    urls: tuple[str, ...]
    start_tls: bool = False
    prefix: str = ""
    suffix: str = ""
    base_dn: str = ""
    bind_dn: str = ""
    ldapbindpasswd: str = ""
    attribute: str = "uid"
    filter: str = ""
    scope: str = "sub"


def read_settings(options: Mapping[str, str]) -> LdapSettings:
    """Raises `ValueError` that says what is wrong with the options of a rule."""
    url = _read_url(options.get("ldapurl", ""))
    merged = {**options, **url}
    _check_combination(merged)
    scheme = merged.get("ldapscheme", "ldap")
    if scheme not in ("ldap", "ldaps"):
        raise ValueError(f'ldapscheme must be ldap or ldaps, not "{scheme}"')
    start_tls = _read_flag(merged, "ldaptls")
    if start_tls and scheme == "ldaps":
        raise ValueError("ldaptls=1 (StartTLS) cannot be used with ldaps")
    return LdapSettings(
        urls=tuple(_list_urls(scheme, merged)),
        start_tls=start_tls,
        prefix=merged.get("ldapprefix", ""),
        suffix=merged.get("ldapsuffix", ""),
        base_dn=merged.get("ldapbasedn", ""),
        bind_dn=merged.get("ldapbinddn", ""),
        ldapbindpasswd=merged.get("ldapbindpasswd", ""),
        attribute=merged.get("ldapsearchattribute") or "uid",
        filter=merged.get("ldapsearchfilter", ""),
        scope=merged.get("scope", "sub"),
    )


def _check_combination(options: Mapping[str, str]) -> None:
    simple = [name for name in ("ldapprefix", "ldapsuffix") if name in options]
    names = ("ldapbasedn", "ldapbinddn", "ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter")
    search = [name for name in names if options.get(name)]
    if not options.get("ldapserver"):
        raise ValueError("ldap needs ldapserver or ldapurl")
    if simple and search:
        raise ValueError(f"{simple[0]} (simple bind) and {search[0]} (search and bind) exclude each other")
    if not simple and not options.get("ldapbasedn"):
        raise ValueError("ldap needs ldapprefix or ldapsuffix for a simple bind, or ldapbasedn for search and bind")
    if options.get("ldapsearchattribute") and options.get("ldapsearchfilter"):
        raise ValueError("ldapsearchattribute and ldapsearchfilter exclude each other")
    if "ldapsearchfilter" in options and "$username" not in options["ldapsearchfilter"]:
        raise ValueError("ldapsearchfilter has no $username in it: it would find the same entry for everybody")


def _read_url(text: str) -> dict[str, str]:
    """RFC 4516: ldap[s]://host[:port]/basedn[?[attribute][?[scope][?[filter]]]]."""
    if not text:
        return {}
    parts = urlsplit(text)
    if parts.scheme not in ("ldap", "ldaps"):
        raise ValueError("ldapurl must begin with ldap:// or ldaps://")
    if not parts.hostname:
        raise ValueError("ldapurl names no host")
    found = {"ldapscheme": parts.scheme, "ldapserver": parts.hostname, "ldapbasedn": unquote(parts.path[1:])}
    if parts.port is not None:
        found["ldapport"] = str(parts.port)
    attribute, scope, search_filter = (*map(unquote, parts.query.split("?", 2)), "", "", "")[:3]
    if scope and scope not in SCOPES:
        raise ValueError(f'ldapurl: the scope must be base, one or sub, not "{scope}"')
    found["scope"] = scope or "base"
    if attribute:
        found["ldapsearchattribute"] = attribute
    if search_filter:
        found["ldapsearchfilter"] = search_filter
    return found


def _list_urls(scheme: str, options: Mapping[str, str]) -> Iterator[str]:
    port = options.get("ldapport") or ("636" if scheme == "ldaps" else "389")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("ldapport is no port number")
    for host in options["ldapserver"].split():
        bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
        yield f"{scheme}://{bracketed}:{port}"


def _read_flag(options: Mapping[str, str], name: str) -> bool:
    value = options.get(name, "0")
    if value not in ("0", "1"):
        raise ValueError(f"{name} must be 0 or 1")
    return value == "1"
