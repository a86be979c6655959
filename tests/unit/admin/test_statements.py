"""Query texts become words."""

from __future__ import annotations

import contextlib

import pytest

from doorman.admin.statements import Words, split_statements
from doorman.errors import ClientFault


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("SHOW POOLS", [("SHOW", "POOLS")]),
        ("  show\t\npools ;", [("show", "pools")]),
        ("SHOW POOLS; ", [("SHOW", "POOLS")]),
        ("SHOW POOLS;;;", [("SHOW", "POOLS")]),
        ("SHOW POOLS;SHOW VERSION", [("SHOW", "POOLS"), ("SHOW", "VERSION")]),
        ("", []),
        (" ; ;\n", []),
        ("-- nothing", []),
        ("/* a /* nested */ one */", []),
        ("/**/SHOW/* ; */POOLS-- ; x", [("SHOW", "POOLS")]),
        ("-- first\nSHOW POOLS", [("SHOW", "POOLS")]),
        ("SHOW/POOLS a-b", [("SHOW/POOLS", "a-b")]),
        ('PAUSE "my ;""db"', [("PAUSE", 'my ;"db')]),
        ("SET a 'it''s; /* x'", [("SET", "a", "it's; /* x")]),
        ("SET a = 'b'", [("SET", "a", "=", "b")]),
        ("SHOW ''", [("SHOW", "")]),
        ("SHOW\u00a0POOLS", [("SHOW\u00a0POOLS",)]),
    ],
)
def test_texts_are_split_into_words(text: str, statements: list[Words]) -> None:
    assert split_statements(text) == statements


@pytest.mark.parametrize("text", ["SHOW 'POOLS", 'SHOW "POOLS', "SHOW POOLS /* x /* y */", "SET a '''"])
def test_what_does_not_end_is_a_syntax_error(text: str) -> None:
    with pytest.raises(ClientFault, match="unterminated") as caught:
        split_statements(text)
    assert caught.value.sqlstate == "42601"


@pytest.mark.timeout(5)
@pytest.mark.parametrize("piece", ["'", '"', "/*", "-", "- ", "a", "''\"", ";"])
def test_long_texts_take_no_longer_than_their_length(piece: str) -> None:
    with contextlib.suppress(ClientFault):
        split_statements(piece * 60_000)
