"""Declares the compiled modules; everything else about the package stands in pyproject.toml.

The relay and the shared table are Cython. Plain Python modules that every login goes through are compiled too, as they
are: no other language, no other semantics, but half the interpreter's time saved (`scripts/bench --only login,scram`).
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}

COMPILED_PYTHON = (
    "doorman/auth/exchange.py",
    "doorman/auth/md5.py",
    "doorman/auth/methods.py",
    "doorman/auth/randomness.py",
    "doorman/auth/scram.py",
    "doorman/auth/server_login.py",
    "doorman/auth/verifier.py",
    "doorman/config/hba.py",
    "doorman/wire/backend.py",
    "doorman/wire/framing.py",
    "doorman/wire/frontend.py",
    "doorman/wire/startup.py",
    "doorman/wire/text.py",
    "doorman/workers/channel.py",
    "doorman/workers/credentials.py",
    "doorman/workers/destination.py",
    "doorman/workers/host.py",
    "doorman/workers/login.py",
    "doorman/workers/master.py",
    "doorman/workers/opening.py",
    "doorman/workers/process.py",
    "doorman/workers/roster.py",
    "doorman/workers/routes.py",
    "doorman/workers/socket_options.py",
    "doorman/workers/vault.py",
)
PYTHON_DIRECTIVES = {"language_level": "3", "annotation_typing": False, "binding": True}

OPTIMIZE = os.environ.get("DOORMAN_OPTIMIZE")  # for fuzzing, whose build takes minutes else
FLAGS = [OPTIMIZE or "-O3", "-fno-plt", "-fno-semantic-interposition", "-fno-strict-aliasing", "-Wno-unused-function"]
PYTHON_FLAGS = [OPTIMIZE or "-O2", *FLAGS[1:]]


def compiled_modules() -> list[Extension]:
    """One extension for each .pyx file below doorman/."""
    return [extension(path, FLAGS) for path in sorted(Path("doorman").rglob("*.pyx"))]


def compiled_python() -> list[Extension]:
    """One extension for each module of COMPILED_PYTHON; of DOORMAN_COMPILE (words), where that is set."""
    names = os.environ.get("DOORMAN_COMPILE", " ".join(COMPILED_PYTHON)).split()  # set for fuzzing
    return [extension(Path(name), PYTHON_FLAGS) for name in names]


def extension(path: Path, flags: list[str]) -> Extension:
    """The module that this source becomes."""
    return Extension(".".join(path.with_suffix("").parts), [str(path)], extra_compile_args=flags)


setup(
    ext_modules=cythonize(compiled_modules(), compiler_directives=DIRECTIVES, build_dir="build/cython")
    + cythonize(compiled_python(), compiler_directives=PYTHON_DIRECTIVES, build_dir="build/cython"),
    options={"build_ext": {"parallel": len(os.sched_getaffinity(0))}},
)
