"""The hit path of a cached statement allocates nothing for a message but what its answer needs.

A real relay with a PostgreSQL by script (tests/fuzz), in a process whose allocator counts: Python's own is switched off
(PYTHONMALLOC=malloc), so each object counts, save those that CPython keeps in free lists.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ALLOCATOR = r"""
#include <stddef.h>
void *__libc_malloc(size_t); void *__libc_calloc(size_t, size_t); void *__libc_realloc(void *, size_t);
static long counted;
long allocations(void) { return counted; }
void *malloc(size_t size) { counted++; return __libc_malloc(size); }
void *calloc(size_t n, size_t size) { counted++; return __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { counted++; return __libc_realloc(old, size); }
"""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[float, float]]]:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler for an allocator that counts")
    place = tmp_path_factory.mktemp("allocator")
    (place / "count.c").write_text(ALLOCATOR)
    library = place / "count.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, place / "count.c"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"}
    command = [sys.executable, "-m", "tests.unit.relay.allocations"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("flow", ["named", "named, described", "unnamed", "simple"])
def test_a_hit_allocates_nothing(figures: dict[str, tuple[float, float]], flow: str) -> None:
    pipelined, alone = figures[flow]
    assert pipelined < 0.1, figures
    assert alone < 0.1, figures


def test_what_has_to_be_remembered_is_counted(figures: dict[str, tuple[float, float]]) -> None:
    assert min(figures["named anew"]) > 0.9, figures
