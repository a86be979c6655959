"""What a process needs to speak TLS: contexts made from the files that the configuration names. In every process.

Rules
1. The master reads the files, at start and on reload, and tries what is in them (`read_materials`): what is bad is an
   error of the configuration, and the old contents stay. Other processes get contents (by fork, or with `Configure`),
   never names of files, so all of them have the same, a worker that is started later as well.
2. Contexts are made when they are first needed and kept while the contents are the same.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from doorman.auth.cert import parse_user_map
from doorman.config.pem import PemFault
from doorman.config.resolve import PoolSettings, ServerTls, resolve_server_tls
from doorman.config.schema import Config, General
from doorman.errors import ConfigError, ConfigProblem
from doorman.tls.contexts import Acceptor, Connector, make_acceptor, make_connector
from doorman.tls.material import Material, Paths, read_material

DISABLED = "disable"
MANDATORY = frozenset({"require", "verify-full"})
VERIFYING = frozenset({"verify-ca", "verify-full"})


class Materials(msgspec.Struct, frozen=True):
    """Contents of all files. `clients` is None where TLS is not offered; `servers` by `server_key`;
    `user_map` is `auth_ident_file`."""

    clients: Material | None = None
    servers: dict[str, Material] = {}
    user_map: str = ""


class Encryption:
    """The contexts of one process."""

    def __init__(self, config: Config, materials: Materials) -> None:
        self.materials = materials
        self.is_mandatory = config.general.tls_mode in MANDATORY
        self.per_second = config.general.tls_rate_limit_per_second
        self.acceptor = acceptor_of(config.general, materials)
        self.maps = tuple(parse_user_map(materials.user_map))
        self._connectors: dict[tuple[str, str], Connector] = {}

    def connector(self, pool: PoolSettings, mode: str) -> Connector:
        """For a handshake with one of the pool's servers under this mode."""
        tls = ServerTls(mode, pool.server_tls_ca_cert, pool.server_tls_certificate, pool.server_tls_private_key)
        key = (mode, server_key(tls))
        if key not in self._connectors:
            self._connectors[key] = connector_of(tls, self.materials)
        return self._connectors[key]


def read_materials(config: Config) -> Materials:
    """Read and try everything that the configuration says about TLS. Raises `ConfigError`."""
    problems: list[ConfigProblem] = []
    general = config.general
    clients = None
    try:
        clients = read_client_material(general)
        acceptor_of(general, Materials(clients))
    except PemFault as fault:
        problems.append(ConfigProblem("general.tls_certificate", str(fault)))
    servers: dict[str, Material] = {}
    tried: set[ServerTls] = set()  # what a thousand pools have in common is read once
    for name, pool in config.pools.items():
        tls = resolve_server_tls(general, pool)
        if tls.mode == DISABLED or pool.server_host.startswith("/") or tls in tried:
            continue
        tried.add(tls)
        try:
            servers[server_key(tls)] = read_material(Paths(tls.certificate, tls.private_key, _authorities_of(tls)))
            connector_of(tls, Materials(None, servers))
        except PemFault as fault:
            problems.append(ConfigProblem(f"pools.{name}.server_tls_mode", str(fault)))
    user_map = ""
    if general.auth_ident_file is not None:
        try:
            user_map = Path(general.auth_ident_file).read_text("utf-8", "surrogateescape")
            parse_user_map(user_map)
        except (OSError, ValueError) as error:
            problems.append(ConfigProblem("general.auth_ident_file", f"cannot use {general.auth_ident_file}: {error}"))
    if general.tls_ca_cert is None and wants_certificates(general):
        problems.append(ConfigProblem("general.pg_hba", "a rule asks for client certificates, which needs tls_ca_cert"))
    if problems:
        raise ConfigError(problems)
    return Materials(clients, servers, user_map)


def read_client_material(general: General) -> Material | None:
    """The client-facing files; None where TLS is not offered. Raises `PemFault`."""
    if general.tls_certificate is None or general.tls_mode == DISABLED:
        return None
    paths = Paths(general.tls_certificate, general.tls_private_key, general.tls_ca_cert)
    return read_material(paths)


def acceptor_of(general: General, materials: Materials) -> Acceptor | None:
    """The client-facing context. Clients are asked for certificates where the mode or an HBA rule wants them."""
    if materials.clients is None:
        return None
    demands = general.tls_mode == "verify-full"
    asks = demands or (bool(materials.clients.authorities) and wants_certificates(general))
    return make_acceptor(materials.clients, asks=asks, demands=demands)


def wants_certificates(general: General) -> bool:
    """Does an HBA rule ask for client certificates?"""
    rules = general.hba_rules().rules or ()
    return any(rule.method == "cert" or "clientcert" in rule.options for rule in rules)


def connector_of(tls: ServerTls, materials: Materials) -> Connector:
    """The server-facing context. Raises `PemFault`."""
    material = materials.servers.get(server_key(tls), Material())
    return make_connector(material, verifies=tls.mode in VERIFYING, verifies_host=tls.mode == "verify-full")


def renewed_servers(before: Materials, after: Materials) -> frozenset[str]:
    """The server-facing files whose contents are others than before, by `server_key`."""
    return frozenset(key for key, old in before.servers.items() if after.servers.get(key, old) != old)


def pool_key(pool: PoolSettings) -> str:
    """`server_key` of a pool."""
    names = (pool.server_tls_ca_cert, pool.server_tls_certificate, pool.server_tls_private_key)
    return server_key(ServerTls(pool.server_tls_mode, *names))


def server_key(tls: ServerTls) -> str:
    """What makes the files of two pools the same."""
    return "\0".join(path or "" for path in (_authorities_of(tls), tls.certificate, tls.private_key))


def _authorities_of(tls: ServerTls) -> str | None:
    """A CA file that no mode looks at need not be there."""
    return tls.ca_cert if tls.mode in VERIFYING else None
