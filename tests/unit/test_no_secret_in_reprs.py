"""No value that holds a secret shows it by `repr`: that is what tracebacks, log lines and failing tests are made of."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import doorman
from doorman.config.redact import SECRET_KEYS, Redacted

SECRETIVE = re.compile("passw|secret|token|client_key|server_key|stored|shown|private")
HARMLESS = {
    "Leaf.secret",  # whether a key of the configuration is one
    "CancelRequest.secret",  # what a client sends in clear; it opens nothing
    *(f"{name}.private_key" for name in ("Paths", "ServerTls")),  # names of files
    *(f"{name}_tls_private_key" for name in ("General.server", "Pool.server", "PoolSettings.server")),
    "General.tls_private_key",
}


def values() -> Iterator[type]:
    """Every struct and named tuple of ours."""
    for module in pkgutil.walk_packages(doorman.__path__, "doorman."):
        for found in vars(importlib.import_module(module.name)).values():
            if isinstance(found, type) and found.__module__ == module.name and names_of(found):
                yield found


def names_of(kind: type) -> tuple[str, ...]:
    return tuple(getattr(kind, "__struct_fields__", getattr(kind, "_fields", ())))


SUSPECTS = [(kind, name) for kind in values() for name in names_of(kind) if SECRETIVE.search(name)]


@pytest.mark.parametrize(("kind", "name"), SUSPECTS, ids=lambda value: getattr(value, "__name__", value))
def test_it_is_hidden(kind: type, name: str) -> None:
    if f"{kind.__name__}.{name}" in HARMLESS:
        return
    if issubclass(kind, Redacted) and kind.__repr__ is Redacted.__repr__:
        assert name in SECRET_KEYS
    else:
        assert getattr(kind.__repr__, "__module__", None) == kind.__module__, "it has only the repr that all have"


def test_there_is_something_to_look_at() -> None:
    assert len(SUSPECTS) > 20
