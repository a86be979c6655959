"""A connection that look-ups of auth_query run on: in the keeper, never lent, one look-up's at a time.

Rules
1. Nothing of a client is ever part of this session: the user's name is a bound parameter, `search_path` is pg_catalog,
   so names in auth_query.query must be schema-qualified (CVE-2025-12819).
2. The server is not trusted: what it sends is bounded in number and size, and out of order is out.
3. After any failure but an ErrorResponse the connection is closed: nobody knows what it would answer next.
"""

from __future__ import annotations

import contextlib
import math
from typing import Final

import msgspec

from doorman.auth.auth_query import Found, LookUpProblem, read_user
from doorman.auth.server_login import Credentials, ServerLogin
from doorman.config.redact import Redacted
from doorman.config.resolve import ServerTls
from doorman.errors import ServerFault
from doorman.wire import backend, frontend
from doorman.wire.codes import Backend, SqlState
from doorman.wire.framing import BadLength, Frames
from doorman.workers.lookup_stream import Stream, open_stream

MAX_MESSAGE_BYTES: Final = 65_536
MOST_ROWS: Final = 2  # a second one is one too many
STATEMENT_TIMEOUT_MS: Final = 5000

VALIDITY: Final = (
    "SELECT CASE WHEN rolvaliduntil = '-infinity' THEN -1 WHEN rolvaliduntil = 'infinity' THEN NULL "
    "ELSE extract(epoch FROM rolvaliduntil - pg_catalog.now()) END FROM pg_catalog.pg_roles WHERE rolname = $1"
)
"""Seconds for which the password of a role is valid. Everybody may read pg_roles."""

_WITHOUT_VALIDITY: Final = frozenset({"42501", "42P01", "42703"})  # a catalogue that was closed, or is none
_IGNORED: Final = frozenset(
    {
        *(Backend.PARSE_COMPLETE, Backend.BIND_COMPLETE, Backend.COMMAND_COMPLETE, Backend.PORTAL_SUSPENDED),
        *(Backend.NO_DATA, Backend.NOTICE_RESPONSE, Backend.PARAMETER_STATUS, Backend.EMPTY_QUERY_RESPONSE),
    }
)

PLAIN: Final = ServerTls(mode="disable", ca_cert=None, certificate=None, private_key=None)


class Target(Redacted, frozen=True, kw_only=True):
    """Where and how the look-ups of one pool are made."""

    host: str
    port: int
    database: str
    user: str
    password: str
    query: str
    encrypted_or_local: bool
    tls: ServerTls = PLAIN


class Result(msgspec.Struct, frozen=True):
    """Everything up to one ReadyForQuery."""

    columns: list[backend.Column]
    rows: list[list[str | None]]
    error: dict[str, str] | None


