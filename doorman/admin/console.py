"""The admin console as an object: bytes of a logged-in client in, bytes to send out. Runs in a worker, one a session.

Rules:
1. Every message is answered in full by the `feed` that consumes it, but for commands that wait: then nothing more is
   taken until `poll`, called now and then, has their answer (`Pending`), or `finish_order` brings the result of an
   `Order`, which was handed out. There are no transactions.
2. Only whole messages are consumed; the caller keeps the rest and feeds it again with what came after it.
3. An error has severity ERROR. After one in the extended protocol everything up to Sync is skipped; in any other
   message it is followed by ReadyForQuery. Only a length that no message may have ends the session (FATAL).
4. Statements live until they are closed, portals until Sync or Query ends the implicit transaction, as in PostgreSQL.
5. Who is not an administrator may look and change nothing (42501).
6. What a session can make us keep is bounded: message size, number of statements and portals, output of one `feed`.

Source: PostgreSQL manual, "Message Flow".
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from doorman.admin.command import Command, Pending, Rows, Sources
from doorman.admin.messages import (
    message_size,
    parse_bind,
    parse_execute,
    parse_parse,
    parse_query,
    parse_target,
)
from doorman.admin.orders import Order, OrderResult
from doorman.admin.result import BINARY_FORMAT, TEXT_FORMAT, Formats, Row, describe_row, encode_rows
from doorman.admin.show import COMPLETION_MARK, complete, find_command
from doorman.admin.statements import Words, split_statements
from doorman.config.startup import DEFAULT_APPLICATION_NAME
from doorman.errors import ClientFault, ProtocolViolation
from doorman.wire import backend
from doorman.wire.codes import Frontend, SqlState

MAX_STATEMENTS: Final = 256
MAX_PORTALS: Final = 16
"""A portal that is not read to its end holds its rows, SHOW CLIENTS megabytes of them."""
OUTPUT_PAUSE_BYTES: Final = 16 << 20
"""Having made so much output, `feed` leaves the rest for the next call. Only long pipelines come to this."""

_INVALID_CURSOR_NAME: Final = "34000"
_DUPLICATE_CURSOR: Final = "42P03"
_DUPLICATE_PREPARED_STATEMENT: Final = "42P05"

log = logging.getLogger(__name__)


class ConsoleAnswer(msgspec.Struct, frozen=True):
    """`consumed` bytes are done with and `output` is for the client; `ended`: close after sending it.

    `has_more`: there is more to do without another byte from the client. Feed the rest again once `output` is written.
    `waiting`: feed nothing; call `poll` until it says otherwise.
    `order`: have the master do this, and say what came of it with `finish_order`.
    """

    consumed: int
    output: bytes
    ended: bool
    has_more: bool = False
    waiting: bool = False
    order: Order | None = None


class Stage(enum.Enum):
    """Where a session stands between two messages."""

    READY = "ready"
    BATCH = "batch"  # extended messages came, Sync is still to come
    SKIPPING = "skipping"  # one of them failed: nothing counts before Sync
    ENDED = "ended"


_FOLLOWERS: Final = {
    Stage.READY: {Stage.READY, Stage.BATCH, Stage.ENDED},
    Stage.BATCH: {Stage.READY, Stage.BATCH, Stage.SKIPPING, Stage.ENDED},
    Stage.SKIPPING: {Stage.READY, Stage.ENDED},
    Stage.ENDED: set[Stage](),
}


class Portal:
    """A bound statement; `rows` are made at the first Execute. `command` None is the empty statement."""

    __slots__ = ("command", "formats", "rows")

    def __init__(self, command: Command | None, formats: Formats) -> None:
        self.command = command
        self.formats = formats
        self.rows: deque[Row] | None = None


class Console:
    """One session. `feed` and `poll` are all that happens in it. Who is no administrator may only look."""

    def __init__(self, sources: Sources, *, is_admin: bool = True) -> None:
        self._sources = sources
        self._is_admin = is_admin
        self._stage = Stage.READY
        self._output = bytearray()
        self._script: deque[Words] = deque()  # statements of a Query that are still to be run
        self._waiting: Pending | Order | None = None
        self._finish: Callable[[Rows], None] | None = None  # what to do with the rows of what we wait for
        self._is_handed_out = False
        self._statements: dict[str, Command | None] = {}
        self._portals: dict[str, Portal] = {}

    def greeting_parameters(self, application_name: str = DEFAULT_APPLICATION_NAME) -> list[tuple[str, str]]:
        """What ParameterStatus says after the login; `application_name` is the client's own where it gave one."""
        return [
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "Etc/UTC"),
            ("server_version", self._sources.version),
            ("server_encoding", "UTF-8"),
            ("standard_conforming_strings", "on"),
            ("application_name", application_name),
        ]

    def feed(self, data: bytes) -> ConsoleAnswer:
        """Take what the client sent and was not consumed yet; say what to do."""
        at = 0
        try:
            while self._is_open and not self._waiting and len(self._output) < OUTPUT_PAUSE_BYTES:
                if self._script:
                    self._run_next()
                    continue
                size = message_size(data, at)
                if not size:
                    break
                self._handle(data[at], data[at + 5 : at + size])
                at += size
            has_more = self._is_open and not self._waiting and bool(self._script or message_size(data, at))
        except ClientFault as fault:  # of message_size: where the next message begins is unknown
            self._send(backend.fault_response(fault, "FATAL"))
            self._move(Stage.ENDED)
            has_more = False
        return self._answer(at if self._is_open else len(data), has_more)

    def poll(self) -> ConsoleAnswer:
        """Has what a command waits for come? If so its answer is there, and `feed` may be called again."""
        assert isinstance(self._waiting, Pending)
        try:
            rows = self._waiting.look()
            if rows is not None:
                self._end_wait()(rows)
        except ClientFault as fault:
            self._fail_wait(fault)
        return self._answer(0, has_more=bool(self._script))

    def finish_order(self, result: OrderResult) -> None:
        """What came of the order that was handed out. `feed` goes on from here, with what is left to feed."""
        order = self._waiting
        assert isinstance(order, Order)
        if result.problem:
            self._fail_wait(ClientFault(result.sqlstate, result.problem, detail=result.detail))
            return
        for notice in result.notices:
            self._send(backend.notice_response("00000", notice, severity="NOTICE"))
        self._end_wait()(list(order.rows))

    def _end_wait(self) -> Callable[[Rows], None]:
        finish, self._finish, self._waiting = self._finish, None, None
        self._is_handed_out = False
        assert finish is not None
        return finish

    def _fail_wait(self, fault: ClientFault) -> None:
        self._end_wait()
        self._script.clear()
        self._report(fault, is_cycle=self._stage is Stage.READY)

    def _answer(self, consumed: int, has_more: bool) -> ConsoleAnswer:
        output, self._output = bytes(self._output), bytearray()
        order = self._waiting if isinstance(self._waiting, Order) and not self._is_handed_out else None
        self._is_handed_out = self._is_handed_out or order is not None
        is_pending = isinstance(self._waiting, Pending)
        return ConsoleAnswer(consumed, output, not self._is_open, has_more, is_pending, order)

    def _run(self, command: Command, finish: Callable[[Rows], None]) -> None:
        """Make a command's rows, now or when they are there, and give them to `finish`."""
        if command.changes and not self._is_admin:
            raise ClientFault("42501", f"{command.tag} is for the administrator (admin_username) only")
        made = command.run(self._sources)
        if isinstance(made, Pending) and (rows := made.look()) is not None:
            made = rows
        if isinstance(made, Pending | Order):
            self._waiting, self._finish = made, finish
        else:
            finish(made)

    @property
    def _is_open(self) -> bool:
        return self._stage is not Stage.ENDED

    def _send(self, message: bytes) -> None:
        self._output += message

    def _move(self, to: Stage) -> None:
        if to not in _FOLLOWERS[self._stage]:
            raise RuntimeError(f"console cannot go from {self._stage} to {to}")
        self._stage = to

    def _handle(self, letter: int, body: bytes) -> None:
        if self._stage is Stage.SKIPPING and letter not in (Frontend.SYNC, Frontend.TERMINATE):
            return
        if letter in _EXTENDED:
            self._move(Stage.BATCH)
        try:
            _HANDLERS.get(letter, _refuse_unknown)(self, body)
        except ClientFault as fault:
            self._report(fault, is_cycle=letter in _CYCLES)

    def _report(self, fault: ClientFault, *, is_cycle: bool) -> None:
        """The one place where an error that the session survives is sent. `is_cycle`: no Sync will come after it."""
        self._send(backend.fault_response(fault, "ERROR"))
        if self._stage is Stage.BATCH and not is_cycle:
            self._move(Stage.SKIPPING)
        else:
            self._get_ready()

    def _get_ready(self) -> None:
        self._portals.clear()
        self._move(Stage.READY)
        self._send(backend.READY_IDLE)

    # The simple protocol

    def _on_query(self, body: bytes) -> None:
        self._portals.clear()
        self._statements.pop("", None)
        query = parse_query(body)
        if COMPLETION_MARK in query:
            self._run_one(complete(query))
            return
        self._script.extend(split_statements(query))
        if not self._script:
            self._send(backend.EMPTY_QUERY_RESPONSE)
            self._get_ready()

    def _run_next(self) -> None:
        """One statement of a Query; the first that fails ends it."""
        try:
            self._run_one(self._find(self._script.popleft()))
        except ClientFault as fault:
            self._script.clear()
            self._report(fault, is_cycle=True)

    def _run_one(self, command: Command) -> None:
        def finish(rows: Rows) -> None:
            formats = (TEXT_FORMAT,) * len(command.columns)
            if command.columns:
                self._send(describe_row(command.columns, formats))
                self._send(encode_rows(command.columns, formats, rows))
            self._send(backend.command_complete(command.tag))
            if not self._script:
                self._get_ready()

        self._run(command, finish)

    def _find(self, words: Words) -> Command:
        try:
            return find_command(words)
        except ClientFault:
            log.warning("Refused a console command: command=%.64s", ascii(" ".join(words[:2]).upper()))
            raise

    # The extended protocol

    def _on_parse(self, body: bytes) -> None:
        message = parse_parse(body)
        if not message.statement:
            self._statements.pop("", None)
        command = self._understand(message.text)
        if message.statement in self._statements:
            raise ClientFault(_DUPLICATE_PREPARED_STATEMENT, f'prepared statement "{message.statement}" already exists')
        if len(self._statements) >= MAX_STATEMENTS:
            raise _too_many("prepared statements", MAX_STATEMENTS)
        self._statements[message.statement] = command
        self._send(backend.PARSE_COMPLETE)

    def _understand(self, text: str) -> Command | None:
        if COMPLETION_MARK in text:
            return complete(text)
        scripts = split_statements(text)
        if len(scripts) > 1:
            raise ClientFault(SqlState.SYNTAX_ERROR, "cannot insert multiple commands into a prepared statement")
        return self._find(scripts[0]) if scripts else None

    def _on_bind(self, body: bytes) -> None:
        message = parse_bind(body)
        if not message.portal:
            self._portals.pop("", None)
        command = self._statement(message.statement)
        if message.parameter_count:
            raise ProtocolViolation(
                f"bind message supplies {message.parameter_count} parameters, "
                f'but prepared statement "{message.statement}" requires 0'
            )
        if message.portal in self._portals:
            raise ClientFault(_DUPLICATE_CURSOR, f'cursor "{message.portal}" already exists')
        if len(self._portals) >= MAX_PORTALS:
            raise _too_many("portals", MAX_PORTALS)
        self._portals[message.portal] = Portal(command, _formats_of(command, message.formats))
        self._send(backend.BIND_COMPLETE)

    def _on_describe(self, body: bytes) -> None:
        target = parse_target(body, "DESCRIBE")
        if target.kind == "S":
            command = self._statement(target.name)
            formats = _formats_of(command, ())
            self._send(backend.parameter_description(()))
        else:
            portal = self._portal(target.name)
            command, formats = portal.command, portal.formats
        self._send(describe_row(command.columns, formats) if command and command.columns else backend.NO_DATA)

    def _on_execute(self, body: bytes) -> None:
        message = parse_execute(body)
        portal = self._portal(message.portal)
        if portal.command is None:
            self._send(backend.EMPTY_QUERY_RESPONSE)
        elif portal.rows is not None:
            self._send_some(portal, portal.command, message.max_rows)
        else:
            self._run(portal.command, lambda rows: self._start_portal(portal, rows, message.max_rows))

    def _start_portal(self, portal: Portal, rows: Rows, max_rows: int) -> None:
        assert portal.command is not None
        portal.rows = deque(rows)
        self._send_some(portal, portal.command, max_rows)

    def _send_some(self, portal: Portal, command: Command, max_rows: int) -> None:
        assert portal.rows is not None
        limit = max_rows or len(portal.rows)
        rows = [portal.rows.popleft() for _ in range(min(limit, len(portal.rows)))]
        if command.columns:
            self._send(encode_rows(command.columns, portal.formats, rows))
        # Suspended also when just the last row was sent: PostgreSQL does not look ahead either.
        is_suspended = command.columns and max_rows and len(rows) == max_rows
        self._send(backend.PORTAL_SUSPENDED if is_suspended else backend.command_complete(command.tag))

    def _on_close(self, body: bytes) -> None:
        """Closing what does not exist is no error (manual, "Extended Query")."""
        target = parse_target(body, "CLOSE")
        if target.kind == "S":
            self._statements.pop(target.name, None)
        else:
            self._portals.pop(target.name, None)
        self._send(backend.CLOSE_COMPLETE)

    def _on_flush(self, body: bytes) -> None:
        """Output is never held back."""

    def _on_sync(self, body: bytes) -> None:
        self._get_ready()

    def _statement(self, name: str) -> Command | None:
        if name not in self._statements:
            quoted = f'prepared statement "{name}"' if name else "unnamed prepared statement"
            raise ClientFault(SqlState.INVALID_SQL_STATEMENT_NAME, f"{quoted} does not exist")
        return self._statements[name]

    def _portal(self, name: str) -> Portal:
        portal = self._portals.get(name)
        if portal is None:
            raise ClientFault(_INVALID_CURSOR_NAME, f'portal "{name}" does not exist')
        return portal

    # The rest

    def _on_function_call(self, body: bytes) -> None:
        raise ClientFault(SqlState.FEATURE_NOT_SUPPORTED, "the console has no functions to call")

    def _on_copy(self, body: bytes) -> None:
        """Left over from a COPY that was refused: ignored, as PostgreSQL does."""

    def _on_terminate(self, body: bytes) -> None:
        self._move(Stage.ENDED)


