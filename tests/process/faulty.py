"""A pooler whose system calls answer as a test wishes: faults.c, preloaded."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")


def build(compiler: str, directory: Path) -> Path:
    """faults.c as a library."""
    library = directory / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def environment(library: Path, faults: Path) -> dict[str, str]:
    """With it, for the files in `faults` (see faults.c)."""
    return {"LD_PRELOAD": str(library), "DOORMAN_FAULTS": str(faults)}
