"""Both sides ready for scripts: PostgreSQL with the scratch table, a pooler with a pool for each way of pooling.

Rules
1. Each script starts on new connections and with an empty table. Texts are salted (see `script`): the pooler knows of
   them only what the case's own warm-up has told it.
2. After a hang the pooler is started anew, since what hangs may hang the next script too.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.e2e.differential.script import (
    SYNC,
    Script,
    bind,
    close_statement,
    execute,
    listing,
    parse,
    query,
    salted,
    texts_of,
)
from tests.e2e.differential.talk import HANG_SECONDS, Hung, Transcript, converse
from tests.e2e.differential.verdict import Difference, difference
from tests.e2e.raw import Raw, wait_until
from tests.harness import Doorman, Postgres
from tests.harness.doorman import Config, pool_of, user_of

if TYPE_CHECKING:
    import psycopg

DIRECT = (
    "direct"  # the other side is PostgreSQL itself: proves that a script's answers depend on nothing but the script
)
SCRATCH = "CREATE TABLE IF NOT EXISTS scratch (id int, name text)"
EMPTY = "TRUNCATE scratch"
SALTS = itertools.count(10_000)
RESTART_SECONDS = 20.0


@dataclass(frozen=True)
class Case:
    """What is said, in what pieces, through which pool; `warm`: texts that another client has prepared before."""

    pool: str
    script: Script
    pieces: list[int] = field(default_factory=list)
    warm: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = "".join(f"        {line}\n" for line in listing(self.script).splitlines())
        return f"Case({self.pool!r}, [\n{said}    ], pieces={self.pieces}, warm={self.warm})"


def pools(postgres: Postgres) -> dict[str, Config]:
    """`session`; `transaction`; `tight1`, `tight2`: servers that hold one or two statements, and as many servers."""

    def pool(size: int, mode: str, **keys: Any) -> Config:
        return pool_of(postgres, users=[user_of("app", size)], pool_mode=mode, **keys)

    return {
        "session": pool(3, "session"),
        "transaction": pool(3, "transaction"),
        "checks": pool(3, "transaction"),  # for the test that wants to be the first to ask the check query
        "tight1": pool(1, "transaction", server_prepared_statements_cache_size=1),
        "tight2": pool(2, "transaction", server_prepared_statements_cache_size=2),
    }


class Bench:
    """`compare(case)`; use it in a `with`."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.doorman = Doorman(postgres, pools=pools(postgres), general={"query_wait_timeout": 20_000})
        self.admin: psycopg.Connection[Any] = postgres.connect(user="app")
        self.admin.execute(SCRATCH)
        self.compared = self.ended = 0
        self.told: dict[str, str] = {}  # failures of cases, see `smallest`

    def __enter__(self) -> Bench:
        self.doorman.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.admin.close()
        with contextlib.suppress(Exception):
            self.doorman.stop()

    def compare(self, case: Case, patience: float = HANG_SECONDS) -> Difference | None:
        """Say it to both sides. A script at which PostgreSQL itself ends the session is not compared."""
        salt = next(SALTS)
        script = salted(case.script, salt)
        self.admin.execute(EMPTY)
        direct = converse(self.direct, "postgres", script, [], is_idle=self._is_idle)
        if direct.hang:
            raise AssertionError(f"PostgreSQL itself does not answer ({direct.hang}): {case}")
        if direct.is_ended:
            self.ended += 1
            if direct.messages[-1:] and direct.messages[-1].kind != b"E":  # it always says why
                self._outlive_crash()
            return None
        try:
            pooled = self._pooled(case, script, salt, direct, patience)
        except (Hung, OSError) as lost:
            pooled = Transcript(hang=f"the other client: {lost!r}")
        self.compared += 1
        if pooled.hang:
            self._start_anew()
        return difference(direct, pooled)

    @property
    def direct(self) -> tuple[str, int]:
        return self.postgres.host, self.postgres.port

    @property
    def address(self) -> tuple[str, int]:
        return self.doorman.host, self.doorman.port

    def _is_idle(self, pid: int) -> bool:
        """Has PostgreSQL's process read and answered everything, with no transaction open?"""
        asked = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'idle' AND wait_event = 'ClientRead'"
        return self.admin.execute(asked, (pid,)).fetchone() is not None

    def _pooled(self, case: Case, script: Script, salt: int, direct: Transcript, patience: float) -> Transcript:
        if case.pool == DIRECT:
            self.admin.execute(EMPTY)
            return converse(self.direct, "postgres", script, case.pieces, direct.marks, None, patience)
        with self._others(case.pool, patience) as others:
            for text in case.warm:
                others.prepare(text, salt)
            self.admin.execute(EMPTY)
            texts = texts_of(script)

            def at_rival(number: int) -> None:
                others.act(number, texts)

            return converse(self.address, case.pool, script, case.pieces, direct.marks, at_rival, patience)

    @contextlib.contextmanager
    def _others(self, pool: str, patience: float) -> Iterator[Others]:
        others = Others(self.address, pool, patience)
        try:
            yield others
        finally:
            others.close()

    def _outlive_crash(self) -> None:
        """At some scripts PostgreSQL itself crashes (docs/testing.md): then all connections to it are gone."""
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            for _ in range(100):  # the postmaster has yet to notice
                self.admin.execute("SELECT pg_sleep(0.02)")
        wait_until(self._reconnect, "PostgreSQL is there again", RESTART_SECONDS)
        self._start_anew()

    def _reconnect(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            self.admin = self.postgres.connect(user="app")
            return True
        return False

    def _start_anew(self) -> None:
        with contextlib.suppress(Exception):
            self.doorman.stop()
        self.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND pid <> pg_backend_pid()"
        )
        self.doorman = Doorman(self.postgres, pools=pools(self.postgres), general={"query_wait_timeout": 20_000})
        self.doorman.start()


