"""What a client asked for at startup, as something that can be made true on any server of its pool.

The reserved and read-only names follow the reference (spec/protocol.md section 2.2). Values go through
`set_config`, so that lists stay lists, and in E'' strings, so that no setting of the session changes their meaning.
They are bytes in the server's encoding, as PostgreSQL takes a startup packet, and are sent as escapes: those mean the
same whatever client_encoding the session has.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from doorman.wire.frontend import query
from doorman.wire.text import encode
from doorman.workers.encodings import convert, fold, reported_name
from doorman.workers.set_texts import PLANNED_ANEW, is_harmless

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")

READ_ONLY = """
is_superuser session_authorization server_version server_version_num server_encoding integer_datetimes in_hot_standby
session_user current_user block_size wal_block_size wal_segment_size max_index_keys max_identifier_length
max_function_args data_checksums data_directory_mode lc_collate lc_ctype transaction_isolation transaction_read_only
transaction_deferrable user database replication options
"""
NEVER_SET = frozenset(READ_ONLY.split())

OF_TRANSACTIONS = 0x10000  # see Settings.digest

LISTS_OF_NAMES = frozenset({"search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"})
"""Whose values SET takes one by one, and spells itself."""
LISTED = re.compile(r'[a-z_][a-z0-9_]*|"[^",]*[^a-z0-9_",][^",]*"')
"""Such a name, as PostgreSQL spells it."""


class Settings(msgspec.Struct, frozen=True):
    """`query`: the Query message that makes them true; `digest`: equal for equal settings, never 0; one of its
    bits (OF_TRANSACTIONS): whether transactions begin otherwise.

    `planner`: equal for settings under which a text is parsed and planned alike; `plans`: equal for settings that
    plans in functions depend on in the same way; both 0 for the servers' own. `problem`: why they cannot be made true.
    """

    query: bytes
    digest: int
    planner: int
    plans: int
    wanted: dict[str, str]
    problem: str = ""

    @property
    def creates_temporary(self) -> bool:
        """The path may begin with the schema of temporary objects: a CREATE need not say that it makes one."""
        return any("pg_temp" in value for value in self.wanted.values())


def gather_settings(
    parameters: Mapping[str, str], managed: Mapping[str, str], reported: Mapping[str, str], *, follow_name: bool
) -> Settings | None:
    """The settings among a client's startup parameters; None when there are none that the pool's servers lack.

    managed: canonical names that the operator sets; reported: what the pool's servers have anyway. The client's
    application_name reaches servers only with `follow_name` (sync_server_parameters).
    """
    managed_names = {name.lower() for name in managed}
    wanted = {}
    for name, value in parameters.items():
        folded = name.lower()
        if folded in NEVER_SET or folded in managed_names or folded.startswith("_pq_.") or not NAME.match(name):
            continue
        if folded == "application_name" and not follow_name:
            continue
        if is_same(folded, value, reported.get(folded)):
            continue
        wanted[folded] = value
    return make_settings(wanted, find_problem(wanted, reported)) if wanted else None


def is_same(name: str, value: str, reported: str | None) -> bool:
    """Does the server have this value already?"""
    if reported is None:
        return False
    if name == "client_encoding":
        return fold(value) == fold(reported)
    return value == reported


def find_problem(wanted: Mapping[str, str], reported: Mapping[str, str]) -> str:
    """Would PostgreSQL have to report a value that the client's encoding has no characters for? It would try that for
    ever, and log each time that it failed."""
    server = reported.get("server_encoding", "UTF8")
    encoding = reported_name(wanted.get("client_encoding", reported.get("client_encoding", server)))
    for name, value in wanted.items():
        if name in reported and convert(value, server, encoding) is None:
            return f"the value of {name} cannot be told in client_encoding {encoding}"
    return ""


def make_settings(wanted: Mapping[str, str], problem: str = "") -> Settings:
    """The query and digest of these names and values."""
    pairs = sorted(wanted.items(), key=lambda pair: (pair[0] == "role", pair))  # the role may not set the rest
    calls = ", ".join(
        f"pg_catalog.set_config({literal(name)}, {literal(clean(name, value))}, false)" for name, value in pairs
    )
    text = f"RESET ROLE; RESET ALL; SELECT {calls}"
    digest = digest_of(wanted) & ~OF_TRANSACTIONS
    if any(name.startswith("default_transaction_") for name in wanted):
        digest |= OF_TRANSACTIONS
    return Settings(
        query=query(text),
        digest=digest or OF_TRANSACTIONS << 1,
        planner=digest_for_planner(wanted),
        plans=digest_for_plans(wanted),
        wanted=dict(pairs),
        problem=problem,
    )


def setting_again(settings: Settings, names: Mapping[str, bool]) -> bytes:
    """The Query that sets these names again, those with True until the end of the transaction. By SET, which takes no
    snapshot, wherever that leaves the value as it was spelled."""
    commands = []
    for name, value in settings.wanted.items():
        if name not in names:
            continue
        values = value.split(", ") if name in LISTS_OF_NAMES else [value]
        if name not in LISTS_OF_NAMES or all(map(LISTED.fullmatch, values)):
            quoted = ".".join(f'"{word}"' for word in name.split("."))
            listed = ", ".join(literal(clean(name, entry.strip('"'))) for entry in values)
            commands.append(f"SET {'LOCAL' if names[name] else 'SESSION'} {quoted} TO {listed}")
        else:
            local = "true" if names[name] else "false"
            commands.append(f"SELECT pg_catalog.set_config({literal(name)}, {literal(value)}, {local})")
    return query("; ".join(commands)) if commands else b""


def restoring(settings: Settings) -> bytes:
    """The Query that sets again what was led back to the server's own value: whatever is not set by the session now."""
    listed, others = [], []
    for name, value in settings.wanted.items():
        call = f"pg_catalog.set_config({literal(name)}, {literal(clean(name, value))}, false)"
        if name == "role":
            others.append(f"SELECT {call} WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none'")
        elif "." in name:  # pg_settings does not show them
            shown = f"pg_catalog.current_setting({literal(name)}, true)"
            others.insert(0, f"SELECT {call} WHERE coalesce({shown}, '') OPERATOR(pg_catalog.=) ''")
        else:
            listed.append(f"({literal(name)}, {literal(clean(name, value))})")
    if listed:
        others.insert(
            0,
            "SELECT pg_catalog.set_config(asked.name, asked.value, false)"
            f" FROM (VALUES {', '.join(listed)}) AS asked (name, value) JOIN pg_catalog.pg_settings AS shown"
            " ON pg_catalog.lower(shown.name) OPERATOR(pg_catalog.=) asked.name"
            " WHERE shown.source OPERATOR(pg_catalog.<>) 'session'",
        )
    return query("; ".join(others))


