"""What a look-up of auth_query says of a user: the result of its query, judged. Values in, values out.

Rules
1. No row, NULL or an empty password: there is no such user. One row: that is it. More, or no column that could be the
   password: the query is wrong, which is `LookUpProblem` and never a reason to let anybody in.
2. A role whose VALID UNTIL has passed has no password, whatever the query says (CVE-2025-2291). `expires_in` is the
   rest of its time.
3. What a row adds to the startup parameters is dropped entry by entry where it is no good, and as a whole where it is
   no JSON object or too long; the login goes on without.
4. A password is shown nowhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import ClassVar, Final

import msgspec

from doorman.config.redact import Redacted
from doorman.config.startup import MAX_MAP_BYTES, canonical_map, find_faults, measure_map
from doorman.config.tokens import SIGNER_PREFIX, TOKEN_PREFIXES
from doorman.errors import DoormanError
from doorman.wire.backend import Column

MAX_NAME_BYTES: Final = 63
"""PostgreSQL's NAMEDATALEN - 1: no role has a longer name."""
MAX_PASSWORD_BYTES: Final = 4096
NOBODY: Final = "nobody"
"""`Found.mark` of a decoy."""
PARAMETERS_COLUMN: Final = "startup_parameters"
PASSWORD_COLUMNS: Final = ("passwd", "password")
_REFERENCES: Final = (*TOKEN_PREFIXES, SIGNER_PREFIX)  # what a table says must not name files or URLs here
_JSON_TYPES: Final = frozenset({25, 114, 1043, 3802})  # text, json, varchar, jsonb
Rows = Sequence[Sequence[str | None]]


class LookUpProblem(DoormanError):
    """A look-up that says nothing about the user. The text is for the log: clients are told only that it failed."""


class Found(Redacted, frozen=True, kw_only=True):
    """A user: the stored `password` (md5 hash, SCRAM verifier or clear), what its servers' startup is to have besides,
    and the seconds until the password expires (None: never). `dropped` are (reason, text) of rule 3. `found_at`, in
    microseconds of the monotonic clock, tells which of two look-ups is the newer.

    `is_decoy`: there is no such user, and this is never to let anybody in; `password` is what others have, made up, so
    that the stranger looks like them ("" while nobody was found yet).
    """

    password: str
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    expires_in: float | None = None
    dropped: tuple[tuple[str, str], ...] = ()
    found_at: int = 0
    is_decoy: bool = False

    auth_pam_service: ClassVar[str | None] = None
    jwt_issuer: ClassVar[str | None] = None
    jwt_audience: ClassVar[str | None] = None

    @property
    def mark(self) -> str:
        """See `mark_of`."""
        return NOBODY if self.is_decoy else mark_of(self.password)


def mark_of(password: str) -> str:
    """Names a stored password without telling it."""
    return hashlib.blake2b(password.encode(), digest_size=16).hexdigest()


def is_possible_name(user: str) -> bool:
    """Whether a role can have this name at all; no look-up is made for others."""
    return _is_text(user) and 0 < len(user.encode()) <= MAX_NAME_BYTES


def read_user(columns: Sequence[Column], rows: Rows, valid_seconds: float | None) -> Found | None:
    """Rules 1 and 2. `valid_seconds`: until the role's password expires; None: it does not, or there is no role."""
    at = choose_password_column([column.name for column in columns])
    if len(rows) > 1:
        raise LookUpProblem("auth_query.query returned more than one row for one user")
    if any(len(row) != len(columns) for row in rows):
        raise LookUpProblem("the server's rows do not fit their description")
    password = rows[0][at] if rows else None
    if not password or password.startswith(_REFERENCES) or (valid_seconds is not None and valid_seconds <= 0):
        return None
    if len(password) > MAX_PASSWORD_BYTES or not _is_text(password):
        raise LookUpProblem(f"auth_query.query returned a password of more than {MAX_PASSWORD_BYTES} bytes, or no text")
    parameters, dropped = read_parameters(columns, rows[0])
    return Found(password=password, parameters=parameters, expires_in=valid_seconds, dropped=tuple(dropped))


def choose_password_column(names: Sequence[str]) -> int:
    """`passwd`, else `password`, else the only column."""
    for wanted in PASSWORD_COLUMNS:
        if wanted in names:
            return list(names).index(wanted)
    if len(names) != 1:
        raise LookUpProblem(
            f"auth_query.query must return a column passwd or password, or one column only; it returned "
            f"{', '.join(names) or 'none'}"
        )
    return 0


def read_parameters(
    columns: Sequence[Column], row: Sequence[str | None]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Rule 3: the column `startup_parameters`, and what of it was dropped as (reason, text)."""
    at = next((at for at, column in enumerate(columns) if column.name == PARAMETERS_COLUMN), None)
    text = None if at is None else row[at]
    if at is None or not text:
        return {}, []
    if columns[at].oid not in _JSON_TYPES:
        return {}, [("auth_query_bad_type", "the column startup_parameters must be text, json or jsonb")]
    if len(text.encode("utf-8", "surrogateescape")) > MAX_MAP_BYTES:
        return {}, [("auth_query_oversize", f"startup_parameters takes more than {MAX_MAP_BYTES} bytes")]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}, [("auth_query_invalid_json", "startup_parameters is not JSON")]
    if not isinstance(document, dict):
        return {}, [("auth_query_invalid_shape", "startup_parameters is not a JSON object")]
    return _sift(document)


def _sift(document: dict[str, object]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The entries that can be used, with canonical names."""
    usable = {name: value for name, value in document.items() if isinstance(value, str) and _is_text(name + value)}
    for name, _ in list(find_faults(usable)):
        usable.pop(name, None)
    dropped = [
        ("auth_query_invalid_entry", f"startup_parameters: {name!r} is not a parameter that can be set")
        for name in document
        if name not in usable
    ]
    if measure_map(usable) > MAX_MAP_BYTES:
        return {}, [
            *dropped,
            ("auth_query_overlay_oversize", f"startup_parameters takes more than {MAX_MAP_BYTES} bytes"),
        ]
    return canonical_map(usable), dropped[:1]  # one is enough to say: once for a row


def _is_text(text: str) -> bool:
    """JSON can write half a surrogate pair, which no encoding can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
