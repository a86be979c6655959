"""Every way to log in, once well and once badly: no secret of any of them in a log at the most talkative level, in a
SHOW, in the metrics, in a traceback, or in a core of worker, keeper or master."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest

from doorman.admin.show import SHOWS
from doorman.auth.verifier import decode_base64, derive_keys, parse_verifier
from tests.drivers.ways import HASH, ROLES, SECRET, WAYS, asking_postgres, pam_service, pooler_for
from tests.e2e.auth.cores import cores_allowed
from tests.harness import Doorman, Postgres, procfs
from tests.harness.certificates import Authority
from tests.harness.doorman import ADMIN_PASSWORD, pool_of, user_of
from tests.harness.ports import free_port
from tests.harness.postgres import PASSWORDS
from tests.harness.slapd import BASE, READER, READER_PASSWORD, Slapd, is_slapd_there
from tests.unit.auth.tokens import sign

WRONG = "wrong-secret-of-a-client"
TOKENS = {"jwt": sign("ES256").decode(), "late": sign("ES256", exp=1).decode()}
PATCH = """
import doorman.auth.exchange, doorman.auth.jwt, doorman.auth.ldap, doorman.auth.pam, doorman.auth.scram
def break_it(place, name):
    def broken(*arguments, **keys):
        raise ValueError("induced in " + name)
    setattr(place, name, broken)
