"""The library of compiled modules: all of them come from it, and what runs often stands together in it."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import doorman
from doorman import _compiled

OFTEN = Path(doorman.__file__).with_name("often.lds")
ROOM = 128 * 1024  # bytes in which all of it is to be


@pytest.mark.parametrize("name", sorted(_compiled.NAMES))
def test_a_compiled_module_is_imported_from_the_library_under_its_own_name(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ == _compiled.__file__
    assert (module.__name__, module.__package__) == (name, name.rpartition(".")[0])
    assert module.__spec__ is not None and module.__spec__.name == name
    assert sys.modules[name] is module


def test_no_library_of_one_module_is_left_from_an_earlier_build() -> None:
    found = [path for path in OFTEN.parent.rglob("*.so") if path != Path(_compiled.__file__)]
    assert not found, "delete them: they are out of date"


def test_what_runs_often_is_there_and_stands_together() -> None:
    if shutil.which("nm") is None:
        pytest.skip("needs nm (binutils)")
    listing = subprocess.run(["nm", _compiled.__file__], capture_output=True, text=True, check=True).stdout
    places = {name: int(place, 16) for place, kind, name in re.findall(r"^(\w+) ([tT]) (\S+)$", listing, re.MULTILINE)}
    wanted = re.findall(r"^ +\*\(\.text\.(\w+) ", OFTEN.read_text(), re.MULTILINE)
    found = [places[name] for name in wanted if name in places]
    gone = [name for name in wanted if name not in places]
    assert len(found) > 50
    assert len(gone) < 5, "the compiler may inline one, but these are no functions any more"
    assert max(found) - min(found) < ROOM
