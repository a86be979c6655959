"""What look-ups of one auth_query found, for as long as that counts. No clock of its own: `now` is in seconds.

Rules
1. A user that was found counts for `ttl`, and never longer than its password is valid; one that was not, for
   `failure_ttl`. A failure to find out is not remembered.
2. Names come from people who have not proved anything: of unknown ones at most MOST_UNKNOWN are kept, the oldest goes.
3. After a failed password a user is looked up anew, but not within `min_interval` of the last time. So is somebody who
   was not found: it takes as long, and may be there by now.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from doorman.auth.auth_query import NOBODY, Found

MOST_UNKNOWN: Final = 10_000
MOST_KNOWN: Final = 1_000_000


class Entry(msgspec.Struct, frozen=True):
    """`found` is None for a name that nobody has."""

    found: Found | None
    until: float

    @property
    def mark(self) -> str:
        """What an asker says it did not meet, if it was this."""
        return NOBODY if self.found is None else self.found.mark


class LookUpCache:
    """One per auth_query."""

    def __init__(self, ttl: float, failure_ttl: float, min_interval: float) -> None:
        self.ttl = ttl
        self.failure_ttl = failure_ttl
        self.min_interval = min_interval
        self._known: OrderedDict[str, Entry] = OrderedDict()
        self._unknown: OrderedDict[str, Entry] = OrderedDict()
        self._asked_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)

    def get(self, user: str, now: float) -> Entry | None:
        """What counts now."""
        for entries in (self._known, self._unknown):
            entry = entries.get(user)
            if entry is not None and entry.until > now:
                return entry
        return None

    def put(self, user: str, found: Found | None, now: float) -> None:
        """Rule 1."""
        self.forget(user)
        if found is None:
            _store(self._unknown, user, Entry(None, now + self.failure_ttl), MOST_UNKNOWN)
            return
        until = now + self.ttl
        if found.expires_in is not None:
            until = min(until, now + found.expires_in)
        _store(self._known, user, Entry(found, until), MOST_KNOWN)

    def forget(self, user: str) -> None:
        """Know nothing of a user."""
        self._known.pop(user, None)
        self._unknown.pop(user, None)

    def may_ask_again(self, user: str, now: float) -> bool:
        """Rule 3. True counts as the look-up that follows."""
        asked_at = self._asked_at.get(user)
        if asked_at is not None and now - asked_at < self.min_interval:
            return False
        self._asked_at.pop(user, None)
        self._asked_at[user] = now
        if len(self._asked_at) > MOST_UNKNOWN:
            self._asked_at.popitem(last=False)
        return True


def _store(entries: OrderedDict[str, Entry], user: str, entry: Entry, most: int) -> None:
    entries[user] = entry
    if len(entries) > most:
        entries.popitem(last=False)
