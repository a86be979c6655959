"""Sources of suites, by the package managers as they are set up here, kept in build/suites.

Rules
1. apt has lists, archives and a list of sources of its own in that directory: the system's are read, not changed.
2. What is there is not fetched again; removing build/suites makes everything new.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.suites.suite import Missing, run_program

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "suites"
CONFIGURED = Path("/etc/apt")
FETCH_TIMEOUT = 600.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def kept(directory: Path, make: Callable[[Path], None]) -> Path:
    """`directory`, filled by `make` if it is not there; a half-filled one is never taken for whole."""
    if not directory.exists():
        unfinished = directory.with_name(directory.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(directory)
    return directory


# -- Debian


def debian_source(package: str, version: str, wanted: str) -> Path:
    """The files of a source package whose path matches the pattern `wanted`, unpacked (as upstream has them)."""

    def make(directory: Path) -> None:
        say(f"fetching the source of {package} {version}")
        download("source", "--download-only", package, version, directory)
        for archive in directory.glob("*.orig.tar.*"):
            unpack(archive, directory, wanted)

    return only_child(kept(CACHE / f"{package}-{version}-source", make))


def debian_packages(packages: Sequence[str], version: str) -> Path:
    """A directory with the files of binary packages, without installing them."""

    def make(directory: Path) -> None:
        for package in packages:
            say(f"fetching {package} {version}")
            download("download", "--quiet", package, version, directory)
        for archive in directory.glob("*.deb"):
            checked(["dpkg-deb", "-x", archive, directory], directory)

    return kept(CACHE / f"{'+'.join(packages)}-{version}", make)


def download(command: str, option: str, package: str, version: str, directory: Path) -> None:
    """Into `directory`; another version of the same name where this one is in neither archive nor mirror."""
    options = apt_options()
    said = ""
    for one in dict.fromkeys([version, *known_versions(options, package, directory)]):
        done = apt(options, [command, option, f"{package}={one}"], directory)
        if done.returncode == 0:
            if one != version:
                say(f"{package} {version} cannot be had: took {one}")
            return
        said = last_line(done.stdout)
    raise Missing(f"apt-get {command} {package}: {said}")


def known_versions(options: Sequence[str], package: str, directory: Path) -> Sequence[str]:
    """Of a package, the newest first."""
    argv = ["apt-cache", *options, "madison", package]
    lines = run_program(argv, cwd=directory, timeout=FETCH_TIMEOUT).stdout.splitlines()
    return [fields[1].strip() for line in lines if len(fields := line.split("|")) == 3]


@functools.cache
def apt_options() -> Sequence[str]:
    """Options that make apt keep everything in our directory; its lists are made new once in a run."""
    if shutil.which("apt-get") is None:
        raise Missing("needs apt-get")
    directory = CACHE / "apt"
    for name in ("sources", "lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "sources" / "suites.list").write_text("".join(source_lines()))
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": directory / "sources",
        "Dir::State::lists": directory / "lists",
        "Dir::Cache": directory / "cache",
        "APT::Sandbox::User": "root",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    apt(options, ["update"], directory)  # what it could not get shows when it is needed
    return options


def apt(options: Sequence[str], words: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return run_program(["apt-get", "-q", *options, *words], cwd=directory, timeout=FETCH_TIMEOUT)


def source_lines() -> Iterator[str]:
    """The system's entries for its own release, for binaries and sources, in the one-line form."""
    for path in [CONFIGURED / "sources.list", *sorted(CONFIGURED.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else ():
            if found := re.fullmatch(r"deb\s+(\[.*?\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.strip()):
                yield from entry(found[1] or "", found[2], found[3], found[4])
    for path in sorted(CONFIGURED.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            yield from entries_of(stanza)


def entries_of(stanza: str) -> Iterator[str]:
    """A stanza of the other form (sources.list(5), "DEB822-STYLE")."""
    lines = [line for line in stanza.splitlines() if ":" in line and not line.startswith(("#", " "))]
    fields = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
        return
    signer = fields.get("signed-by", "")
    option = f"[signed-by={signer}] " if signer.startswith("/") else ""
    for uri in fields.get("uris", "").split():
        for release in fields.get("suites", "").split():
            yield from entry(option, uri, release, fields.get("components", ""))


def entry(option: str, uri: str, release: str, components: str) -> Iterator[str]:
    """Others than Debian's own may have no sources and no version that fits."""
    if re.fullmatch(re.escape(codename()) + r"(-updates|-security|/updates)?", release):
        yield f"deb {option}{uri} {release} {components}\n"
        yield f"deb-src {option}{uri} {release} {components}\n"


@functools.cache
def codename() -> str:
    """`bookworm`."""
    found = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    if found is None:
        raise Missing("needs Debian")
    return found[1]


# -- Python


def python_source(package: str, version: str, path: Path | None = None) -> Path:
    """The unpacked source distribution. `path`: where the programs are that its metadata may need."""

    def make(directory: Path) -> None:
        say(f"fetching the source of {package} {version}")
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", package]
        env = {} if path is None else {"PATH": f"{path}:/usr/local/bin:/usr/bin:/bin"}
        done = run_program([*argv, f"{package}=={version}"], cwd=directory, env=env, timeout=FETCH_TIMEOUT)
        if done.returncode:
            raise Missing(f"pip download {package}: {last_line(done.stdout)}")
        for archive in directory.glob("*.tar.gz"):
            unpack(archive, directory, ".*")

    return only_child(kept(CACHE / f"{package}-{version}-sdist", make))


def python_packages(names: Sequence[str]) -> Path:
    """A directory for PYTHONPATH with packages that only a suite needs."""

    def make(directory: Path) -> None:
        say(f"installing {' '.join(names)}")
        checked([sys.executable, "-m", "pip", "install", "-q", "--target", directory / "packages", *names], directory)

    return kept(CACHE / f"packages-{'+'.join(names)}", make) / "packages"


def installed_version(distribution: str) -> str:
    """The one that the other tests use."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise Missing(f"needs the Python package {distribution}") from None


# -- Go


def go_source(module: str, version: str) -> Path:
    """A copy of a module, which can be tested in place."""
    if shutil.which("go") is None:
        raise Missing("needs go")

    def make(directory: Path) -> None:
        say(f"fetching {module} {version}")
        argv = ["go", "mod", "download", "-json", f"{module}@{version}"]
        done = run_program(argv, cwd=directory, env=GO_ENVIRONMENT, timeout=FETCH_TIMEOUT)
        found = re.search(r"\{.*\}", done.stdout, re.DOTALL)
        fetched = json.loads(found[0]) if found else {}
        if done.returncode or "Dir" not in fetched:
            raise Missing(f"go mod download {module}: {fetched.get('Error') or last_line(done.stdout)}")
        shutil.copytree(fetched["Dir"], directory / "module", copy_function=shutil.copyfile)
        for path in [directory / "module", *(directory / "module").rglob("*")]:
            path.chmod(0o755)  # Go's cache is not writable

    return kept(CACHE / f"{module.replace('/', '_')}-{version}", make) / "module"


GO_ENVIRONMENT = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}


def go_version(module: str) -> str:
    """The one that the test programs in Go use."""
    text = (ROOT / "tests" / "drivers" / "go" / "go.mod").read_text()
    found = re.search(rf"^\s*{re.escape(module)} (v\S+)", text, re.MULTILINE)
    assert found is not None, f"{module} is not in go.mod"
    return found[1]


# -- all of them


def unpack(archive: Path, directory: Path, wanted: str) -> None:
    with tarfile.open(archive) as file:
        file.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)  # none in early 3.11
        file.extractall(directory, [one for one in file.getmembers() if re.fullmatch(wanted, one.name)])


def only_child(directory: Path) -> Path:
    """What an archive with one directory in it was unpacked to."""
    (child,) = [path for path in directory.iterdir() if path.is_dir()]
    return child


def checked(argv: Sequence[str | Path], directory: Path) -> str:
    """What the command printed; Missing if it failed."""
    done = run_program(argv, cwd=directory, timeout=FETCH_TIMEOUT)
    if done.returncode:
        raise Missing(f"{' '.join(map(str, argv[:3]))} failed: {done.stdout[-2000:].strip()}")
    return done.stdout


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"E:|ERROR|error", line)]
    return (errors or lines or ["no answer"])[-1].strip()
