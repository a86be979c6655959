"""Whatever is sent and however it is cut: no exception, the same answers, and nothing but whole messages."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.admin.command import Sources
from doorman.admin.console import Console
from doorman.wire import backend, frontend
from tests.unit.admin.client import FLUSH, SYNC, Session, bind, close, describe, execute, parse, tell
from tests.unit.admin.conftest import POOLS, VERSION, make_table

NewConsole = Callable[[], Console]

NAMES = st.sampled_from(["", "a", "b"])
TEXTS = st.sampled_from(["SHOW VERSION", "SHOW POOLS", "", "SHOW ME", "SHOW HELP; SHOW VERSION", "SHOW '"])
MESSAGES = st.one_of(
    TEXTS.map(frontend.query),
    st.builds(parse, TEXTS, NAMES),
    st.builds(bind, NAMES, NAMES, st.lists(st.integers(0, 2), max_size=2)),
    st.builds(describe, st.sampled_from("SPX"), NAMES),
    st.builds(execute, NAMES, st.integers(-1, 3)),
    st.builds(close, st.sampled_from("SP"), NAMES),
    st.sampled_from([SYNC, SYNC, FLUSH]),
    st.builds(backend.message, st.sampled_from([b"F", b"d", b"?", b"Q", b"B"]), st.binary(max_size=8)),
)


@pytest.fixture(scope="module")
def new_console() -> NewConsole:
    table = make_table(POOLS)
    return lambda: Console(Sources(table, [], VERSION))


@given(messages=st.lists(MESSAGES, max_size=20), cuts=st.lists(st.integers(0, 400), max_size=20))
def test_answers_do_not_depend_on_the_cuts(new_console: NewConsole, messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(messages)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    cut = Session(new_console())
    assert b"".join(cut.raw(piece) for piece in pieces) == Session(new_console()).raw(data)
    assert not cut.rest and not cut.ended


@given(messages=st.lists(MESSAGES, max_size=20))
def test_there_is_one_ready_for_each_cycle(new_console: NewConsole, messages: list[bytes]) -> None:
    """Sync is always answered by one ReadyForQuery, and between two of them there is at most one error."""
    session = Session(new_console())
    for message in messages:
        answers = session.send(message)
        letters = [answer[0] for answer in answers]
        assert letters.count("Z") <= 1 and letters.count("E") <= 1
        assert "Z" not in letters or letters[-1] == "Z"
        assert message != SYNC or letters == ["Z"]


@given(data=st.binary(max_size=200))
def test_garbage_is_answered_in_messages(new_console: NewConsole, data: bytes) -> None:
    session = Session(new_console())
    tell(session.raw(data))
    assert session.ended or len(session.rest) <= len(data)