break_it(doorman.auth.exchange, "md5_answer")
break_it(doorman.auth.exchange, "judge_password")
break_it(doorman.auth.jwt, "check_token")
break_it(doorman.auth.ldap, "check_password")
break_it(doorman.auth.pam, "check_password")
break_it(doorman.auth.exchange, "parse_verifier")
break_it(doorman.auth.scram, "verifier_of_password")
break_it(doorman.auth.scram, "derive_keys")
"""


@pytest.fixture(scope="module")
def asking() -> Iterator[Postgres]:
    with asking_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def directory() -> Iterator[Slapd | None]:
    with Slapd() if is_slapd_there() else contextlib.nullcontext() as slapd:
        yield slapd


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    if not os.access("/etc/pam.d", os.W_OK):
        yield None
        return
    with pam_service(tmp_path_factory.mktemp("pam")) as name:
        yield name


@pytest.fixture(scope="module")
def prepared(
    postgres: Postgres,
    asking: Postgres,
    directory: Slapd | None,
    service: str | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Doorman]:
    """Not started. All ways, `served` by a `server_password`, `bound` by a search that needs a password of its own."""
    authority = Authority(tmp_path_factory.mktemp("secrets"))
    pair = authority.issue("localhost", names=("localhost",), addresses=("127.0.0.1",))
    doorman = pooler_for(postgres, asking, directory, service, authority, pair)
    rules = doorman.config["general"]["pg_hba"]["content"]
    served = user_of("app", 2, server_username="scram_user", server_password=PASSWORDS["scram_user"])
    pools = {**doorman.config["pools"], "served": pool_of(postgres, users=[served])}
    rules = f"host served all 127.0.0.1/32 trust\n{rules}"
    if directory is not None:
        search = f'ldapbasedn="{BASE}" ldapbinddn="{READER}" ldapbindpasswd={READER_PASSWORD}'
        rules = f"host bound all all ldap ldapserver=127.0.0.1 ldapport={directory.port} {search}\n{rules}"
        pools["bound"] = pools["ldap"]
    doorman.arguments = ["-l", "trace"]
    doorman.config["web"] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    changes = {"log_client_connections": True, "log_client_disconnections": True, "auth_failure_log_interval": 0}
    doorman.update_config(general={"pg_hba": {"content": rules}, **changes}, pools=pools)
    yield doorman
    doorman.close()


@contextlib.contextmanager
def running(doorman: Doorman) -> Iterator[None]:
    """Its log stays."""
    doorman.start()
    try:
        doorman.wait_workers(2)
        yield
    finally:
        doorman.stop()


def tried(doorman: Doorman) -> Iterator[tuple[str, str, str]]:
    """Database, user, and a password."""
    for name in doorman.config["pools"]:
        if name in WAYS:
            for password in (WAYS[name].secret(), WRONG):
                yield name, WAYS[name].user, TOKENS["jwt"] if name == "jwt" and password != WRONG else password
    yield "jwt", "ann", TOKENS["late"]
    yield "served", "app", SECRET
    if "bound" in doorman.config["pools"]:
        yield "bound", "ann", SECRET
        yield "bound", "ann", WRONG


def use_all(doorman: Doorman) -> int:
    """How many logins succeeded, of as many databases."""
    entered = set()
    for database, user, password in tried(doorman):
        with contextlib.suppress(psycopg.OperationalError):
            assert doorman.query("SELECT current_user", user=user, dbname=database, password=password)
            entered.add(database)
    with contextlib.suppress(psycopg.OperationalError):
        doorman.query("SHOW VERSION", user="admin", dbname="pgdoorman", password=WRONG)
    return len(entered)


@pytest.fixture(scope="module")
def secrets(asking: Postgres) -> dict[str, bytes]:
    """Everything that must not be seen, as it is in memory: in every form in which it could be written."""
    plain = {
        "password": SECRET, "wrong password": WRONG, "hash": HASH[3:], "server_password": PASSWORDS["scram_user"],
        "bind password": READER_PASSWORD, "administrator": ADMIN_PASSWORD, "token": TOKENS["jwt"].rsplit(".", 1)[1],
        "late token": TOKENS["late"].rsplit(".", 1)[1],
    }  # fmt: skip
    found = {name: text.encode() for name, text in plain.items()}
    for role, stored in asking.admin(
        "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY(%s)", [list(ROLES)]
    ):
        verifier = parse_verifier(stored)
        if verifier is None:
            found[f"stored hash of {role}"] = stored[3:].encode()
            continue
        keys = derive_keys(SECRET, decode_base64(verifier.salt) or b"", verifier.iterations)
        assert sha256(keys.client_key).digest() == verifier.stored_key
        found |= {f"StoredKey of {role}": verifier.stored_key, f"ServerKey of {role}": verifier.server_key}
        found[f"ClientKey of {role}"] = keys.client_key
    return found


def written(secret: bytes) -> set[bytes]:
    """A log would have it in one of these forms."""
    return {
        secret,
        b64encode(secret),
        secret.hex().encode(),
        secret.hex().upper().encode(),
        repr(secret)[2:-1].encode(),
    }


def assert_none(secrets: dict[str, bytes], text: bytes) -> None:
    found = [name for name, secret in secrets.items() if any(form in text for form in written(secret))]
    assert not found, found


def test_the_log_and_what_is_shown(prepared: Doorman, secrets: dict[str, bytes]) -> None:
    with running(prepared):
        assert use_all(prepared) == len(prepared.config["pools"]) - 5, "all but those that want TLS or a certificate"
        shown = "".join(str(prepared.console(f"SHOW {name}")) for name in SHOWS)
        with urllib.request.urlopen(f"http://127.0.0.1:{prepared.config['web']['port']}/metrics", timeout=10) as answer:
            shown += answer.read().decode()
        prepared.console("RELOAD")
        log = prepared.log_text()
        assert log.count("was refused: 28P01") > 20 and log.count(" logged in") > 20
        assert "passed_clear" in shown and "pg_doorman_login_failures_total" in shown
        assert_none(secrets, log.encode())
        assert_none(secrets, shown.encode())
    assert not prepared.log_contains("Traceback|internal error")


def test_tracebacks(prepared: Doorman, secrets: dict[str, bytes], tmp_path: Path) -> None:
    """What handles secrets breaks, wherever it is called."""
    (tmp_path / "sitecustomize.py").write_text(PATCH)
    mark = prepared.log_mark()
    prepared.env = {"PYTHONPATH": str(tmp_path)}
    try:
        with running(prepared):
            assert use_all(prepared) == 1, "nobody gets in but by trust"
        log = prepared.log_text(mark)
        wanted = {"md5_answer", "judge_password", "check_token", "parse_verifier", "verifier_of_password"}
        wanted |= {"derive_keys"}
        wanted |= {"check_password"} & {
            "check_password" for name in ("pam", "ldap") if name in prepared.config["pools"]
        }
        assert log.count("Traceback") > 10 and set(re.findall("ValueError: induced in (.*)", log)) == wanted
        assert_none(secrets, log.encode())
    finally:
        prepared.env = {}


# --- cores ------------------------------------------------------------------------------------------------------------


def test_every_process_leaves_its_memory_out_of_cores(prepared: Doorman) -> None:
    """Those that are born later too. The table is marked on its own (VmFlags: dd, MADV_DONTDUMP)."""
    with running(prepared):
        killed = prepared.kill_worker()
        prepared.wait_workers(2, without=[killed])
        family = prepared.pids()
        assert len(family.all()) == 4
        for pid in family.all():
            assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0x10
            smaps = Path(f"/proc/{pid}/smaps").read_text()
            flags = re.findall(
                r"^\S+ rw-s [^\n]*/pg_doorman-[^\n]*\n(?:[A-Z][^\n]*\n)*?(VmFlags: .*)", smaps, re.MULTILINE
            )
            assert flags and all(" dd" in line for line in flags), flags


def core_of(doorman: Doorman, pid: int) -> bytes:
    """Have a process crash; its core."""
    for old in doorman.directory.glob("core*"):
        old.unlink()
    os.kill(pid, signal.SIGSEGV)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        cores = [path for path in doorman.directory.glob("core*") if path.stat().st_size]
        if cores and not procfs.is_alive(pid):
            return cores[0].read_bytes()
        time.sleep(0.1)
    raise AssertionError("no core was written")


@pytest.mark.parametrize("whole", [False, True])
def test_cores(prepared: Doorman, secrets: dict[str, bytes], whole: bool) -> None:
    """`whole` shows that the secrets would be found otherwise, and that what lies in the table alone is not."""
    with cores_allowed():
        prepared.env = {"PG_DOORMAN_CORE_DUMPS": "full"} if whole else {}
        try:
            with running(prepared):
                use_all(prepared)
                family = prepared.pids()
                assert family.keeper is not None
                cores = {"worker": core_of(prepared, family.workers[0]), "keeper": core_of(prepared, family.keeper)}
                prepared.wait_workers(2, without=[family.workers[0]])
        finally:
            prepared.env = {}
            for path in prepared.directory.glob("core*"):
                path.unlink()
    for who, core in cores.items():
        assert core.startswith(b"\x7fELF"), who
        seen = {name for name, secret in secrets.items() if secret in core}
        assert {"password", "administrator"} <= seen if whole else not seen, (who, seen)
