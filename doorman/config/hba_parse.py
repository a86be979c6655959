"""From the text of `pg_hba` to rules, with every line that cannot be used named. Called while a file is loaded."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TypeAlias

from doorman.config import interfaces
from doorman.config.hba import HbaRule, Names
from doorman.config.ldap_options import read_settings
from doorman.errors import ConfigError, ConfigProblem

KINDS = ("local", "host", "hostssl", "hostnossl")
METHODS = ("trust", "reject", "md5", "scram-sha-256", "password", "cert", "pam", "ldap")
OPTIONS = (
    *("clientcert", "clientname", "map", "pamservice", "pam_use_hostname"),
    *("ldapserver", "ldapport", "ldapscheme", "ldaptls", "ldapprefix", "ldapsuffix", "ldapbasedn", "ldapbinddn"),
    *("ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter", "ldapurl"),
)
_OWNERS = (("ldap", "ldap"), ("pam", "pam"))
_SPELLINGS = {"scram_sha_256": "scram-sha-256", "scramsha256": "scram-sha-256"}
_TOKEN = re.compile(r'[\s,]*((?:"(?:[^"]|"")*"|[^\s,"#])+)(,?)')


class Word(NamedTuple):
    """One name of a field; a word that begins with a quote has no special meaning."""

    text: str
    quoted: bool

    @property
    def keyword(self) -> str:
        """The word as keywords are compared, empty when quoted."""
        return "" if self.quoted else self.text.lower()


Field: TypeAlias = list[Word]
"""Words joined by commas."""


def read_pg_hba(value: object) -> tuple[HbaRule, ...]:
    """Rules from the value of the key: text, `{content: text}` or `{path: file}`; `content` wins over `path`.

    Raises `ConfigError` with one problem a line, or `ValueError` when the value is neither form.
    """
    if isinstance(value, str):
        return parse_rules(value)
    if not isinstance(value, dict) or not value or set(value) - {"path", "content"}:
        raise ValueError("")
    if not all(isinstance(part, str) for part in value.values()):
        raise ValueError("")
    if "content" in value:
        return parse_rules(value["content"])
    return parse_rules(_read_file(value["path"]), origin=f"{value['path']} ")


def parse_rules(text: str, origin: str = "") -> tuple[HbaRule, ...]:
    """All rules of `text`; raises `ConfigError` that names every bad line (`origin` says of which file)."""
    rules, problems = [], []
    for number, line in _logical_lines(text):
        try:
            fields = _split(line)
            if fields:
                rules.append(_parse_rule(number, fields))
        except ValueError as error:
            problems.append(ConfigProblem("", f"{origin}line {number}: {error}"))
    if problems:
        raise ConfigError(problems)
    return tuple(rules)


def _read_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([ConfigProblem("", f"{path} is not UTF-8")]) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise ConfigError([ConfigProblem("", f"cannot read {path}: {reason}")]) from error


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with the number of their first physical line; a backslash at the end continues a line."""
    start, held = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line.endswith("\\"):
            held += line[:-1]
            continue
        yield start, held + line
        start, held = number + 1, ""
    if held:
        yield start, held


def _split(line: str) -> list[Field]:
    fields: list[Field] = []
    position, joined = 0, False
    while match := _TOKEN.match(line, position):
        word = Word(_unquote(match[1]), match[1].startswith('"'))
        if joined:
            fields[-1].append(word)
        else:
            fields.append([word])
        position, joined = match.end(), bool(match[2])
    rest = line[position:].strip(" \t\r\f\v,")
    if rest and not rest.startswith("#"):
        raise ValueError("a quote is not closed")
    return fields


def _unquote(token: str) -> str:
    return re.sub(r'"((?:[^"]|"")*)"', lambda match: match[1].replace('""', '"'), token)


def _parse_rule(number: int, fields: list[Field]) -> HbaRule:
    kind = _parse_kind(fields[0])
    if len(fields) < (4 if kind == "local" else 5):
        raise ValueError(f"too few fields: {kind} needs " + _shape(kind))
    databases, users = _parse_databases(fields[1]), _parse_users(fields[2])
    networks, used = (None, 0) if kind == "local" else _parse_address(fields, 3)
    if len(fields) <= 3 + used:
        raise ValueError("the method is missing")
    method = _parse_method(_single(fields[3 + used], "method"), kind)
    options = _parse_options(fields[4 + used :])
    _check_options(method, options)
    return HbaRule(number, kind, databases, users, networks, method, options)


def _shape(kind: str) -> str:
    return "DATABASE USER METHOD" if kind == "local" else "DATABASE USER ADDRESS METHOD"


def _parse_kind(field: Field) -> str:
    word = _single(field, "type")
    if word.keyword in ("hostgssenc", "hostnogssenc"):
        raise ValueError(f"type {word.keyword} is not supported: the pooler has no GSSAPI encryption")
    if word.keyword in ("include", "include_if_exists", "include_dir"):
        raise ValueError(f"{word.keyword} is not supported")
    if word.keyword not in KINDS:
        raise ValueError(f"unknown type {_show(word.text)}; expected one of {', '.join(KINDS)}")
    return word.keyword


