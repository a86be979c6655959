"""Which pool stands in which row of the shared table, and what holds for it: what the master decided and others know.

The master alone changes rows (shm/lifecycle). It sends what it decided to all processes: a whole new configuration as
one `Configure`, a single pool as `PoolAdded` or `PoolRemoved` (channel.py). A process that is forked has the master's
roster of that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from doorman.auth.auth_query import Found
from doorman.config.resolve import PoolSettings


class PoolEntry(msgspec.Struct, frozen=True):
    """One pool. (row, generation) names it for ever; `version` changes when its servers must be opened anew.

    `overlay` is what the user's row of auth_query adds to the startup parameters; None for a pool of the configuration.
    """

    row: int
    generation: int
    version: int
    settings: PoolSettings
    overlay: dict[str, str] | None = None

    def serves(self, found: Found) -> bool:
        """Is this the pool of a user as it was found, with nothing changed?"""
        return (self.overlay, self.settings.password) == (found.parameters, found.password)

    @property
    def is_on_demand(self) -> bool:
        """Brought about by a login and collected when nobody uses it."""
        return self.overlay is not None


class Roster:
    """The pools by row. `roster[row]` answers for a removed pool too, until its row has another: its last clients and
    servers are still there. Everything else is about live pools. `changes` grows with each."""

    __slots__ = ("_accounts", "_last", "_live", "changes")

    def __init__(self, entries: Iterable[PoolEntry] = ()) -> None:
        self._last: dict[int, PoolEntry] = {}
        self._live: dict[tuple[str, str], PoolEntry] = {}
        self._accounts: dict[str, list[PoolSettings]] | None = None  # by database; made when it is asked for
        self.changes = 0
        for entry in entries:
            self.put(entry)

    def put(self, entry: PoolEntry) -> None:
        """A new pool, or a pool that has changed."""
        self.changes += 1
        self._accounts = None
        self._last[entry.row] = entry
        self._live[_key_of(entry)] = entry

    def remove(self, entry: PoolEntry) -> None:
        """This pool takes no more clients. Another of the same names may be live by now: that one stays."""
        self.changes += 1
        live = self._live.get(_key_of(entry))
        if live is not None and (live.row, live.generation) == (entry.row, entry.generation):
            del self._live[_key_of(entry)]
            self._accounts = None

    def find(self, database: str, user: str) -> PoolEntry | None:
        """The live pool of these names."""
        return self._live.get((database, user))

    def has(self, entry: PoolEntry) -> bool:
        """Is that pool live here, and just so?"""
        return self.find(*_key_of(entry)) == entry

    def accounts_of(self, database: str) -> list[PoolSettings] | None:
        """The live pools of a database, None when it has none."""
        if self._accounts is None:
            self._accounts = {}
            for settings in self:
                self._accounts.setdefault(settings.database, []).append(settings)
        return self._accounts.get(database)

    def entry(self, row: int) -> PoolEntry:
        """The pool that has this row, or had it last. Raises KeyError for a row that never had one."""
        return self._last[row]

    def entries(self) -> list[PoolEntry]:
        """The live pools."""
        return list(self._live.values())

    def __getitem__(self, row: int) -> PoolSettings:
        return self._last[row].settings

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[PoolSettings]:
        return (entry.settings for entry in self._live.values())


def _key_of(entry: PoolEntry) -> tuple[str, str]:
    return entry.settings.database, entry.settings.user
