"""Single facts of the protocol that no flow of a driver shows: bytes that are no text, counts beyond 32767, connections
that end at the worst place, servers that say what PostgreSQL never says."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import POOL_SIZE, Connect, is_idle
from tests.e2e.raw import Raw, cancel, tell, wait_until
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.proxy import Proxy
from tests.torture.wire import (
    COPY_DONE,
    FLUSH,
    SYNC,
    Message,
    bind,
    copy_data,
    describe_statement,
    execute,
    function_call,
    message,
    parse,
    query,
)


@pytest.fixture
def direct(postgres: Postgres) -> Iterator[Raw]:
    with Raw((postgres.host, postgres.port)) as raw:
        yield raw


# --- what a client may say -------------------------------------------------------------------------------------------


def test_names_and_texts_are_bytes(connect: Connect, direct: Raw) -> None:
    """In LATIN1 every byte is a letter: none of these is UTF-8, and all of them are told apart."""
    heard = []
    for raw in (direct.log_in(client_encoding="LATIN1"), connect(client_encoding="LATIN1")):
        said = []
        for name in (b"\xe9", b"\xff\xfe", b"\xe9\xe9"):
            text = b"SELECT '" + name + b"\xa0' AS \"" + name + b'", $1::text'
            said += [
                message(b"P", name + b"\0" + text + b"\0" + struct.pack("!h", 0)),
                message(b"D", b"S" + name + b"\0"),
                message(b"B", b"p\xff\0" + name + b"\0" + struct.pack("!hhi", 0, 1, 2) + b"\xfc\xdf" + bytes(2)),
                message(b"E", b"p\xff\0" + bytes(4)),
                message(b"C", b"Pp\xff\0"),
            ]
        heard.append(
            raw.converse(*said, SYNC)
            + raw.converse(message(b"Q", b"SELECT '\xe9\xff'\0"))
            + raw.converse(message(b"P", b"\xff\xfe\0SELECT 1\0\0\0"), SYNC)
            + raw.converse(message(b"Q", b'DEALLOCATE "\xff\xfe"\0'))
            + raw.converse(message(b"B", b"\0\xff\xfe\0" + bytes(6)), SYNC)
        )
    assert heard[1] == heard[0]
    assert tell(heard[0]).endswith("T D C ZI E:42P05 ZI C ZI E:26000 ZI")


SMALL = 10_000
"""What PostgreSQL takes of messages that hold no more than names; it ends the connection of whoever sends more."""


@pytest.mark.parametrize("database", ["postgres", "session"])
@pytest.mark.parametrize("kind", [b"D", b"C", b"E", b"S", b"H", b"c", b"f"])
def test_messages_that_postgresql_takes_only_when_they_are_small(
    connect: Connect, direct: Raw, database: str, kind: bytes
) -> None:
    """A worker read a long Describe of a statement beyond the end of its buffer. The server is not lost for it."""

    def long(size: int, name: bytes = b"") -> bytes:
        return message(kind, b"S" + name.ljust(size - 6, b"x") + b"\0" if kind in b"DC" else b"x" * (size - 5) + b"\0")

    ready = 2 if kind == b"S" else 1
    expected = direct.log_in().ask(parse("SELECT 1"), long(SMALL), SYNC, ready=ready)
    raw = connect(database)
    assert raw.ask(parse("SELECT 1"), long(SMALL), SYNC, ready=ready) == expected
    pids = {raw.value("SELECT pg_backend_pid()")}
    for said in (long(SMALL + 1), long(70_000), long(10_000_000, b"name\0"), long(200_000, b"name\0")):
        for before in ([], [query("BEGIN"), query("SELECT 1")], [parse("SELECT 1", "name"), FLUSH]):
            raw = connect(database)
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                raw.send(*before, said, SYNC)
            assert raw.last_words()["C"] == "08P01"
    if database == "postgres":
        pids |= {raw.value("SELECT pg_backend_pid()") for raw in connect.many(12)}
        assert len(pids) <= POOL_SIZE


@pytest.mark.parametrize("count", [32_767, 32_768, 65_535])
def test_parameters_are_counted_without_a_sign(connect: Connect, direct: Raw, count: int) -> None:
    text = f"SELECT $1 + ${count}".encode() + b"\0" + struct.pack(f"!H{count}I", count, *[23] * count)
    values = b"".join([struct.pack("!i", 1) + b"7"] * count)
    said = [
        message(b"P", b"many\0" + text),
        describe_statement("many"),
        message(b"B", b"\0many\0" + struct.pack("!hH", 0, count) + values + bytes(2)),
        execute(),
        SYNC,
    ]
    expected = direct.log_in().converse(*said)
    assert tell(expected) == "1 t T 2 D C ZI"
    for _ in range(2):
        for raw in connect.many(3):
            assert raw.converse(*said) == expected


def test_a_long_result_behind_a_copy_in_the_same_string(connect: Connect, table: str) -> None:
    for database in ("postgres", "session"):
        raw = connect(database)
        raw.send(query(f"COPY {table} FROM STDIN; SELECT repeat('x', 900) FROM generate_series(1, 2000)"))
        raw.until("G")
        got = raw.converse(copy_data(b"1\tone\n"), COPY_DONE)
        assert tell(got) == "C T " + "D " * 2000 + "C ZI"


def test_large_objects_by_function_calls_in_a_transaction(connect: Connect) -> None:
    """A descriptor lives in its transaction: every call reaches the same server. By the oids in pg_proc.dat."""
    raw, others = connect(), connect.many(4)

    def call(oid: int, *arguments: bytes) -> Message:
        got = raw.converse(function_call(oid, arguments))
        assert tell(got) == "V ZT"
        for other in others:
            assert other.value("SELECT 'served'") == "served"
        return got[0]

    raw.ask(query("BEGIN"))
    made = call(957, struct.pack("!i", 0x60000)).body[4:]
    handle = call(952, made, struct.pack("!i", 0x60000)).body[4:]
    call(955, handle, b"x" * 300_000)
    call(956, handle, bytes(4), bytes(4))
    assert call(954, handle, struct.pack("!i", 300_000)).body[4:] == b"x" * 300_000
    assert raw.ask(function_call(954, [struct.pack("!i", 99), struct.pack("!i", 1)])) == "E:42704 ZE"
    assert raw.ask(query("ROLLBACK")) == "C ZI"
    for _ in range(5):
        assert raw.ask(function_call(1598, [])) == "V ZI"
    assert [other.value("SELECT 'served'") for other in others] == ["served"] * 4


@pytest.mark.parametrize("first", ["", "2"], ids=["nothing", "bind"])
def test_known_texts_without_a_sync_are_answered_and_take_no_memory(
    connect: Connect, worker_memory: Callable[[], int], first: str
) -> None:
    """PostgreSQL answers what fills its buffer; so must we. first: what stands before them, in PostgreSQL's buffer."""
    raw = connect()
    assert raw.ask(parse("SELECT 1"), SYNC) == "1 ZI"
    before = worker_memory()
    if first:
        raw.send(bind())
    said, complete, turns = parse("SELECT 1") * 2000, b"1\0\0\0\4", 150
    for turn in range(turns):
        raw.send(said)
        if first and turn == 3:
            assert raw.next().kind == b"2"
        if turn >= 3:
            assert raw.read_bytes(1990 * 5) == complete * 1990
    assert worker_memory() - before < 10 << 20
    raw.send(bind(), execute(), SYNC)
    left = turns * 2000 - (turns - 3) * 1990
    assert raw.read_bytes(left * 5) == complete * left
    assert tell(raw.until("Z")) == "2 D C ZI"


