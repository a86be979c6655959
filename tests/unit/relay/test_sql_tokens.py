"""What texts consist of, and that looking through one takes no longer than its length deserves."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import pytest
from doorman.workers.relay.sql_names import names_in
from doorman.workers.relay.statements import Statements
from doorman.workers.relay.traces import first_word, traces
from hypothesis import given
from hypothesis import strategies as st

from doorman.workers.set_texts import settings_in
from doorman.workers.sql_tokens import mentions, statements_in, tokens_in

SIZE = 1_000_000  # bytes of a text
MOST = 1.0  # seconds that it may take
GROWTH = 3.0  # times as long for twice the text, at most: quadratic time would be 4
MOST_DIGESTS = 20  # times as long as its digest takes


def kinds(text: str) -> str:
    """The initials of the kinds."""
    return "".join(kind[0] for kind, _ in tokens_in(text.encode()))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        (" \t\r\n\f\v", ""),
        ("select a1$b, $1;", "wwoooe"),
        ('select "a""b" . "c', "wioi"),
        ("'a''b' 'c' '", "sss"),
        (r"'\' x '", "sws"),
        (r"E'\' x ' x", "sw"),
        (r"e'\'' x", "sw"),
        (r"E'\\' x", "sw"),
        (r"E'a''\'' x", "sw"),
        ("E'a'\n'\\' x' x", "ssw"),
        ("E'a' -- '\n'\\' x' x", "ssw"),
        (r"E'a', '\' x", "sosw"),
        (r"U&'\' x", "sw"),
        (r"B'1' x'f' N'\' x u & v&w e x'", "ssswwowoww" + "s"),
        (r'U&"\"" x', "i"),
        (r'U&"\" x', "iw"),
        (r"ne'\' x", "wsw"),
        ("$$ ; ' $$ x", "sw"),
        ("$a$ $b$ ; $b$ $a$ x", "sw"),
        ("$a$ $aa$ $A$ $ $a$$$ $$ x", "ssw"),
        ("a$b$ ; a$b$", "wew"),
        ("$1$$;$$", "oos"),
        ("$a;$b $ä$;$ä$", "owe" + "ow" + "s"),
        ("$$ ;", "s"),
        ("-- ;\nx -- ;\rx -- ;", "ww"),
        ("- - x", "oow"),
        ("/* ; */ x /* /* */ ; */ x /*/ ; */ x /**/ x /* /* */ ;", "wwww"),
        ("x/", "wo"),
        ("'", "s"),
        ('"', "i"),
        ("E'\\", "s"),
    ],
)
def test_tokens(text: str, found: str) -> None:
    assert kinds(text) == found


@given(st.text("';\"$aeEuU&\\/*-\n x1", max_size=40))
def test_any_text_has_its_tokens_in_order(text: str) -> None:
    whole = text.encode()
    at = 0
    for _, token in tokens_in(whole):
        assert token
        at = whole.index(token, at) + len(token)
    for statement in statements_in(whole):
        assert statement and statement in whole


def test_statements() -> None:
    text = b" ;; a b /* ; */; -- ;\n c ';' ; $$;$$;/* ; */"
    assert statements_in(text) == [b"a b /* ; */", b"c ';' ", b"$$;$$"]


NASTY = {
    "comments": b"/**/",
    "comments that nest": b"/*",
    "comments that are not closed": b"/*x",
    "ends of comments": b"*/",
    "lines": b"--\n",
    "lines that do not end": b"--",
    "strings": b"'x'",
    "quotes": b"'",
    "quotes and semicolons": b"';",
    "strings that escape": b"E'\\'",
    "backslashes": b"E'\\",
    "names": b'"x"',
    "quotes of names": b'"',
    "three quotes": b"'\"'",
    "dollars": b"$",
    "dollar strings": b"$$x$$",
    "tags": b"$x",
    "tags that nest": b"$x$ $y$ ",
    "semicolons": b";",
    "semicolons and comments": b";/**/",
    "spaces": b" ",
    "newlines": b"\n",
    "words": b"x ",
    "a long word": b"x",
    "statements": b"x;",
    "settings": b"set x;",
    "settings and spaces": b"set  \t",
    "functions that set": b"set_config",
    "functions that set, open": b"set_config('",
    "functions that set, and spaces": b"set_config  ( ",
    "views that set": b"pg_settings;",
    "names to execute": b"execute x;",
    "names of names": b"execute execute ",
    "names to deallocate": b"deallocate prepare ",
    "tables": b"create table ",
    "temporary tables": b"\n temp",
    "temporary tables and comments": b"--\r temp",
    "defaults": b"set local",
}
STARTS = [b"", b"SELECT 1; ", b"EXPLAIN EXECUTE ", b"CREATE ", b"SET x = ", b"SELECT set_config('x', E'"]


def prepare_it(text: bytes) -> None:
    Statements(8).look_up(0, text + b"\0\0\0")


@pytest.mark.parametrize("look", [settings_in, names_in, traces, first_word, prepare_it])
@pytest.mark.parametrize("piece", NASTY.values(), ids=NASTY)
def test_looking_through_a_text_takes_time_by_its_length(look: Callable[[bytes], object], piece: bytes) -> None:
    """Small ones first, so that this fails rather than hangs."""
    for start in STARTS:
        text = start + piece * (SIZE // len(piece))
        for size in (200, 2_000, 20_000, 200_000, SIZE):
            assert time_of(look, text[:size]) < MOST, (start, size)


@pytest.mark.parametrize("look", [settings_in, names_in])
@pytest.mark.parametrize("piece", NASTY.values(), ids=NASTY)
def test_twice_the_text_takes_twice_the_time(look: Callable[[bytes], object], piece: bytes) -> None:
    text = b"EXPLAIN SELECT 1; " + piece * (SIZE // len(piece))
    half = min(time_of(look, text[: SIZE // 8]) for _ in range(3))
    whole = min(time_of(look, text[: SIZE // 4]) for _ in range(3))
    assert whole < GROWTH * half + 0.02


def time_of(look: Callable[[bytes], object], text: bytes) -> float:
    """Seconds of the processor: others may be at work as well."""
    start = time.process_time()
    look(text)
    return time.process_time() - start


@given(st.text("seT_ \x93", max_size=120), st.sampled_from(["set", "set_", "tes", "_set", "sett"]))
def test_letters_of_either_kind_are_found_wherever_they_stand(text: str, letters: str) -> None:
    """Blocks of 32 bytes are looked at together."""
    assert mentions(text.encode("latin-1"), letters.encode()) is (letters in text.lower())


def test_a_new_text_costs_a_few_times_its_digest() -> None:
    """A client's Parse of some megabytes stopped all others of its worker: regular expressions went through it."""
    for text in (b"select * from t where x in (" + b"1," * 2_000_000 + b"1)", b"select '" + b"y" * 4_000_000 + b"'"):
        digest = min(time_of(lambda text: hashlib.blake2b(text).digest(), text) for _ in range(5))
        assert min(time_of(prepare_it, text) for _ in range(5)) < MOST_DIGESTS * digest
