"""A Parse that failed, was never sent or was never answered leaves nothing behind: not for its client, not for others.

trap: pg_doorman 3.3.4, 3.10.0; Odyssey #1361; PgCat PR #953.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.conftest import Connect
from tests.e2e.raw import Raw, tell, wait_until
from tests.e2e.traps.clients import KEEPS, WORK, ask, on_each_server, run, whole
from tests.harness import Doorman, Postgres
from tests.torture.wire import FLUSH, SYNC, bind, close_statement, describe_statement, execute, parse, query

every_size = pytest.mark.parametrize("database", KEEPS)


@every_size
@pytest.mark.parametrize("name", ["", "ghost"])
def test_a_refused_text_fails_again_and_works_when_its_table_is_there(
    connect: Connect, postgres: Postgres, database: str, name: str
) -> None:
    table = f"late_{database}_{name or 'unnamed'}"
    clients = connect.many(4, database)
    for turn in range(3):
        for raw in clients:
            raw.send(whole(f"SELECT count(*) FROM {table}", name), SYNC)
        for raw in clients:
            fields = [got.fields() for got in raw.until("Z") if got.kind == b"E"]
            assert [one["M"] for one in fields] == [f'relation "{table}" does not exist'], turn
            assert fields[0]["P"] == "22"
    for _ in on_each_server(connect, database):
        assert ask(clients[0], parse(f"SELECT count(*) FROM {table}", name)) == ["42P01"]
        assert ask(clients[0], run(name)) == ["26000"]
    postgres.query(f"CREATE TABLE {table} ()")
    for raw in clients:
        assert ask(raw, whole(f"SELECT count(*) FROM {table}", name)) == ["0"]
    for _ in on_each_server(connect, database):
        assert ask(clients[0], run(name)) == ["0"] if name else True
        assert ask(clients[1], whole(f"SELECT count(*) FROM {table}")) == ["0"]
    postgres.query(f"DROP TABLE {table}")


@every_size
def test_parses_before_the_refused_one_stay_and_those_behind_it_never_were(connect: Connect, database: str) -> None:
    """trap: pg_doorman 3.10: an error on Parse N must not roll back those already confirmed."""
    for turn in range(2):
        raw = connect(database)
        batch = [
            parse("SELECT 'first'", "a"),
            parse("SELECT 'second'", "b"),
            parse("SELEC", "c"),
            parse("SELECT 4", "d"),
        ]
        assert raw.ask(*batch, SYNC) == "1 1 E:42601 ZI", turn
        assert [ask(raw, run(name)) for name in "abcd"] == [["first"], ["second"], ["26000"], ["26000"]]
        assert ask(raw, parse("SELECT 'again'", "c"), parse("SELECT 'late'", "d"), run("d"), run("c")) == [
            "late",
            "again",
        ]


@every_size
def test_the_completion_of_a_known_parse_comes_before_the_error_and_not_behind_it(
    connect: Connect, database: str
) -> None:
    """trap: pg_doorman 3.1.8."""
    connect(database).ask(parse("SELECT 'known'", "k"), SYNC)
    for _ in on_each_server(connect, database):
        raw = connect(database)
        assert raw.ask(parse("SELECT 'known'", "k"), parse("SELEC"), SYNC) == "1 E:42601 ZI"
        assert raw.ask(parse("SELEC"), parse("SELECT 'known'", "l"), SYNC) == "E:42601 ZI"
        assert ask(raw, run("k")) == ["known"]
        assert ask(raw, run("l")) == ["26000"]


def test_a_missing_statement_is_26000_by_its_own_name_and_the_session_lives(connect: Connect) -> None:
    """trap: pg_doorman 3.7.0."""
    raw = connect()
    for data in (run("nobody"), describe_statement("nobody")):
        error = raw.error(data, SYNC)
        assert (error["C"], error["V"]) == ("26000", "ERROR")
        assert '"nobody"' in error["M"]
    assert raw.error(run(), SYNC)["C"] == "26000"
    assert raw.ask(close_statement("nobody"), SYNC) == "3 ZI"
    assert raw.value("SELECT 1") == "1"


@every_size
def test_close_after_a_refused_parse(connect: Connect, database: str) -> None:
    raw = connect(database)
    assert raw.ask(parse("SELEC", "x"), close_statement("x"), SYNC) == "E:42601 ZI"
    assert raw.ask(parse("SELEC", "x"), SYNC) == "E:42601 ZI"
    assert raw.ask(close_statement("x"), parse("SELECT 'new'", "x"), run("x"), SYNC) == "3 1 2 D C ZI"
    assert (
        raw.ask(close_statement("x"), parse("SELEC", "x"), SYNC, run("x"), SYNC, ready=2) == "3 E:42601 ZI E:26000 ZI"
    )


@every_size
def test_a_close_that_is_skipped_closes_nothing(connect: Connect, database: str) -> None:
    raw = connect(database)
    ask(raw, parse("SELECT 'stays'", "x"))
    assert raw.ask(parse("SELEC"), close_statement("x"), parse("SELECT 'never'", "x"), SYNC) == "E:42601 ZI"
    assert ask(raw, run("x")) == ["stays"]


@every_size
def test_a_refused_parse_in_a_transaction(connect: Connect, database: str) -> None:
    raw, other = connect(database), connect(database)
    raw.ask(WORK)
    assert raw.ask(parse("SELECT 'good'", "g"), parse("TABLE nowhere", "x"), SYNC) == "1 E:42P01 ZE"
    assert raw.ask(parse("SELECT 'good'", "h"), SYNC) == "E:25P02 ZE"
    assert raw.ask(query("ROLLBACK")) == "C ZI"
    assert [ask(raw, run(name)) for name in "gxh"] == [["good"], ["26000"], ["26000"]]
    assert ask(other, whole("TABLE nowhere")) == ["42P01"]


@every_size
def test_a_table_that_was_rolled_back_or_dropped(connect: Connect, postgres: Postgres, database: str) -> None:
    """The statement outlives its table. The error comes with the batch, and goes with the table's return."""
    raw, other = connect(database), connect(database)
    text = "SELECT count(*) FROM rolled_back"
    raw.ask(query("BEGIN; CREATE TABLE rolled_back ()"))
    assert ask(raw, whole(text, "n")) == ["0"]
    raw.ask(query("ROLLBACK"))
    for one in (raw, other, raw, other):
        assert ask(one, whole(text)) == ["42P01"]
    assert ask(raw, run("n")) == ["42P01"]
    postgres.query("CREATE TABLE rolled_back ()")
    assert ask(raw, run("n")) == ["0"]
    assert ask(other, whole(text)) == ["0"]
    postgres.query("DROP TABLE rolled_back")
    assert ask(other, whole(text)) == ["42P01"]


