"""The test programs in other languages: built once for each state of their sources, run against a server.

Builds are kept in a folder of this user below /tmp, so that other checkouts and later runs on the machine find them.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness import Endpoint

SOURCES = Path(__file__).parent
IGNORED = {"node_modules", "target", "jars", "classes"}  # of whoever builds in place
FETCH_TIMEOUT = 240.0  # seconds; Maven takes half a minute for its own plugins on a new machine
BUILD_TIMEOUT = 400.0
RUN_TIMEOUT = 100.0
REQUIRED = "DOORMAN_TEST_ALL_LANGUAGES"  # set: what cannot be fetched or found is a failure, not a skip


@dataclass(frozen=True)
class Language:
    """How the program in the folder `name` is made; commands run in a copy of that folder."""

    name: str
    tools: Sequence[str]
    fetch: Sequence[str]  # what needs the registry; its failure skips the tests
    build: Sequence[Sequence[str]]  # what works without it; its failure fails them
    run: Sequence[str]  # to be followed by the driver's name
    env: Mapping[str, str] = field(default_factory=dict)


NODE = Language(
    "node",
    tools=["node", "npm"],
    fetch=["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"],
    build=[],
    run=["node", "--no-deprecation", "main.js"],
)
GO = Language(
    "go",
    tools=["go"],
    fetch=["go", "mod", "download"],
    build=[["go", "build", "-p", "2", "-o", "drivers", "."]],
    run=["./drivers"],
    env={"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"},
)
JAVA = Language(
    "java",
    tools=["mvn", "javac", "java"],
    fetch=[
        *["mvn", "-B", "-q", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"],
        "-DoutputDirectory=jars",
    ],
    build=[
        [
            *["javac", "--release", "17", "-cp", "jars/*", "-d", "classes"],
            *["Drivers.java", "PgJdbc.java", "Logins.java", "Console.java"],
        ]
    ],
    # Short runs: the quick compiler only, and no threads for collecting garbage.
    run=["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", "classes:jars/*", "Drivers"],
)
RUST = Language(
    "rust",
    tools=["cargo"],
    fetch=["cargo", "fetch", "--locked"],
    build=[["cargo", "build", "--locked", "--offline", "-j", "2"], ["cp", "../rust-target/debug/drivers", "."]],
    run=["./drivers"],
    env={"CARGO_TARGET_DIR": "../rust-target"},  # dependencies are compiled once for all states of our sources
)


@dataclass(frozen=True)
class Program:
    """One driver: a language and the word that its program takes."""

    language: Language
    driver: str

    def __str__(self) -> str:
        return f"{self.language.name}-{self.driver}"

    def run(
        self, server: Endpoint, dbname: str, *, clients: int, seconds: float, authority: Path | None = None
    ) -> tuple[int | None, str]:
        """Exit code (None: it took too long) and what was printed. Builds the program first, if need be. `authority`:
        over TLS, and only if the server has a certificate of this one's for its address."""
        directory = built(self.language)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        environment |= {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": server.user, "PGDATABASE": dbname}
        environment |= {"CLIENTS": str(clients), "SECONDS": str(seconds)}
        if authority is not None:
            environment |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(authority)}
        return _run([*self.language.run, self.driver], directory, environment, RUN_TIMEOUT)


PROGRAMS = [
    Program(NODE, "pg"),
    Program(NODE, "postgres"),
    Program(GO, "pgx"),
    Program(GO, "pq"),
    Program(JAVA, "pgjdbc"),
    Program(RUST, "tokio"),
    Program(RUST, "sqlx"),
]
TLS_PROGRAMS = [program for program in PROGRAMS if program.driver != "tokio"]
"""Those that speak TLS: by OpenSSL (Node), Go's crypto/tls, Java's JSSE, rustls (sqlx)."""


class Unavailable(Exception):
    """The toolchain or what it must fetch is not to be had here."""


class BuildFailed(AssertionError):
    """Our program does not compile."""


def built(language: Language) -> Path:
    """The folder of the program, ready to run; Unavailable says why there is none."""
    outcome = _build_once(language.name)
    if isinstance(outcome, str):
        raise Unavailable(outcome)
    return outcome


def built_or_skipped(language: Language) -> Path:
    """The same for a test, which fails or is skipped where there is none."""
    try:
        return built(language)
    except Unavailable as reason:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{language.name}: {reason}")
        pytest.skip(f"{language.name}: {reason}")


@functools.cache
def _build_once(name: str) -> Path | str:
    """The folder, or the reason why there is none: it costs time to find that out, so it is found out once."""
    language = next(program.language for program in PROGRAMS if program.language.name == name)
    missing = [tool for tool in language.tools if shutil.which(tool) is None]
    if missing:
        return f"needs {' and '.join(missing)}"
    builds = builds_directory()
    directory = builds / f"{name}-{digest_of(SOURCES / name)}"
    ready = directory / ".ready"
    with locked(builds / f"{name}.lock"):
        if ready.exists():
            return directory
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(SOURCES / name, directory, ignore=shutil.ignore_patterns(*IGNORED))
        environment = {**os.environ, **language.env}
        code, output = _run(language.fetch, directory, environment, FETCH_TIMEOUT)
        if code != 0:
            lines = [line for line in output.splitlines() if line.strip()] or ["no answer"]
            reason = next((line for line in lines if "error" in line.lower()), lines[-1])
            return f"`{' '.join(language.fetch[:3])}` failed: {reason}"
        for command in language.build:
            code, output = _run(command, directory, environment, BUILD_TIMEOUT)
            if code != 0:
                raise BuildFailed(f"{' '.join(command)} in {directory}:\n{output}")
        ready.touch()
    return directory


def builds_directory() -> Path:
    """Below /tmp; a new one for each run if somebody else sits on the name."""
    path = Path(tempfile.gettempdir()) / f"pg_doorman-drivers-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or path.is_symlink():
        return Path(tempfile.mkdtemp(prefix="pg_doorman-drivers-"))
    return path


def digest_of(directory: Path) -> str:
    """Twelve digits for names and contents of the sources in it."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        if IGNORED.intersection(path.relative_to(directory).parts):
            continue
        digest.update(f"{path.relative_to(directory)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Two test runs on one machine do not build the same program at the same time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(
    argv: Sequence[str], directory: Path, environment: Mapping[str, str], timeout: float
) -> tuple[int | None, str]:
    """Exit code and both outputs; the code is None if the time was up."""
    try:
        done = subprocess.run(
            argv,
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as expired:
        return None, (expired.stdout or b"").decode(errors="replace") + f"\n(took longer than {timeout:g} s)"
    return done.returncode, done.stdout.decode(errors="replace")
