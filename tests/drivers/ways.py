"""Every way to log in that asks for something or for nothing: a database of one pooler for each. Two workers.

Rules
1. The pooler offers TLS and takes plain text too: each way is tried by both.
2. Who the client is in PostgreSQL tells how the server was opened: `app` by configuration, the user itself by what it
   proved (`passed`: the configuration knows what PostgreSQL stores; `asked`: auth_query finds it).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import sql

from doorman.auth.md5 import md5_hash
from doorman.auth.verifier import format_verifier, verifier_of_password
from tests.harness import Doorman, Postgres
from tests.harness.certificates import Authority, Pair
from tests.harness.doorman import pool_of, user_of
from tests.harness.slapd import BASE, Slapd
from tests.unit.auth.tokens import KEYS, sign, write_public

OPEN = {"server_username": "app", "server_password": ""}
SECRET = "ann-secret"  # as in the directory
HASH = md5_hash(SECRET, "ann")
VERIFIER = format_verifier(verifier_of_password("ann", SECRET))
ITERATIONS = (1, 10_000, 100_000)
"""Besides PostgreSQL's 4096, which the others have. 100,000 is the most that pgjdbc works through."""

ROLES = {"ann": ("scram-sha-256", 4096), "eve": ("md5", 4096)}
ROLES |= {f"i{count}": ("scram-sha-256", count) for count in ITERATIONS}
"""Of the PostgreSQL that asks for passwords."""

QUERY = {
    "query": "SELECT rolpassword FROM pg_authid WHERE rolname = $1",
    "user": "postgres",
    "database": "postgres",
    "pool_size": 2,
}


class Way(NamedTuple):
    """A database's line in pg_hba, its user, and where that user comes from."""

    method: str
    stored: str = ""
    user: str = "ann"
    becomes: str = "app"
    source: str = "configured"
    kind: str = "host"
    secret: Callable[[], str] = lambda: SECRET


WAYS = {
    "trust": Way("trust"),
    "md5": Way("md5", SECRET),
    "md5_from_hash": Way("md5", HASH),
    "md5_upgraded": Way("md5", VERIFIER),  # SCRAM, as PostgreSQL does it
    "scram": Way("scram-sha-256", SECRET),
    "scram_from_verifier": Way("scram-sha-256", VERIFIER),
    "clear": Way("password", SECRET),
    "clear_from_hash": Way("password", HASH),
    "clear_from_verifier": Way("password", VERIFIER),
    "jwt": Way("scram-sha-256", secret=lambda: sign("ES256").decode()),
    "pam": Way("pam"),
    "ldap": Way("ldap"),
    "passed": Way("scram-sha-256", becomes="ann", source="passed"),
    "passed_md5": Way("md5", user="eve", becomes="eve", source="passed"),
    "passed_clear": Way("password", becomes="ann", source="passed"),
    **{f"passed_{n}": Way("scram-sha-256", user=f"i{n}", becomes=f"i{n}", source="passed") for n in ITERATIONS},
    "asked": Way("scram-sha-256", becomes="ann", source="asked"),
    "asked_md5": Way("md5", user="eve", becomes="eve", source="asked"),
    "dedicated": Way("scram-sha-256", source="dedicated"),
    "dedicated_md5": Way("md5", user="eve", source="dedicated"),
}
SCRAM = [name for name, way in WAYS.items() if way.method == "scram-sha-256" and name != "jwt"] + ["md5_upgraded"]
"""Those that can be bound to the TLS channel."""

CERTIFIED = {
    "certified": Way("cert", kind="hostssl"),
    "mapped": Way("cert map=people", kind="hostssl"),
    "both": Way("scram-sha-256 clientcert=verify-full", SECRET, kind="hostssl"),
}
"""Those that want a certificate; the first and the last with the common name `ann`, the second with `Ann Example`."""

ONE_TRANSPORT = {"encrypted": Way("scram-sha-256", SECRET, kind="hostssl")}
ONE_TRANSPORT["clear_text"] = Way("scram-sha-256", SECRET, kind="hostnossl")


@contextlib.contextmanager
def pam_service(directory: Path) -> Iterator[str]:
    """Its password is SECRET, whoever asks."""
    path = Path("/etc/pam.d") / f"doorman_drivers_{os.getpid()}"
    script = directory / "check"
    script.write_text(f'#!/bin/sh\n[ "$(tr -d "\\000")" = {SECRET} ]\n')
    script.chmod(0o755)
    path.write_text(f"auth required pam_exec.so expose_authtok quiet {script}\naccount required pam_permit.so\n")
    try:
        yield path.name
    finally:
        path.unlink()


@contextlib.contextmanager
def asking_postgres() -> Iterator[Postgres]:
    """A PostgreSQL that asks ROLES for the password SECRET, and whoever opens servers for them likewise."""
    with Postgres(hba="host all app,postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n") as server:
        with server.connect(user="postgres") as connection:
            for role, (encryption, iterations) in ROLES.items():
                connection.execute(f"SET password_encryption = '{encryption}'; SET scram_iterations = {iterations}")
                statement = sql.SQL("CREATE USER {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(SECRET))
                connection.execute(statement)
        yield server


def rule_of(name: str, way: Way, directory: Slapd | None, service: str | None) -> str:
    """Its line of pg_hba."""
    options = ""
    if name == "ldap" and directory is not None:
        where = f"ldapserver=127.0.0.1 ldapport={directory.port}"
        options = f'{where} ldapprefix="uid=" ldapsuffix=",ou=people,{BASE}"'
    elif name == "pam":
        options = f"pamservice={service}"
    return f"{way.kind} {name} all 127.0.0.1/32 {way.method} {options}"


def pool_for(way: Way, open_one: Postgres, asking: Postgres) -> dict[str, Any]:
    if way.source == "configured":
        return pool_of(open_one, users=[user_of(way.user, 2, password=way.stored, **OPEN)])
    if way.source == "passed":
        [(stored,)] = asking.admin("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [way.user])
        return pool_of(asking, users=[user_of(way.user, 2, password=stored)])
    server_user = {"server_user": "app"} if way.source == "dedicated" else {}
    return pool_of(asking, users=[], auth_query={**QUERY, **server_user})


def pooler_for(
    open_one: Postgres, asking: Postgres, directory: Slapd | None, service: str | None, authority: Authority, pair: Pair
) -> Doorman:
    """`ldap` and `pam` only where the machine has them."""
    missing = {name for name, there in (("ldap", directory), ("pam", service)) if there is None}
    ways = {n: way for n, way in {**WAYS, **CERTIFIED, **ONE_TRANSPORT}.items() if n not in missing}
    key = write_public(KEYS["ES256"], authority.directory / "ES256.pem")
    ways["jwt"] = ways["jwt"]._replace(stored=f"jwt-pkey-fpath:{key}")
    maps = authority.directory / "ident"
    maps.write_text('people "Ann Example" ann\n')
    rules = [rule_of(name, way, directory, service) for name, way in ways.items()]
    general = {
        "pg_hba": {"content": "\n".join([*rules, "host pgdoorman all all md5"])},
        "auth_failure_delay": 0,
        "tls_certificate": str(pair.certificate_path),
        "tls_private_key": str(pair.key_path),
        "tls_ca_cert": str(authority.path),
        "auth_ident_file": str(maps),
    }
    pools = {name: pool_for(way, open_one, asking) for name, way in ways.items()}
    return Doorman(open_one, pools=pools, general=general)