def _refuse_unknown(console: Console, body: bytes) -> None:
    raise ProtocolViolation("invalid frontend message type")


def _formats_of(command: Command | None, wanted: Formats) -> Formats:
    """A format code for each column: `wanted` is none (all text), one for all, or one for each."""
    columns = command.columns if command else ()
    for code in wanted:
        if code not in (TEXT_FORMAT, BINARY_FORMAT):
            raise ClientFault(SqlState.INVALID_PARAMETER_VALUE, f"unsupported format code: {code}")
    if len(wanted) <= 1:
        return (wanted or (TEXT_FORMAT,)) * len(columns)
    if len(wanted) != len(columns):
        raise ProtocolViolation(f"bind message has {len(wanted)} result formats but query has {len(columns)} columns")
    return wanted


def _too_many(what: str, limit: int) -> ClientFault:
    return ClientFault(SqlState.CONFIGURATION_LIMIT_EXCEEDED, f"too many {what}: a console session has {limit}")


_HANDLERS: Final[dict[int, Callable[[Console, bytes], None]]] = {
    Frontend.QUERY: Console._on_query,
    Frontend.PARSE: Console._on_parse,
    Frontend.BIND: Console._on_bind,
    Frontend.DESCRIBE: Console._on_describe,
    Frontend.EXECUTE: Console._on_execute,
    Frontend.CLOSE: Console._on_close,
    Frontend.FLUSH: Console._on_flush,
    Frontend.SYNC: Console._on_sync,
    Frontend.FUNCTION_CALL: Console._on_function_call,
    Frontend.COPY_DATA: Console._on_copy,
    Frontend.COPY_DONE: Console._on_copy,
    Frontend.COPY_FAIL: Console._on_copy,
    Frontend.TERMINATE: Console._on_terminate,
}
_EXTENDED: Final = frozenset(
    {Frontend.PARSE, Frontend.BIND, Frontend.DESCRIBE, Frontend.EXECUTE, Frontend.CLOSE, Frontend.FLUSH}
)
"""Messages after which a Sync comes."""
_CYCLES: Final = frozenset({Frontend.QUERY, Frontend.FUNCTION_CALL})
"""Messages that are answered with ReadyForQuery by themselves, whatever went before."""