def digest_of(wanted: Mapping[str, str]) -> int:
    """64 bits, never 0."""
    digest = hashlib.blake2b(repr(sorted(wanted.items())).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


def digest_for_planner(wanted: Mapping[str, str]) -> int:
    """Literals are read when a text is parsed: by time zone, date style, encoding … Only the name does not matter."""
    relevant = {name: value for name, value in wanted.items() if name != "application_name"}
    return digest_of(relevant) if relevant else 0


def digest_for_plans(wanted: Mapping[str, str]) -> int:
    """PostgreSQL keeps plans in functions, with the literals in them as they were read, and with what the role of that
    moment might execute: that is asked when planning where a function is immutable, or in SQL."""
    relevant = {
        name: value
        for name, value in wanted.items()
        if name == "role" or (name.encode() not in PLANNED_ANEW and not is_harmless(name.encode()))
    }
    return digest_of(relevant) if relevant else 0


def clean(name: str, value: str) -> str:
    """A startup packet's client_encoding may come quoted; PostgreSQL takes it so there, but not in set_config."""
    return value.strip("'") if name == "client_encoding" else value


def literal(text: str) -> str:
    """An E'' string that means the same whatever standard_conforming_strings and client_encoding say."""
    quoted = text.replace("\\", "\\\\").replace("'", "''")
    if not quoted.isascii():
        quoted = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in encode(quoted))
    return f"E'{quoted}'"
