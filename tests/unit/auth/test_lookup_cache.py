"""How long a look-up counts."""

from __future__ import annotations

from doorman.auth.auth_query import Found
from doorman.auth.lookup_cache import MOST_UNKNOWN, LookUpCache

ANN = Found(password="a")


def cache() -> LookUpCache:
    return LookUpCache(ttl=100, failure_ttl=10, min_interval=1)


def test_a_user_counts_for_its_time_and_not_longer() -> None:
    known = cache()
    assert known.get("ann", 0) is None
    known.put("ann", ANN, 0)
    entry = known.get("ann", 99.9)
    assert entry is not None and entry.found is ANN
    assert known.get("ann", 100) is None


def test_nobody_counts_for_less() -> None:
    known = cache()
    known.put("ann", None, 0)
    entry = known.get("ann", 9.9)
    assert entry is not None and entry.found is None
    assert known.get("ann", 10) is None


def test_a_password_that_expires_counts_no_longer_than_it_is_valid() -> None:
    known = cache()
    known.put("ann", Found(password="a", expires_in=5), 0)
    assert known.get("ann", 4.9) is not None
    assert known.get("ann", 5) is None


def test_the_last_word_counts() -> None:
    known = cache()
    known.put("ann", None, 0)
    known.put("ann", ANN, 1)
    entry = known.get("ann", 2)
    assert entry is not None and entry.found is ANN and len(known) == 1
    known.put("ann", None, 3)
    entry = known.get("ann", 4)
    assert entry is not None and entry.found is None and len(known) == 1


def test_strangers_do_not_fill_the_memory_nor_push_out_users() -> None:
    known = cache()
    known.put("ann", ANN, 0)
    for number in range(MOST_UNKNOWN + 10):
        known.put(f"stranger {number}", None, 0)
        known.may_ask_again(f"stranger {number}", 0)
    assert len(known) == MOST_UNKNOWN + 1
    assert known.get("ann", 1) is not None
    assert known.get("stranger 0", 1) is None
    assert known.may_ask_again("stranger 0", 0), "forgotten"


def test_a_user_is_asked_for_again_only_so_often() -> None:
    known = cache()
    assert known.may_ask_again("ann", 0)
    assert not known.may_ask_again("ann", 0.9)
    assert known.may_ask_again("bob", 0.9)
    assert known.may_ask_again("ann", 1.0)
    assert not known.may_ask_again("ann", 1.9)
