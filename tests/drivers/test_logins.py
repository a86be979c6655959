"""Every driver logs in by every method, with the right password and with a wrong one, in plain text and over TLS."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.drivers.log_in import PYTHON, Attempt, LogIn, Route, with_asyncpg, with_pg8000, with_pgjdbc
from tests.drivers.ways import (
    CERTIFIED,
    ONE_TRANSPORT,
    SCRAM,
    SECRET,
    WAYS,
    Way,
    asking_postgres,
    pam_service,
    pooler_for,
)
from tests.harness import Doorman, Postgres
from tests.harness.certificates import Authority, Pair
from tests.harness.doorman import pool_of, user_of
from tests.harness.slapd import Slapd, is_slapd_there

TRANSPORTS = ("plain", "tls", "bound")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("logins"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """The pooler's."""
    return authority.issue("localhost", names=("localhost",), addresses=("127.0.0.1",))


@pytest.fixture(scope="module")
def people(authority: Authority) -> dict[str, Pair | None]:
    """Certificates of clients by common name; somebody has none."""
    return {**{name: authority.issue(name) for name in ("ann", "Ann Example", "bob")}, "nobody": None}


@pytest.fixture(scope="module")
def guarded(
    postgres: Postgres, authority: Authority, pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Doorman]:
    """A database for each way."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(Slapd()) if is_slapd_there() else None
        is_writable = os.access("/etc/pam.d", os.W_OK)
        service = stack.enter_context(pam_service(tmp_path_factory.mktemp("pam"))) if is_writable else None
        asking = stack.enter_context(asking_postgres())
        pooler = stack.enter_context(pooler_for(postgres, asking, directory, service, authority, pair))
        yield pooler
        assert not pooler.log_contains("Traceback|internal error")


@pytest.fixture(scope="module")
def routes(authority: Authority) -> dict[str, Route]:
    return {"plain": Route(), "tls": Route(authority.path), "bound": Route(authority.path, binds=True)}


def skip_unless_there(guarded: Doorman, name: str) -> None:
    if name not in guarded.config["pools"]:
        pytest.skip(f"needs {'slapd and ldap-utils' if name == 'ldap' else 'to write into /etc/pam.d'}")


def tries(name: str, way: Way, route: Route) -> Iterator[tuple[Attempt, str]]:
    """Three right ones, so that more than one worker is met, a wrong one, and what comes of it."""
    for _ in range(3):
        yield Attempt(name, way.user, way.secret(), route), way.becomes
    yield Attempt(name, way.user, "wrong", route), "app" if name == "trust" else "28P01"


# --- passwords --------------------------------------------------------------------------------------------------------


def ways_over(transport: str) -> list[str]:
    return SCRAM if transport == "bound" else list(WAYS)


PASSWORDS = [
    pytest.param(log_in, transport, name, id=f"{log_in.__name__[5:]}-{transport}-{name}")
    for transport in TRANSPORTS
    for log_in in PYTHON
    for name in ways_over(transport)
    if not (transport == "bound" and log_in is with_asyncpg)  # which knows no channel binding
    and not (name == "passed_1" and log_in is with_pg8000)  # which ends a SCRAM exchange of less than 4096 iterations
]


@pytest.mark.parametrize(("log_in", "transport", "name"), PASSWORDS)
def test_python_drivers_log_in(
    guarded: Doorman, routes: dict[str, Route], log_in: LogIn, transport: str, name: str
) -> None:
    skip_unless_there(guarded, name)
    for attempt, expected in tries(name, WAYS[name], routes[transport]):
        assert log_in(guarded, attempt) == expected


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_pgjdbc_logs_in(
    guarded: Doorman, routes: dict[str, Route], transport: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = [name for name in ways_over(transport) if name in guarded.config["pools"]]
    tried = [(name, *pair) for name in names for pair in tries(name, WAYS[name], routes[transport])]
    found = with_pgjdbc(guarded, [attempt for _, attempt, _ in tried], tmp_path_factory.mktemp("jdbc"))
    assert list(zip([name for name, _, _ in tried], found, strict=True)) == [(name, end) for name, _, end in tried]


# --- certificates -----------------------------------------------------------------------------------------------------

HOLDERS = {
    "certified": {"ann": "app", "Ann Example": "28000", "bob": "28000", "nobody": "28000"},
    "mapped": {"Ann Example": "app", "ann": "28000", "bob": "28000", "nobody": "28000"},
    "both": {"ann": "app", "bob": "28000", "nobody": "28000"},
}


def certified(authority: Authority, people: dict[str, Pair | None]) -> Iterator[tuple[Attempt, str]]:
    for database, holders in HOLDERS.items():
        for holder, end in holders.items():
            route = Route(authority.path, pair=people[holder])
            yield Attempt(database, CERTIFIED[database].user, SECRET, route), end
    yield Attempt("both", "ann", "wrong", Route(authority.path, pair=people["ann"])), "28P01"


@pytest.mark.parametrize("log_in", PYTHON, ids=lambda log_in: log_in.__name__[5:])
def test_certificates_in_python(
    guarded: Doorman, authority: Authority, people: dict[str, Pair | None], log_in: LogIn
) -> None:
    for attempt, expected in certified(authority, people):
        assert log_in(guarded, attempt) == expected, attempt


def test_certificates_with_pgjdbc(
    guarded: Doorman, authority: Authority, people: dict[str, Pair | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tried = list(certified(authority, people))
    found = with_pgjdbc(guarded, [attempt for attempt, _ in tried], tmp_path_factory.mktemp("jdbc"))
    assert found == [expected for _, expected in tried]


# --- TLS modes --------------------------------------------------------------------------------------------------------


def by_transport(routes: dict[str, Route]) -> Iterator[tuple[Attempt, str]]:
    """`hostssl` and `hostnossl`."""
    for database, transport in (("encrypted", "tls"), ("clear_text", "plain")):
        for tried in ("plain", "tls"):
            end = ONE_TRANSPORT[database].becomes if tried == transport else "28000"
            yield Attempt(database, "ann", SECRET, routes[tried]), end


MODES = {
    "allow": {"plain": "app", "tls": "app", "certified": "app"},
    "require": {"plain": "28000", "tls": "app", "certified": "app"},
    "verify-full": {"plain": "28000", "certified": "app"},
}
"""What comes of each route. Without a certificate `verify-full` ends in an alert, see tests/tls/test_clients.py."""


@pytest.fixture(scope="module", params=MODES)
def demanding(
    request: pytest.FixtureRequest, postgres: Postgres, authority: Authority, pair: Pair
) -> Iterator[Doorman]:
    """A pooler of this `tls_mode`."""
    general = {
        "tls_mode": request.param,
        "tls_certificate": str(pair.certificate_path),
        "tls_private_key": str(pair.key_path),
        "tls_ca_cert": str(authority.path),
        "pg_hba": {"content": "host all all all scram-sha-256"},
        "auth_failure_delay": 0,
    }
    users = [user_of("ann", 2, password=SECRET, server_username="app", server_password="")]
    with Doorman(postgres, pools={"shop": pool_of(postgres, users=users)}, general=general) as doorman:
        yield doorman


def by_mode(demanding: Doorman, routes: dict[str, Route], ann: Pair | None) -> list[tuple[Attempt, str]]:
    known = {**routes, "certified": Route(routes["tls"].authority, pair=ann)}
    ends = MODES[demanding.config["general"]["tls_mode"]]
    return [(Attempt("shop", "ann", SECRET, known[route]), end) for route, end in ends.items()]


@pytest.mark.parametrize("log_in", PYTHON, ids=lambda log_in: log_in.__name__[5:])
def test_rules_and_modes_in_python(
    guarded: Doorman, demanding: Doorman, routes: dict[str, Route], people: dict[str, Pair | None], log_in: LogIn
) -> None:
    for attempt, expected in by_transport(routes):
        assert log_in(guarded, attempt) == expected, attempt
    for attempt, expected in by_mode(demanding, routes, people["ann"]):
        assert log_in(demanding, attempt) == expected, attempt


def test_rules_and_modes_with_pgjdbc(
    guarded: Doorman,
    demanding: Doorman,
    routes: dict[str, Route],
    people: dict[str, Pair | None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    scratch = tmp_path_factory.mktemp("jdbc")
    for pooler, tried in (
        (guarded, list(by_transport(routes))),
        (demanding, by_mode(demanding, routes, people["ann"])),
    ):
        assert with_pgjdbc(pooler, [attempt for attempt, _ in tried], scratch) == [end for _, end in tried]
