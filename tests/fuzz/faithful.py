"""Structured clients before well-behaved servers: each client must be told exactly what PostgreSQL would tell it.

Rules checked
1. What a client got is at any time a beginning of what a direct connection would have answered, in the end all of it.
2. An idle server is at rest: nothing unread, no transaction, no parameter, no statement but ours.
3. No server is asked for a statement by a name of ours that it does not have, nor told one that it has.

Error texts may differ (they name statements), SQLSTATEs may not.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

from tests.fuzz.postgres import EXTENDED, Session
from tests.fuzz.script import Script, message
from tests.fuzz.stage import PLAIN, RENAMES, ClientEnd, ServerEnd, Spins, Stage
from tests.simulate.invariants import check_table
from tests.simulate.rows import Slot

MOST_STEPS = 150
SELDOM_FROM = 232  # of the 256 values of a byte
MOST_CLIENTS = 5
MOST_EXCHANGES = 300  # between relay and servers until all is quiet
TEXTS = (
    b"select 1", b"select 2", b"select 3", b"select 4", b"begin", b"commit", b"rollback", b"fail", b"bad", b"",
    b"insert", b"set timezone to 'a'", b"set timezone to 'b'", b"copy in", b"copy out", b"deallocate all",
    b"discard all", b"start transaction", b"end", b"reset all", b"select pg_advisory_lock(1)",
)  # fmt: skip
SCRIPTS = (
    b";", b"select 1; select 2", b"begin; select 1", b"insert; fail; insert", b"commit; begin", b"copy in; select 1",
    b"BEGIN ;", b" begin", b"deallocate a", b'deallocate "b"', b"select 1;", b"begin; set timezone to 'c'",
)  # fmt: skip
NAMES = (b"", b"a", b"b", b"c")
PORTALS = (b"", b"", b"p")
OURS = re.compile(rb"DOORMAN_[0-9a-f]{32}\Z")
SYNC, FLUSH = message(b"S", b""), message(b"H", b"")


def split(stream: bytes | bytearray) -> Iterator[tuple[bytes, bytes]]:
    """The whole messages at the front of a stream."""
    at = 0
    while at + 5 <= len(stream):
        end = at + 1 + int.from_bytes(stream[at + 1 : at + 5], "big")
        if end > len(stream):
            return
        yield bytes(stream[at : at + 1]), bytes(stream[at + 5 : end])
        at = end


def told(stream: bytes | bytearray) -> list[tuple[bytes, bytes]]:
    """What a client reads out of answers: of errors and notices the SQLSTATE only."""
    return [(kind, sqlstate_of(body) if kind in (b"E", b"N") else body) for kind, body in split(stream)]


def sqlstate_of(fields: bytes) -> bytes:
    return next((field[1:] for field in fields.split(b"\0") if field[:1] == b"C"), b"")


class Postgres(ServerEnd):
    """A server's end with a session behind it, which works when it is let."""

    def __init__(self, sock: socket.socket, pool: int, slot: int, generation: int) -> None:
        super().__init__(sock, pool, slot, generation)
        self.session = Session()

    def work(self, most: int = 1 << 30) -> int:
        """Take so many messages; how many there were."""
        done = 0
        for kind, body in list(split(self.received)):
            if done == most or self.session.is_over:
                break
            done += 1
            del self.received[: 5 + len(body)]
            if not self.session.is_ignoring:
                check_names(self.session, kind, body)
            self.write(self.session.take(kind, body))
        if self.session.is_over or (self.is_ended and next(split(self.received), None) is None):
            self.hangs_up = True  # half a message is left perhaps
        return done


def check_names(session: Session, kind: bytes, body: bytes) -> None:
    """Rule 3 (a Parse of what is there, where its client did so itself, is compared with the client's answers)."""
    if session.copying is None and kind == b"B":
        name = body.split(b"\0", 2)[1]
        assert not OURS.match(name) or name in session.prepared, f"Bind of unknown {name!r}"


