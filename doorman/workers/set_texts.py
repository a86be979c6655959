"""What the settings that a text changes mean for the statements parsed behind it in the same transaction.

PostgreSQL reads literals and plans under the settings of the moment. Those that it reports are followed by their values
(`followed`); all others are known only by the text that sets them. Statements parsed behind such a text are shared only
among clients that have run the same texts.

Each pattern here goes through a text once, whatever that is made of: what has been passed is not tried anew.
"""

from __future__ import annotations

import re

from doorman.workers.sql_tokens import mentions, statements_in

WORDS = """
    application_name client_min_messages commit_delay commit_siblings deadlock_timeout
    default_transaction_deferrable default_transaction_isolation default_transaction_read_only
    idle_in_transaction_session_timeout idle_session_timeout lc_messages lo_compat_privileges lock_timeout
    maintenance_work_mem seed statement_timeout synchronous_commit temp_buffers temp_file_limit transaction_deferrable
    transaction_isolation transaction_read_only transaction_timeout
"""
HARMLESS = frozenset(WORDS.split())
"""Neither parser nor planner asks for these, nor immutable functions (as they do for extra_float_digits and
bytea_output); nor for log_…, track_…, vacuum_…, and those of extensions (with a dot)."""
HARMLESS_KINDS = ("log_", "track_", "vacuum_", "auto_explain", "tcp_")

SET = re.compile(rb"(?:set\s++(?:session\s++|local\s++)?|reset\s++)\"?([a-z_][\w$.]*+)", re.I)
SET_CONFIG = re.compile(rb"set_config\s*+\(\s*+(?:E?'([^']*+)')?", re.I)
CHANGES = re.compile(rb"set_config|pg_settings", re.I)
PLANNED_ANEW = frozenset((b"search_path", b"schema", b"role", b"authorization", b"client_encoding", b"names"))
"""Where these have changed PostgreSQL plans anew by itself, or they do not matter to plans. Of roles that is true
but for one thing: who may execute an immutable function, or one in SQL, is asked when planning (docs).
Who sets a role in each transaction would have everything planned anew for that."""
LITERAL = rb"\s*+E?'[^'\\]*+'"
GIVEN = rb"\s*+\$\d++"
SHOWN = re.compile(
    rb"set_config\s*+\((?:%b|%b)\s*+,(?:%b|%b)(?:::text)?\s*+,(?:\s*+(?:true|false)|%b|%b)"
    % (LITERAL, GIVEN, LITERAL, GIVEN, LITERAL, GIVEN),
    re.I,
)
"""A call that says what it sets, and to what."""


def settings_in(text: bytes) -> tuple[int, bool]:
    """How many command tags SET and RESET a text may be answered by; whether anything that it sets matters to what is
    parsed later."""
    tags, matters = 0, False
    if not mentions(text, b"set"):
        return tags, matters
    calls = may_change(text)
    for statement in statements_in(text):
        found = SET.match(statement)
        if found is not None:
            tags += 1
            matters = matters or not is_harmless(found[1])
        elif calls and not matters and (changes := CHANGES.findall(statement)):
            names = SET_CONFIG.findall(statement)
            matters = len(names) < len(changes) or not all(map(is_harmless, names))
    return tags, matters


def hides_value(text: bytes) -> bool:
    """Does a text that sets something not say to what, or set it when something else is run (a cursor, SQL's EXECUTE)?
    Parameters of Bind are known."""
    return may_change(text) and any(
        len(SHOWN.findall(statement)) < len(changes) or statement[:7].lower() in (b"declare", b"prepare")
        for statement in statements_in(text.partition(b"\0")[0])
        if SET.match(statement) is None and (changes := CHANGES.findall(statement))
    )


def folds(text: bytes) -> bool:
    """May a text set what stays in plans, also in those that functions keep: literals as they were read, what immutable
    functions return, what the planner has chosen?"""
    if not mentions(text, b"set"):
        return False
    for statement in statements_in(text.partition(b"\0")[0]):
        names = [found[1]] if (found := SET.match(statement)) is not None else SET_CONFIG.findall(statement)
        if any(name.lower() not in PLANNED_ANEW and not is_harmless(name) for name in names):
            return True
        if found is None and len(names) < len(CHANGES.findall(statement)):
            return True
    return False


def may_change(text: bytes) -> bool:
    """Does any of CHANGES stand in it?"""
    return mentions(text, b"set_config") or mentions(text, b"pg_settings")


def is_harmless(name: bytes) -> bool:
    """No statement is parsed or planned otherwise for this setting."""
    folded = name.decode("latin-1").lower()
    if folded in ("transaction", "constraints", "characteristics"):  # SET SESSION CHARACTERISTICS AS TRANSACTION …
        return True
    return folded in HARMLESS or "." in folded or folded.startswith(HARMLESS_KINDS)
