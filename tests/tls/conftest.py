"""Debian's PostgreSQL with SSL, certificates made for the run, and a pooler that is encrypted on both sides."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Doorman, Postgres, find_debian_postgres
from tests.harness.certificates import Authority, Pair
from tests.harness.doorman import pool_of, user_of
from tests.harness.postgres import server_user
from tests.harness.service import temporary_directory

HBA = """\
hostnossl all tls_only 127.0.0.1/32 reject
hostssl all scram_user 127.0.0.1/32 scram-sha-256
hostssl all certified 127.0.0.1/32 cert
host all all 127.0.0.1/32 trust
"""


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    directory = temporary_directory("certificates")
    yield Authority(directory)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def server_pair(authority: Authority) -> Pair:
    """Of PostgreSQL and of the pooler: for localhost and 127.0.0.1."""
    return authority.issue("localhost", names=("localhost",), addresses=("127.0.0.1",), label="server")


StartPostgres = Callable[[Pair], Postgres]


@pytest.fixture(scope="session")
def start_postgres(authority: Authority) -> Iterator[StartPostgres]:
    """`start_postgres(pair)`: one PostgreSQL for each certificate, kept for the run."""
    started: dict[Path, Postgres] = {}

    def start(pair: Pair) -> Postgres:
        if pair.certificate_path not in started:
            started[pair.certificate_path] = make_postgres(authority, pair).start()
        return started[pair.certificate_path]

    yield start
    for server in started.values():
        server.stop()


def make_postgres(authority: Authority, pair: Pair) -> Postgres:
    bindir = find_debian_postgres()
    if bindir is None:
        pytest.skip("needs Debian's package postgresql (a PostgreSQL built with SSL)")
    directory = temporary_directory("postgres-tls")
    for name, path in (("crt", pair.certificate_path), ("key", pair.key_path), ("ca", authority.path)):
        target = directory / f"server.{name}"
        shutil.copy(path, target)
        target.chmod(0o600)
        os.chown(target, server_user() if server_user() is not None else os.getuid(), -1)
    directory.chmod(0o755)
    files = {f"ssl_{key}_file": str(directory / f"server.{end}") for key, end in (("cert", "crt"), ("key", "key"))}
    settings = {"ssl": "on", **files, "ssl_ca_file": str(directory / "server.ca")}
    return Postgres(bindir=bindir, settings=settings, hba=HBA)


@pytest.fixture(scope="session")
def postgres_tls(start_postgres: StartPostgres, server_pair: Pair) -> Postgres:
    """PostgreSQL that demands TLS of `tls_only`, TLS and a password of `scram_user`, a certificate of `certified`."""
    server = start_postgres(server_pair)
    server.admin("CREATE USER tls_only; CREATE USER certified")
    return server


MakePooler = Callable[..., Doorman]


@pytest.fixture
def make_pooler(postgres_tls: Postgres, server_pair: Pair) -> Iterator[MakePooler]:
    """`make_pooler(server_tls_mode=…)`: offers TLS to clients; one pool for each user."""
    made: list[Doorman] = []

    def make(server: Postgres | None = None, *, pool: dict[str, Any] | None = None, **general: Any) -> Doorman:
        keys = {"tls_certificate": str(server_pair.certificate_path), "tls_private_key": str(server_pair.key_path)}
        scram = user_of("scram_user", 2, password="scram-secret", server_username="scram_user")
        users = [user_of("app", 3), user_of("tls_only", 2), {**scram, "server_password": "scram-secret"}]
        users.append(user_of("certified", 2))
        pools = {"postgres": pool_of(server or postgres_tls, users=users, **(pool or {}))}
        doorman = Doorman(server or postgres_tls, general={**keys, **general}, pools=pools)
        made.append(doorman)
        return doorman.start()

    yield make
    for doorman in reversed(made):
        assert not doorman.log_contains("Traceback"), doorman.log_text()
        doorman.close()
