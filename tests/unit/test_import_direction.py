"""Imports point one way (docs/architecture.md): a lower package never knows a higher one. Python and Cython alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "doorman"

# From the bottom to the top; modules of one level may know each other only where they are one package.
LEVELS: list[set[str]] = [
    {"errors", "log"},
    {"config"},
    {"wire", "shm", "daemon", "systemd", "cores"},
    {"auth", "admin", "tls"},
    {"web"},
    {"workers.encodings"},
    {
        "workers.settings",
        "workers.set_texts",
        "workers.temporary_texts",
        "workers.sql_tokens",
        "workers.roster",
        "workers.socket_options",
        "workers.listener",
        "workers.prctl",
        "workers.dial",
        "workers.host_names",
    },
    {"workers.encryption", "workers.server_tls", "workers.client_tls"},
    {"workers.channel", "workers.allocation", "workers.descriptors"},
    {"workers.followed", "workers.way_back"},
    {"workers.relay"},
    {
        "workers.credentials",
        "workers.routes",
        "workers.console",
        "workers.lookup_client",
        "workers.lookup_stream",
        "workers.lookup_connection",
    },
    {"workers.destination"},
    {"workers.host"},
    {"workers.opening", "workers.cancel", "workers.login", "workers.refusals", "workers.lookup_executor"},
    {"workers.lookups"},
    {"workers.process"},
    {"workers.pool_summary"},
    {"workers.worker", "workers.keeper"},
    {"workers.reading", "workers.file_watch"},
    {"workers.reload", "workers.vault"},
    {"workers.master"},
    {"diagnose"},
    {"cli"},
]
IMPORT = re.compile(r"^(?:from|import|cimport) (doorman[\w.]*)(?: c?import ([\w, ]+))?", re.MULTILINE)


def level_of(module: str) -> int | None:
    """The level of a module's name without `doorman.`; None for names that have none (the package itself)."""
    for number, level in enumerate(LEVELS):
        if any(module == name or module.startswith(name + ".") for name in level):
            return number
    return None


def modules() -> list[Path]:
    files = [path for suffix in ("py", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{suffix}")]
    return sorted(path for path in files if path.name not in ("__init__.py", "__init__.pxd"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path: Path) -> list[str]:
    """Imported modules at the top of a file; what stands under TYPE_CHECKING or in a function is indented."""
    found = []
    for module, names in IMPORT.findall(path.read_text()):
        base = module.removeprefix("doorman").removeprefix(".")
        if base:
            found.append(base)
        else:
            found += [name.strip() for name in names.split(",")]
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_knows_only_what_is_below_it(path: Path) -> None:
    level = level_of(name_of(path))
    assert level is not None, f"{name_of(path)} has no place in LEVELS"
    above = {name for name in imports_of(path) if (other := level_of(name)) is not None and other > level}
    assert not above, f"{name_of(path)} imports from above: {sorted(above)}"


def test_the_rule_is_not_vacuous() -> None:
    assert any(imports_of(path) for path in modules() if path.suffix == ".pyx")
    assert level_of("errors") == 0 and level_of("cli") == len(LEVELS) - 1
