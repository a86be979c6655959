"""What a client calls its statements: names are its own, texts are everybody's, plans only those of the like-minded.

trap: PgBouncer #1118, #1472; pg_doorman 1.8.1, 3.10.0.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Connect
from tests.e2e.raw import Raw, tell, wait_until
from tests.e2e.traps.clients import KEEPS, SERVERS, WORK, ask, backend, held, on_each_server, run, whole, words
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import FLUSH, SYNC, bind, close_statement, describe_statement, execute, parse, query

every_size = pytest.mark.parametrize("database", KEEPS)
TEXT, INT4, INT8 = 25, 23, 20


@every_size
def test_two_names_for_one_text(connect: Connect, database: str) -> None:
    for raw in connect.many(4, database):
        one = [
            parse("SELECT 'both'", "a"),
            parse("SELECT 'both'", "b"),
            describe_statement("a"),
            describe_statement("b"),
        ]
        assert raw.ask(*one, run("a"), run("b"), SYNC) == "1 1 t T t T 2 D C 2 D C ZI"
        assert raw.ask(close_statement("a"), run("b"), SYNC) == "3 2 D C ZI"
        assert raw.ask(run("a"), SYNC) == "E:26000 ZI"
        assert ask(raw, whole("SELECT 'both'", "a"), close_statement("b"), run("a")) == ["both", "both"]
        assert raw.ask(run("b"), SYNC) == "E:26000 ZI"


def test_one_plan_of_a_text_on_each_server(connect: Connect) -> None:
    """Whatever clients call it, and however often it is parsed."""
    text = "SELECT 'one plan'"
    plans = "SELECT name, prepare_time FROM pg_prepared_statements WHERE statement = $$SELECT 'one plan'$$"
    clients = connect.many(6)
    first: list[list[list[str | None]]] = []
    for turn in range(3):
        for number, raw in enumerate(clients):
            name = f"n{number % 3}_{turn}" if number % 2 else ""
            assert ask(raw, whole(text, name)) == ["one plan"]
            assert ask(raw, close_statement(name), whole(text, name)) == ["one plan"]
        found = []
        for _ in on_each_server(connect):
            ask(clients[0], whole(text))
            found.append(clients[0].rows(plans))
        assert [len(rows) for rows in found] == [1] * SERVERS
        first = first or found
        assert sorted(found) == sorted(first), "it was prepared again"


@pytest.mark.parametrize("count", [1, 400])
def test_what_a_client_has_names_for_is_accounted(connect: Connect, pooler: Doorman, count: int) -> None:
    """Far more than a worker remembers by itself."""
    raw = connect("keeps_2")

    def account() -> dict[str, int]:
        return next(row for row in pooler.console("SHOW POOLS_MEMORY") if row["database"] == "keeps_2")

    texts = [f"SELECT {number}, '{'x' * 1000}'" for number in range(count)]
    raw.ask(*[parse(text, f"s{number}") for number, text in enumerate(texts)], SYNC)
    least = sum(len(text) for text in texts)
    wait_until(lambda: account()["client_named_count"] == count, "the names are counted", 3)
    assert least < account()["client_prepared_bytes"] < least + 300 * count
    assert ask(raw, run("s0")) == ["0"]
    raw.ask(query("DEALLOCATE ALL"))
    wait_until(lambda: account()["client_prepared_bytes"] == 0, "nothing is left", 3)


@every_size
def test_a_taken_name_is_all_that_is_wrong(connect: Connect, database: str, postgres: Postgres) -> None:
    """Whatever has become of what the name stands for, and of the server that knew it: PostgreSQL would not look."""
    with postgres.connect(user="app", autocommit=True) as admin:
        admin.execute("DROP TABLE IF EXISTS taken")
        admin.execute("CREATE TABLE taken (id int)")
        clients = connect.many(4, database)
        for raw in clients:
            assert raw.ask(parse("SELECT * FROM taken", "a"), SYNC) == "1 ZI"
        admin.execute("DROP TABLE taken")
        for raw in clients:
            ask(raw, *[whole(f"SELECT 'other {number}'") for number in range(3)])
            assert raw.ask(parse("SELECT 1", "a"), SYNC) == "E:42P05 ZI"
            assert raw.ask(parse("SELEC", "a"), SYNC) == "E:42601 ZI"
            assert (raw.ask(query("BEGIN")), raw.ask(query("SELEC"))) == ("C ZT", "E:42601 ZE")
            assert raw.ask(parse("SELECT 1", "a"), SYNC) == "E:25P02 ZE"
            assert raw.ask(parse("SELECT 1; SELECT 2", "a"), SYNC) == "E:42601 ZE"
            assert raw.ask(query("ROLLBACK")) == "C ZI"
            assert '"a" already exists' in raw.error(parse("SELECT 1", "a"), SYNC)["M"]


@pytest.mark.parametrize("begin", [b"", query("BEGIN")], ids=["alone", "in a transaction"])
def test_execute_by_sql_of_what_cannot_be_prepared_any_more(connect: Connect, postgres: Postgres, begin: bytes) -> None:
    """It says what is wrong, not that there is no such statement; and only where it was executed."""
    with postgres.connect(user="app", autocommit=True) as admin:
        admin.execute("CREATE TABLE executed (id int)")
        raw = connect("keeps_2")
        assert raw.ask(parse("SELECT * FROM executed", "a"), SYNC) == "1 ZI"
        admin.execute("DROP TABLE executed")
        after = "ZE" if begin else "ZI"
        for text in ("EXECUTE a", "SELECT 1; EXECUTE a" if not begin else "EXECUTE a; SELECT 1"):
            if begin:
                assert raw.ask(begin) == "C ZT"
            assert raw.ask(query(text)).endswith(f"E:42P01 {after}")
            assert raw.ask(query("EXECUTE none")) == (f"E:{'25P02' if begin else '26000'} {after}")
            if begin:
                assert raw.ask(query("SELECT 2")) == f"E:25P02 {after}"
                assert raw.ask(query("ROLLBACK")) == "C ZI"
        assert raw.ask(query("SELECT 1/0; EXECUTE a")) == "E:22012 ZI"
        assert raw.ask(query("EXECUTE none")) == "E:26000 ZI"


@every_size
@pytest.mark.parametrize("sync", [b"", SYNC], ids=["one batch", "several"])
def test_one_name_and_a_new_text_after_close(connect: Connect, database: str, sync: bytes) -> None:
    for raw in connect.many(4, database):
        batch = [whole("SELECT 'old'", "n"), sync, close_statement("n"), sync, whole("SELECT 'new'", "n"), SYNC]
        assert words(raw.converse(*batch, ready=3 if sync else 1)) == ["old", "new"]
        assert ask(raw, run("n")) == ["new"]


@every_size
def test_one_name_and_a_new_text_without_close_is_refused_and_the_old_one_stays(
    connect: Connect, database: str
) -> None:
    for raw in connect.many(3, database):
        ask(raw, parse("SELECT 'old'", "n"))
        for text in ("SELECT 'new'", "SELECT 'old'"):
            error = raw.error(parse(text, "n"), SYNC)
            assert (error["C"], '"n"' in error["M"]) == ("42P05", True)
        assert ask(raw, parse("SELECT 'x'", "m"), parse("SELECT 'y'", "m"), run("m")) == ["42P05"]
        assert [ask(raw, run(name)) for name in "nm"] == [["old"], ["x"]]


@every_size
def test_the_unnamed_statement_over_a_release_of_the_server(connect: Connect, database: str) -> None:
    """trap: Parse, Sync; others use the server and their own unnamed statements; then Bind, Execute, Sync."""
    clients, others = connect.many(3, database), connect.many(3, database)
    for number, raw in enumerate(clients):
        assert raw.ask(parse(f"SELECT 'unnamed {number}', $1::text"), SYNC) == "1 ZI"
    for turn in range(3):
        for _ in on_each_server(connect, database):
            for number, raw in enumerate(clients):
                assert ask(others[number], whole(f"SELECT 'other {turn} {number}'")) == [f"other {turn} {number}"]
                assert others[number].value("SELECT 1") == "1"
                assert ask(raw, run("", [b"v"])) == [f"unnamed {number}"]
                assert raw.ask(describe_statement(), SYNC) == "t T ZI"
    for raw in clients:
        assert raw.value("SELECT 'a Query drops it'") == "a Query drops it"
        assert raw.ask(run("", [b"v"]), SYNC) == "E:26000 ZI"


def test_parameter_types_are_part_of_a_statement(connect: Connect) -> None:
    text = "SELECT pg_typeof($1), $1"
    clients = {(TEXT,): "text", (INT4,): "integer", (INT8,): "bigint"}
    raws = {types: connect() for types in clients}
    for _ in on_each_server(connect):
        for types, name in clients.items():
            raw = raws[types]
            assert ask(raw, parse(text, "", types), run("", [b"5"])) == [name]
            assert ask(raw, parse(text, name, types), run(name, [b"5"]), close_statement(name)) == [name]
    assert ask(raws[TEXT,], parse("SELECT $1 + 1", "", ())) == []
    assert ask(raws[INT4,], parse("SELECT $1 || ''", "", [TEXT]), run("", [b"x"])) == ["x"]


def test_roles_do_not_share_plans(connect: Connect, postgres: Postgres) -> None:
    """A name is looked up for the role that asks: two schemas named as their roles."""
    for role in ("red", "blue"):
        postgres.admin(f"CREATE ROLE {role}; GRANT {role} TO app; CREATE SCHEMA {role} AUTHORIZATION {role}")
        postgres.admin(
            f"CREATE TABLE {role}.paint AS SELECT '{role}' AS colour; ALTER TABLE {role}.paint OWNER TO {role}"
        )
    clients = {role: connect(options=f"-c role={role}") for role in ("red", "blue")}
    for _ in range(2):
        for _ in on_each_server(connect):
            for role, raw in clients.items():
                assert ask(raw, whole("SELECT colour FROM paint")) == [role]
                assert ask(raw, whole("SELECT current_user")) == [role]
                assert ask(raw, whole("SELECT colour FROM paint", "n"), close_statement("n")) == [role]
    plain = connect()
    for _ in on_each_server(connect):
        plain.ask(query("SET ROLE NONE"))  # test_cleanup_shapes.py owns that a role stays behind
        for role in ("red", "blue"):
            plain.ask(WORK)
            plain.ask(query(f"SET LOCAL ROLE {role}"))
            assert ask(plain, whole("SELECT colour FROM paint")) == [role]
            plain.ask(query("COMMIT"))
        assert ask(plain, whole("SELECT colour FROM paint")) == ["42P01"]
    postgres.admin("DROP SCHEMA red CASCADE; DROP SCHEMA blue CASCADE; DROP ROLE red; DROP ROLE blue")


def test_planner_settings_do_not_share_plans(connect: Connect) -> None:
    """trap: pg_doorman 3.10.0. One text, planned for one client without and for the other with sequential scans."""
    text = "EXPLAIN SELECT relname FROM pg_class WHERE oid = 1259"
    plain, without = connect(), connect(options="-c enable_indexscan=off -c enable_bitmapscan=off")
    for _ in on_each_server(connect):
        for _ in range(2):
            assert "Index" in ask(plain, whole(text))[0]
            assert "Seq Scan" in ask(without, whole(text))[0]
    clients, shared = connect.many(4), "SELECT 'shared by the like-minded'"
    clients[0].ask(WORK)
    for raw in clients:
        raw.ask(parse(shared, "s"), SYNC)
    ask(clients[0], run("s"))
    assert held(clients[0]).count(shared) == 1
    clients[0].ask(query("COMMIT"))


def test_a_name_like_ours_is_only_a_name(connect: Connect) -> None:
    first, second = connect(), connect()
    ask(first, parse("SELECT 'of the first'", "s"))
    first.ask(WORK)
    names = [row[0] or "" for row in first.rows("SELECT name FROM pg_prepared_statements WHERE name <> ''")]
    first.ask(query("COMMIT"))
    assert all(name.startswith("DOORMAN_") for name in names)
    for name in names:
        assert second.ask(run(name), SYNC) == "E:26000 ZI"
        assert second.ask(close_statement(name), SYNC) == "3 ZI"
        assert ask(second, whole("SELECT 'by that name'", name)) == ["by that name"]
    assert ask(first, run("s")) == ["of the first"]


def test_an_error_that_only_looks_like_one_of_ours_costs_nothing_for_each_name(connect: Connect) -> None:
    raw = connect()
    for start in range(0, 60_000, 2000):
        raw.ask(*[parse("SELECT 1", f"s{number}") for number in range(start, start + 2000)], SYNC)

    def seconds(name: str) -> float:
        begun = time.monotonic()
        for _ in range(30):
            assert raw.ask(query(f'SELECT "{name}"')) == "E:42703 ZI"
        return time.monotonic() - begun

    assert seconds("DOORMAN_x") < 3 * seconds("OTHER_x") + 0.05


def test_ever_new_names_of_portals_take_no_memory_without_end(connect: Connect, pooler: Doorman) -> None:
    def resident() -> int:
        found = 0
        for pid in pooler.pids().workers:
            found += int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])
        return found

    raw = connect()
    raw.ask(parse("SELECT 1", "s"), SYNC)
    raw.ask(WORK)
    before = 0
    for turn in range(45):
        raw.ask(query("SAVEPOINT a"))
        raw.ask(*[bind([], "s", f"{turn:050d}_{number}") for number in range(1000)], SYNC)
        raw.ask(query("ROLLBACK TO a"))
        before = before or (resident() if turn == 5 else 0)
    assert resident() - before < 3000, "kB"
    raw.ask(query("ROLLBACK"))


# --- SQL-level PREPARE -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["query", "extended"])
def test_a_failed_prepare_or_execute_is_told_at_once_and_to_nobody_else(connect: Connect, by: str) -> None:
    """trap: PgDog PR #876, #887, #913: the error came late, to the next client."""

    def told(raw: Raw, sql: str) -> list[str]:
        return words(raw.converse(query(sql))) if by == "query" else ask(raw, whole(sql))

    clients = connect.many(4)
    for _ in range(3):
        for raw in clients:
            assert told(raw, "PREPARE q AS SELECT * FROM nowhere") == ["42P01"]
            assert told(raw, "EXECUTE nobody") == ["26000"]
            assert told(raw, "SELECT 1") == ["1"]
            raw.ask(WORK)
            assert told(raw, "PREPARE q AS SELECT 1 / $1::int") == []
            assert told(raw, "EXECUTE q(0)") == ["22012"]
            assert raw.ask(query("ROLLBACK")) == "C ZI"
        for raw in clients:
            assert told(raw, "SELECT count(*) FROM pg_prepared_statements WHERE name = 'q'") == ["0"]


