"""The startup parameter `options`, split and read as PostgreSQL does."""

from __future__ import annotations

import pytest

from doorman.errors import ClientFault
from doorman.wire.options import parse_options, split_options


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("   ", []),
        ("-c a=b", ["-c", "a=b"]),
        ("  -c\ta=b\n", ["-c", "a=b"]),
        (r"-c a=b\ c", ["-c", "a=b c"]),
        (r"-c a=b\\c", ["-c", r"a=b\c"]),
        ("-c a=b\\", ["-c", "a=b"]),
    ],
)
def test_words_are_split_with_backslash_escapes(text: str, words: list[str]) -> None:
    assert split_options(text) == words


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("-c geqo=off", {"geqo": "off"}),
        ("-cgeqo=off", {"geqo": "off"}),
        ("--geqo=off", {"geqo": "off"}),
        ("--statement-timeout=5s", {"statement_timeout": "5s"}),
        ("-c search-path=a,b", {"search_path": "a,b"}),
        (r"-c search_path=\"a\ b\",c", {"search_path": '"a b",c'}),
        ("-c a.b=", {"a.b": ""}),
        ("-c x=a=b", {"x": "a=b"}),
        ("-c x=1 --x=2", {"x": "2"}),
    ],
)
def test_settings(text: str, settings: dict[str, str]) -> None:
    assert parse_options(text) == settings


@pytest.mark.parametrize(
    ("text", "sqlstate", "named"),
    [
        ("-e", "0A000", "-e"),
        ("-c a=b -d 5", "0A000", "-d"),
        ("stray", "0A000", "stray"),
        ("-c", "42601", "-c"),
        ("-c geqo", "42601", "-c geqo"),
        ("--geqo", "42601", "--geqo"),
        ("--", "42601", "--"),
        ("-c =x", "42601", "-c"),
        ("-c user=x", "42704", "user"),
        ("-c _pq_.x=1", "42704", "_pq_.x"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(text: str, sqlstate: str, named: str) -> None:
    with pytest.raises(ClientFault) as caught:
        parse_options(text)
    assert caught.value.sqlstate == sqlstate
    assert named in caught.value.message
