"""Which texts are taken to leave something in a session, and which word a statement begins with."""

from __future__ import annotations

import re
import time

import pytest
from doorman.workers.relay.traces import first_word, momentary, traces
from hypothesis import given
from hypothesis import strategies as st

from doorman.workers.sql_tokens import tokens_in

SETTINGS, TEMPORARY, LOCKS = 1, 16, 32


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", 0),
        (b"select 1", 0),
        (b"select set_config('a', 'b', false)", SETTINGS),
        (b"SELECT pg_catalog.SET_CONFIG('a', 'b', false)", SETTINGS),
        (b"set_config", SETTINGS),
        (b"set_confi", 0),
        (b"select pg_advisory_lock(1)", LOCKS),
        (b"select pg_try_advisory_lock_shared(1)", LOCKS),
        (b"select pg_advisory_xact_lock(1)", 0),
        (b"select pg_advisory_unlock(1)", 0),
        (b"create temp table t(a int)", TEMPORARY),
        (b"CREATE\n  TEMPORARY  VIEW v AS SELECT 1", TEMPORARY),
        (b"select 1 into temp t", TEMPORARY),
        (b"create local temp table t(a int)", TEMPORARY),
        (b"create or replace temp view v as select 1", TEMPORARY),
        (b"create /* ! */ temp table t(a int)", TEMPORARY),
        (b"create table pg_temp.t(a int)", TEMPORARY),
        (b"select temp from weather", 0),
        (b"select temperature from weather", 0),
        (b"select into_temp from t", 0),
        (b"temp", 0),
        (b"select set_config('a', 'b', false), pg_advisory_lock(1)", SETTINGS | LOCKS),
    ],
)
def test_traces_of(text: bytes, found: int) -> None:
    assert traces(text) == found


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", b""),
        (b"SELECT 1", b"select"),
        (b"  \n\t;; Begin", b"begin"),
        (b"-- a comment\ncommit", b"commit"),
        (b"-- only a comment", b""),
        (b"/* a /* nested */ one */ rollback", b"rollback"),
        (b"/* open", b""),
        (b"/", b""),
        (b"-", b""),
        (b"(select 1)", b""),
        (b"deallocate", b"deallocate"),
        (b"x" * 40, b"x" * 16),
        (b"set\0rest", b"set"),
    ],
)
def test_first_word_of(text: bytes, word: bytes) -> None:
    assert first_word(text) == word


pieces = st.lists(
    st.sampled_from(
        [b"set", b"_config", b"temp", b"orary", b" ", b"create", b"*/", b"/*", b"advis", b"ory_lock", b"v", b"_"]
    )
).map(b"".join)


@given(pieces, pieces, pieces)
def test_a_trace_is_seen_wherever_it_stands(before: bytes, middle: bytes, after: bytes) -> None:
    whole = before + b" " + middle + b" " + after
    assert traces(whole) & traces(middle) & (SETTINGS | LOCKS) == traces(middle) & (SETTINGS | LOCKS)
    assert traces(b"x set_config(" + middle) & SETTINGS and traces(middle + b" create temp ") & TEMPORARY


@given(st.binary(max_size=40))
def test_any_bytes_have_a_first_word_of_at_most_sixteen(text: bytes) -> None:
    assert len(first_word(text)) <= 16
    traces(text)


WORDS = (b"set_config", b"pg_temp", b"pg_settings", b"advisory_lock", b"create temp ")


@given(
    st.sampled_from(WORDS),
    st.integers(0, 40),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from([b"x", b"_", b"m", b"t_"]),
)
def test_a_word_is_found_wherever_it_stands(word: bytes, before: int, behind: int, upper: bool, filling: bytes) -> None:
    text = filling * before + b" " + (word.upper() if upper else word) + b" " + filling * behind
    assert traces(text) == traces(word + b" ")
    assert traces(text[: text.lower().index(word[-4:])]) == 0


@given(st.text("temp_gsycoi PM", max_size=80).map(str.encode))
def test_nothing_is_found_where_no_word_stands(text: bytes) -> None:
    if not any(word.strip()[:6] in text.lower() for word in (*WORDS, b" temp", b"_temp", b"temp")):
        assert traces(text) == 0


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("SELECT 'now'", True),
        ("SELECT now(), today, E'it is TODAY'", True),
        ("SELECT $a$tomorrow$a$::date", True),
        ("SELECT 'x', 'yesterday allballs' now", True),
        ("SELECT now() - interval '1 day' AS today /* 'now' */ -- 'now'", False),
        ("SELECT 'snow', 'nowhere', \"now\"", False),
        ("SELECT 'known' AS now, 'now", True),
        ("SELECT 1", False),
        ("", False),
    ],
)
def test_what_means_the_moment_of_its_parse(text: str, yes: bool) -> None:
    assert momentary(text.encode()) is yes


@pytest.mark.parametrize("filling", [b"'a',", b"now ", b"'", b"$now$", b"/*now*/"])
def test_a_large_text_is_soon_read(filling: bytes) -> None:
    began = time.monotonic()
    momentary(filling * (1_000_000 // len(filling)))
    momentary(filling * (1_000_000 // len(filling)) + b" now")
    assert time.monotonic() - began < 2


@given(
    st.lists(
        st.sampled_from(["now", "NOW", "today", "'", " ", "x", "1", "_", "É", "tomorro", "w", "yester", "day"]),
        max_size=24,
    )
)
def test_the_moment_is_told_as_by_the_simplest_way_to_tell_it(words: list[str]) -> None:
    text = "".join(words)
    strings = [token for kind, token in tokens_in(text.encode()) if kind == "string"]
    told = re.compile(rb"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])", re.IGNORECASE)
    assert momentary(text.encode()) is any(told.search(string) is not None for string in strings)
