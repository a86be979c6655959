"""The placeholder for a value that could not be read, so that one bad key does not hide the problems of the others.

The loader puts `BAD` in the place of such a value and goes on. A rule of `check` that looks at it is left
undecided (`Undecided` is raised and that rule alone is dropped): the bad value itself was reported already.
`BAD` never leaves the loader, because a configuration with problems is not returned.
"""

from __future__ import annotations

from typing import Any, NoReturn


class Undecided(Exception):
    """A rule touched a value that could not be read; the rule says nothing."""


class Bad:
    """Anything one could ask of it raises `Undecided`; only identity tests are answered."""

    __slots__ = ()

    def _refuse(self, *_: object) -> NoReturn:
        raise Undecided

    __getattr__ = __call__ = __getitem__ = _refuse
    __bool__ = __len__ = __iter__ = __int__ = __float__ = __index__ = __str__ = __fspath__ = _refuse
    __contains__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __format__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse

    def __hash__(self) -> int:
        raise Undecided

    def __repr__(self) -> str:
        return "BAD"


BAD: Any = Bad()
