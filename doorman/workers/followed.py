"""Parameters that a client set itself and that follow it from server to server (transaction mode).

PostgreSQL reports the parameters that matter to a driver (ParameterStatus); a client that was told a value keeps it,
whatever server comes next. What leads back to the beginning (RESET, DISCARD ALL) leads back to what the client asked
for at startup.
"""

from __future__ import annotations

from collections.abc import Mapping

from doorman.workers.settings import Settings, digest_for_planner, make_settings

NOT_FOLLOWED = frozenset({"application_name", "is_superuser", "session_authorization", "in_hot_standby"})
"""Of the client's role and the server's state; and the name, which follows only with `sync_server_parameters`."""
OF_THE_ROLE = frozenset({"is_superuser", "session_authorization"})
"""What SET ROLE and SET SESSION AUTHORIZATION change, which end with the transaction."""


class Followed:
    """What one client was told about its parameters since its login.

    defaults: what the pool's servers report by themselves; greeting: what the client was greeted with. Names are in
    lower case everywhere.
    """

    __slots__ = ("changed", "defaults", "greeting", "ignored", "lent", "returned", "spelled", "told")

    def __init__(self, defaults: Mapping[str, str], greeting: Mapping[str, str], *, follow_name: bool) -> None:
        self.defaults = defaults
        self.greeting = greeting
        self.ignored = NOT_FOLLOWED - {"application_name"} if follow_name else NOT_FOLLOWED
        self.told: dict[str, str] = {}
        self.returned: dict[str, str] = {}  # values that its next server has, and that it was not told
        self.lent: set[str] = set()  # names whose values end with the transaction
        self.spelled: dict[str, str] = {}
        self.changed = False

    def tell(self, name: str, value: str) -> bool:
        """The client is told a value. True when that changes anything."""
        name, spelled = name.lower(), name
        self.spelled.setdefault(name, spelled)
        self.returned.pop(name, None)
        if name in OF_THE_ROLE and name in self.greeting:
            if value != self.greeting[name]:
                self.lent.add(name)
            else:
                self.lent.discard(name)
            self.changed = True
        if name in self.ignored or self.told.get(name, self.greeting.get(name)) == value:
            return False
        if self.greeting.get(name) == value:
            del self.told[name]
        else:
            self.told[name] = value
        self.changed = True
        return True

    def planner(self, startup: Settings | None) -> int:
        """Digest of the settings under which its statements are parsed now."""
        return digest_for_planner((startup.wanted if startup else {}) | self.told)

    def settings(self, startup: Settings | None, *, returns: bool) -> Settings | None:
        """What has to hold on its next server. returns: something led parameters back to where they began, so a value
        that is the servers' default is back at what the client asked for at startup."""
        asked = startup.wanted if startup else {}
        wanted = dict(asked)
        for name, value in self.told.items():
            if name not in asked or not returns or value != self.defaults.get(name):
                wanted[name] = value
            else:
                self.returned[name] = self.greeting[name]
        self.returned.update((name, self.greeting[name]) for name in self.lent)
        self.lent.clear()
        if wanted == asked:
            return startup
        return make_settings(wanted)


def parse_reports(messages: bytes) -> dict[str, str]:
    """Values by name of a run of ParameterStatus messages."""
    values = {}
    at = 0
    while at < len(messages):
        length = int.from_bytes(messages[at + 1 : at + 5], "big")
        name, value, _ = messages[at + 5 : at + 1 + length].split(b"\0")
        values[name.decode("utf-8", "replace").lower()] = value.decode("utf-8", "surrogateescape")
        at += 1 + length
    return values
