"""Builds, outside of the tree, a copy of the package whose compiled modules count edges and check every access (clang's
AddressSanitizer and UndefinedBehaviorSanitizer), and libFuzzer as a library for a Python process.

Rules
1. The tree's own modules are never touched; what is newer than the copy is built again.
2. In the copy `clock_gettime` is `doorman_clock_gettime` (CLOCK), so a script can let time pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SANITIZE = "-fsanitize=address,undefined"
CFLAGS = (
    f"-g1 -fno-omit-frame-pointer {SANITIZE} -fsanitize=fuzzer-no-link -fno-sanitize-recover=undefined "
    # Cython subtracts from NULL where it converts unused pointers; x86 does not mind unaligned words.
    "-fno-sanitize=pointer-overflow,alignment -Dclock_gettime=doorman_clock_gettime"
)


CLOCK = r"""
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t ahead; /* microseconds */

void doorman_clock_advance(int64_t microseconds) { ahead += microseconds; }

int doorman_clock_gettime(clockid_t clock, struct timespec *into) {
    long result = syscall(SYS_clock_gettime, clock, into);
    int64_t nanoseconds = into->tv_nsec + ahead % 1000000 * 1000;
    into->tv_sec += ahead / 1000000 + nanoseconds / 1000000000;
    into->tv_nsec = nanoseconds % 1000000000;
    return (int)result;
}
"""


PARSERS = (
    "doorman/auth/cert.py",
    "doorman/auth/exchange.py",
    "doorman/auth/randomness.py",
    "doorman/auth/scram.py",
    "doorman/auth/verifier.py",
    "doorman/config/hba.py",
    "doorman/config/hba_parse.py",
    "doorman/wire/backend.py",
    "doorman/wire/frontend.py",
    "doorman/wire/startup.py",
    "doorman/wire/text.py",
)
"""Python that is compiled here, so that its branches are counted, and what it calls as C functions; no other is."""


class CannotBuild(Exception):
    """Something that the instrumented build needs is absent."""


def find_clang() -> str:
    """The first clang in PATH that has a shared AddressSanitizer and libFuzzer."""
    for name in ("clang", *(f"clang-{version}" for version in range(21, 13, -1))):
        found = shutil.which(name)
        if found and runtime(found, "asan", "so").exists() and runtime(found, "fuzzer_no_main", "a").exists():
            return found
    raise CannotBuild("needs clang and its libraries: apt-get install clang-14 libclang-rt-14-dev llvm-14")


def runtime(clang: str, name: str, suffix: str) -> Path:
    """A library of clang's; a path that does not exist when there is none."""
    prefix = "lib" if suffix in ("so", "a") else ""
    for spelling in (f"{prefix}clang_rt.{name}-{os.uname().machine}.{suffix}", f"{prefix}clang_rt.{name}.{suffix}"):
        answer = subprocess.run([clang, f"-print-file-name={spelling}"], capture_output=True, text=True, check=True)
        path = Path(answer.stdout.strip())
        if path.is_absolute() and path.exists():
            return path
    resources = subprocess.run([clang, "-print-resource-dir"], capture_output=True, text=True, check=True)
    return Path(resources.stdout.strip(), "lib", "linux", f"libclang_rt.{name}-{os.uname().machine}.{suffix}")


def build(into: Path) -> dict[str, str]:
    """Bring the copy up to date. Returns what a process that uses it needs in its environment."""
    clang = find_clang()
    library = into / "fuzzer.so"
    if copy_sources(into):
        for outdated in built_modules(into):  # first, so that a build that is cut short is begun again
            outdated.unlink()
    if not library.exists() or not built_modules(into):
        build_fuzzer(clang, library)
        build_modules(clang, into)
    return {
        "LD_PRELOAD": f"{library} {runtime(clang, 'asan', 'so')}",  # its own counters before ASan's empty ones
        "PYTHONPATH": f"{into}:{ROOT}",
        "PYTHONSAFEPATH": "1",  # not the tree itself, which has the ordinary modules
        "PYTHONMALLOC": "malloc",  # so that reading behind a bytes object is seen
        "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "DOORMAN_FUZZER": str(library),
    }


def built_modules(into: Path) -> list[Path]:
    """The library that setup.py makes; empty when it is not there."""
    return list((into / "doorman").glob("_compiled.*.so"))


def copy_sources(into: Path) -> bool:
    """Copy what changed; True when something did that has to be compiled."""
    changed = False
    for source in [ROOT / "setup.py", *(ROOT / "doorman").rglob("*")]:
        if source.suffix not in (".py", ".pyx", ".pxd", ".lds"):
            continue
        target = into / source.relative_to(ROOT)
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        changed = changed or source.suffix != ".py" or source.name == "setup.py" or is_compiled(source)
    return changed


def is_compiled(source: Path) -> bool:
    """Is this Python module one that the copy has as machine code?"""
    return str(source.relative_to(ROOT)) in PARSERS


def build_fuzzer(clang: str, library: Path) -> None:
    """libFuzzer without a main, and the clock."""
    fuzzer = runtime(clang, "fuzzer_no_main", "a")
    clock = library.with_name("clock.c")
    clock.write_text(CLOCK)
    command = [clang, "-O1", "-fPIC", "-shared", "-shared-libasan", SANITIZE, str(clock)]
    command += ["-Wl,--whole-archive", str(fuzzer), "-Wl,--no-whole-archive", "-lm", "-lpthread"]
    run([*command, "-l:libstdc++.so.6", "-o", str(library)], library.parent)


def build_modules(clang: str, into: Path) -> None:
    """The Cython of setup.py and PARSERS."""
    link = f"{clang} -shared -shared-libasan {SANITIZE}"
    environment = {
        "CC": clang,
        "CFLAGS": CFLAGS,
        "LDSHARED": link,
        "DOORMAN_OPTIMIZE": "-O1",
        "DOORMAN_COMPILE": " ".join(PARSERS),
    }
    run([sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", "2"], into, environment)


def run(command: list[str], where: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=where, env=os.environ | (environment or {}), capture_output=True, text=True)
    if done.returncode:
        raise CannotBuild(f"{command[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-6000:]}")


if __name__ == "__main__":
    made = build(Path(sys.argv[1]))
    print("\n".join(f"{name}={value}" for name, value in made.items()))
