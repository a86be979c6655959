"""A pooler with few servers before a PostgreSQL that logs each statement, and what one session can show of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import SYNC, Message, bind, execute, parse

SNAPSHOT = """
SELECT json_build_object(
  'pid', pg_backend_pid(),
  'settings', (SELECT json_object_agg(name, setting || ' / ' || reset_val) FROM pg_settings
               WHERE NOT (name ~ '[.]' AND setting = '') AND name NOT LIKE 'plpgsql.%'),
  'label', nullif(current_setting('my.label', true), ''),
  'users', (SELECT json_build_array(current_user, session_user, current_setting('role'))),
  'statements', (SELECT json_agg(name ORDER BY name) FROM pg_prepared_statements WHERE name NOT LIKE 'DOORMAN\\_%'),
  'cursors', (SELECT json_agg(name ORDER BY name) FROM pg_cursors WHERE name <> ''),
  'channels', (SELECT json_agg(channel) FROM pg_listening_channels() AS channel),
  'locks', (SELECT json_agg(concat_ws(' ', locktype, relation, classid, objid, mode)) FROM pg_locks
            WHERE pid = pg_backend_pid() AND (locktype = 'advisory' OR relation >= 16384)),
  'temporary', (SELECT json_agg(pg_describe_object(classid, objid, 0)) FROM pg_depend
                WHERE refclassid = 'pg_namespace'::regclass AND refobjid = pg_my_temp_schema()),
  'transaction', pg_current_xact_id_if_assigned()
)"""
"""One row. Left out is what `commands.EXCEPTIONS` explains: invented settings, settings of loaded libraries."""


class Lone:
    """`client()` gives raw clients of the pools `one` (server), `super` (one, for a superuser) and `two`."""

    def __init__(self, postgres: Postgres, doorman: Doorman) -> None:
        self.postgres, self.doorman = postgres, doorman
        self.made: list[Raw] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for raw in self.made:
            raw.close()

    def client(self, database: str = "one", **parameters: str) -> Raw:
        user = "postgres" if database == "super" else "app"
        raw = Raw((self.doorman.host, self.doorman.port)).log_in(user, database, **parameters)
        self.made.append(raw)
        return raw

    def replace_servers(self) -> None:
        """What a test has spoilt is not for the next one."""
        others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        self.postgres.admin(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}")

    def servers(self) -> int:
        return len(self.postgres.activity(application_name="pg_doorman"))

    def logged(self, mark: int, pid: str | int) -> list[str]:
        """The statements that a backend was sent since `postgres.log_mark()`; those of the protocol as `P: text`."""
        lines = re.findall(rf"\[{pid}\] \S+ LOG:  (.*(?:\n\t.*)*)", self.postgres.log_text(mark))
        found = [re.fullmatch(r"(?s)(statement|execute) ?([^:]*): (.*)", line) for line in lines]
        return [("" if one[1] == "statement" else "P: ") + one[3] for one in found if one]


@contextmanager
def lone_pooler(
    bindir: Path | None = None, general: dict[str, Any] | None = None, pool: dict[str, Any] | None = None
) -> Iterator[tuple[Postgres, Doorman]]:
    """The PostgreSQL has a table `kept` with a row, and a role `other` that app is a member of."""
    with Postgres(bindir=bindir, settings={"log_statement": "all"}) as postgres:
        for sql in (
            "CREATE TABLE kept (id int, name text)",
            "INSERT INTO kept VALUES (1, 'one')",
            "GRANT ALL ON kept TO PUBLIC",
            "CREATE ROLE other",
            "GRANT other TO app",
        ):
            postgres.admin(sql)
        pools = {
            "one": pool_of(postgres, users=[user_of("app", 1)], **(pool or {})),
            "two": pool_of(postgres, users=[user_of("app", 2)], **(pool or {})),
            "super": pool_of(postgres, users=[user_of("postgres", 1)], **(pool or {})),
        }
        with Doorman(postgres, pools=pools, general=general) as doorman:
            yield postgres, doorman


def snapshot(raw: Raw) -> dict[str, Any]:
    """All that the session can tell of its state."""
    told: dict[str, Any] = json.loads(raw.value(SNAPSHOT) or "")
    settings: dict[str, Any] = told.pop("settings")
    return told | settings


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def extended(sql: str, name: str = "", values: Sequence[bytes | None] = ()) -> bytes:
    """A statement by Parse, Bind, Execute, Sync."""
    return parse(sql, name) + bind(values, name) + execute() + SYNC


def again(name: str, values: Sequence[bytes | None] = ()) -> bytes:
    """One that is prepared already."""
    return bind(values, name) + execute() + SYNC


def first_value(messages: Sequence[Message]) -> str | None:
    """First column of the first row; an error's SQLSTATE where there is one."""
    for got in messages:
        if got.kind == b"E":
            return got.fields()["C"]
        if got.kind == b"D":
            value = got.columns()[0]
            return None if value is None else value.decode()
    return None


def tag_of(messages: Sequence[Message]) -> str:
    """The last command tag."""
    return [got.body[:-1].decode() for got in messages if got.kind == b"C"][-1]
