"""PostgreSQL's own suites: regression tests, isolation tests, libpq_pipeline. Programs that Debian has are Debian's.

Results are compared with each other, not with the expected ones: those depend on how a server was built and set up.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.harness import Endpoint, find_debian_postgres
from tests.harness.postgres import give_to_server_user
from tests.suites.fetch import checked, debian_packages, debian_source
from tests.suites.suite import SUPERUSER, Missing, Outcome, Outcomes, Suite, address_of, run_program, whole_run

SCHEDULE_TIMEOUT = 1800.0  # seconds; pg_regress takes two minutes on two cores, the isolation tests take four
PROGRAM_TIMEOUT = 120.0


@dataclass(frozen=True)
class Build:
    """Debian's PostgreSQL, the sources of that version, and headers and libraries that are not installed."""

    bindir: Path
    tests: Path
    """src/test"""
    development: Path

    @property
    def libraries(self) -> Path:
        return self.bindir.parent / "lib"

    def program(self, name: str) -> Path:
        """One of those for extensions that are to be tested."""
        path = self.libraries / "pgxs" / "src" / "test" / name
        if not path.exists():
            raise Missing(f"needs {path}")
        return path

    def compile(self, source: Path, target: Path, *words: str | Path) -> Path:
        """With the server's headers. `words`: further ones for the compiler."""
        major = self.bindir.parent.name
        include = self.development / "usr" / "include" / "postgresql"
        headers = [f"-I{include / major / 'server'}", f"-I{include}"]
        static = self.development / "usr" / "lib" / "postgresql" / major / "lib"
        checked(["gcc", "-O1", "-w", *headers, "-o", target, source, f"-L{static}", *words], target.parent)
        return target


@functools.cache
def debian_build() -> Build:
    bindir = find_debian_postgres()
    if bindir is None:
        raise Missing("needs Debian's package postgresql")
    package = f"postgresql-{bindir.parent.name}"
    version = installed_package(package)
    source = debian_source(package, version, r"[^/]+/src/test/.*")
    development = debian_packages([f"postgresql-server-dev-{bindir.parent.name}", "libpq-dev"], version)
    return Build(bindir, source / "src" / "test", development)


def installed_package(name: str) -> str:
    argv = ["dpkg-query", "-W", "-f", "${Version}", name]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Missing(f"needs Debian's package {name}")
    return done.stdout


class Scheduled(Suite):
    """What pg_regress and its sister for isolation tests share: a schedule, and a result file for each test."""

    folder: ClassVar[str]
    program: ClassVar[str]
    dbname: ClassVar[str]
    schedule: ClassVar[str]
    inputs: ClassVar[Sequence[str]]
    """Directories and files of `folder` that are read."""

    def prepare(self) -> None:
        self.build = debian_build()
        self.source = self.build.tests / self.folder
        self.build.program(self.program)

    def run(self, server: Endpoint, place: Path) -> Outcomes:
        for name in self.inputs:
            copy = shutil.copytree if (self.source / name).is_dir() else shutil.copyfile
            copy(self.source / name, place / name)
        (place / "results").mkdir()
        argv = [str(self.build.program(self.program)), *self.words(server, place), *self.make_libraries(place)]
        give_to_server_user(place)
        done = run_program(argv, cwd=place, timeout=SCHEDULE_TIMEOUT)
        (place / "output").write_text(done.stdout)
        return self.results(place) | whole_run(done)

    def words(self, server: Endpoint, place: Path) -> Sequence[str]:
        """What the program is told, whatever the tests."""
        where = [f"--host={server.host}", f"--port={server.port}", f"--user={SUPERUSER}", f"--dbname={self.dbname}"]
        what = [f"--inputdir={place}", f"--outputdir={place}", f"--schedule={place / self.schedule}"]
        return [*where, *what, f"--bindir={self.build.bindir}"]

    def make_libraries(self, place: Path) -> Sequence[str]:
        """Build what the tests load; further words for the program."""
        return []

    def results(self, place: Path) -> Outcomes:
        """By test; one that was to be run and has no result differs from all that have one."""
        outcomes = {name: Outcome("no result") for name in scheduled(place / self.schedule)}
        for path in (place / "results").glob("*.out"):
            outcomes[path.stem] = Outcome(path.read_bytes().decode("latin-1"))
        return outcomes


def scheduled(path: Path) -> list[str]:
    lines = [line.partition(":") for line in path.read_text().splitlines()]
    return [name for key, _, names in lines if key == "test" for name in names.split()]


class Regression(Scheduled):
    """src/test/regress, tests side by side as in its parallel schedule."""

    name = "pg_regress"
    folder = "regress"
    program = "regress/pg_regress"
    dbname = "regression"
    schedule = "parallel_schedule"
    inputs = ("sql", "expected", "data", "parallel_schedule")
    reached = ("postgres", "regression")

    def prepare(self) -> None:
        super().prepare()
        scripts = (self.source / "sql").glob("*.sql")
        found = (re.findall(r"^\\c - (\w+)", path.read_bytes().decode("latin-1"), re.MULTILINE) for path in scripts)
        self.users = [SUPERUSER, *sorted({name for names in found for name in names} - {SUPERUSER})]

    def make_libraries(self, place: Path) -> Sequence[str]:
        directory = place / "libraries"
        directory.mkdir()
        self.build.compile(self.source / "regress.c", directory / "regress.so", "-shared", "-fPIC")
        for name in ("autoinc.so", "refint.so"):
            shutil.copyfile(self.build.libraries / name, directory / name)
        return [f"--dlpath={directory}"]


class Isolation(Scheduled):
    """src/test/isolation: what several sessions see of each other. Its program asks PostgreSQL about the processes that
    its connections were told of at login: in session mode those are the servers'."""

    name = "isolation"
    folder = "isolation"
    program = "isolation/pg_isolation_regress"
    dbname = "isolation_regression"
    schedule = "isolation_schedule"
    inputs = ("specs", "expected", "isolation_schedule")
    reached = ("postgres", "isolation_regression")


class Pipeline(Suite):
    """src/test/modules/libpq_pipeline: how it ends, and libpq's trace of messages where there is one to compare."""

    name = "libpq_pipeline"
    modes = ("transaction", "session")
    reached = ("postgres",)

    def prepare(self) -> None:
        self.build = debian_build()
        self.source = self.build.tests / "modules" / "libpq_pipeline"

    def run(self, server: Endpoint, place: Path) -> Outcomes:
        libraries = ["-l:libpq.so.5", "-lpgcommon", "-lpgport"]
        program = self.build.compile(self.source / "libpq_pipeline.c", place / "libpq_pipeline", *libraries)
        tests = checked([program, "tests"], place).split()
        assert tests, "libpq_pipeline has no tests"
        return {test: self.run_one(program, test, server) for test in tests}

    def run_one(self, program: Path, test: str, server: Endpoint) -> Outcome:
        trace = program.parent / f"{test}.trace"
        traced = ["-t", str(trace)] if (self.source / "traces" / trace.name).exists() else []
        argv = [str(program), "-r", "700", *traced, test]
        done = run_program(argv, cwd=program.parent, env=address_of(server, "postgres"), timeout=PROGRAM_TIMEOUT)
        messages = trace.read_text() if trace.exists() else ""
        return Outcome(f"exit code {done.returncode}\n{messages}", detail=done.stdout)
