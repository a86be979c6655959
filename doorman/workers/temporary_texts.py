"""What a text makes that is temporary, and so hides nothing from others: its tag is that of any table."""

from __future__ import annotations

import re

from doorman.workers.sql_tokens import statements_in, without_strings

MAKES = re.compile(
    rb"create\s++(?:or\s++replace\s++)?(?:(?:local|global)\s++)?temp(?:orary)?\s"
    rb"|create\s++(?:unlogged\s++)?(?:table|view|sequence)\s++(?:if\s++not\s++exists\s++)?(?:pg_temp|\"pg_temp\")\s*+\."
    rb"|(?:select|with|values|table)\b.*?\binto\s++(?:(?:local|global)\s++)?temp(?:orary)?\s",
    re.I | re.S,
)


def temporary_made(text: bytes) -> int:
    """How many statements make something temporary without doubt. Others may as well (a comment between the words, a
    search_path): those are taken for what all may see, which costs others a Parse."""
    words = without_strings(text.partition(b"\0")[0])
    return sum(MAKES.match(statement) is not None for statement in statements_in(words))
