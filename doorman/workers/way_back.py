"""What a client's texts have led back to the servers' own values (RESET, SET … TO DEFAULT, DISCARD ALL): for just
these names, what it asked for at startup is to be set again.

It is told by the texts, as no tag names what was reset. Asking the server instead (`restoring`) takes a snapshot,
behind which SET TRANSACTION is refused; that is for texts which do not tell.
"""

from __future__ import annotations

import re

from doorman.workers.set_texts import CHANGES
from doorman.workers.settings import Settings, restoring, setting_again
from doorman.workers.sql_tokens import first_tokens, mentions, statements_in

MAY_LEAD_BACK = re.compile(rb"\b(?:reset|discard|default|local)\b", re.I)
RESETS = re.compile(rb"\b(?:reset|default)\b", re.I)
LEADING = (b"set", b"discard", b"default")  # what leads back has one of these in it
FIRST_TOKENS = 12  # SET SESSION TIME ZONE TO DEFAULT; a name may be in parts

ENDS = frozenset({"commit", "end"})
TAKES_BACK = frozenset({"rollback", "abort"})
NO_NAME = frozenset({"transaction", "constraints", "characteristics", "xml"})
NEVER_RESET_WITH_ALL = frozenset({"role"})


class WayBack:
    """names: what is at the server's own value for its client's texts, True: until the end of the transaction only.

    doubtful: the texts do not tell; ended: what they did is committed, in part at least, whatever fails behind them.
    """

    __slots__ = ("asked", "doubtful", "ended", "names")

    def __init__(self, startup: Settings) -> None:
        self.asked = startup
        self.names: dict[str, bool] = {}
        self.doubtful = False
        self.ended = False

    def note(self, text: bytes) -> bool:
        """The server runs a text. True: something in it leads back, be it asked for at startup or not."""
        led = False
        if not self.names and not any(mentions(text, word) for word in LEADING):
            return led
        for part in statements_in(text):
            words = tokens(part)
            first = words[0] if words else ""
            if first == "set":
                led |= self.on_set(words[1:])
            elif first == "reset":
                led |= self.on_reset(words[1:])
            elif first == "discard":
                led = True
                if words[1:2] == ["all"]:
                    self.names = dict.fromkeys(self.asked.wanted, False)
                    self.ended = True  # it commits by itself
            elif first == "do" and RESETS.search(part):
                self.doubtful = led = True
            elif self.names:
                self.on_other(words, part)
        return led

    def on_reset(self, words: list[str]) -> bool:
        if words[:1] == ["all"]:
            for name in self.asked.wanted.keys() - NEVER_RESET_WITH_ALL:
                self.names[name] = False
        elif words:
            self.lead_back(name_in(words)[0], local=False)
        return True

    def on_set(self, words: list[str]) -> bool:
        """True: it is SET … TO DEFAULT."""
        local = words[:1] == ["local"]
        if local or (words[:1] == ["session"] and words[1:2] != ["authorization"]):
            words = words[1:]
        if not words or words[0] in NO_NAME:
            return False
        name, taken = name_in(words)
        value = words[taken:]
        if value[:1] == ["="] or value[:1] == ["to"]:
            value = value[1:]
        if (
            value[:1] == ["default"]
            or (taken == 2 and name == "timezone" and value[:1] == ["local"])
            or (name == "datestyle" and any("default" in word for word in value))
        ):
            self.lead_back(name, local=local)
            return True
        self.names.pop(name, None)
        return False

    def on_other(self, words: list[str], part: bytes) -> None:
        first = words[0] if words else ""
        if first in TAKES_BACK or CHANGES.search(part):
            self.doubtful = True
        elif first in ENDS or words[:2] == ["prepare", "transaction"]:
            self.ended = True
            self.names = {name: local for name, local in self.names.items() if not local}

    def lead_back(self, name: str, *, local: bool) -> None:
        if name in self.asked.wanted:
            self.names[name] = self.names.get(name, local) and local

    @property
    def lasting(self) -> frozenset[str]:
        """Names that the end of the transaction leaves at the servers' own values; any may be among them."""
        if self.doubtful:
            return frozenset(self.asked.wanted)
        return frozenset(name for name, local in self.names.items() if not local)

    def query(self, *, in_transaction: bool) -> bytes:
        """The Query that sets again what was asked for at startup; empty when nothing is to be set."""
        if self.doubtful:
            return restoring(self.asked)
        return setting_again(
            self.asked, {name: local for name, local in self.names.items() if in_transaction or not local}
        )


def tokens(statement: bytes) -> list[str]:
    """The first words of a statement, in lower case and without comments; a name in parts (my.own) is one."""
    found: list[str] = []
    for token in first_tokens(statement, FIRST_TOKENS):
        word = token.decode("latin-1").lower()
        if found and (word == "." or found[-1].endswith(".")):
            found[-1] += word
        else:
            found.append(word)
    return found


def name_in(words: list[str]) -> tuple[str, int]:
    """The parameter that SET or RESET names, and how many words that takes."""
    if words[:2] == ["time", "zone"]:
        return "timezone", 2
    if words[:2] == ["session", "authorization"]:
        return "role", 2  # it decides on the role as well
    if words[0] == "names":
        return "client_encoding", 1
    if words[0] == "schema":
        return "search_path", 1
    return words[0].replace('"', ""), 1