def test_a_long_error_that_has_a_name_like_ours_in_it_is_left_as_it_is(connect: Connect, direct: Raw) -> None:
    """Names of ours are replaced in errors, which are whole then; a long one was cut off in the middle."""
    heard = []
    for raw in (direct.log_in(), connect()):
        heard.append([])
        for size in (100, 60_000, 200_000):
            text = f"DO $$BEGIN RAISE EXCEPTION '%', 'DOORMAN_' || repeat('0', {size}); END$$"
            heard[-1] += raw.converse(query(text)) + raw.converse(parse(text), bind(), execute(), SYNC)
            heard[-1] += raw.converse(query("SELECT 1"))
    assert heard[1] == heard[0]


# --- cancels over each kind of socket --------------------------------------------------------------------------------


def test_a_cancel_by_the_other_kind_of_socket(make_doorman: Any, postgres: Postgres, tmp_path: Path) -> None:
    doorman = make_doorman(general={"unix_socket_dir": str(tmp_path), "worker_threads": 2})
    tcp, unix = (doorman.host, doorman.port), tmp_path / f".s.PGSQL.{doorman.port}"
    for mine, other in ((tcp, unix), (unix, tcp), (unix, unix)):
        with Raw(mine).log_in() as raw:
            raw.send(query("SELECT pg_sleep(20)"))
            wait_until(lambda: postgres.activity(usename="app", wait_event="PgSleep"), "it sleeps")
            assert cancel(other, raw.pid, raw.secret) == b""
            assert tell(raw.until("Z")).endswith("E:57014 ZI")
            assert raw.value("SELECT 'lives'") == "lives"


