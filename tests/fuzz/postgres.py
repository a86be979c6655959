"""A PostgreSQL session as far as its answers go: statements of a small vocabulary, both protocols, COPY, one parameter.

The same class answers as a server behind the relay and says what a client connected directly would have been told.
Source: tcop/postgres.c, commands/prepare.c, commands/copyfromparse.c, utils/misc/guc.c of PostgreSQL 18.

Rules
1. `take` one message, get its answer; an error is a `Fault`, which ends the message (and the batch up to Sync).
2. What a text yields shows the time zone under which it was parsed, so a plan of another session's settings is seen.
3. Not here: what clients may not rely on behind a pooler (SQL-level PREPARE, LISTEN, temporary tables, DEALLOCATE of a
   protocol-level name in the extended protocol).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.fuzz.script import message

PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE = b"1\0\0\0\x04", b"2\0\0\0\x04", b"3\0\0\0\x04"
NO_DATA, EMPTY, COPY_IN, NO_PARAMETERS = (
    b"n\0\0\0\x04",
    b"I\0\0\0\x04",
    message(b"G", b"\0\0\0"),
    message(b"t", b"\0\0"),
)
ROW_DESCRIPTION = message(b"T", b"\0\1x\0" + bytes(6) + b"\0\0\0\x19\xff\xff" + b"\xff\xff\xff\xff\0\0")
COPY_OUT = message(b"H", b"\0\0\0") + message(b"d", b"row\n") + b"c\0\0\0\x04"
EXTENDED = b"PBDEC"
COPY_FAILED = "57014"
ENDS_TRANSACTION = (b"commit", b"end", b"rollback")
SET_CONFIG = re.compile(rb"select pg_catalog\.set_config\(e'timezone', e'([^']*)', false\)\Z")


class Fault(Exception):
    """An ErrorResponse with this SQLSTATE."""


def complete(tag: bytes) -> bytes:
    return message(b"C", tag + b"\0")


def error(sqlstate: str, about: bytes = b"") -> bytes:
    routine = b"RCopyGetData\0" if sqlstate == COPY_FAILED else b""
    return message(b"E", b"SERROR\0VERROR\0C" + sqlstate.encode() + b"\0Mfault " + about + b"\0" + routine + b"\0")


def notice(sqlstate: str) -> bytes:
    return message(b"N", b"SWARNING\0VWARNING\0C" + sqlstate.encode() + b"\0Mhm\0\0")


class Prepared:
    """A statement, and the time zone when it was parsed."""

    def __init__(self, text: bytes, zone: bytes) -> None:
        self.text = text
        self.zone = zone

    @property
    def has_rows(self) -> bool:
        return self.text.startswith(b"select")


class Portal:
    """A bound statement; it runs once."""

    def __init__(self, statement: Prepared) -> None:
        self.statement = statement
        self.is_done = False


class Session:
    """One connection. `startup_zone` is what it asked for in its startup packet."""

    def __init__(self, startup_zone: bytes = b"UTC") -> None:
        self.startup_zone = startup_zone
        self.zone = self.kept_zone = self.told_zone = startup_zone
        self.status = b"I"
        self.prepared: dict[bytes, Prepared] = {}
        self.portals: dict[bytes, Portal] = {}
        self.is_ignoring = False  # to the next Sync
        self.is_unsynced = False
        self.is_over = False
        self.is_locked = False  # by a session-level advisory lock
        self.forgot = False  # DEALLOCATE ALL or DISCARD ALL ran
        self.copying: Callable[[bytes], bytes] | None = None  # told b"c" or b"f": goes on with the command

    @property
    def is_at_rest(self) -> bool:
        return self.status == b"I" and not (self.is_ignoring or self.is_unsynced or self.copying or self.is_over)

    def take(self, kind: bytes, body: bytes) -> bytes:
        """The answer to a message."""
        if kind == b"X":
            self.is_over = True
            return b""
        if self.copying is not None:
            return self.take_copy(kind)
        if kind == b"S":
            self.is_ignoring = self.is_unsynced = False
            return self.end_cycle()
        if self.is_ignoring or kind in (b"d", b"c", b"f", b"H"):
            return b""
        if kind == b"Q":
            self.prepared.pop(b"", None)
            return self.run_texts(body[:-1].split(b";"), is_first=True)
        if kind == b"F":
            return self.fail("42883" if self.status != b"E" else "25P02") + self.end_cycle()
        self.is_unsynced = True
        try:
            return EXTENDED_MESSAGES[kind](self, body)
        except Fault as fault:
            self.is_ignoring = True
            return self.fail(str(fault), body[:60])

    def end_cycle(self) -> bytes:
        """ReadyForQuery; outside of a block the implicit transaction commits."""
        self.is_unsynced = False
        if self.status == b"I":
            self.end_transaction(commits=True)
        report = b""
        if self.zone != self.told_zone:
            self.told_zone = self.zone
            report = message(b"S", b"TimeZone\0" + self.zone + b"\0")
        return report + message(b"Z", self.status)

    def fail(self, sqlstate: str, about: bytes = b"") -> bytes:
        """The transaction is aborted."""
        if self.status == b"I":
            self.end_transaction(commits=False)
        elif self.status == b"T":
            self.status = b"E"
            self.zone = self.kept_zone
            self.portals.clear()
        return error(sqlstate, about)

    def end_transaction(self, *, commits: bool) -> None:
        self.portals.clear()
        if commits:
            self.kept_zone = self.zone
        else:
            self.zone = self.kept_zone

    # --- the simple protocol -----------------------------------------------------------------------------------------

    def run_texts(self, texts: list[bytes], *, is_first: bool) -> bytes:
        """What is left of a Query: a COPY interrupts it."""
        texts = [text.strip().lower() for text in texts]
        if is_first:
            texts = [text for text in texts if text]
            if not texts:
                return EMPTY + self.end_cycle()
            if b"bad" in texts:
                return self.fail("42601") + self.end_cycle()
        answer = b""
        while texts:
            text = texts.pop(0)
            try:
                self.check_block(text)
                if text == b"copy in":
                    self.copying = lambda end, rest=texts: self.end_simple_copy(end, rest)  # type: ignore[misc]
                    return answer + COPY_IN
                statement = Prepared(text, self.zone)
                answer += (ROW_DESCRIPTION if statement.has_rows else b"") + self.run(
                    statement, alone=not texts and not answer
                )
            except Fault as fault:
                return answer + self.fail(str(fault)) + self.end_cycle()
        return answer + self.end_cycle()

    def end_simple_copy(self, end: bytes, rest: list[bytes]) -> bytes:
        if end == b"f":
            return self.fail(COPY_FAILED) + self.end_cycle()
        return complete(b"COPY 1") + self.run_texts(rest, is_first=False)

    def check_block(self, text: bytes) -> None:
        if self.status == b"E" and text not in ENDS_TRANSACTION and text:
            raise Fault("25P02")

    def run(self, statement: Prepared, *, alone: bool = True) -> bytes:
        """Execute a text; rows without their description."""
        text = statement.text
        if text == b"fail" or text == b"select 1/0":
            raise Fault("22012")
        if text == b"select pg_advisory_lock(1)":
            self.is_locked = True
        elif text == b"select pg_catalog.pg_advisory_unlock_all()":
            self.is_locked = False
        if found := SET_CONFIG.match(text):
            self.zone = found[1]
        elif text.startswith(b"set timezone to "):
            self.zone = text[16:].strip(b"'")
            return complete(b"SET")
        if statement.has_rows:
            value = text + b"|" + statement.zone
            return message(b"D", b"\0\1" + len(value).to_bytes(4, "big") + value) + complete(b"SELECT 1")
        if text == b"copy out":
            return COPY_OUT + complete(b"COPY 1")
        if text.startswith(b"deallocate ") and text != b"deallocate all":
            return self.deallocate(text[11:].strip(b'"'))
        if text == b"discard all" and (self.status != b"I" or not alone or self.is_in_batch):
            raise Fault("25001")
        return COMMANDS[text](self)

    @property
    def is_in_batch(self) -> bool:
        """Has something run in the implicit transaction of these extended messages?"""
        return False

    def begin(self, tag: bytes) -> bytes:
        if self.status == b"T":
            return notice("25001") + complete(tag)
        self.status = b"T"
        return complete(tag)

    def commit(self) -> bytes:
        tag = b"ROLLBACK" if self.status == b"E" else b"COMMIT"
        return self.leave_block(tag, commits=self.status != b"E")

    def rollback(self) -> bytes:
        return self.leave_block(b"ROLLBACK", commits=False)

    def leave_block(self, tag: bytes, *, commits: bool) -> bytes:
        warning = notice("25P01") if self.status == b"I" else b""
        self.status = b"I"
        self.end_transaction(commits=commits)
        return warning + complete(tag)

    def deallocate(self, name: bytes) -> bytes:
        if self.prepared.pop(name, None) is None:
            raise Fault("26000")
        return complete(b"DEALLOCATE")

    def deallocate_all(self) -> bytes:
        self.forgot = True
        self.prepared = {name: statement for name, statement in self.prepared.items() if not name}
        return complete(b"DEALLOCATE ALL")

    def discard_all(self) -> bytes:
        self.deallocate_all()
        self.reset_all()
        self.is_locked = False
        return complete(b"DISCARD ALL")

    def reset_all(self) -> bytes:
        self.zone = self.startup_zone
        return complete(b"RESET")

    # --- the extended protocol ---------------------------------------------------------------------------------------

    def parse(self, body: bytes) -> bytes:
        name, text, _ = body.split(b"\0", 2)
        text = text.strip().strip(b";").lower()
        if not name:
            self.prepared.pop(b"", None)
        if text == b"bad" or b";" in text:
            raise Fault("42601")
        self.check_block(text)
        if name in self.prepared:
            raise Fault("42P05")
        self.prepared[name] = Prepared(text, self.zone)
        return PARSE_COMPLETE

    def bind(self, body: bytes) -> bytes:
        portal, name, _ = body.split(b"\0", 2)
        if name not in self.prepared:
            raise Fault("26000")
        self.check_block(self.prepared[name].text)
        if portal and portal in self.portals:
            raise Fault("42P03")
        self.portals[portal] = Portal(self.prepared[name])
        return BIND_COMPLETE

    def describe(self, body: bytes) -> bytes:
        name = body[1:-1]
        if body[:1] == b"S":
            if name not in self.prepared:
                raise Fault("26000")
            statement, head = self.prepared[name], NO_PARAMETERS
        else:
            if name not in self.portals:
                raise Fault("34000")
            statement, head = self.portals[name].statement, b""
        if statement.has_rows and self.status == b"E":
            raise Fault("25P02")
        return head + (ROW_DESCRIPTION if statement.has_rows else NO_DATA)

    def execute(self, body: bytes) -> bytes:
        name = body[: body.index(b"\0")]
        if name not in self.portals:
            raise Fault("34000")
        portal = self.portals[name]
        if not portal.statement.text:
            return EMPTY
        self.check_block(portal.statement.text)
        if portal.is_done:
            if portal.statement.has_rows:
                return complete(b"SELECT 0")
            raise Fault("55000")
        portal.is_done = True
        if portal.statement.text == b"copy in":
            self.copying = self.end_extended_copy
            return COPY_IN
        return self.run(portal.statement)

    def end_extended_copy(self, end: bytes) -> bytes:
        if end == b"f":
            self.is_ignoring = True
            return self.fail(COPY_FAILED)
        return complete(b"COPY 1")

    def close(self, body: bytes) -> bytes:
        (self.prepared if body[:1] == b"S" else self.portals).pop(body[1:-1], None)  # type: ignore[attr-defined]
        return CLOSE_COMPLETE

    # --- COPY FROM STDIN ---------------------------------------------------------------------------------------------

    def take_copy(self, kind: bytes) -> bytes:
        if kind in (b"d", b"H", b"S"):
            return b""
        assert self.copying is not None
        if kind not in (b"c", b"f"):
            self.is_over = True  # a protocol violation
            return b""
        go_on, self.copying = self.copying, None
        return go_on(kind)


EXTENDED_MESSAGES: dict[bytes, Callable[[Session, bytes], bytes]] = {
    b"P": Session.parse, b"B": Session.bind, b"D": Session.describe, b"E": Session.execute, b"C": Session.close,
}  # fmt: skip

COMMANDS: dict[bytes, Callable[[Session], bytes]] = {
    b"begin": lambda session: session.begin(b"BEGIN"),
    b"start transaction": lambda session: session.begin(b"START TRANSACTION"),
    b"commit": Session.commit,
    b"end": Session.commit,
    b"rollback": Session.rollback,
    b"insert": lambda session: complete(b"INSERT 0 1"),
    b"deallocate all": Session.deallocate_all,
    b"discard all": Session.discard_all,
    b"reset all": Session.reset_all,
    b"reset role": lambda session: complete(b"RESET"),
    b"reset session authorization": lambda session: complete(b"RESET"),
    b"close all": lambda session: complete(b"CLOSE CURSOR ALL"),
    b"unlisten *": lambda session: complete(b"UNLISTEN"),
    b"discard plans": lambda session: complete(b"DISCARD PLANS"),
    b"discard temp": lambda session: complete(b"DISCARD TEMP"),
}
