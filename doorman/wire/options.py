"""The startup parameter `options`: server command-line switches, taken apart into parameters (`-c name=value`).

Splitting follows pg_split_opts (postinit.c), names follow ParseLongOption (guc.c). Switches other than `-c` and
`--name=value` would change a server that is shared with others, so they are refused by name.
"""

from __future__ import annotations

from typing import Final

from doorman.errors import ClientFault
from doorman.wire.codes import SqlState

_SPACES: Final = " \t\n\v\f\r"
_NOT_SETTINGS: Final = frozenset({"user", "database", "options", "replication"})


def parse_options(text: str) -> dict[str, str]:
    """Settings in `options`, later ones winning. `ClientFault` names a switch that cannot be taken."""
    settings: dict[str, str] = {}
    words = iter(split_options(text))
    for word in words:
        if word.startswith("--"):
            switch, assignment = "--", word[2:]
        elif word.startswith("-c"):
            switch, assignment = "-c ", word[2:] or next(words, "")
        else:
            raise ClientFault(
                SqlState.FEATURE_NOT_SUPPORTED,
                f'unsupported switch "{word}" in startup parameter "options"',
                hint="Only -c name=value and --name=value can be used.",
            )
        name, value = _split_assignment(switch, assignment)
        settings[name] = value
    return settings


def split_options(text: str) -> list[str]:
    """Words of `text`, parted by white space; a backslash takes the character after it literally."""
    words: list[str] = []
    position, end = 0, len(text)
    while position < end:
        if text[position] in _SPACES:
            position += 1
            continue
        word, position = _take_word(text, position)
        words.append(word)
    return words


def _take_word(text: str, position: int) -> tuple[str, int]:
    taken: list[str] = []
    is_escaped = False
    while position < len(text):
        char = text[position]
        if is_escaped:
            taken.append(char)
            is_escaped = False
        elif char in _SPACES:
            break
        elif char == "\\":
            is_escaped = True
        else:
            taken.append(char)
        position += 1
    return "".join(taken), position


def _split_assignment(switch: str, assignment: str) -> tuple[str, str]:
    name, equals, value = assignment.partition("=")
    if not equals or not name:
        raise ClientFault(SqlState.SYNTAX_ERROR, f'{switch}{name} requires a value in startup parameter "options"')
    name = name.replace("-", "_")
    if name in _NOT_SETTINGS or name.startswith("_pq_."):
        raise ClientFault(SqlState.UNDEFINED_OBJECT, f'unrecognized configuration parameter "{name}"')
    return name, value
