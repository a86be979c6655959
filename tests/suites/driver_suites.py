"""Suites of drivers, as their source distributions have them, for the versions that tests/drivers works with.

Rules
1. Compared is which tests pass, fail and are skipped: what a suite expects of its own place (a server with TLS, users
   with certain passwords) is not there on either side.
2. A driver that publishes its source without tests is listed all the same, and skipped with that reason.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.harness import Endpoint
from tests.suites.fetch import (
    GO_ENVIRONMENT,
    go_source,
    go_version,
    installed_version,
    last_line,
    python_packages,
    python_source,
)
from tests.suites.server_suites import debian_build
from tests.suites.suite import TAIL, Missing, Outcome, Outcomes, Suite, address_of, run_program, whole_run

SUITE_TIMEOUT = 1200.0  # seconds; the longest takes three minutes on two cores
GO_LIMIT = "15m"  # for each package, after which Go says what hangs
PYTEST_LINE = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
PYTEST_SUMMARY = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?) - (.*)$", re.MULTILINE)
GO_DIRECTORY = re.compile(r"(?<=/Test)\D*\d+(?=/)")  # of testing.T.TempDir: another one each time


class WithoutTests(Suite):
    """A driver whose tests are only where it is developed."""

    def prepare(self) -> None:
        raise Missing("what is published of it has no tests")

    def run(self, server: Endpoint, place: Path) -> Outcomes:
        raise AssertionError("prepare has raised")


class Psycopg(WithoutTests):
    name = "psycopg"


class NodePostgres(WithoutTests):
    name = "node-postgres"


# -- Python


class PythonTests(Suite):
    """Run by pytest, in the environment of our own tests."""

    package: ClassVar[str]
    """Of the source."""
    distribution: ClassVar[str]
    """That is installed."""
    folder: ClassVar[str] = "tests"
    needs: ClassVar[Sequence[str]] = ()
    """Further packages that its tests import."""

    def prepare(self) -> None:
        version = installed_version(self.distribution)
        programs = debian_build().development / "usr" / "bin"  # pg_config, for psycopg2
        self.source = python_source(self.package, version, programs)
        if not (self.source / self.folder).is_dir():
            raise Missing(f"{self.package} {version} comes without tests")
        self.packages = str(python_packages(self.needs)) if self.needs else ""

    @abstractmethod
    def environment(self, server: Endpoint) -> Mapping[str, str]:
        """How the tests find the server."""

    def run(self, server: Endpoint, place: Path) -> Outcomes:
        shutil.copytree(self.source / self.folder, place / self.folder)
        (place / "pytest.ini").write_text("[pytest]\n")
        argv = [sys.executable, "-m", "pytest", "-v", "-ra", "--tb=short", "-p", "no:cacheprovider", self.folder]
        ours = {"PYTHONPATH": self.packages, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "300"}
        done = run_program(argv, cwd=place, env={**ours, **self.environment(server)}, timeout=SUITE_TIMEOUT)
        (place / "output").write_text(done.stdout)
        return outcomes_of_pytest(done)


def outcomes_of_pytest(done: subprocess.CompletedProcess[str]) -> Outcomes:
    details = dict(PYTEST_SUMMARY.findall(done.stdout))
    outcomes = {name: Outcome(word.lower(), details.get(name, "")) for name, word in PYTEST_LINE.findall(done.stdout)}
    return outcomes | whole_run(done)


class Psycopg2(PythonTests):
    name = "psycopg2"
    package, distribution = "psycopg2", "psycopg2-binary"
    databases = ("psycopg2_test",)
    setup = "CREATE EXTENSION hstore"

    def environment(self, server: Endpoint) -> Mapping[str, str]:
        return address_of(server, "psycopg2_test")


class Asyncpg(PythonTests):
    name = "asyncpg"
    package = distribution = "asyncpg"
    needs = ("distro",)
    reached = ("postgres", "testdb", "asyncpg_intro_test")

    def environment(self, server: Endpoint) -> Mapping[str, str]:
        return address_of(server, "postgres")


class Pg8000(PythonTests):
    name = "pg8000"
    package = distribution = "pg8000"
    folder = "test"
    needs = ("pytz",)
    databases = ("postgres",)
    reached = ("pg8000_scram_sha_256", "pg8000_gss", "pg8000_md5", "pg8000_password")
    setup = "CREATE EXTENSION hstore"

    def environment(self, server: Endpoint) -> Mapping[str, str]:
        return address_of(server, "postgres")


# -- Go


class GoTests(Suite):
    """`go test`, one package after the other: they share a database."""

    module: ClassVar[str]

    def prepare(self) -> None:
        self.source = go_source(self.module, go_version(self.module))
        done = self.go_test("-exec=true", {})  # compiles, and runs nothing: no server is there yet
        if done.returncode:
            raise Missing(f"go test: {last_line(done.stdout)}")

    @abstractmethod
    def environment(self, server: Endpoint) -> Mapping[str, str]:
        """How the tests find the server."""

    def run(self, server: Endpoint, place: Path) -> Outcomes:
        done = self.go_test("-json", self.environment(server))
        (place / "output").write_text(done.stdout)
        return outcomes_of_go(done.stdout, self.module) | whole_run(done)

    def go_test(self, option: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        argv = ["go", "test", "-count=1", "-p=1", "-vet=off", f"-timeout={GO_LIMIT}", option, "./..."]
        return run_program(argv, cwd=self.source, env={**GO_ENVIRONMENT, **env}, timeout=SUITE_TIMEOUT)


def outcomes_of_go(output: str, module: str) -> Outcomes:
    """By package and test. A package counts where it failed and none of its tests did."""
    outcomes: Outcomes = {}
    failed: set[str] = set()
    said: defaultdict[str, str] = defaultdict(str)
    for event in map(event_of, output.splitlines()):
        package, test = event.get("Package", "").removeprefix(module), event.get("Test", "")
        name = f"{package}:{GO_DIRECTORY.sub('', test)}"
        said[name] += event.get("Output", "")
        if event.get("Action") not in ("pass", "fail", "skip"):
            continue
        if test or (event["Action"] == "fail" and package not in failed):
            outcomes[name] = Outcome(event["Action"], said[name][-TAIL:])
        if event["Action"] == "fail":
            failed.add(package)
    return outcomes


def event_of(line: str) -> dict[str, Any]:
    """`go doc test2json`; what the compiler says is no event."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


class Pgx(GoTests):
    name = "pgx"
    module = "github.com/jackc/pgx/v5"
    databases = ("pgx_test",)
    setup = """
        CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE DOMAIN uint64 AS numeric(20,0);
        CREATE USER " tricky, ' } "" \\\\ test user " SUPERUSER PASSWORD 'secret'
    """

    def environment(self, server: Endpoint) -> Mapping[str, str]:
        words = server.dsn(user="postgres", dbname="pgx_test")
        return {"PGX_TEST_DATABASE": words, "PGX_TEST_TCP_CONN_STRING": words}


PQ_USERS = ("pqgossl", "pqgosslcert", "pqgopassword", "pqgoscram", "pqgomd5")


class Pq(GoTests):
    name = "pq"
    module = "github.com/lib/pq"
    databases = ("pqgo",)
    setup = "CREATE EXTENSION hstore; CREATE USER pqgo SUPERUSER;" + "".join(
        f"CREATE USER {name} PASSWORD 'wordpass';" for name in PQ_USERS
    )
    users = ("pqgo", *PQ_USERS)

    def environment(self, server: Endpoint) -> Mapping[str, str]:
        return {"PGHOST": server.host, "PGPORT": str(server.port)}
