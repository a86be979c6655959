"""Whether two sides said the same, and how to show briefly that they did not.

Rules
1. Everything is compared byte for byte, but of errors and notices not where in PostgreSQL's sources they come from.
2. The pooler's own names of statements may stand in an error's text where the client's name would.
3. In a failed transaction the pooler may say 25P02 of a statement that the server does not hold any more, where
   PostgreSQL has more to say of it (docs/prepared-statements.md). What follows is not compared then.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.e2e.differential.talk import Transcript
from tests.torture.wire import Message

OUR_NAME = re.compile(rb"DOORMAN_[0-9a-f]{32}")
SOURCE_FIELDS = b"FLR"  # file, line, routine
BEFORE, AFTER = 12, 6  # messages shown around the first difference


@dataclass(frozen=True)
class Difference:
    """`signature` tells kinds of differences apart; `text` shows both sides."""

    signature: str
    text: str


def difference(direct: Transcript, pooled: Transcript) -> Difference | None:
    """The first one, None if there is none."""
    at = first_difference(direct.messages, pooled.messages)
    if at is None and not pooled.hang and direct.is_ended == pooled.is_ended:
        return None
    if at is not None and is_not_at_hand(direct, pooled, at):
        return None
    if at is None:
        at = len(pooled.messages)
    wanted, got = _at(direct, at), _at(pooled, at)
    lines = [
        f"direct: {_around(direct, at)}",
        f"pooled: {_around(pooled, at)}",
        f"message {at + 1}: direct {wanted}; pooled {got}",
    ]
    return Difference(f"{_class(wanted)} / {_class(got)}", "\n".join(lines))


def first_difference(direct: Sequence[Message], pooled: Sequence[Message]) -> int | None:
    """The index of the first message that differs or is missing."""
    for at, (one, other) in enumerate(itertools.zip_longest(direct, pooled)):
        if one != other and (one is None or other is None or not is_same(one, other)):
            return at
    return None


def is_not_at_hand(direct: Transcript, pooled: Transcript, at: int) -> bool:
    """Rule 3."""
    if at >= len(direct.messages) or at >= len(pooled.messages):
        return False
    wanted, got = direct.messages[at], pooled.messages[at]
    status = [one.body for one in pooled.messages[:at] if one.kind == b"Z"][-1:]
    refused = got.kind == b"E" and got.fields().get("C") == "25P02" and status == [b"E"]
    return refused and (wanted.kind == b"t" or (wanted.kind == b"E" and wanted.fields().get("C") in ("08P01", "42P05")))


def is_same(direct: Message, pooled: Message) -> bool:
    """Rules 1 and 2 for messages that are not the same bytes."""
    if direct.kind != pooled.kind or direct.kind not in (b"E", b"N"):
        return direct == pooled
    wanted, got = without_source(direct), without_source(pooled)
    return wanted == got or re.fullmatch(any_name(got), wanted, re.DOTALL) is not None


def without_source(got: Message) -> bytes:
    return b"\0".join(part for part in got.body.split(b"\0") if part[:1] not in (b"F", b"L", b"R"))


def any_name(text: bytes) -> bytes:
    """A pattern in which each name of ours, with its quotes or without, stands for any name, none included."""
    parts = (re.escape(part) for part in OUR_NAME.split(text))
    pattern = rb'[^"\0]*'.join(parts)
    return pattern.replace(
        rb'prepared\ statement\ "[^"\0]*"\ does', rb'(?:unnamed prepared statement|prepared statement "[^"\0]*") does'
    )


# -- showing


def brief(messages: Sequence[Message]) -> str:
    """Letters with what matters of each message; repeated ones counted."""
    words = [word(one) for one in messages]
    shown = []
    for text, same in itertools.groupby(words):
        count = sum(1 for _ in same)
        shown.append(text if count == 1 else f"{text}*{count}")
    return " ".join(shown)


def word(got: Message) -> str:
    letter, body = got.kind.decode("latin-1"), got.body
    if letter == "Z":
        return f"Z{body.decode()}"
    if letter in "EN":
        fields = got.fields()
        severity = "" if fields.get("V") in ("ERROR", "NOTICE", "WARNING") else f"{fields.get('V')} "
        return f"{letter}[{severity}{fields.get('C')} {fields.get('M', '')[:90]}]"
    if letter == "C":
        return f"C[{body.rstrip(bytes(1)).decode()}]"
    if letter == "S":
        return f"S[{body.rstrip(bytes(1)).replace(bytes(1), b'=').decode()}]"
    if letter in "Dd" and len(body) < 40:
        return f"{letter}{bytes(body)!r}" if letter == "d" else f"D{got.columns()!r}"
    return letter


def _at(side: Transcript, at: int) -> str:
    if at < len(side.messages):
        one = side.messages[at]
        return word(one) if len(word(one)) > 1 else one.brief()
    return f"hang ({side.hang})" if side.hang else "closed" if side.is_ended else "nothing"


def _around(side: Transcript, at: int) -> str:
    start = max(0, at - BEFORE)
    shown = brief(side.messages[start : at + AFTER])
    tail = " …" if len(side.messages) > at + AFTER else ""
    end = f" HANG: {side.hang}" if side.hang else " CLOSED" if side.is_ended else ""
    return ("… " if start else "") + shown + tail + end


def _class(shown: str) -> str:
    """Without what is particular: `E[26000`, `hang`, `D`."""
    if shown[:1] in "EN" and shown[1:2] == "[":
        return " ".join(shown.split()[:1]) if "FATAL" not in shown else " ".join(shown.split()[:2])
    if shown[:2] in ("C[", "S["):
        return shown
    return shown.split()[0] if shown.startswith(("hang", "closed", "nothing", "Z")) else shown[:1]
