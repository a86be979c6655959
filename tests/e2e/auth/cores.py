"""Core dumps of processes that a test starts, where the machine lets us have them."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def cores_allowed() -> Iterator[None]:
    """Processes started meanwhile leave a core in their working directory; else the test is skipped."""
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() != "core":
        pytest.skip("cores do not go to the working directory on this machine")
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard != resource.RLIM_INFINITY:
        pytest.skip("cores are limited")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
