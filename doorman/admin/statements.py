"""Takes a query text apart into statements, and each statement into words. Used by the console for both protocols.

Rules:
1. Statements end at `;`. Empty ones (blanks, comments) are left out.
2. Comments (`--` to the end of the line, `/* … */` nested) separate words, as in PostgreSQL.
3. A quoted piece ('…' or "…", the quote doubled inside) is one word, without its quotes.
"""

from __future__ import annotations

import re
from typing import Final

from doorman.errors import ClientFault
from doorman.wire.codes import SqlState

Words = tuple[str, ...]

_TOKEN: Final = re.compile(
    r"""
      (?P<space> \s++ | --[^\r\n]*+ )
    | (?P<comment> /\* )
    | (?P<end> ; )
    | (?P<quoted> '[^']*+(?:''[^']*+)*'(?!') | "[^"]*+(?:""[^"]*+)*"(?!") )
    | (?P<open_quote> ['"] )
    | (?P<word> (?: [^\s;'"/-] | -(?!-) | /(?!\*) )+ )
    """,
    re.VERBOSE | re.ASCII,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


def split_statements(text: str) -> list[Words]:
    """The statements of `text` as words. `ClientFault` 42601 for a quote or comment that does not end."""
    statements: list[list[str]] = [[]]
    position = 0
    while token := _TOKEN.match(text, position):
        position = token.end()
        kind = token.lastgroup
        if kind == "word":
            statements[-1].append(token[0])
        elif kind == "quoted":
            quote = token[0][0]
            statements[-1].append(token[0][1:-1].replace(quote * 2, quote))
        elif kind == "end":
            statements.append([])
        elif kind == "comment":
            position = _end_of_comment(text, position)
        elif kind == "open_quote":
            raise _unterminated("quoted string" if token[0] == "'" else "quoted identifier")
    return [tuple(words) for words in statements if words]


def _end_of_comment(text: str, position: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, position)
        if edge is None:
            raise _unterminated("/* comment")
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return position


def _unterminated(what: str) -> ClientFault:
    return ClientFault(SqlState.SYNTAX_ERROR, f"unterminated {what}")
