"""Parameters that a client set itself and that follow it from server to server (transaction mode).

PostgreSQL reports the parameters that matter to a driver (ParameterStatus); a client that was told a value keeps it,
whatever server comes next. What leads back to the beginning (RESET, DISCARD ALL) leads back to what the client asked
for at startup.

Reports come in the encoding that the client has by then; they are kept as bytes in the server's encoding (`settings`),
so that they mean the same whatever encoding the client chooses later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from doorman.workers.encodings import convert
from doorman.workers.settings import Settings, digest_for_planner, find_problem, make_settings

NOT_FOLLOWED = frozenset({"application_name", "is_superuser", "session_authorization", "in_hot_standby"})
"""Of the client's role and the server's state; and the name, which follows only with `sync_server_parameters`."""
OF_THE_ROLE = frozenset({"is_superuser", "session_authorization"})
"""What SET ROLE and SET SESSION AUTHORIZATION change, which end with the transaction."""


class Followed:
    """What one client was told about its parameters since its login.

    defaults: what the pool's servers report by themselves; greeting: what the client was greeted with, both as they
    were reported. Names are in lower case everywhere.
    """

    __slots__ = (
        "changed",
        "defaults",
        "fresh",
        "greeting",
        "ignored",
        "lent",
        "moment",
        "returned",
        "server_encoding",
        "spelled",
        "told",
        "unreadable",
    )

    def __init__(self, defaults: Mapping[str, str], greeting: Mapping[str, str], *, follow_name: bool) -> None:
        self.server_encoding = defaults.get("server_encoding", "UTF8")
        self.unreadable: set[str] = set()  # names of values whose encoding is none of Python's
        self.fresh: dict[str, str] = {}  # values in the client's encoding, as they were reported at
        self.moment: int | None = None  # this moment
        self.defaults = self.read_all(defaults)
        self.greeting = self.read_all(greeting) | {
            name: self.defaults[name] for name, value in greeting.items() if defaults.get(name) == value
        }
        self.ignored = NOT_FOLLOWED - {"application_name"} if follow_name else NOT_FOLLOWED
        self.told: dict[str, str] = {}
        self.returned: dict[str, str] = {}  # values that its next server has, and that it was not told
        self.lent: set[str] = set()  # names whose values end with the transaction
        self.spelled: dict[str, str] = {}
        self.changed = False

    @property
    def encoding(self) -> str:
        """The client's, by the name that PostgreSQL gives it."""
        return self.told.get("client_encoding", self.greeting.get("client_encoding", self.server_encoding))

    def hear(self, name: str, value: str, moment: int | None = None) -> bool:
        """The client is told a value, in its encoding. True when that changes anything.

        moment: what is reported at the same moment is all in the encoding that holds at its end.
        """
        folded = name.lower()
        if moment is None or moment != self.moment:
            self.fresh.clear()
            self.moment = moment
        if value.isascii():
            self.fresh.pop(folded, None)
        else:
            self.fresh[folded] = value
        changes = self.tell(name, self.read(folded, value, self.encoding))
        if folded == "client_encoding" and changes:
            for other, raw in self.fresh.items():
                self.tell(other, self.read(other, raw, self.encoding))
        return changes

    def read(self, name: str, value: str, encoding: str) -> str:
        """A value that was reported in this encoding."""
        converted = convert(value, encoding, self.server_encoding)
        if converted is None:
            self.unreadable.add(name)
            return value
        self.unreadable.discard(name)
        return converted

    def read_all(self, reported: Mapping[str, str]) -> dict[str, str]:
        encoding = reported.get("client_encoding", self.server_encoding)
        return {name: self.read(name, value, encoding) for name, value in reported.items()}

    def write(self, value: str) -> str | None:
        """As the client is to be told; None when its encoding has no such characters."""
        return convert(value, self.server_encoding, self.encoding)

    def tell(self, name: str, value: str) -> bool:
        """The client is told a value, which is given as it is kept. True when that changes anything."""
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

    def settings(self, startup: Settings | None, led_back: Collection[str] = ()) -> Settings | None:
        """What has to hold on its next server. led_back: names of which a value that is the servers' default is not the
        client's choice: it is back at what the client asked for at startup."""
        asked = startup.wanted if startup else {}
        wanted = dict(asked)
        for name, value in self.told.items():
            if name not in asked or name not in led_back or value != self.defaults.get(name):
                wanted[name] = value
            else:
                self.returned[name] = self.greeting[name]
        self.returned.update((name, self.greeting[name]) for name in self.lent)
        self.lent.clear()
        if wanted == asked:
            return startup
        problem = find_problem(wanted, self.defaults)
        for name in sorted(self.unreadable & wanted.keys() & self.told.keys()):
            problem = f"the value of {name} cannot be taken to another server: it was set in an unknown encoding"
        return make_settings(wanted, problem)


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