# --- servers that say what PostgreSQL never says, or nothing more ----------------------------------------------------


class Forger(Proxy):
    """`forge` is given the next bytes from PostgreSQL; what it returns, of the same length, is passed on."""

    def __init__(self, target: Postgres) -> None:
        super().__init__(target)
        self.forge: Callable[[bytes], bytes] | None = None
        self.said = b""

    def cut_answer(self, data: bytes) -> bytes:
        self.said += data[: 1 << 16]
        if self.forge is not None:
            forge, self.forge = self.forge, None
            return forge(data)
        return data


class Scissors(Proxy):
    """Ends a connection in front of a request that has `before` in it."""

    before = b""

    def cut_request(self, data: bytes) -> bytes:
        return b"" if self.before and self.before in data else data


@pytest.fixture
def forger(postgres: Postgres) -> Iterator[Forger]:
    with Forger(postgres) as proxy:
        yield proxy


def behind(proxy: Proxy, postgres: Postgres, mode: str = "transaction") -> Doorman:
    """A pooler whose only server is behind the proxy."""
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 1)], pool_mode=mode, **proxy.pool)}
    return Doorman(postgres, pools=pools, general={"query_wait_timeout": 20_000, "worker_threads": 2})


def test_servers_are_asked_for_the_newest_protocol_and_long_keys(forger: Forger, postgres: Postgres) -> None:
    with behind(forger, postgres) as doorman, Raw((doorman.host, doorman.port)).log_in() as raw:
        assert raw.value("SELECT 1") == "1"
        assert b"K\0\0\0\x28" in forger.said, "a secret of 32 bytes"
        raw.send(query("SELECT pg_sleep(20)"))
        wait_until(lambda: postgres.activity(usename="app", wait_event="PgSleep"), "it sleeps")
        cancel((doorman.host, doorman.port), raw.pid, raw.secret)
        assert tell(raw.until("Z")).endswith("E:57014 ZI")


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "a status that there is not": lambda said: said[:-1] + b"X",
    "a length below four": lambda said: b"D\0\0\0\3" + said[5:],
    "a length beyond all limits": lambda said: b"D\x7f\xff\xff\xff" + said[5:],
    "a long ReadyForQuery": lambda said: b"Z\0\0\0\6" + said[5:],
}


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("name", FORGERIES)
def test_what_postgresql_never_says_ends_that_server(forger: Forger, postgres: Postgres, name: str, mode: str) -> None:
    """Its client leaves in session mode; in transaction mode it may as well stay idle."""
    with behind(forger, postgres, mode) as doorman:
        raw, other = Raw((doorman.host, doorman.port)).log_in(), Raw((doorman.host, doorman.port))
        pid = raw.value("SELECT pg_backend_pid()")
        forger.forge = FORGERIES[name]
        raw.send(query("SELECT 1"))
        wait_until(lambda: forger.forge is None, "it was answered")
        if mode == "session":
            time.sleep(0.1)
            raw.close()
        assert other.log_in().value("SELECT pg_backend_pid()") != pid
        for one in (raw, other):
            one.close()
        wait_until(lambda: is_idle(doorman), "the pool is whole")
        for words in ("Traceback", "internal error"):
            assert not doorman.log_contains(words), doorman.log_text()


