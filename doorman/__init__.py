"""pg_doorman: a PostgreSQL connection pooler of many processes around one shared pool.

The compiled modules (setup.py) are in one library, `doorman._compiled`, and are imported from it here.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import Any

from doorman import _compiled

__version__ = "0.1.0"


class _Loader(ExtensionFileLoader):
    """Loads a module from the library, where its function is PyInit_<whole name>: last names occur twice."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = super().create_module(ModuleSpec(spec.name.replace(".", "__"), self, origin=self.path))
        module.__name__ = spec.name
        module.__package__ = spec.parent
        return module


class _Finder:
    """Before Python's own: some of the modules are there as source as well."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name not in _compiled.NAMES:
            return None
        library = _compiled.__file__
        spec = ModuleSpec(name, _Loader(name, library), origin=library)
        spec.has_location = True
        return spec


sys.meta_path.insert(0, _Finder)
