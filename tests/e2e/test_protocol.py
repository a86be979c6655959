"""Simple and extended queries, pipelines, Flush, errors at each place, FunctionCall, transactions; in both modes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import POOL_SIZE, Connect
from tests.e2e.raw import Raw, tell
from tests.harness import Doorman
from tests.torture.wire import (
    FLUSH,
    SYNC,
    bind,
    close_statement,
    copy_data,
    describe_portal,
    describe_statement,
    execute,
    function_call,
    message,
    parse,
    query,
)

BATCH = [parse("SELECT $1::text"), bind([b"x"]), describe_portal(), execute(), SYNC]
BAD_PARSE, BAD_BIND = parse("SELEC"), bind([b"1"], "no_such_statement")
BAD_EXECUTE = [parse("SELECT 1/x FROM generate_series($1::int, 1) x"), bind([b"0"]), execute()]


def statement_by_parse(sql: str) -> bytes:
    return parse(sql) + bind() + execute() + SYNC


@pytest.fixture(params=["postgres", "session"])
def raw(connect: Connect, request: pytest.FixtureRequest) -> Raw:
    """A client, in transaction mode and in session mode."""
    return connect(request.param)


EXCHANGES: list[tuple[str, list[bytes], int, str]] = [
    ("one row", [query("SELECT 1")], 1, "T D C ZI"),
    ("empty query", [query("")], 1, "I ZI"),
    ("only a semicolon", [query(";")], 1, "I ZI"),
    ("several statements", [query("SELECT 1; SELECT 2 WHERE false; SET LOCAL x.y = 1")], 1, "T D C T C C ZI"),
    ("an error in the middle", [query("SELECT 1; SELECT 1/0; SELECT 3")], 1, "T D C E:22012 ZI"),
    ("a syntax error", [query("SELEC")], 1, "E:42601 ZI"),
    ("a notice", [query("DO $$BEGIN RAISE NOTICE 'hear'; END$$")], 1, "N C ZI"),
    ("two queries in one packet", [query("SELECT 1"), query("SELECT 2")], 2, "T D C ZI T D C ZI"),
    ("an error between queries", [query("SELECT 1"), query("x"), query("SELECT 2")], 3, "T D C ZI E:42601 ZI T D C ZI"),
    ("a batch", BATCH, 1, "1 2 T D C ZI"),
    ("three batches", BATCH * 3, 3, "1 2 T D C ZI " * 2 + "1 2 T D C ZI"),
    ("a lone Sync", [SYNC], 1, "ZI"),
    ("many Syncs", [SYNC] * 20, 20, " ".join(["ZI"] * 20)),
    ("Flush before all", [FLUSH, *BATCH], 1, "1 2 T D C ZI"),
    ("Parse fails", [BAD_PARSE, bind(), execute(), SYNC], 1, "E:42601 ZI"),
    ("Bind fails", [parse("SELECT 1"), BAD_BIND, execute(), SYNC], 1, "1 E:26000 ZI"),
    ("Execute fails", [*BAD_EXECUTE, execute(), SYNC], 1, "1 2 E:22012 ZI"),
    ("Describe fails", [describe_statement("none"), parse("SELECT 1"), SYNC], 1, "E:26000 ZI"),
    ("the next batch works after an error", [BAD_PARSE, *BATCH, *BATCH], 2, "E:42601 ZI 1 2 T D C ZI"),
    ("Query while skipping is skipped", [BAD_PARSE, query("SELECT 1"), SYNC], 1, "E:42601 ZI"),
    ("Close of nothing", [close_statement("none"), SYNC], 1, "3 ZI"),
    ("describe a statement", [parse("SELECT $1::int, 'a'"), describe_statement(), SYNC], 1, "1 t T ZI"),
    ("a portal in pieces", [parse("SELECT generate_series(1,5)"), bind(), execute(limit=2), execute(limit=2),
                            execute(limit=2), SYNC], 1, "1 2 D D s D D s D C ZI"),
    ("a function", [function_call(1598, [])], 1, "V ZI"),  # random()
    ("a function that is none", [function_call(1, [])], 1, "E:42883 ZI"),
    ("COPY leftovers", [copy_data(b"x"), message(b"c"), message(b"f", b"no\0"), query("SELECT 1")], 1, "T D C ZI"),
    ("a transaction in one packet", [query("BEGIN"), query("SELECT 1"), query("COMMIT")], 3, "C ZT T D C ZT C ZI"),
    ("a failed transaction", [query("BEGIN"), query("x"), query("SELECT 1"), query("COMMIT")], 4,
     "C ZT E:42601 ZE E:25P02 ZE C ZI"),
    ("a batch in a transaction", [query("BEGIN"), *BATCH, query("END")], 3, "C ZT 1 2 T D C ZT C ZI"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "ready", "answers"), [case[1:] for case in EXCHANGES], ids=[c[0] for c in EXCHANGES])
@pytest.mark.parametrize("chopped", [False, True], ids=["whole", "bytes"])
def test_the_answers_are_postgresqls(raw: Raw, sent: list[bytes], ready: int, answers: str, chopped: bool) -> None:
    for _ in range(2):
        if chopped:
            raw.trickle(b"".join(sent))
            sent = []
        assert raw.ask(*sent, ready=ready) == answers
        if chopped:
            break
    assert raw.value("SELECT 'still here'") == "still here"


def test_flush_brings_what_is_there_without_a_sync(raw: Raw) -> None:
    raw.send(parse("SELECT generate_series(1,4)"), FLUSH)
    assert raw.next().kind == b"1"
    raw.send(bind(), describe_portal(), FLUSH)
    assert [raw.next().kind for _ in range(2)] == [b"2", b"T"]
    raw.send(execute(limit=3), FLUSH)
    assert tell(raw.until("s")) == "D D D s"
    raw.send(execute(), FLUSH)
    assert tell(raw.until("C")) == "D C"
    assert raw.is_silent(0.05)
    assert raw.ask(SYNC) == "ZI"


def test_after_an_error_nothing_but_sync_is_answered_however_it_arrives(raw: Raw) -> None:
    raw.send(BAD_PARSE, FLUSH)
    assert raw.next().fields()["C"] == "42601"
    raw.send(parse("SELECT 1"), bind(), execute(), FLUSH, query("SELECT 2"))
    assert raw.is_silent(0.1)
    assert raw.ask(SYNC) == "ZI"
    assert raw.ask(*BATCH) == "1 2 T D C ZI"


def test_a_thousand_batches_in_one_write(raw: Raw) -> None:
    sent = [data for number in range(1000) for data in (parse(f"SELECT {number}"), bind(), execute(), SYNC)]
    got = raw.converse(*sent, ready=1000)
    assert [one.columns()[0] for one in got if one.kind == b"D"] == [str(number).encode() for number in range(1000)]


def test_a_pipeline_with_errors_at_every_third_place_keeps_its_answers_in_order(raw: Raw) -> None:
    sent = []
    for number in range(90):
        bad = number % 3 == 1
        sent += [parse("SELECT 1/0" if bad else f"SELECT {number}"), bind(), execute(), SYNC]
    got = raw.converse(*sent, ready=90)
    rows = [one.columns()[0] for one in got if one.kind == b"D"]
    assert rows == [str(number).encode() for number in range(90) if number % 3 != 1]
    assert sum(one.kind == b"E" for one in got) == 30


def test_a_transaction_keeps_its_server_and_others_use_the_rest(connect: Connect) -> None:
    holders, others = connect.many(POOL_SIZE - 1), connect.many(6)
    pids = []
    for raw in holders:
        raw.ask(query("BEGIN; SELECT 1"))
        pids.append(raw.value("SELECT pg_backend_pid()"))
    for _ in range(5):
        assert [raw.value("SELECT pg_backend_pid()") for raw in holders] == pids
        assert not {raw.value("SELECT pg_backend_pid()") for raw in others} & set(pids)
    for raw in holders:
        assert raw.ask(query("ROLLBACK")) == "C ZI"


def test_a_failed_transaction_is_held_until_its_client_ends_it(connect: Connect) -> None:
    raw, other = connect(), connect()
    raw.ask(query("BEGIN; SELECT 1"))
    pid = raw.value("SELECT pg_backend_pid()")
    assert raw.ask(query("SELECT 1/0")) == "E:22012 ZE"
    assert all(other.value("SELECT pg_backend_pid()") != pid for _ in range(5))
    assert raw.ask(query("SELECT 1")) == "E:25P02 ZE"
    assert raw.ask(query("ROLLBACK"), query("SELECT 1"), ready=2) == "C ZI T D C ZI"


@pytest.mark.parametrize("database", ["postgres", "session"])
@pytest.mark.parametrize("encode", [query, statement_by_parse], ids=["simple", "extended"])
def test_times_are_of_one_statement_and_of_one_transaction(
    connect: Connect, pooler: Doorman, database: str, encode: Callable[[str], bytes]
) -> None:
    """trap: pg_doorman 3.1.6, 3.5.2: not since the transaction, the checkout or the session began."""

    def times() -> tuple[int, int]:
        row = next(row for row in pooler.console("SHOW STATS") if row["database"] == database)
        return row["total_query_time"], row["total_xact_time"]

    raw = connect(database)
    before = times()
    for _ in range(2):
        for sql in ("BEGIN", "SELECT pg_sleep(0.1)", "SELECT pg_sleep(0.1)", "SELECT 1", "COMMIT"):
            raw.ask(encode(sql))
        time.sleep(0.15)
    spent = [now - then for now, then in zip(times(), before, strict=True)]
    assert all(400_000 <= microseconds < 590_000 for microseconds in spent), spent


def test_an_extended_batch_without_sync_keeps_its_server(connect: Connect) -> None:
    raw, others = connect(), connect.many(4)
    raw.send(parse("SELECT pg_backend_pid()"), bind(), execute(), FLUSH)
    pid = raw.until("C")[2].columns()[0]
    for _ in range(3):
        assert all((other.value("SELECT pg_backend_pid()") or "").encode() != pid for other in others)
    assert raw.ask(SYNC) == "ZI"


def test_notifications_arrive_inside_a_transaction(connect: Connect) -> None:
    raw = connect()
    assert (
        raw.ask(query("BEGIN; LISTEN own; NOTIFY own, 'me'; COMMIT")).replace(" A", "") == "C N C C C ZI"
    )  # the notice says that LISTEN ends here


def test_notices_come_before_the_answer_they_belong_to(raw: Raw) -> None:
    block = "DO $$BEGIN FOR i IN 1..200 LOOP RAISE NOTICE '%', i; END LOOP; END$$"
    got = raw.converse(query(block))
    notices = [one.fields()["M"] for one in got if one.kind == b"N"]
    assert notices == [str(number) for number in range(1, 201)]


def test_a_hundred_clients_on_three_servers_get_their_own_answers(connect: Connect) -> None:
    clients = connect.many(100)
    for round_ in range(5):
        for number, raw in enumerate(clients):
            raw.send(
                query(f"SELECT {number}, {round_}")
                if number % 2
                else b"".join([parse(f"SELECT {number}, {round_}"), bind(), execute(), SYNC])
            )
        for number, raw in enumerate(clients):
            rows = [got.columns() for got in raw.until("Z") if got.kind == b"D"]
            assert rows == [[str(number).encode(), str(round_).encode()]]


def test_a_session_that_confused_postgresql_is_lent_to_nobody(connect: Connect) -> None:
    """A Query right behind extended messages: the next statement fails with "unexpected state STARTED"."""
    raw, others = connect(), connect.many(2 * POOL_SIZE)
    raw.send(parse("SELECT 1"), bind(), execute(), query("SELECT 2"), SYNC)
    raw.until("Z")
    raw.until("Z")
    for _ in range(5):
        assert all(other.value("SELECT 3") == "3" for other in others)
    raw.close()
    assert all(other.value("SELECT 4") == "4" for other in others)
