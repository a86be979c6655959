"""Look-ups over TLS against a PostgreSQL that insists on it, and against one that has none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorman.auth.auth_query import Found, LookUpProblem
from doorman.config.resolve import ServerTls
from doorman.workers.lookup_connection import Target
from doorman.workers.lookup_executor import Executor
from tests.harness import Postgres, find_debian_postgres
from tests.harness.certificates import Authority
from tests.harness.postgres import PASSWORDS, give_to_server_user
from tests.harness.service import temporary_directory

QUERY = "SELECT $1 || CASE WHEN ssl THEN ' by TLS' ELSE ' in clear' END FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority(temporary_directory("look-up-certificates"))


@pytest.fixture(scope="module")
def encrypted(authority: Authority) -> Iterator[Postgres]:
    bindir = find_debian_postgres()
    if bindir is None:
        pytest.skip("needs Debian's package postgresql (a PostgreSQL built with SSL)")
    pair = authority.issue("server", addresses=("127.0.0.1",))
    give_to_server_user(authority.directory)
    settings: dict[str, str | int] = {
        "ssl": "on",
        "ssl_cert_file": str(pair.certificate_path),
        "ssl_key_file": str(pair.key_path),
    }
    hba = "hostnossl all scram_user 127.0.0.1/32 reject\nhostssl all plain_user 127.0.0.1/32 password\n"
    with Postgres(bindir=bindir, settings=settings, hba=hba) as postgres:
        yield postgres


def look_up(
    postgres: Postgres, mode: str, ca: Path | None = None, user: str = "scram_user", local: bool = False
) -> str:
    """How the look-up came there."""
    tls = ServerTls(mode=mode, ca_cert=None if ca is None else str(ca), certificate=None, private_key=None)
    target = Target(
        host=postgres.host, port=postgres.port, database="postgres", user=user, password=PASSWORDS[user], query=QUERY,
        encrypted_or_local=local, tls=tls,
    )  # fmt: skip

    async def work() -> Found | None:
        executor = Executor(target, 1, 3)
        try:
            return await executor.fetch("ann")
        finally:
            executor.close()

    found = asyncio.run(asyncio.wait_for(work(), 20))
    assert found is not None
    return found.password


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca", "verify-full"])
def test_it_is_encrypted(encrypted: Postgres, authority: Authority, mode: str) -> None:
    assert look_up(encrypted, mode, authority.path) == "ann by TLS"


def test_a_password_in_clear_is_sent_by_tls_only(encrypted: Postgres, postgres: Postgres) -> None:
    assert look_up(encrypted, "require", user="plain_user") == "ann by TLS"
    with pytest.raises(LookUpProblem, match="it was not sent"):
        look_up(postgres, "prefer", user="plain_user")


def test_another_authority_is_not_trusted(encrypted: Postgres) -> None:
    other = Authority(temporary_directory("other-certificates"), "another authority")
    for mode in ("verify-ca", "verify-full"):
        with pytest.raises(LookUpProblem, match="CERTIFICATE_VERIFY_FAILED"):
            look_up(encrypted, mode, other.path)


def test_another_name_is_noticed(authority: Authority, encrypted: Postgres) -> None:
    """127.0.0.1 is in the certificate, localhost is not."""
    encrypted.host = "localhost"
    try:
        assert look_up(encrypted, "verify-ca", authority.path) == "ann by TLS"
        with pytest.raises(LookUpProblem, match="CERTIFICATE_VERIFY_FAILED"):
            look_up(encrypted, "verify-full", authority.path)
    finally:
        encrypted.host = "127.0.0.1"


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_what_is_required_is_not_done_without(postgres: Postgres, authority: Authority, mode: str) -> None:
    with pytest.raises(LookUpProblem, match=f"offers no TLS, server_tls_mode is {mode}"):
        look_up(postgres, mode, authority.path)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_a_server_without_tls_is_asked_in_clear_where_that_is_allowed(postgres: Postgres, mode: str) -> None:
    assert look_up(postgres, mode) == "ann in clear"


def test_bytes_behind_the_answer_are_not_taken_for_the_servers() -> None:
    async def work() -> None:
        async def stuff(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(8)
            writer.write(b"S" + b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")
            await writer.drain()
            await reader.read(1000)
            writer.close()

        server = await asyncio.start_server(stuff, "127.0.0.1", 0)
        tls = ServerTls(mode="prefer", ca_cert=None, certificate=None, private_key=None)
        target = Target(
            host="127.0.0.1", port=server.sockets[0].getsockname()[1], database="x", user="x", password="secret",
            query="SELECT 1", encrypted_or_local=False, tls=tls,
        )  # fmt: skip
        with pytest.raises(LookUpProblem):
            await Executor(target, 1, 2).fetch("ann")
        server.close()

    asyncio.run(work())