def _parse_databases(field: Field) -> Names:
    for word in field:
        if word.keyword in ("samerole", "samegroup"):
            raise ValueError(f"{word.keyword} is not supported: the pooler knows no role membership")
    names = _parse_names(field)
    same = any(word.keyword == "sameuser" for word in field)
    # `replication` fits no login here: the pooler refuses replication connections.
    special = ("all", "sameuser", "replication")
    return Names(tuple(w.text for w in names if w.keyword not in special), _has_all(field), same)


def _parse_users(field: Field) -> Names:
    for word in field:
        if not word.quoted and word.text.startswith("+"):
            raise ValueError(f"{_show(word.text)}: role membership (+role) is not supported")
    return Names(tuple(word.text for word in _parse_names(field) if word.keyword != "all"), _has_all(field))


def _parse_names(field: Field) -> Field:
    for word in field:
        if not word.quoted and word.text.startswith("/"):
            raise ValueError(f"{_show(word.text)}: regular expressions are not supported")
        if not word.quoted and word.text.startswith("@"):
            raise ValueError(f"{_show(word.text)}: files of names (@file) are not supported")
    return field


def _has_all(field: Field) -> bool:
    return any(word.keyword == "all" for word in field)


def _parse_address(fields: list[Field], index: int) -> tuple[tuple[str, ...] | None, int]:
    """The networks and how many fields they took: two when address and mask are apart."""
    word = _single(fields[index], "address")
    if word.keyword == "all":
        return None, 1
    if word.keyword in ("samehost", "samenet"):
        return interfaces.list_networks(hosts_only=word.keyword == "samehost"), 1
    if "/" in word.text:
        return (_parse_network(word.text),), 1
    if not _is_address(word.text):
        raise ValueError(f"address {_show(word.text)}: host names are not supported, use a network such as 10.0.0.0/8")
    mask = fields[index + 1][0].text if len(fields) > index + 1 else ""
    if not _is_address(mask):
        raise ValueError(f"address {word.text} needs a prefix length (such as /32) or a mask")
    return (_parse_masked(word.text, mask),), 2


def _parse_network(text: str) -> str:
    address, _, prefix = text.partition("/")
    if not _is_address(address) or not prefix.isdecimal():
        raise ValueError(f"address {_show(text)} is no network such as 10.0.0.0/8 or fd00::/8")
    return _unmap_network(str(ipaddress.ip_network(text, strict=False)))


def _parse_masked(address: str, mask: str) -> str:
    one, two = ipaddress.ip_address(address), ipaddress.ip_address(mask)
    bits = int(two)
    prefix = bits.bit_count()
    if one.version != two.version or bits != ((1 << prefix) - 1) << (two.max_prefixlen - prefix):
        raise ValueError(f"{mask} is no mask for {address}")
    return _unmap_network(str(ipaddress.ip_network(f"{address}/{prefix}", strict=False)))


def _unmap_network(text: str) -> str:
    """`::ffff:10.0.0.0/104` as `10.0.0.0/8`, since peers are compared unmapped."""
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return f"{mapped}/{network.prefixlen - 96}" if mapped is not None and network.prefixlen >= 96 else text


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parse_method(word: Word, kind: str) -> str:
    method = _SPELLINGS.get(word.text.lower(), word.text.lower())
    if method not in METHODS:
        raise ValueError(f"method {_show(word.text)} is not supported; expected one of {', '.join(METHODS)}")
    if method == "cert" and kind != "hostssl":
        raise ValueError("method cert works with hostssl only")
    return method


def read_ldap_options(value: object) -> dict[str, str]:
    """The value of `auth_ldap_options`, `name=value …` as behind a rule's method; `ValueError` says what is wrong."""
    if not isinstance(value, str):
        raise ValueError("")
    if any("=" not in ",".join(word.text for word in field) for field in _split(value)):
        raise ValueError("an option is not in the form name=value")  # and may be a misplaced password
    options = _parse_options(_split(value))
    _check_options("ldap", options)
    return options


def _check_options(method: str, options: dict[str, str]) -> None:
    """Each option belongs to a method; those of ldap must fit together (none at all: `auth_ldap_options` holds)."""
    for name in options:
        owner = next((one for prefix, one in _OWNERS if name.startswith(prefix)), method)
        if owner != method:
            raise ValueError(f"option {name} belongs to the method {owner}, not to {method}")
    if method == "ldap" and options:
        read_settings(options)


def _parse_options(fields: list[Field]) -> dict[str, str]:
    options = {}
    for field in fields:
        # The value may hold commas (`ldapbasedn="dc=a,dc=b"` unquoted); put them back.
        name, equals, value = ",".join(word.text for word in field).partition("=")
        if not equals:
            raise ValueError(f"option {_show(name)} is not in the form name=value")
        if name not in OPTIONS:
            near = get_close_matches(name, OPTIONS, 1)
            raise ValueError(f"option {_show(name)} is not supported" + (f"; did you mean {near[0]}?" if near else ""))
        options[name] = value
    return options


def _single(field: Field, what: str) -> Word:
    if len(field) != 1:
        raise ValueError(f"one {what} expected, found a list")
    return field[0]


def _show(text: str) -> str:
    """The word for a message, without what follows an equals sign: it may be a misplaced password."""
    name, equals, _ = text.partition("=")
    return repr(name[:60] + ("=…" if equals else ""))