class Application(ClientEnd):
    """A client's end and the session that it would have without a pooler."""

    direct: Session
    expected: bytearray
    looked_at: int = 0
    has_failed_copy: bool = False  # and was not told so yet

    def ask(self, data: bytes) -> None:
        """Send messages; note what they would be answered."""
        if not self.is_open or self.hangs_up or self.direct.is_over:
            return
        for kind, body in split(data):
            self.expected += self.direct.take(kind, body)
        self.write(data)

    @property
    def is_answered(self) -> bool:
        """Has it got all that its messages are answered by?"""
        return len(self.received) > 15 and len(told(self.received)) == 2 + len(told(self.expected))

    def check(self, *, fully: bool = False) -> None:
        """Rule 1."""
        if len(self.received) == self.looked_at and not fully:
            return
        self.looked_at = len(self.received)
        got, due = told(self.received), told(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I" + self.expected)
        for number, (mine, theirs) in enumerate(zip(got, due, strict=False)):
            assert mine == theirs, f"message {number} is {mine}, should be {theirs}; before it {got[:number]}"
        assert len(got) <= len(due), f"too many answers: {got[len(due) :]} behind {due}"
        if fully:
            assert len(got) == len(due), f"missing: {due[len(got) :]} behind {got}"
            assert not self.is_ended, "the connection was closed"


class Theatre(Stage):
    """A stage with such servers and clients."""

    servers: list[Postgres]  # type: ignore[assignment]
    clients: list[Application]  # type: ignore[assignment]

    def make_server_end(self, sock: socket.socket, pool: int, slot: int, generation: int) -> Postgres:
        return Postgres(sock, pool, slot, generation)

    def enter(self, pool: int) -> None:
        end = self.connect(pool)
        end.__class__ = Application
        assert isinstance(end, Application)
        end.direct, end.expected = Session(), bytearray()

    def settle(self) -> None:
        """All servers work until nothing is left to do."""
        for _ in range(MOST_EXCHANGES):
            super().settle()
            if not sum(server.work() for server in self.servers):
                super().settle()
                return
        raise Spins("servers are asked for ever")

    def check(self) -> None:
        super().check()
        for client in self.clients:
            if client.is_open:
                client.check()

    def check_idle(self) -> None:
        """Rule 2, when all is settled."""
        for server in self.servers:
            row = self.trial.slot_row(server.slot)
            if not server.is_open or row["state"] != Slot.IDLE or row["generation"] != server.generation:
                continue
            assert not server.received, f"an idle server has {bytes(server.received)!r} to read"
            assert server.session.is_at_rest, f"an idle server is in {vars(server.session)}"
            foreign = [name for name in server.session.prepared if not OURS.match(name) and name]
            assert not foreign, f"an idle server has {foreign}"
            assert not server.session.is_locked, "an idle server has an advisory lock"


def play(data: bytes) -> None:
    """Run one input; raises AssertionError (or Spins) for a finding."""
    script = Script(data)
    head = script.byte()
    theatre = Theatre(
        pool_size=1 + (head & 1), statement_limit=(3, 1, 2, 0)[head >> 1 & 3], cache=(4, 1)[head >> 3 & 1],
        tls=bool(head & 128), narrow=bool(head & 64),
    )  # fmt: skip
    try:
        theatre.enter(RENAMES)
        for _ in range(MOST_STEPS):
            if script.is_over:
                break
            number = script.byte()
            (SELDOM[number % 2] if number >= SELDOM_FROM else STEPS[number % len(STEPS)])(theatre, script)
            theatre.check()
        finish(theatre)
    finally:
        theatre.close()


def finish(theatre: Theatre) -> None:
    """Let every client come to its end: then all answers must be there."""
    for end in (*theatre.clients, *theatre.servers):
        end.reads, end.chop = True, 0
    for _ in theatre.clients:  # one may wait for the server of another
        theatre.settle()
        for client in theatre.clients:
            if client.direct.copying is not None and client.is_answered:
                client.ask(message(b"f", b"\0"))
            if client.direct.copying is None and not client.direct.is_at_rest:
                client.ask(SYNC + message(b"Q", b"rollback\0"))
    theatre.settle()
    for client in theatre.clients:
        if client.is_open and not client.direct.is_over:
            client.check(fully=True)
    theatre.check_idle()
    theatre.refuses_to_open = True
    theatre.end()
    theatre.check()


# --- steps -----------------------------------------------------------------------------------------------------------


def client_of(theatre: Theatre, script: Script) -> Application:
    return script.pick(theatre.clients)


def query(theatre: Theatre, script: Script) -> None:
    client, text = client_of(theatre, script), script.pick(TEXTS + SCRIPTS)
    if client.direct.is_unsynced or client.direct.is_ignoring:
        client.ask(SYNC)  # PostgreSQL itself is confused by a Query behind extended messages
    if client.direct.copying is None and is_fair(client, text):
        client.ask(message(b"Q", text + b"\0"))


def is_fair(client: Application, text: bytes) -> bool:
    """PLAIN pools keep no statement over a transaction's end, so nothing is said about their names."""
    return client.pool == RENAMES or not text.startswith(b"deallocate")


def batch(theatre: Theatre, script: Script) -> None:
    """Messages of the extended protocol, as many as the script has, most often the usual ones."""
    client = client_of(theatre, script)
    number, chosen = script.byte(), script.byte()
    client.has_failed_copy = client.has_failed_copy and not client.is_answered
    if client.has_failed_copy:
        return  # whether an Execute begins another COPY cannot be told (settle, rule 2)
    name, portal = NAMES[number & 3], PORTALS[(number >> 2) % 3]
    if client.pool == PLAIN:  # it keeps no statement over the end of a transaction, not even the unnamed one
        name, chosen = b"", chosen | 1
    text = script.pick(TEXTS) if chosen & 1 else b""
    parts = (
        message(b"P", name + b"\0" + text + b"\0\0\0"),
        message(b"D", b"S" + name + b"\0"),
        message(b"B", portal + b"\0" + name + b"\0" + bytes(6)),
        message(b"D", b"P" + portal + b"\0"),
        message(b"E", portal + b"\0" + bytes(4)),
        message(b"C", (b"S" + name if number & 64 else b"P" + portal) + b"\0"),
        FLUSH if number & 32 else b"",
        SYNC,
    )
    for bit, part in enumerate(parts):
        if not chosen >> bit & 1 or client.direct.copying is not None:
            continue
        if bit < 2 and client.direct.status == b"E" and name in client.direct.prepared:
            continue  # the server may lack it, and takes no Parse now
        if bit == 2 and has_changed_zone(client, name):
            continue
        client.ask(part)
        if client.direct.forgot:  # what the client has names for is known again when it was answered
            client.direct.forgot = False
            client.ask(SYNC)


def has_changed_zone(client: Application, name: bytes) -> bool:
    """Parsed under another time zone than the present one: a server that lacks the statement parses it under this."""
    statement = client.direct.prepared.get(name)
    return statement is not None and statement.zone != client.direct.zone


def copy(theatre: Theatre, script: Script) -> None:
    """COPY data; elsewhere PostgreSQL ignores it. Its end never comes before the client was asked for the data: then
    nobody can tell what belongs to the COPY, and the server stays with its client (pending, rule 4)."""
    client = client_of(theatre, script)
    kind = script.pick((b"d", b"c", b"f", b"d"))
    if client.is_answered and (client.direct.copying is not None or not client.direct.is_unsynced):
        client.ask(message(kind, b"x\0" if kind != b"c" else b""))
        client.has_failed_copy = kind == b"f"


def sync(theatre: Theatre, script: Script) -> None:
    client_of(theatre, script).ask(SYNC)


def work(theatre: Theatre, script: Script) -> None:
    """A server takes a few messages."""
    if theatre.servers:
        script.pick(theatre.servers).work(1 + script.byte() % 4)


def round_(theatre: Theatre, script: Script) -> None:
    theatre.round()


def settle(theatre: Theatre, script: Script) -> None:
    theatre.settle()
    theatre.check_idle()
    check_table(theatre.trial)


def enter(theatre: Theatre, script: Script) -> None:
    if len(theatre.clients) < MOST_CLIENTS:
        theatre.enter(PLAIN if script.byte() % 5 == 4 else RENAMES)


def leave(theatre: Theatre, script: Script) -> None:
    client = client_of(theatre, script)
    if script.byte() & 1:
        client.ask(message(b"X", b""))
    else:
        client.close()


def large(theatre: Theatre, script: Script) -> None:
    """A query, or several, as long as their rows, so that somebody becomes full."""
    client, number = client_of(theatre, script), script.byte()
    if client.direct.is_unsynced or client.direct.is_ignoring:
        client.ask(SYNC)
    if client.direct.copying is None:
        text = b"select " + b"x" * (100, 1000, 5000, 12_000)[number & 3]
        client.ask(message(b"Q", text + b"\0") * (1 + (number >> 2) % 4))


def stall(theatre: Theatre, script: Script) -> None:
    """An end does not read for a while, or reads on."""
    number = script.byte()
    ends: tuple[ServerEnd | ClientEnd, ...] = (*theatre.clients, *theatre.servers)
    ends[number % len(ends)].reads ^= True


def chop(theatre: Theatre, script: Script) -> None:
    """From now on an end writes so many bytes at a time."""
    number = script.byte()
    ends: tuple[ServerEnd | ClientEnd, ...] = (*theatre.clients, *theatre.servers)
    ends[number % len(ends)].chop = (0, 1, 3, 7, 20, 50)[script.byte() % 6]


Step = Callable[[Theatre, Script], None]
STEPS: tuple[Step, ...] = (
    batch,
    query,
    batch,
    round_,
    work,
    settle,
    batch,
    copy,
    sync,
    enter,
    work,
    round_,
    leave,
    chop,
    batch,
    settle,
)
SELDOM: tuple[Step, ...] = (large, stall)
assert set(EXTENDED) == set(b"PBDEC")
