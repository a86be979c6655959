"""The queue of pending answers, case by case: `QZ` reads "Query sent, ReadyForQuery received".

Capital Z E G that follow a colon are answers; everything before it was sent. `P B E S : Z` has one of each.
"""

from __future__ import annotations

import pytest
from doorman.workers.relay.pending import PendingAnswers


def play(script: str) -> PendingAnswers:
    """Send what stands before each colon, receive what stands behind it; a bar begins anew."""
    pending = PendingAnswers()
    for exchange in script.split("|"):
        sent, _, received = exchange.replace(" ", "").partition(":")
        for kind in sent:
            pending.sent(kind)
        for kind in received:
            pending.received(kind)
    return pending


QUIET = [
    "",
    "Q : Z",
    "F : Z",
    "S : Z",
    "PBDES : Z",
    "PBDES PBES S : ZZZ",
    "Q Q Q : ZZZ",
    "Q : EZ",
    "PBES : EZ",
    "PBE : E | S : Z",
    "PBE : E | BE S : Z",
    "PBES BES : EZZ",
    "PBES BES : EZEZ",
    "Q : G | ddc : Z",
    "Q : G | ddf : EZ",
    "Q : G | d : EZ | dc",
    "PBE S : G | dd c S : Z",  # the Sync behind the COPY is not answered
    "PBE H : G | dd c S : Z",
    "PBE c S : GCZ",
    "PBE S c S : GCZ",  # nor is the first one here
    "PBE c S : GEZ",
    "Q dd c : GCZ",
    "Q dd c Q dd c : GCZ GCZ",
    "Q c c : GCGCZ",
    "Q c : EZ",
    "Q : GG | dc dc : Z",
    "Q : G | dc : G | dc : Z",
    "H : ",
    "d c f : ",
]

OWING = [
    "Q",
    "PBE",
    "PBE H",
    "PBES BES : Z",
    "PBE : E",
    "Q : G",
    "Q : G | dd",
    "PBES : G | ddc",
    "Q Q : Z",
    "Q dd c : G",
    "PBE c S : GC",
]

DOUBTFUL = [
    " : Z",  # nothing was owed
    " : G",
    "PBE Q : Z",  # PostgreSQL itself is confused by a Query that ends a run of extended messages
    "PBE : G | S : E",  # was the Sync before or behind the error?
    "PBE S : G | dd f S : E",  # likewise
    "PBE S c S : GE",
    "PBE Q c : G",  # whose COPY is it?
]


@pytest.mark.parametrize("script", QUIET)
def test_nothing_is_owed_after(script: str) -> None:
    pending = play(script)
    assert pending.quiet and not pending.doubtful


@pytest.mark.parametrize("script", OWING)
def test_something_is_owed_after(script: str) -> None:
    pending = play(script)
    assert not pending.quiet and not pending.doubtful


@pytest.mark.parametrize("script", DOUBTFUL)
def test_nobody_can_tell_after(script: str) -> None:
    assert play(script).doubtful


def test_the_queue_grows_beyond_its_first_room_in_the_right_order() -> None:
    pending = play("Q : Z | Q Q Q : ZZ")
    for _ in range(100):
        pending.sent("S")
        pending.sent("Q")
    for _ in range(201):
        assert not pending.quiet
        pending.received("Z")
    assert pending.quiet and not pending.doubtful


def test_a_long_pipeline_under_constant_use_keeps_its_count() -> None:
    pending = PendingAnswers()
    for _ in range(7):
        pending.sent("Q")
    for _ in range(1000):
        pending.sent("S")
        pending.received("Z")
    for _ in range(7):
        assert not pending.quiet
        pending.received("Z")
    assert pending.quiet
