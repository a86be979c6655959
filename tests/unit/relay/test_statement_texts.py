"""A worker's cache of statement texts: what it finds again, what it forgets first, that a removal hides nothing."""

from __future__ import annotations

from doorman.workers.relay.statements import Statements
from hypothesis import given, settings
from hypothesis import strategies as st

Key = tuple[int, bytes]

keys = st.tuples(st.integers(0, 2), st.integers(0, 30).map(lambda number: b"select %d\0\0\0" % number))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 9), st.lists(keys, max_size=80))
def test_all_that_is_remembered_is_found_and_never_more_than_the_limit(limit: int, used: list[Key]) -> None:
    cache = Statements(limit)
    for key in used:
        name = cache.look_up(*key)
        held = cache.texts()
        assert key in held and len(held) == len(set(held)) == cache.count <= cache.limit == max(limit, 1)
        assert cache.look_up(*key) == name and sorted(cache.texts()) == sorted(held)
    for key in cache.texts():  # a text that probing missed would be put in a second time
        cache.look_up(*key)
        assert len(cache.texts()) == len(set(cache.texts()))


def test_the_name_is_of_the_text_the_types_and_the_planner() -> None:
    cache = Statements(10)
    names = [
        cache.look_up(*key) for key in [(0, b"a\0\0\0"), (0, b"b\0\0\0"), (0, b"a\0\0\1\0\0\0\x17"), (1, b"a\0\0\0")]
    ]
    assert len(set(names)) == 4
    assert all(name.startswith("DOORMAN_") and len(name) == 40 for name in names)
    assert Statements(10).look_up(0, b"a\0\0\0") == names[0]  # all workers agree on it


def test_what_was_not_used_since_the_hand_passed_is_forgotten_first() -> None:
    cache = Statements(8)
    texts = [b"%d\0\0\0" % number for number in range(8)]
    for text in texts:
        cache.look_up(0, text)
    for text in texts:
        if text != texts[3]:
            cache.look_up(0, text)
    cache.look_up(0, b"new\0\0\0")
    assert {body for _, body in cache.texts()} == {*texts, b"new\0\0\0"} - {texts[3]}


def test_clear_forgets_everything_and_says_how_much() -> None:
    cache = Statements(4)
    for number in range(3):
        cache.look_up(0, b"%d\0\0\0" % number)
    assert cache.clear() == 3 and cache.count == 0 and cache.texts() == []
    cache.look_up(0, b"0\0\0\0")
    assert cache.count == 1


def test_long_texts_are_forgotten_by_their_size() -> None:
    cache = Statements(8192)
    for number in range(1200):
        cache.look_up(0, (b"select %d /* " % number).ljust(60_000, b"x") + b"*/\0\0\0")
        assert cache.bytes <= 64 << 20
    assert cache.count == (64 << 20) // 60_005 and cache.forgotten == 1200 - cache.count
