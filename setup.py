"""Declares the compiled modules; everything else about the package stands in pyproject.toml."""

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

FLAGS = ["-O3", "-fno-plt", "-fno-semantic-interposition", "-fno-strict-aliasing", "-Wno-unused-function"]


def compiled_modules() -> list[Extension]:
    """One extension for each .pyx file below doorman/."""
    return [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            extra_compile_args=FLAGS,
        )
        for path in sorted(Path("doorman").rglob("*.pyx"))
    ]


setup(ext_modules=cythonize(compiled_modules(), compiler_directives=DIRECTIVES, build_dir="build/cython"))
