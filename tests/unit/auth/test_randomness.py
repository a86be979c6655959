"""Random bytes from a page: none twice, none shared with a child."""

from __future__ import annotations

import os

from doorman.auth.randomness import PAGE_BYTES, RandomPage, random_bytes


def test_no_bytes_come_twice() -> None:
    page = RandomPage()
    taken = [page.take(size) for size in (18, 4, 32) for _ in range(500)]
    assert [len(piece) for piece in taken] == [18] * 500 + [4] * 500 + [32] * 500
    long = [piece for piece in taken if len(piece) > 4]
    assert len(set(long)) == len(long)


def test_more_than_a_page_at_once() -> None:
    assert len(RandomPage().take(PAGE_BYTES + 1)) == PAGE_BYTES + 1


def test_a_child_draws_other_bytes_than_its_parent() -> None:
    random_bytes(1)  # a page is begun
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random_bytes(32))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 100) != random_bytes(32)
    os.close(reading)