# --- clients that leave between Parse and its answer -----------------------------------------------------------------


def unsent(raw: Raw, text: str, name: str) -> None:
    raw.send(parse(text, name))


def flushed(raw: Raw, text: str, name: str) -> None:
    raw.send(parse(text, name), FLUSH)
    raw.until("1")


def half(raw: Raw, text: str, name: str) -> None:
    raw.send(parse(text, name) + parse(text + " AS half", name)[:20])


def bound(raw: Raw, text: str, name: str) -> None:
    raw.send(parse(text, name), bind(name=name))


def behind_an_error(raw: Raw, text: str, name: str) -> None:
    raw.send(parse("SELEC"), parse(text, name), execute())


def behind_a_sleep(raw: Raw, text: str, name: str) -> None:
    raw.send(whole("SELECT pg_sleep(10)"), parse(text, name), run(name))


@pytest.mark.parametrize("database", ["keeps_1"])
@pytest.mark.parametrize("state", [unsent, flushed, half, bound, behind_an_error, behind_a_sleep])
@pytest.mark.parametrize("how", ["close", "reset", "terminate"])
def test_a_client_gone_between_parse_and_sync_leaves_no_ghost(
    connect: Connect, pooler: Doorman, database: str, state: Callable[[Raw, str, str], None], how: str
) -> None:
    text = f"SELECT '{state.__name__} {how}'"
    for number in range(3):
        raw = connect(database)
        state(raw, text, "n" if number % 2 else "")
        raw.send(b"X\0\0\0\4") if how == "terminate" else None
        raw.reset() if how == "reset" else raw.close()
    clients = connect.many(3, database)
    wait_until(lambda: pooler.pool_row(database)["sv_active"] == 0, "the servers are back", 5)
    for _ in on_each_server(connect, database):
        for raw in clients:
            assert ask(raw, whole(text)) == [f"{state.__name__} {how}"]


def test_a_crowd_that_sends_the_same_refused_text_at_once(connect: Connect) -> None:
    clients = connect.many(8)
    for _ in range(5):
        for raw in clients:
            raw.send(parse("TABLE nowhere_at_all", "x"), SYNC, parse("SELECT 'fine'"), run(), SYNC)
        for raw in clients:
            assert tell(raw.until("Z") + raw.until("Z")) == "E:42P01 ZI 1 2 D C ZI"
