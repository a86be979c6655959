"""Our login at a PostgreSQL server, from StartupMessage to the first ReadyForQuery. Sans I/O: workers bring the bytes.

Rules:
1. The server is not trusted: lengths and the total are bounded, and whatever it sends ends in `done` or `ServerFault`.
2. Steps go forward only: authentication, then settings (ParameterStatus, BackendKeyData), then ready.
3. AuthenticationOk in the middle of SCRAM is refused: the server must prove that it knows the password too.
4. An ErrorResponse keeps PostgreSQL's SQLSTATE, message, detail and hint; our own errors name the step, the role and
   the database. Neither ever holds a secret.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from doorman.auth.jwt import sign_token
from doorman.auth.md5 import SALT_BYTES, md5_answer, md5_hash
from doorman.auth.public_keys import KeyUnavailable
from doorman.auth.randomness import Random
from doorman.auth.scram import SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramClient
from doorman.auth.verifier import ScramVerifier
from doorman.errors import ServerFault
from doorman.wire import frontend
from doorman.wire.backend import (
    checked_parameter_statuses,
    parse_authentication,
    parse_backend_key_data,
    parse_error_fields,
    parse_negotiate_protocol_version,
    parse_parameter_status,
    parse_ready_for_query,
    parse_sasl_mechanisms,
)
from doorman.wire.codes import MAX_AUTH_MESSAGE_BYTES, MAX_SERVER_STARTUP_BYTES, Auth, Backend, SqlState
from doorman.wire.framing import BadLength, Frames
from doorman.wire.frontend import sasl_initial, sasl_response
from doorman.wire.packing import joined
from doorman.wire.text import decode

DEFAULT_APPLICATION_NAME: Final = "pg_doorman"
MAX_LOGIN_BYTES: Final = 1 << 20
"""Most that a server may send during one login; real ones send about 500 bytes."""

MAX_OLD_STYLE_BYTES: Final = 1024
NOT_FOR_CLIENTS: Final = b"application_name\0"

_RESERVED: Final = frozenset({"user", "database", "application_name", "replication", "options"})
_SQLSTATE_CHARS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


class Step(enum.Enum):
    """Where a login stands; the value is what an error says about it."""

    AUTHENTICATION = "authentication"
    SCRAM_FIRST = "SCRAM authentication (server's first message)"
    SCRAM_FINAL = "SCRAM authentication (server's signature)"
    AUTHENTICATED = "authentication (waiting for AuthenticationOk)"
    SETTINGS = "session start"
    READY = "ready"
    FAILED = "failed"


# As globals, of C in the compiled form: to ask a class for a member costs more than what is done with it.
_AUTHENTICATION: Final = Step.AUTHENTICATION
_SCRAM_FIRST: Final = Step.SCRAM_FIRST
_SCRAM_FINAL: Final = Step.SCRAM_FINAL
_AUTHENTICATED: Final = Step.AUTHENTICATED
_SETTINGS: Final = Step.SETTINGS
_READY: Final = Step.READY
_FAILED: Final = Step.FAILED

_R: Final = int(Backend.AUTHENTICATION)
_V: Final = int(Backend.NEGOTIATE_PROTOCOL_VERSION)
_S: Final = int(Backend.PARAMETER_STATUS)
_K: Final = int(Backend.BACKEND_KEY_DATA)
_Z: Final = int(Backend.READY_FOR_QUERY)
_N: Final = int(Backend.NOTICE_RESPONSE)
_E: Final = int(Backend.ERROR_RESPONSE)

_OK: Final = int(Auth.OK)
_CLEARTEXT: Final = int(Auth.CLEARTEXT)
_MD5: Final = int(Auth.MD5)
_SASL: Final = int(Auth.SASL)
_SASL_CONTINUE: Final = int(Auth.SASL_CONTINUE)
_SASL_FINAL: Final = int(Auth.SASL_FINAL)
_IDLE: Final = b"I"
_USUAL_MECHANISMS: Final = b"SCRAM-SHA-256\0\0"
_USUAL_OFFER: Final = [SCRAM_SHA_256]
_KNOWN_METHODS: Final = frozenset({_OK, _CLEARTEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL})


class Credentials:
    """What proves us to a server, each part optional: `password` in clear, `md5_hash` (`md5…`), the `client_key` that a
    client proved, with the `verifier` that it belongs to, or `token_key`, the file of a private key that signs a token
    for a server which asks for a password in clear. `lacking` says why there is not more, in an error.
    """

    __slots__ = ("client_key", "lacking", "md5_hash", "password", "token_key", "verifier")

    def __init__(
        self,
        password: str | None = None,
        md5_hash: str | None = None,
        client_key: bytes | None = None,
        verifier: ScramVerifier | None = None,
        token_key: str | None = None,
        lacking: str = "nothing is configured that could answer it",
    ) -> None:
        self.password = password
        self.md5_hash = md5_hash
        self.client_key = client_key
        self.verifier = verifier
        self.token_key = token_key
        self.lacking = lacking

    def __repr__(self) -> str:
        return "Credentials(…)"


class ServerLogin:
    """One attempt. Send `start()`, then send what `feed` answers to each piece of bytes, until `done`.

    `encrypted_or_local` allows a cleartext password. `binding` is the end-point hash of the server's certificate.
    """

    def __init__(
        self,
        user: str,
        credentials: Credentials,
        database: str,
        parameters: Mapping[str, str],
        encrypted_or_local: bool,
        minor: int = 0,
        binding: bytes | None = None,
        rng: Random | None = None,
    ) -> None:
        self._user = user
        self._database = database
        self._operator_parameters = parameters
        self._credentials = credentials
        self._encrypted_or_local = encrypted_or_local
        self._binding = binding
        self._rng = rng
        self._frames = Frames(MAX_AUTH_MESSAGE_BYTES)
        self._received = 0
        self._scram: ScramClient | None = None
        self.step = _AUTHENTICATION
        self.minor = minor
        self.is_authenticated = False  # AuthenticationOk has come
        self.done = False  # the server is ready for queries
        self.status_messages = b""  # ParameterStatus messages as clients get them; the name is the client's own matter
        self.notices: list[dict[str, str]] = []
        self.pid = 0
        self.secret = b""
        self.leftover = b""

    @property
    def parameters(self) -> dict[str, str]:
        """What the server reported of its settings."""
        frames = Frames(MAX_AUTH_MESSAGE_BYTES)
        frames.feed(self.status_messages)
        values: dict[str, str] = {}
        while (frame := frames.take()) is not None:
            name, value = parse_parameter_status(frame[1])
            values[name] = value
        return values

    def start(self) -> bytes:
        """The StartupMessage: user, application_name, database, then the operator's parameters by name."""
        operator = self._operator_parameters
        pairs = {
            "user": self._user,
            "application_name": operator.get("application_name", DEFAULT_APPLICATION_NAME),
            "database": self._database,
        }
        pairs.update((name, operator[name]) for name in sorted(operator) if name not in _RESERVED)
        try:
            packet = frontend.startup_message(pairs, self.minor)
        except ValueError as error:
            raise self._fault(str(error), SqlState.INVALID_PARAMETER_VALUE) from None
        if len(packet) > MAX_SERVER_STARTUP_BYTES:
            raise self._fault(
                f"startup parameters take {len(packet)} bytes, PostgreSQL accepts {MAX_SERVER_STARTUP_BYTES}",
                SqlState.CONFIGURATION_LIMIT_EXCEEDED,
            )
        return packet

    def feed(self, data: bytes) -> bytes:
        """What to send for the next bytes of the server, chopped anywhere; may be empty. Raises `ServerFault`."""
        if self.step is _READY or self.step is _FAILED:
            raise self._fault("bytes from the server after the end of the login")
        try:
            return self._advance(data)
        except ServerRefusal:
            self.step = _FAILED
            raise
        except ServerFault as fault:
            failure = self._fault(fault.message, fault.sqlstate, type(fault))
            self.step = _FAILED
            raise failure from None

    def connection_lost(self) -> ServerFault:
        """The fault to raise when the server closes the connection before `done`."""
        return self._fault("server closed the connection unexpectedly", SqlState.CONNECTION_FAILURE)

    def _advance(self, data: bytes) -> bytes:
        self._received += len(data)
        if self._received > MAX_LOGIN_BYTES:
            raise _broken("server sent too much before it was ready")
        self._frames.feed(data)
        answer = b""
        while self.step is not _READY:
            if self.step is _SETTINGS:
                self._take_statuses()
            frame = self._take_frame()
            if frame is None:
                break
            answer = joined(answer, self._handle(frame[0], frame[1]))
        if self.step is _READY:
            self._check_leftover()
            self.done = True
        return answer

    def _handle(self, letter: int, body: bytes) -> bytes:
        if letter == _R:
            return self._on_authentication(body)
        if letter == _K:
            return self._on_backend_key_data(body)
        if letter == _Z:
            return self._on_ready_for_query(body)
        if letter == _S:
            raise _broken("unexpected ParameterStatus message from server")
        if letter == _N:
            self.notices.append(parse_error_fields(body))
            return b""
        if letter == _E:
            raise ServerRefusal(parse_error_fields(body), self._context())
        if letter == _V:
            return self._on_negotiate_protocol_version(body)
        raise _broken(f"unexpected message type {chr(letter)!r} from server")

    def _take_frame(self) -> tuple[int, bytes] | None:
        try:
            return self._frames.take()
        except BadLength as error:
            if error.letter != Backend.ERROR_RESPONSE or self.step is not _AUTHENTICATION:
                raise _broken(str(error)) from None
        self._refuse_old_style()
        return None

    def _refuse_old_style(self) -> None:
        """A server that cannot even fork sends "E", text and NUL, without a length (report_fork_failure_to_client)."""
        text, nul, _ = self._frames.rest()[1:].partition(b"\0")
        if nul or len(text) > MAX_OLD_STYLE_BYTES:
            raise ServerRefusal({"M": decode(text[:MAX_OLD_STYLE_BYTES]).strip()}, self._context())

    def _check_leftover(self) -> None:
        self.leftover = self._frames.rest()
        if self.leftover[:1] == b"E" and len(self.leftover) > 5:  # it is ended already
            raise ServerRefusal(parse_error_fields(self.leftover[5:]), self._context())
        if self.leftover:
            raise _broken(f"{len(self.leftover)} unexpected bytes from server after ReadyForQuery")

    # Authentication ("R")

    def _on_authentication(self, body: bytes) -> bytes:
        code, data = parse_authentication(body)
        step = self.step
        if code == _OK and (step is _AUTHENTICATED or step is _AUTHENTICATION):
            self.step = _SETTINGS
            self.is_authenticated = True
            return b""
        if code == _SASL and step is _AUTHENTICATION:
            return self._on_sasl(data)
        if code == _SASL_CONTINUE and step is _SCRAM_FIRST:
            return self._on_sasl_continue(data)
        if code == _SASL_FINAL and step is _SCRAM_FINAL:
            return self._on_sasl_final(data)
        if code == _MD5 and step is _AUTHENTICATION:
            return self._on_md5(data)
        if code == _CLEARTEXT and step is _AUTHENTICATION:
            return self._on_cleartext()
        if code not in _KNOWN_METHODS:
            raise ServerFault(SqlState.FEATURE_NOT_SUPPORTED, f"server asks for authentication method {code}")
        raise _broken(f"unexpected authentication message {code} from server")

    def _on_cleartext(self) -> bytes:
        password, token_key = self._credentials.password, self._credentials.token_key
        if not password and token_key is None:
            raise self._no_credentials("a cleartext password")
        if not self._encrypted_or_local:
            raise ServerFault(
                SqlState.INVALID_AUTHORIZATION,
                "server asks for a cleartext password over an unencrypted connection; it was not sent",
            )
        self.step = _AUTHENTICATED
        if token_key is None:
            return _password_message(password or "")
        try:
            return _password_message(sign_token(token_key, self._user))
        except KeyUnavailable as error:
            raise ServerFault(SqlState.INVALID_AUTHORIZATION, f"no token could be signed: {error}") from None

    def _on_md5(self, salt: bytes) -> bytes:
        stored = self._credentials.md5_hash
        if self._credentials.password:
            stored = md5_hash(self._credentials.password, self._user)
        if not stored:
            raise self._no_credentials("an MD5 password")
        if len(salt) != SALT_BYTES:
            raise _broken("malformed AuthenticationMD5Password message from server")
        self.step = _AUTHENTICATED
        return _password_message(md5_answer(stored, salt))

    def _on_sasl(self, data: bytes) -> bytes:
        offered = _USUAL_OFFER if data == _USUAL_MECHANISMS else parse_sasl_mechanisms(data)
        can_bind = self._binding is not None and SCRAM_SHA_256_PLUS in offered
        if not can_bind and SCRAM_SHA_256 not in offered:
            raise ServerFault(SqlState.FEATURE_NOT_SUPPORTED, "server offers no SASL mechanism that can be used")
        known = self._credentials
        has_password = bool(known.password)
        if not has_password and known.client_key is None:
            raise self._no_credentials("SCRAM authentication")
        self._scram = ScramClient(
            known.password if has_password else None,
            None if has_password else known.client_key,
            None if has_password else known.verifier,
            self._binding if can_bind else None,
            self._binding is not None,
        )
        self.step = _SCRAM_FIRST
        return sasl_initial(self._scram.mechanism, self._scram.first(self._rng))

    def _on_sasl_continue(self, data: bytes) -> bytes:
        assert self._scram is not None
        answer = self._scram.final(data)
        self.step = _SCRAM_FINAL
        return sasl_response(answer)

    def _on_sasl_final(self, data: bytes) -> bytes:
        assert self._scram is not None
        self._scram.finish(data)
        self.step = _AUTHENTICATED
        return b""

    # The other messages

    def _on_negotiate_protocol_version(self, body: bytes) -> bytes:
        minor, options = parse_negotiate_protocol_version(body)
        if self.step is not _AUTHENTICATION or minor > self.minor or options:
            raise _broken("server's NegotiateProtocolVersion does not answer what was asked")
        self.minor = minor
        return b""

    def _take_statuses(self) -> None:
        """All that have come, at once: PostgreSQL sends a dozen and more."""
        run = self._frames.take_run(_S)
        if run:
            self.status_messages = joined(self.status_messages, checked_parameter_statuses(run, NOT_FOR_CLIENTS))

    def _on_backend_key_data(self, body: bytes) -> bytes:
        self._expect_settings("BackendKeyData")
        self.pid, self.secret = parse_backend_key_data(body)
        return b""

    def _on_ready_for_query(self, body: bytes) -> bytes:
        self._expect_settings("ReadyForQuery")
        if body != _IDLE and parse_ready_for_query(body) != "I":
            raise _broken("server is in a transaction at the end of its login")
        self.step = _READY
        return b""

    def _no_credentials(self, wanted: str) -> ServerFault:
        return NoCredentials(SqlState.INVALID_PASSWORD, f"server asks for {wanted}: {self._credentials.lacking}")

    def _expect_settings(self, name: str) -> None:
        if self.step is not _SETTINGS:
            raise _broken(f"unexpected {name} message from server")

    def _context(self) -> str:
        return f'Login of role "{self._user}" to database "{self._database}", step: {self.step.value}.'

    def _fault(
        self, reason: str, sqlstate: str = SqlState.PROTOCOL_VIOLATION, kind: type[ServerFault] = ServerFault
    ) -> ServerFault:
        where = f'login of role "{self._user}" to database "{self._database}" failed in {self.step.value}'
        return kind(sqlstate, f"{where}: {reason}")


class ServerRefusal(ServerFault):
    """The server's own ErrorResponse, as sent (`fields` by letter). Without a detail, says where the login stood."""

    def __init__(self, fields: Mapping[str, str], context: str) -> None:
        sqlstate = fields.get("C", "")
        if len(sqlstate) != 5 or not _SQLSTATE_CHARS.issuperset(sqlstate):
            sqlstate = SqlState.SYSTEM_ERROR
        message = fields.get("M") or "server refused the connection without giving a reason"
        super().__init__(sqlstate, message, detail=fields.get("D") or context, hint=fields.get("H"))
        self.fields = dict(fields)


def _password_message(text: str) -> bytes:
    try:
        return frontend.password(text)
    except ValueError:
        raise ServerFault(SqlState.INVALID_PASSWORD, "the configured password contains a NUL byte") from None


class NoCredentials(ServerFault):
    """PostgreSQL asks for a proof that this login cannot give."""


def _broken(reason: str) -> ServerFault:
    return ServerFault(SqlState.PROTOCOL_VIOLATION, reason)
