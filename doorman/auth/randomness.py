"""Random bytes for nonces, salts and cancel keys, fetched from the kernel a page at a time: a login needs several.

Runs in every process; a child starts with a page of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from doorman.wire.packing import part

PAGE_BYTES: Final = 2048

Random = Callable[[int], bytes]


class RandomPage:
    """What is left of the last page. No byte is given out twice."""

    __slots__ = ("_at", "_page")

    def __init__(self) -> None:
        self.drop()
        os.register_at_fork(after_in_child=self.drop)

    def drop(self) -> None:
        """Begin a new page with the next bytes."""
        self._page = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """So many bytes of the kernel's generator."""
        if count > PAGE_BYTES:
            return os.urandom(count)
        end = self._at + count
        if end > len(self._page):
            self._page, self._at, end = os.urandom(PAGE_BYTES), 0, count
        taken, self._at = part(self._page, self._at, end), end
        return taken


_PAGE: Final = RandomPage()


def random_bytes(count: int) -> bytes:
    """So many bytes of the process's page."""
    return _PAGE.take(count)


def draw(source: Random | None, count: int) -> bytes:
    """So many bytes of this source, of the process's page where it is None."""
    return random_bytes(count) if source is None else source(count)