# --- prepared_statements: false --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(postgres: Postgres) -> Iterator[Doorman]:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 1)])}
    with Doorman(postgres, pools=pools, general={"prepared_statements": False}) as doorman:
        yield doorman


def test_without_prepared_statements_names_are_the_clients_own(plain: Doorman) -> None:
    """trap: pg_doorman 1.8.1, 3.2.2; and one's statements are gone for the next client."""
    address = plain.host, plain.port
    with Raw(address).log_in() as first, Raw(address).log_in() as second:
        for raw, other in ((first, second), (second, first), (first, second)):
            raw.ask(WORK)
            pid = backend(raw)
            assert ask(raw, whole("SELECT 'own'", "my_name"), parse("SELECT 2", "other_name")) == ["own"]
            assert raw.rows("SELECT name FROM pg_prepared_statements ORDER BY 1") == [["my_name"], ["other_name"]]
            assert raw.error(parse("SELECT 3", "my_name"), SYNC)["C"] == "42P05"
            raw.ask(query("ROLLBACK"))
            assert raw.ask(run("my_name"), SYNC) == "E:26000 ZI"
            other.ask(WORK)
            assert other.rows("SELECT name FROM pg_prepared_statements") == []
            assert backend(other) == pid
            other.ask(query("COMMIT"))


def test_without_prepared_statements_flush_is_answered_at_once(plain: Doorman) -> None:
    """trap: pg_doorman 3.2.2."""
    with Raw((plain.host, plain.port)).log_in() as raw:
        for _ in range(3):
            raw.send(parse("SELECT 'flushed'", "f"), describe_statement("f"), FLUSH)
            assert tell(raw.until("T")) == "1 t T"
            raw.send(bind(name="f"), execute(), FLUSH)
            assert tell(raw.until("C")) == "2 D C"
            assert raw.ask(close_statement("f"), SYNC) == "3 ZI"
