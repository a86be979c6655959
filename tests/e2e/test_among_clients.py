"""What clients share without knowing it: prepared statements and their plans, the unnamed statement, portals, what is
remembered of answers that are owed.

Each scene is also played directly to PostgreSQL, whose answers are the ones to give.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Connect
from tests.e2e.lone import Lone, extended, lone_pooler
from tests.e2e.raw import Ended, Raw
from tests.harness import Doorman, Postgres
from tests.torture.wire import (
    SYNC,
    TERMINATE,
    Message,
    bind,
    close_statement,
    describe_portal,
    describe_statement,
    execute,
    message,
    parse,
    query,
)

Dial = Callable[[], Raw]


def words(answer: list[Message]) -> list[str]:
    """What a client is told, one by one, in short."""
    told = []
    for got in answer:
        if got.kind == b"E":
            told.append(f"E {got.fields()['C']} {got.fields()['M']}")
        elif got.kind == b"D":
            told.append(f"D {got.columns()}")
        elif got.kind not in b"SN":
            told.append(got.kind.decode())
    return told


def ask(raw: Raw, *data: bytes, ready: int = 1) -> list[str]:
    return words(raw.converse(*data, ready=ready))


def run(sql: str, name: str = "") -> bytes:
    """A statement, without Sync."""
    return parse(sql, name) + bind([], name) + execute()


def literals_that_a_setting_folds(dial: Dial) -> Iterator[list[str]]:
    text = "SELECT 0.1234567890123::float8::text, '\\x4142'::bytea::text"
    one, other = dial(), dial()
    one.ask(query("BEGIN"), query("SET LOCAL extra_float_digits = -12"), ready=2)
    one.ask(query("SET LOCAL bytea_output = 'escape'"))
    yield ask(one, extended(text))
    one.ask(query("COMMIT"))
    yield ask(other, extended(text))


def a_plan_made_under_a_setting_of_another(dial: Dial) -> Iterator[list[str]]:
    text = "SELECT quote_ident('abc')"
    one, other = dial(), dial()
    one.ask(parse(text, "s"), SYNC)
    one.ask(query("BEGIN"), query("SET LOCAL quote_all_identifiers = on"), ready=2)
    yield ask(one, bind([], "s"), execute(), SYNC)
    one.ask(query("COMMIT"))
    yield ask(other, extended(text))


def a_close_of_ours_that_was_skipped(dial: Dial) -> Iterator[list[str]]:
    text = "EXPLAIN (COSTS OFF) SELECT 1 AS execute"
    one, other = dial(), dial()
    one.ask(extended(text))
    yield ask(one, run("SELECT 1/0"), run(text), SYNC)
    for raw in (other, one, other):
        yield ask(raw, extended(text))


def two_runs_of_a_stale_statement_in_a_batch(dial: Dial) -> Iterator[list[str]]:
    one, other = dial(), dial()
    other.ask(query("CREATE TABLE changing (x int)"), query("INSERT INTO changing VALUES (1)"), ready=2)
    text = "SELECT x FROM changing"
    one.ask(parse(text, "s"), bind([], "s"), describe_portal(), execute(), SYNC)
    other.ask(query("ALTER TABLE changing ALTER x TYPE bigint"))
    for _ in range(2):
        yield ask(one, bind([], "s"), execute(), bind([], "s"), execute(), SYNC)
    for raw in (other, dial(), other):
        yield ask(raw, extended(text))
    other.ask(query("DROP TABLE changing"))


def the_unnamed_statement_behind_two_batches_that_failed(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    for text in ("SELECT 'first'", "SELECT 'second'", "SELECT 'before'"):
        one.ask(extended(text))
    batches = [bind([], "nope") + parse(text) + SYNC for text in ("SELECT 'first'", "SELECT 'second'")]
    yield ask(one, *batches, ready=2)
    yield ask(one, bind(), execute(), SYNC)


def a_close_behind_a_batch_that_failed(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    for text in ("SELECT 'first'", "SELECT 'before'"):
        one.ask(extended(text))
    batches = [bind([], "nope") + parse("SELECT 'first'") + SYNC, bind([], "nope") + close_statement("") + SYNC]
    yield ask(one, *batches, ready=2)
    yield ask(one, bind(), execute(), SYNC)


def a_change_that_is_rolled_back_in_part(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    one.ask(query("CREATE TABLE grows (a int)"), query("INSERT INTO grows VALUES (1)"), ready=2)
    one.ask(query("BEGIN"), query("SAVEPOINT a"), query("ALTER TABLE grows ADD b int"), ready=3)
    yield ask(one, extended("SELECT * FROM grows"))
    one.ask(query("ROLLBACK TO a"))
    yield ask(one, extended("SELECT * FROM grows"))
    one.ask(query("ROLLBACK"), query("DROP TABLE grows"), ready=2)


def a_temporary_table_that_is_dropped(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    one.ask(query("CREATE TABLE seen (a int)"), query("INSERT INTO seen VALUES (1)"), ready=2)
    for drop in (query("DROP TABLE seen"), extended("DROP TABLE seen")):
        one.ask(query("BEGIN"), query("CREATE TEMP TABLE seen (a int, b int)"), ready=2)
        yield ask(one, extended("SELECT * FROM seen"))
        one.ask(drop)
        yield ask(one, extended("SELECT * FROM seen"))
        one.ask(query("ROLLBACK"))
    one.ask(query("DROP TABLE seen"))


def a_table_exchanged_by_way_of_a_temporary_one(dial: Dial) -> Iterator[list[str]]:
    one, other = dial(), dial()
    one.ask(query("CREATE TABLE swapped (a int)"), query("INSERT INTO swapped VALUES (1)"), ready=2)
    yield ask(other, extended("SELECT * FROM swapped"))
    one.ask(query("BEGIN"), query("CREATE TEMP TABLE rest AS SELECT * FROM swapped"), ready=2)
    one.ask(query("DROP TABLE swapped"), query("CREATE TABLE swapped (a int, b int)"), query("COMMIT"), ready=3)
    other.ask(query("BEGIN"), query("SELECT 1"), ready=2)
    yield ask(other, extended("SELECT * FROM swapped"))
    other.ask(query("ROLLBACK"), query("DROP TABLE swapped"), ready=2)


def objects_that_hide_others_by_a_new_name(dial: Dial) -> Iterator[list[str]]:
    one, other = dial(), dial()
    one.ask(query("CREATE FUNCTION public.said() RETURNS text RETURN 'public'; CREATE SEQUENCE public.counted START 5"))
    path = query("SET search_path = earlier, public")
    for change in (
        "CREATE SCHEMA earlier; CREATE SEQUENCE earlier.c; CREATE FUNCTION earlier.told() RETURNS text RETURN 'e'",
        "ALTER FUNCTION earlier.told() RENAME TO said",
        "ALTER SEQUENCE earlier.c RENAME TO counted",
    ):
        one.ask(query(change))
        for text in ("SELECT said()", "SELECT last_value FROM counted"):
            other.ask(query("BEGIN"), path, ready=2)
            yield ask(other, extended(text))
            other.ask(query("COMMIT"))
    one.ask(query("DROP SCHEMA earlier CASCADE; DROP FUNCTION public.said(); DROP SEQUENCE public.counted"))


def a_portal_that_could_not_be_made_again(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    one.ask(parse("SELECT 'a'", "a"), parse("SELECT 1, 'b'", "b"), SYNC)
    one.ask(query("BEGIN"), bind([], "a", "p"), SYNC, query("SAVEPOINT s"), ready=3)
    yield ask(one, bind([], "b", "p"), SYNC)
    one.ask(query("ROLLBACK TO s"))
    yield ask(one, describe_portal("p"), execute("p"), SYNC)
    one.ask(query("COMMIT"))
    for name in "ab":
        yield ask(one, bind([], name), describe_portal(), execute(), SYNC)


def names_longer_than_postgresql_looks(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    yield ask(one, parse("SELECT 'x'", "n" * 70), SYNC)
    yield ask(one, bind([], "n" * 63), execute(), SYNC)
    yield ask(one, bind([], "n" * 64), execute(), SYNC)
    yield ask(one, query("EXECUTE " + "n" * 70))
    yield ask(one, query("DEALLOCATE " + "n" * 70))
    yield ask(one, bind([], "n" * 63), execute(), SYNC)


def a_fetch_described_before_there_is_a_cursor(dial: Dial) -> Iterator[list[str]]:
    one, other = dial(), dial()
    yield ask(one, parse("FETCH ALL FROM h", "f"), message(b"D", b"Sf\0"), SYNC)
    for columns in ("1", "1, 2"):
        other.ask(query("CREATE TABLE passing (a int)"), query("DROP TABLE passing"), ready=2)
        one.ask(query("BEGIN"), query(f"DECLARE h CURSOR FOR SELECT {columns}"), ready=2)
        for _ in range(2):
            yield ask(one, bind([], "f"), describe_portal(), execute(), SYNC)
        one.ask(query("COMMIT"))
    yield ask(one, bind([], "f"), describe_portal(), execute(), SYNC)


def an_error_that_speaks_of_the_unnamed_statement(dial: Dial) -> Iterator[list[str]]:
    one, other = dial(), dial()
    one.ask(run("SET TimeZone = 'Asia/Tokyo'"), parse("SELECT 1"), SYNC)
    other.ask(query("SELECT 1"))
    yield ask(one, bind([b"1"]), SYNC)


def what_a_portal_would_have_forgotten(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    one.ask(parse("SELECT 1", "s"), parse("DEALLOCATE ALL", "d"), SYNC)
    one.ask(query("BEGIN"), query("PREPARE q AS SELECT 2"), ready=2)
    yield ask(one, bind([], "d"), SYNC)
    yield ask(one, bind([], "q"), execute(), SYNC)  # the portal runs something else now
    yield ask(one, bind([], "s"), execute(), SYNC)


def what_was_closed_before_its_portal_forgets_it(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    one.ask(parse("SELECT 1", "s"), parse("DEALLOCATE s", "d"), SYNC)
    yield ask(one, bind([], "d"), close_statement("s"), execute(), SYNC)
    yield ask(one, bind([], "s"), execute(), SYNC)


def a_name_given_anew_by_sql(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    one.ask(parse("SELECT 1", "s"), SYNC)
    one.ask(query("BEGIN"))
    yield ask(one, query("DEALLOCATE ALL; PREPARE s AS SELECT 2"))
    yield ask(one, query("EXECUTE s"))
    one.ask(query("COMMIT"))


def a_cursor_of_sql_with_the_name_of_a_portal(dial: Dial) -> Iterator[list[str]]:
    one = dial()
    one.ask(parse("SELECT 1 AS x", "s"), describe_statement("s"), SYNC)
    one.ask(query("BEGIN"))
    one.ask(bind([], "s", "c"), SYNC)
    one.ask(query("CLOSE c; DECLARE c CURSOR FOR SELECT 'a'::text AS y"))
    yield ask(one, describe_portal("c"), SYNC)
    yield ask(one, bind([], "s"), execute(), SYNC)
    one.ask(query("COMMIT"))
    yield ask(one, bind([], "s"), execute(), SYNC)


SCENES = [
    what_a_portal_would_have_forgotten,
    what_was_closed_before_its_portal_forgets_it,
    a_name_given_anew_by_sql,
    a_cursor_of_sql_with_the_name_of_a_portal,
    literals_that_a_setting_folds,
    a_plan_made_under_a_setting_of_another,
    a_close_of_ours_that_was_skipped,
    two_runs_of_a_stale_statement_in_a_batch,
    the_unnamed_statement_behind_two_batches_that_failed,
    a_close_behind_a_batch_that_failed,
    a_change_that_is_rolled_back_in_part,
    a_temporary_table_that_is_dropped,
    a_table_exchanged_by_way_of_a_temporary_one,
    objects_that_hide_others_by_a_new_name,
    a_portal_that_could_not_be_made_again,
    names_longer_than_postgresql_looks,
    a_fetch_described_before_there_is_a_cursor,
    an_error_that_speaks_of_the_unnamed_statement,
]


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler() as services:
        yield services


@pytest.mark.parametrize("pool", ["one", "two"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_scene_is_answered_as_postgresql_would(
    services: tuple[Postgres, Doorman], scene: Callable[[Dial], Iterator[list[str]]], pool: str
) -> None:
    with Lone(*services) as lone:

        def direct() -> Raw:
            raw = Raw((lone.postgres.host, lone.postgres.port)).log_in()
            lone.made.append(raw)
            return raw

        wanted = list(scene(direct))
        assert list(scene(lambda: lone.client(pool))) == wanted


LEAVINGS: dict[str, bytes] = {
    "Close": close_statement("zz"),
    "Parse": parse("SELECT 1"),
    "Parse that fails": parse("SELEC"),
    "portal": run("SELECT 1"),
}


@pytest.mark.parametrize("takes_leave", [True, False], ids=["in order", "vanishes"])
@pytest.mark.parametrize("unsynced", LEAVINGS)
@pytest.mark.parametrize("renames", [True, False], ids=["renaming", "without"])
def test_what_is_answered_to_who_has_left_is_nobodys(renames: bool, unsynced: str, takes_leave: bool) -> None:
    """A Query right behind unsynced messages: whose is the error? Too few answers were awaited, others got the rest."""
    with lone_pooler(general={"prepared_statements": renames}) as services, Lone(*services) as lone:
        for _ in range(6):
            other, raw = lone.client(), lone.client()
            raw.ask(query("SELECT 1"))
            behind = [query("SELEC"), query("SELECT pg_sleep(0.03)"), query("SELECT 'secret', pg_sleep(0.03)"), SYNC]
            raw.send(LEAVINGS[unsynced], *behind, TERMINATE if takes_leave else b"")
            raw.close()
            began = time.monotonic()
            for text in ("mine", "again"):
                assert other.rows(f"SELECT '{text}'") == [[text]]
            assert time.monotonic() - began < 2.5
            other.close()


def test_how_the_transactions_of_one_begin_does_not_hold_up_another(services: tuple[Postgres, Doorman]) -> None:
    """What the pooler asks for the next client waited for a safe snapshot."""
    names = ("isolation=serializable", "read_only=on", "deferrable=on")
    careful = " ".join(f"-c default_transaction_{name}" for name in names)
    with Lone(*services) as lone, Raw((lone.postgres.host, lone.postgres.port)).log_in() as writer:
        other, raw = lone.client(TimeZone="Asia/Tokyo"), lone.client(options=careful)
        assert other.value("SHOW TimeZone") == "Asia/Tokyo"
        assert raw.value("SHOW default_transaction_deferrable") == "on"
        writer.ask(query("BEGIN ISOLATION LEVEL SERIALIZABLE"), query("INSERT INTO kept VALUES (2, 'x')"), ready=2)
        began = time.monotonic()
        assert other.value("SHOW TimeZone") == "Asia/Tokyo"
        assert time.monotonic() - began < 1


def test_without_renaming_nobody_finds_the_unnamed_statement_of_another() -> None:
    with lone_pooler(general={"prepared_statements": False}) as services, Lone(*services) as lone:
        one, other = lone.client(), lone.client()
        for _ in range(3):
            one.ask(parse("SELECT 'of one'"), SYNC)
            assert ask(other, bind(), execute(), SYNC) == ["E 26000 unnamed prepared statement does not exist", "Z"]
            assert ask(other, extended("SELECT 'of other'")) == ["1", "2", "D [b'of other']", "C", "Z"]
        one.ask(query("BEGIN"))
        one.ask(parse("SELECT 'kept'"), SYNC)
        assert ask(one, bind(), execute(), SYNC) == ["2", "D [b'kept']", "C", "Z"]
        one.ask(query("COMMIT"))


SKIPPED = {
    "Parse": parse("SELECT 'mine'"),
    "Bind": bind(),
    "Query": query("SELECT 1"),
    "Close": close_statement(""),
}


@pytest.mark.parametrize("what", SKIPPED)
@pytest.mark.parametrize("together", [True, False], ids=["in one write", "after the error"])
def test_without_renaming_what_is_skipped_takes_nothing_away(what: str, together: bool) -> None:
    """PostgreSQL skips it for the error before it: what another client has parsed is still there."""
    failing = bind([], "nope") + SKIPPED[what] + SYNC
    with lone_pooler(general={"prepared_statements": False}) as services, Lone(*services) as lone:
        one, other = lone.client(), lone.client()
        for _ in range(3):
            one.ask(parse("SELECT 'of one'"), SYNC)
            sent = [failing + bind() + execute() + SYNC] if together else [failing, bind() + execute() + SYNC]
            told = [word for data in sent for word in ask(other, data, ready=1 + together)]
            assert told == [
                *('E 26000 prepared statement "nope" does not exist', "Z"),
                *("E 26000 unnamed prepared statement does not exist", "Z"),
            ]


def test_without_renaming_what_a_copy_takes_for_data_takes_nothing_away() -> None:
    with lone_pooler(general={"prepared_statements": False}) as services, Lone(*services) as lone:
        for what in SKIPPED.values():
            one, other = lone.client(), lone.client()
            one.ask(parse("SELECT 'of one'"), SYNC)
            other.send(parse("COPY kept FROM STDIN", "c") + bind([], "c") + execute() + SYNC + what + SYNC)
            other.send(bind() + execute() + SYNC)
            with contextlib.suppress(Ended):  # in doubt the connection ends
                assert "of one" not in "".join(words(other.until("Z") + other.until("Z")))
            one.close()
            other.close()


def test_without_renaming_ones_own_unnamed_statement_outlives_errors() -> None:
    with lone_pooler(general={"prepared_statements": False}) as services, Lone(*services) as lone:
        one = lone.client()
        failing = parse("SELECT 'mine'") + bind([], "nope") + SYNC
        for _ in range(3):
            told = ask(one, failing + bind() + execute() + SYNC, ready=2)
            assert told == ["1", 'E 26000 prepared statement "nope" does not exist', "Z", "2", "D [b'mine']", "C", "Z"]


def call(oid: int, *arguments: bytes) -> bytes:
    body = oid.to_bytes(4, "big") + b"\0\0" + len(arguments).to_bytes(2, "big")
    body += b"".join(len(one).to_bytes(4, "big") + one for one in arguments)
    return message(b"F", body + b"\0\0")


def test_without_renaming_a_function_call_leaves_nothing() -> None:
    with lone_pooler(general={"prepared_statements": False}) as services, Lone(*services) as lone:
        one, other = lone.client(), lone.client()
        one.ask(call(2880, b"77"))
        one.ask(call(2078, b"work_mem", b"5MB", b"f"))
        assert other.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0"
        assert other.value("SHOW work_mem") == "4MB"


# --- what is owed -----------------------------------------------------------------------------------------------------

BIG = "SELECT 1 --" + "x" * 1_000_000
OWED = {"Close": (close_statement("") * 20_000, 40_000_000), "Parse": (parse(BIG), 200_000_000)}


@pytest.mark.parametrize("what", OWED)
def test_one_that_sends_on_while_nothing_is_answered_is_read_no_more(
    connect: Connect, worker_memory: Any, what: str
) -> None:
    """What needs no server is not sent on, so PostgreSQL does not hold such a client up."""
    raw, other = connect(), connect()
    raw.ask(parse(BIG), SYNC)
    raw.send(run("SELECT pg_sleep(2)"))
    before = worker_memory()
    chunk, most = OWED[what]
    raw.socket.settimeout(0.5)
    sent = 0
    try:
        while sent < most:
            sent += raw.socket.send(chunk)
    except TimeoutError:
        pass
    assert worker_memory() - before < 60_000_000
    assert sent < most
    raw.socket.settimeout(20)
    assert other.value("SELECT 1") == "1"
    assert [raw.next().kind for _ in range(5)] == [b"1", b"2", b"D", b"C", b"1" if what == "Parse" else b"3"]
    raw.reset()


def test_one_that_was_held_up_for_what_it_is_owed_gets_everything(connect: Connect) -> None:
    raw = connect()
    raw.ask(run("SELECT 1"), SYNC)
    count = 30_000
    raw.socket.settimeout(20)
    raw.send(run("SELECT pg_sleep(0.3)"), (parse("SELECT 1") + close_statement("")) * count)
    raw.send(parse("SELECT 'end'"), bind(), execute(), SYNC)
    kinds = b"".join(got.kind for got in raw.until("Z"))
    assert kinds == b"12DC" + b"13" * count + b"12DCZ"


def test_a_copy_behind_much_that_is_owed(connect: Connect, table: str) -> None:
    raw = connect()
    raw.ask(run("SELECT 1"), SYNC)
    raw.send((parse("SELECT 1") + close_statement("")) * 10_000, run(f"COPY {table} FROM STDIN"))
    raw.send(message(b"d", b"1\tone\n") * 3, message(b"c", b""), SYNC)
    assert b"".join(got.kind for got in raw.until("Z")) == b"13" * 10_000 + b"12GCZ"


def test_errors_in_a_long_pipeline_cost_time_in_proportion(connect: Connect) -> None:
    raw, other = connect(), connect()
    raw.ask(run("SELECT 1"), SYNC)
    took = []
    for count in (4_000, 16_000):
        raw.socket.settimeout(60)
        begun = time.monotonic()
        raw.send(run("SELECT 1/0 FROM pg_sleep(0.2)"), (parse("SELECT 1") + close_statement("")) * count, SYNC * count)
        for _ in range(count):
            raw.until("Z")
        took.append(time.monotonic() - begun)
        assert other.value("SELECT 1") == "1"
    assert took[1] < 8 * took[0] + 1, took


def test_portals_with_long_names_are_not_kept(connect: Connect, worker_memory: Any) -> None:
    raw = connect()
    raw.ask(query("BEGIN"), parse("SELECT 1", "s"), SYNC, ready=2)
    before = worker_memory()
    for number in range(200):
        names = [f"{number * 20 + at:08d}" + "p" * 9_000 for at in range(20)]
        raw.ask(*(bind([], "s", name) + message(b"C", b"P" + name.encode() + b"\0") for name in names), SYNC)
    assert worker_memory() - before < 30_000_000
    raw.ask(query("COMMIT"))