def test_the_last_answer_arrives_although_the_clean_up_fails(postgres: Postgres) -> None:
    """The server ends at its clean-up: nobody is told but the pool, which has another."""
    with Scissors(postgres) as scissors, behind(scissors, postgres) as doorman:
        raws = [Raw((doorman.host, doorman.port)).log_in() for _ in range(4)]
        for raw in raws:
            scissors.before = b"RESET ALL"
            pid = raw.value("SELECT pg_backend_pid()")
            assert raw.ask(query("SET work_mem = '7MB'")) == "C ZI"
            scissors.before = b""
            assert raw.is_silent(0.05)
            assert raw.rows("SELECT pg_backend_pid(), current_setting('work_mem')") != [[pid, "7MB"]]
            assert raw.value("SHOW work_mem") == "4MB"


def test_statements_that_a_function_has_dropped_come_back(make_doorman: Any, postgres: Postgres) -> None:
    """No tag tells of it: every client of that server was told 26000 from then on, by every use."""
    postgres.query("CREATE OR REPLACE FUNCTION forget() RETURNS text LANGUAGE plpgsql AS $$"
                   "BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 'done'; END$$")  # fmt: skip
    doorman = make_doorman(pools={"postgres": pool_of(postgres, users=[user_of("app", 1)])})
    fresh, told, other = (Raw((doorman.host, doorman.port)).log_in() for _ in range(3))
    used = [bind([], "s"), execute(), SYNC]
    assert fresh.ask(parse("SELECT 'fresh'", "s"), *used) == "1 2 D C ZI"
    assert told.ask(parse("SELECT 'told'", "s"), describe_statement("s"), *used) == "1 t T 2 D C ZI"
    for _ in range(2):
        assert other.value("SELECT forget()") == "done"
        assert fresh.ask(*used) == "2 D C ZI"
        assert told.ask(*used) == "2 D C ZI"
        assert other.value("SELECT forget()") == "done"
        assert told.ask(*used) in ("2 D C ZI", "E:26000 ZI"), "once at most"
        assert told.ask(*used) == "2 D C ZI"
        assert other.value("SELECT forget()") == "done"
        assert fresh.ask(query("BEGIN"), query("SELECT 1"), *used, query("ROLLBACK"), ready=4).endswith("C ZI")
        assert fresh.ask(*used) == "2 D C ZI"
    for raw in (fresh, told, other):
        raw.close()


# --- clean-up that is switched off -----------------------------------------------------------------------------------


def test_without_clean_up_servers_hold_what_is_believed_of_them(make_doorman: Any, postgres: Postgres) -> None:
    """Settings stay, as configured; but never a statement that is believed to be there and is not."""
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 1)], cleanup_server_connections=False)}
    doorman = make_doorman(pools=pools, general={"worker_threads": 2})

    def client() -> Raw:
        return Raw((doorman.host, doorman.port)).log_in()

    stays = client()
    for turn in range(6):
        text = f"SELECT 'turn {turn}'"
        leaver = client()
        if turn % 3 == 0:
            leaver.send(parse(text, "s"))
            time.sleep(0.05)
        elif turn % 3 == 1:
            leaver.send(parse("SELEC"), parse(text, "s"), FLUSH)
            leaver.until("E")
        else:
            assert leaver.ask(parse(text, "s"), query("DEALLOCATE ALL"), SYNC, ready=2) == "1 C ZI ZI"
        leaver.reset()
        for raw in (client(), stays):
            got = raw.converse(parse(text), bind(), execute(), SYNC)
            assert [one.columns() for one in got if one.kind == b"D"] == [[f"turn {turn}".encode()]]
    assert stays.ask(query("PREPARE own AS SELECT 1")) == "C ZI"
    assert client().ask(query("PREPARE own AS SELECT 1")) == "C ZI"