class LookUpConnection:
    """One session. `is_usable` turns False with rule 3; the owner then drops it."""

    def __init__(self, target: Target, stream: Stream) -> None:
        self.target = target
        self.reader, self.writer = stream
        self.frames = Frames(MAX_MESSAGE_BYTES)
        self.is_usable = True

    @classmethod
    async def open(cls, target: Target) -> LookUpConnection:
        """Connect and log in. Raises ServerFault or OSError; cancelling leaves nothing behind."""
        connection = cls(target, await open_stream(target.host, target.port, target.tls))
        try:
            await connection.log_in()
        except BaseException:
            connection.close()
            raise
        return connection

    async def log_in(self) -> None:
        """The server's login, to its first ReadyForQuery."""
        login = ServerLogin(
            self.target.user,
            Credentials(password=self.target.password, lacking="auth_query.password is not set"),
            self.target.database,
            {
                "application_name": "pg_doorman_auth_query",
                "search_path": "pg_catalog",
                "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                "client_encoding": "UTF8",
            },
            encrypted_or_local=self.target.encrypted_or_local or self.is_encrypted,
        )
        self.writer.write(login.start())
        while not login.done:
            data = await self.reader.read(16_384)
            if not data:
                raise login.connection_lost()
            self.writer.write(login.feed(data))

    async def look_up(self, user: str) -> Found | None:
        """Run the query for one user. Raises LookUpProblem (the query is to blame) or ServerFault (the server is)."""
        try:
            self.writer.write(ask(self.target.query, user) + ask(VALIDITY, user))
            answer, validity = await self.read_result(), await self.read_result()
        except BaseException:
            self.close()
            raise
        if answer.error is not None:
            raise LookUpProblem(describe_error(answer.error))
        return read_user(answer.columns, answer.rows, read_validity(validity))

    async def read_result(self) -> Result:
        """Messages up to the next ReadyForQuery."""
        columns: list[backend.Column] = []
        rows: list[list[str | None]] = []
        error: dict[str, str] | None = None
        while True:
            letter, body = await self.next_message()
            if letter == Backend.READY_FOR_QUERY:
                if body != b"I":
                    raise _broken("the server is in a transaction after a look-up")
                return Result(columns, rows, error)
            if letter == Backend.ROW_DESCRIPTION:
                columns = backend.parse_row_description(body)
            elif letter == Backend.DATA_ROW:
                rows.append(backend.parse_data_row(body))
            elif letter == Backend.ERROR_RESPONSE:
                error = backend.parse_error_fields(body)
            elif letter not in _IGNORED:
                raise _broken(f"unexpected message {chr(letter)!r} from the server in a look-up")
            if len(rows) > MOST_ROWS:
                raise _broken("the server sends more rows than it was asked for")

    async def next_message(self) -> tuple[int, bytes]:
        """Letter and body."""
        try:
            while (frame := self.frames.take()) is None:
                data = await self.reader.read(16_384)
                if not data:
                    raise ServerFault(SqlState.CONNECTION_FAILURE, "the server closed the connection during a look-up")
                self.frames.feed(data)
        except BadLength as error:
            raise _broken(str(error)) from None
        return frame

    def close(self) -> None:
        """End the session, whatever state it is in."""
        if not self.is_usable:
            return
        self.is_usable = False
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.write(frontend.TERMINATE)
            self.writer.close()

    @property
    def is_encrypted(self) -> bool:
        """A password in clear may be sent."""
        return self.writer.get_extra_info("ssl_object") is not None

    @property
    def has_ended(self) -> bool:
        """The server has closed its side, or speaks unasked: not to be used again."""
        return not self.is_usable or self.reader.at_eof() or self.writer.is_closing()


def ask(sql: str, user: str) -> bytes:
    """A query with the user's name as its parameter, in a batch of its own."""
    return (
        frontend.parse(sql)
        + frontend.bind([user])
        + frontend.describe_portal()
        + frontend.execute(most_rows=MOST_ROWS)
        + frontend.SYNC
    )


def read_validity(result: Result) -> float | None:
    """Seconds, or None. Without the catalogue (a server that is no PostgreSQL, say) there is nothing to honour."""
    if result.error is not None:
        if result.error.get("C") in _WITHOUT_VALIDITY:
            return None
        raise LookUpProblem(f"whether the role is still valid could not be asked: {describe_error(result.error)}")
    text = result.rows[0][0] if result.rows and result.rows[0] else None
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise _broken("the server's answer about rolvaliduntil is no number")
    return seconds


def describe_error(fields: dict[str, str]) -> str:
    """An ErrorResponse for the log, with what to change where that is known."""
    text = f"{fields.get('C', '')} {fields.get('M', '')}".strip()
    if fields.get("C") in ("42P01", "42883", "3F000"):
        text += " (search_path is pg_catalog in look-ups: names in auth_query.query must have their schema)"
    return text


def _broken(reason: str) -> ServerFault:
    return ServerFault(SqlState.PROTOCOL_VIOLATION, reason)
