"""Rules over the sections `general`, `web` and `talos`, including what the start would trip over."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from doorman.config import pem
from doorman.config.schema import Config
from doorman.config.startup import find_faults
from doorman.errors import ConfigProblem

Rule = Callable[[Config], Iterator[ConfigProblem]]

VERIFY_MODES = ("verify-ca", "verify-full")
MAX_SOCKET_PATH = 107
"""`sun_path` of unix(7) without its final NUL."""


def check_talos_keys(config: Config) -> Iterator[ConfigProblem]:
    """V1: every key file is a public key."""
    for index, path in enumerate(config.talos.keys):
        yield from report_fault(f"talos.keys[{index}]", pem.check_rsa_public_key, path)


def check_startup_parameters(config: Config) -> Iterator[ConfigProblem]:
    """V2 to V5 for the general map."""
    yield from find_startup_problems("general.startup_parameters", config.general.startup_parameters)


def check_access_lists(config: Config) -> Iterator[ConfigProblem]:
    """V13: one way of admission."""
    if config.general.pg_hba is not None and config.general.hba:
        yield ConfigProblem("general.hba", "mutually exclusive with pg_hba; move the networks there")


def check_ldap_rules(config: Config) -> Iterator[ConfigProblem]:
    """A rule with the method ldap says where the directory is, or the general key does."""
    for rule in config.general.pg_hba or ():
        if rule.method == "ldap" and not rule.options and not config.general.auth_ldap_options:
            yield ConfigProblem(
                "general.pg_hba", f"line {rule.line}: ldap needs options (ldapserver=…), here or in auth_ldap_options"
            )


def check_prepared_cache(config: Config) -> Iterator[ConfigProblem]:
    """V14: a cache as long as statements are cached."""
    if config.general.prepared_statements and config.general.prepared_statements_cache_size == 0:
        reason = "must be greater than 0 while prepared_statements is true"
        yield ConfigProblem("general.prepared_statements_cache_size", reason)


def check_client_tls(config: Config) -> Iterator[ConfigProblem]:
    """V16, V20: certificate and key come together, load and fit."""
    general = config.general
    keys = ("general.tls_certificate", "general.tls_private_key")
    yield from check_pair(keys, general.tls_certificate, general.tls_private_key)


def check_client_tls_mode(config: Config) -> Iterator[ConfigProblem]:
    """V18, V19: what a mode needs."""
    general, key = config.general, "general.tls_mode"
    if general.tls_mode not in ("require", "verify-full"):
        return
    if general.tls_certificate is None and general.tls_private_key is None:
        yield ConfigProblem(key, f"{general.tls_mode} needs tls_certificate and tls_private_key")
    if general.tls_mode == "verify-full" and general.tls_ca_cert is None:
        yield ConfigProblem(key, "verify-full needs tls_ca_cert")


def check_client_ca(config: Config) -> Iterator[ConfigProblem]:
    """The CA file for client certificates loads."""
    if config.general.tls_ca_cert is not None:
        yield from report_fault("general.tls_ca_cert", pem.check_certificates, config.general.tls_ca_cert)


def check_server_tls_mode(config: Config) -> Iterator[ConfigProblem]:
    """V22: verifying needs a CA."""
    general = config.general
    if general.server_tls_mode in VERIFY_MODES and general.server_tls_ca_cert is None:
        yield ConfigProblem("general.server_tls_mode", f"{general.server_tls_mode} needs server_tls_ca_cert")


def check_server_tls_pair(config: Config) -> Iterator[ConfigProblem]:
    """V23, V24: certificate and key come together; unless TLS is off they load and fit."""
    general = config.general
    keys = ("general.server_tls_certificate", "general.server_tls_private_key")
    is_used = general.server_tls_mode != "disable"
    yield from check_pair(keys, general.server_tls_certificate, general.server_tls_private_key, load=is_used)


def check_server_ca(config: Config) -> Iterator[ConfigProblem]:
    """V24: the CA file loads where it is used."""
    path = config.general.server_tls_ca_cert
    if config.general.server_tls_mode in VERIFY_MODES and path is not None:
        yield from report_fault("general.server_tls_ca_cert", pem.check_certificates, path)


def check_patroni_urls(config: Config) -> Iterator[ConfigProblem]:
    """V28 for the general list."""
    if config.general.patroni_api_urls == ():
        yield ConfigProblem("general.patroni_api_urls", "cannot be empty; remove the key to disable")


def check_listen_address(config: Config) -> Iterator[ConfigProblem]:
    """The main listener's host resolves."""
    host = config.general.host
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare in ("", "*"):
        yield ConfigProblem("general.host", 'expected an address or host name; "0.0.0.0" listens everywhere')
        return
    try:
        socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        yield ConfigProblem("general.host", f'"{host}" does not resolve: {getattr(error, "strerror", None) or error}')


def check_unix_socket(config: Config) -> Iterator[ConfigProblem]:
    """The directory of the Unix socket can take it."""
    directory, key = config.general.unix_socket_dir, "general.unix_socket_dir"
    if directory is None:
        return
    path = Path(directory, f".s.PGSQL.{config.general.port}")
    if not path.parent.is_dir():
        yield ConfigProblem(key, f"{directory} is no existing directory")
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        yield ConfigProblem(key, f"{directory} is not writable")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        yield ConfigProblem(key, f"{path} is longer than {MAX_SOCKET_PATH} bytes, the limit for a socket")


def check_web_address(config: Config) -> Iterator[ConfigProblem]:
    """The HTTP listener takes literal addresses only."""
    host = config.web.host
    if config.web.enabled and not _is_socket_host(host):
        yield ConfigProblem("web.host", f'"{host}" is neither an IPv4 address nor an IPv6 address in brackets')


RULES: tuple[Rule, ...] = (
    *(check_talos_keys, check_startup_parameters, check_access_lists, check_ldap_rules, check_prepared_cache),
    *(check_client_tls, check_client_tls_mode, check_client_ca),
    *(check_server_tls_mode, check_server_tls_pair, check_server_ca, check_patroni_urls),
    *(check_listen_address, check_unix_socket, check_web_address),
)


def check_pair(
    keys: tuple[str, str], certificate: str | None, private_key: str | None, *, load: bool = True
) -> Iterator[ConfigProblem]:
    """Certificate and key are both set or both absent, and belong together."""
    if (certificate is None) != (private_key is None):
        missing, present = keys if certificate is None else keys[::-1]
        yield ConfigProblem(missing, f"missing; {present.rpartition('.')[2]} is set and needs it")
    elif load and certificate is not None and private_key is not None:
        yield from report_fault(keys[0], pem.check_key_pair, certificate, private_key)


def report_fault(key: str, check: Callable[..., None], *paths: str) -> Iterator[ConfigProblem]:
    """What `check` (of `pem`) finds wrong with the files, as a problem of `key`."""
    try:
        check(*paths)
    except pem.PemFault as fault:
        yield ConfigProblem(key, str(fault))


def find_startup_problems(path: str, parameters: dict[str, str]) -> Iterator[ConfigProblem]:
    """V2 to V5 for the map at `path`."""
    for name, reason in find_faults(parameters):
        subject = f'"{name}": ' if reason and name else ""
        yield ConfigProblem(path, f"{subject}{reason}")


def _is_socket_host(host: str) -> bool:
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return False
    return address.version == (6 if bracketed else 4)