class Others:
    """Other clients of the pool, who speak while ours does not. Two of them, so that both workers have one, maybe."""

    def __init__(self, address: tuple[str, int], pool: str, patience: float) -> None:
        self.address, self.pool, self.patience = address, pool, patience
        self.raws: list[Raw] = []
        self.turns = itertools.count()

    def prepare(self, text: str, salt: int) -> None:
        """Prepare this text under a name of its own."""
        turn = next(self.turns)
        self._ask(turn, [*salted([parse(text, f"other{turn}")], salt), SYNC])

    def act(self, number: int, texts: Sequence[str]) -> None:
        """What `rival(number)` stands for."""
        turn = next(self.turns)
        self._ask(turn, RIVALS[number % len(RIVALS)](turn, texts))

    def close(self) -> None:
        for raw in self.raws:
            raw.close()

    def _ask(self, turn: int, said: Script) -> None:
        if len(self.raws) < 2:
            raw = Raw(self.address).log_in(database=self.pool, application_name="rival")
            raw.socket.settimeout(self.patience)
            self.raws.append(raw)
        raw = self.raws[turn % len(self.raws)]
        raw.send(*said)
        for _ in range(sum(step[:1] in b"SQ" for step in said)):
            raw.until("Z")


def _evict(turn: int, texts: Sequence[str]) -> Script:
    """Enough texts to push every other out of a small cache."""
    names = [f"evict{turn}_{n}" for n in range(3)]
    return [step for name in names for step in (parse(f"SELECT '{name}'", name), bind([], name), execute(), SYNC)]


def _same_texts(turn: int, texts: Sequence[str]) -> Script:
    """Our client's texts under other names; what fails is left behind with the Sync."""
    return [step for n, text in enumerate(texts[:4]) for step in (parse(text, f"same{turn}_{n}"), SYNC)]


def _unnamed(turn: int, texts: Sequence[str]) -> Script:
    return [parse("SELECT 'unnamed'"), SYNC, parse("SELECT 'unnamed again'"), bind(), execute(), SYNC]


def _fails(turn: int, texts: Sequence[str]) -> Script:
    return [parse("SELECT 1/0", f"fails{turn}"), bind([], f"fails{turn}"), execute(), SYNC, query("SELEC")]


def _closes(turn: int, texts: Sequence[str]) -> Script:
    """Prepare a text of our client, and close it."""
    names = [f"closed{turn}_{n}" for n in range(min(2, len(texts)))]
    return [step for name, text in zip(names, texts, strict=False) for step in (parse(text, name), SYNC)] + [
        step for name in names for step in (close_statement(name), SYNC)
    ]


RIVALS: list[Callable[[int, Sequence[str]], Script]] = [
    _evict,
    _same_texts,
    _unnamed,
    _fails,
    _closes,
    lambda turn, texts: [query("DEALLOCATE ALL")],
    lambda turn, texts: [query("DISCARD ALL")],
    lambda turn, texts: [parse("DEALLOCATE ALL"), bind(), execute(), SYNC],
]
