"""DISCARD ALL and DEALLOCATE as drivers use them: names are gone, or usable, exactly as they would be in PostgreSQL.

Every flow is also played directly to PostgreSQL, whose answers are the ones to give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.lone import Lone, again, extended, first_value, lone_pooler, tag_of
from tests.e2e.raw import Raw, tell
from tests.harness import Doorman, Postgres
from tests.torture.wire import SYNC, TERMINATE, bind, close_statement, describe_statement, execute, parse, query

Flow = list[bytes]

PREPARE = [parse("SELECT 'p'", "p") + SYNC, parse("SELECT 'q'", "q") + SYNC, parse("SELECT 'S'", "S_1") + SYNC]
BOTH = [again("p"), again("q"), again("S_1")]
BEGIN, COMMIT, ROLLBACK, FAIL, WORK = map(query, ["BEGIN", "COMMIT", "ROLLBACK", "SELECT 1/0", "SELECT 1"])

# Each part is sent when the one before it has been answered.
FLOWS: dict[str, Flow] = {
    "DEALLOCATE name by extended protocol": [extended("DEALLOCATE p"), *BOTH],
    "DEALLOCATE name by extended protocol in a transaction": [BEGIN, WORK, extended("DEALLOCATE p"), COMMIT, *BOTH],
    "DEALLOCATE name behind a query in one packet": [WORK + query("DEALLOCATE p"), *BOTH],
    "DEALLOCATE name behind BEGIN and a query in one packet": [BEGIN + WORK + query("DEALLOCATE p"), COMMIT, *BOTH],
    "DISCARD ALL": [query("DISCARD ALL"), *BOTH, *PREPARE, *BOTH],
    "DISCARD ALL of one that has done something": [query("SET TimeZone = 'Asia/Tokyo'"), query("DISCARD ALL"), *BOTH],
    "DISCARD ALL by extended protocol": [extended("DISCARD ALL"), *BOTH, *PREPARE, *BOTH],
    "DISCARD ALL in a transaction": [BEGIN, WORK, query("DISCARD ALL"), again("p"), ROLLBACK, *BOTH],
    "DISCARD ALL right behind BEGIN": [BEGIN, query("discard all;"), again("p"), ROLLBACK, *BOTH],
    "DISCARD ALL by extended protocol in a transaction": [BEGIN, extended("DISCARD ALL"), ROLLBACK, *BOTH],
    "DISCARD ALL among others": [query("SELECT 1; DISCARD ALL"), *BOTH],
    "DISCARD PLANS": [query("DISCARD PLANS"), *BOTH, BEGIN, query("DISCARD PLANS"), *BOTH, COMMIT, *BOTH],
    "DISCARD TEMP, SEQUENCES": [query("DISCARD TEMP"), *BOTH, query("DISCARD SEQUENCES"), *BOTH],
    "DEALLOCATE ALL": [query("DEALLOCATE ALL"), *BOTH, *PREPARE, *BOTH],
    "DEALLOCATE PREPARE ALL": [query(" deallocate\tprepare all ; "), *BOTH],
    "DEALLOCATE ALL by extended protocol": [extended("DEALLOCATE ALL"), *BOTH, *PREPARE, *BOTH],
    "DEALLOCATE ALL in a transaction": [BEGIN, WORK, query("DEALLOCATE ALL"), parse("SELECT 2", "p") + SYNC, again("p"),
                                        again("q"), ROLLBACK, *BOTH],
    "DEALLOCATE ALL in one that commits": [BEGIN, again("q"), query("DEALLOCATE ALL"), COMMIT, *BOTH, *PREPARE, *BOTH],
    "DEALLOCATE ALL in one that failed": [BEGIN, FAIL, query("DEALLOCATE ALL"), ROLLBACK, *BOTH],
    "DEALLOCATE ALL behind BEGIN": [BEGIN, query("DEALLOCATE ALL"), again("p"), COMMIT, *BOTH],
    "DEALLOCATE name": [query("DEALLOCATE p"), *BOTH, query("DEALLOCATE p"), parse("SELECT 2", "p") + SYNC, *BOTH],
    "DEALLOCATE in other words": [query("deallocate prepare P;"), query('DEALLOCATE "S_1"'), *BOTH],
    "DEALLOCATE of another case": [query("DEALLOCATE S_1"), query('DEALLOCATE "P"'), *BOTH],
    "DEALLOCATE of nothing": [query("DEALLOCATE nothing"), query("DEALLOCATE"), query("DEALLOCATE DOORMAN_x"), *BOTH],
    "DEALLOCATE name in a transaction": [BEGIN, WORK, query("DEALLOCATE p"), WORK, again("q"), COMMIT, *BOTH],
    "DEALLOCATE name, rolled back": [BEGIN, again("p"), query("DEALLOCATE p"), FAIL, ROLLBACK, *BOTH],
    "DEALLOCATE name in a failed one": [BEGIN, FAIL, query("DEALLOCATE p"), again("p"), ROLLBACK, *BOTH],
    "DEALLOCATE name behind BEGIN": [BEGIN, query("DEALLOCATE p"), WORK, ROLLBACK, *BOTH],
    "DEALLOCATE of nothing in a transaction": [BEGIN, WORK, query("DEALLOCATE nothing"), WORK, ROLLBACK, *BOTH],
    "DEALLOCATE of SQL's own": [BEGIN, query("PREPARE own AS SELECT 3"), query("EXECUTE own"), query("DEALLOCATE own"),
                                query("EXECUTE own"), ROLLBACK, *BOTH],
    "a name again after DEALLOCATE in a batch": [query("DEALLOCATE p") + extended("SELECT 2", "p") + again("p")],
    "Close and DEALLOCATE": [close_statement("p") + SYNC, query("DEALLOCATE p"), query("DEALLOCATE q"),
                             close_statement("q") + SYNC, *BOTH],
    "the unnamed one": [parse("SELECT 4") + SYNC, query("DEALLOCATE q"), bind() + execute() + SYNC, *BOTH],
    "Npgsql": [query("DISCARD ALL") + extended("SELECT 5", "_auto0"), again("_auto0"),
               query("DISCARD ALL") + BEGIN + extended("SELECT 6", "_auto0") + COMMIT, again("_auto0")],
    "describe what is gone": [query("DEALLOCATE ALL"), describe_statement("p") + SYNC,
                              describe_statement("p") + bind(name="p") + SYNC, WORK],
    # -- portals: what each does counts when it is run, whatever was bound since
    "DEALLOCATE in a portal, run behind another": [
        BEGIN, parse("DEALLOCATE p", "d") + bind(name="d", portal="one") + bind(name="q") + execute() + execute("one")
        + SYNC, COMMIT, *BOTH],
    "DEALLOCATE bound and not run": [
        BEGIN, parse("DEALLOCATE p", "d") + bind(name="q", portal="one") + bind(name="d") + execute("one") + SYNC,
        COMMIT, *BOTH],
    "DEALLOCATE bound and another bound in its place": [
        BEGIN, parse("DEALLOCATE p", "d") + bind(name="d") + bind(name="q") + execute() + SYNC, COMMIT, *BOTH],
    "two portals that deallocate": [
        BEGIN, parse("DEALLOCATE p", "d") + parse("DEALLOCATE q", "e") + bind(name="d", portal="one")
        + bind(name="e", portal="two") + execute("two") + SYNC, again("p"), execute("one") + SYNC, COMMIT, *BOTH],
    "DEALLOCATE ALL in a portal": [
        BEGIN, parse("DEALLOCATE ALL", "d") + bind(name="d", portal="one") + bind(name="q") + execute() + SYNC,
        again("p"), execute("one") + SYNC, COMMIT, *BOTH],
    # -- texts that speak of names
    "DEALLOCATE among others": [query("DEALLOCATE p; SELECT 1"), *BOTH],
    "DEALLOCATE behind others": [query("SELECT 1; DEALLOCATE p; DEALLOCATE q"), *BOTH],
    "DEALLOCATE of two of which one fails": [query("DEALLOCATE p; SELECT 1/0; DEALLOCATE q"), *BOTH],
    "DEALLOCATE of two of which one is unknown": [query("DEALLOCATE p; DEALLOCATE nothing; DEALLOCATE q"), *BOTH],
    "DEALLOCATE with a comment": [query("/* app; DEALLOCATE q */ DEALLOCATE p -- q"), *BOTH],
    "DEALLOCATE with a comment in a transaction": [BEGIN, query("/* q */ DEALLOCATE p"), *BOTH[1:], COMMIT, *BOTH],
    "DEALLOCATE behind a string": [query("SELECT '; DEALLOCATE q'; DEALLOCATE p"), *BOTH],
    "DEALLOCATE behind dollars": [query("SELECT $$; DEALLOCATE q; $$; DEALLOCATE p"), *BOTH],
    "DEALLOCATE behind dollars with a tag": [query("SELECT $a$; DEALLOCATE q; $$ ' $a$; DEALLOCATE p"), *BOTH],
    "DEALLOCATE behind what looks like dollars": [query("SELECT 1 AS a$b$; DEALLOCATE p; SELECT 1 AS b$b$"), *BOTH],
    "DEALLOCATE behind comments that nest": [query("/* /* */; DEALLOCATE q; */ SELECT 1; DEALLOCATE p"), *BOTH],
    "DEALLOCATE behind a string that escapes": [query(r"SELECT E'\'; DEALLOCATE q; '; DEALLOCATE p"), *BOTH],
    "DEALLOCATE behind a string that goes on": [query("SELECT E''\n'\\'; DEALLOCATE q; '; DEALLOCATE p"), *BOTH],
    "DEALLOCATE behind a backslash": [query(r"SELECT '\'; DEALLOCATE p; SELECT '; DEALLOCATE q'"), *BOTH],
    "DEALLOCATE behind a name": [query('SELECT 1 AS "; DEALLOCATE q"; DEALLOCATE p'), *BOTH],
    "DEALLOCATE behind the end of a line": [query("SELECT 1; -- '\rDEALLOCATE p"), *BOTH],
    "DEALLOCATE behind such a line, by extended protocol": [extended("-- q\rDEALLOCATE p"), *BOTH],
    "EXECUTE of a name of the protocol": [query("EXECUTE p"), *BOTH],
    "EXECUTE in a transaction": [BEGIN, WORK, query("EXECUTE p"), query('execute "S_1"'), COMMIT, *BOTH],
    "EXECUTE with parameters": [parse("SELECT $1::int + 1", "plus") + SYNC, query("EXECUTE plus(4)"),
                                query("EXECUTE plus('x')"), again("plus", [b"7"])],
    "EXECUTE in one that failed": [BEGIN, FAIL, query("EXECUTE p"), ROLLBACK, *BOTH],
    "EXECUTE by extended protocol": [extended("EXECUTE p"), extended("EXECUTE p", "by"), again("by"), *BOTH],
    "EXECUTE, described": [parse("EXECUTE p", "by") + describe_statement("by") + SYNC, again("by"), *BOTH],
    "EXECUTE of what deallocates": [parse("DEALLOCATE p", "d") + SYNC, query("EXECUTE d"), again("d"), *BOTH],
    "EXECUTE of what deallocates, among others": [
        parse("DEALLOCATE p", "d") + SYNC, query("EXECUTE S_1; EXECUTE d; DEALLOCATE q; EXECUTE d"),
        query("EXECUTE d; EXECUTE q; DEALLOCATE q"), again("d"), *BOTH],
    "EXECUTE of what executes what deallocates": [
        parse("DEALLOCATE p", "d") + parse("EXECUTE d", "e") + SYNC, query("EXECUTE e"), again("e"), *BOTH],
    "EXECUTE of what deallocates itself": [parse("DEALLOCATE a", "a") + SYNC, query("EXECUTE a"), again("a"), *BOTH],
    "EXECUTE of what executes another": [parse("EXECUTE p", "e") + SYNC, query("EXECUTE e"), again("e"), *BOTH],
    "EXPLAIN EXECUTE": [query("EXPLAIN (COSTS OFF) EXECUTE p"), extended("EXPLAIN (COSTS OFF) EXECUTE q"), *BOTH],
    "EXECUTE of what was closed meanwhile": [BEGIN, query("EXECUTE p"), close_statement("p") + SYNC,
                                             query("EXECUTE p"), ROLLBACK],
    "EXECUTE of another of that name": [BEGIN, query("EXECUTE p"), close_statement("p") + extended("SELECT 2", "p"),
                                        query("EXECUTE p"), COMMIT, *BOTH],
    "EXECUTE of one that is called execute": [parse("SELECT 8", "execute") + SYNC, query("EXECUTE execute"), *BOTH],
    "CREATE TABLE AS EXECUTE": [query("CREATE TEMP TABLE execute AS EXECUTE p; TABLE execute"),
                                extended("CREATE TEMP TABLE made AS EXECUTE q")],
    "EXECUTE of what sets": [
        parse("SET work_mem = '3333kB'", "s") + SYNC, BEGIN, query("EXECUTE s"), extended("SHOW work_mem"), COMMIT],
    "EXECUTE of what leads back": [
        parse("SET TimeZone TO DEFAULT", "s") + SYNC, BEGIN, query("SET TimeZone = 'Asia/Tokyo'") + query("EXECUTE s"),
        extended("SELECT 9"), query("EXECUTE s") + extended("SELECT 9"), COMMIT, *BOTH],
    "EXECUTE of what sets, in one packet with what is read by that": [
        parse("SELECT set_config('IntervalStyle', 'iso_8601', true)", "s") + SYNC,
        BEGIN + query("EXECUTE s") + extended("SELECT interval '1 day 02:00'::text") + extended("EXECUTE s")
        + extended("SELECT interval '1 day 02:00'::text"), ROLLBACK, extended("SELECT interval '1 day 02:00'::text")],
    "PREPARE of a name that there is": [query("PREPARE p AS SELECT 2"), *BOTH],
    "SQL's own": [query("PREPARE own AS SELECT 3; EXECUTE own; EXECUTE p; DEALLOCATE own; DEALLOCATE p"), *BOTH],
    "DEALLOCATE of one that could not be prepared now": [
        query("CREATE TABLE gone (c int)"), parse("SELECT c FROM gone", "g") + SYNC, query("ALTER TABLE gone DROP c"),
        BEGIN, WORK, query("DEALLOCATE g"), WORK, COMMIT, again("g"), query("DROP TABLE gone"), *BOTH],
    "DEALLOCATE of such a one by extended protocol": [
        query("CREATE TABLE gone (c int)"), parse("SELECT c FROM gone", "g") + SYNC, query("ALTER TABLE gone DROP c"),
        BEGIN, WORK, extended("DEALLOCATE g"), WORK, COMMIT, again("g"), query("DROP TABLE gone"), *BOTH],
    "Close of one that was lent": [BEGIN, query("EXECUTE p"), close_statement("p") + SYNC, again("p"), ROLLBACK],
    "names in one packet": [query("EXECUTE p") + query("DEALLOCATE p") + query("EXECUTE p"), *BOTH],
    "all in one packet": [parse("SELECT 7", "n") + SYNC + query("EXECUTE n") + query("DEALLOCATE n"), *BOTH],
}  # fmt: skip


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler() as services:
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone


def play(raw: Raw, flow: Flow) -> list[tuple[str, list[str | None]]]:
    """The letters, and the values and tags, by which each part is answered."""
    told = []
    for part in [*PREPARE, *flow]:
        got = raw.converse(part, ready=ready_of(part))
        words = [first_value([one]) if one.kind in b"DE" else one.body.decode() for one in got if one.kind in b"DEC"]
        told.append((tell([one for one in got if one.kind not in b"SN"]), words))
    return told


def ready_of(part: bytes) -> int:
    """How many of its messages are answered by ReadyForQuery."""
    count = at = 0
    while at < len(part):
        count += part[at : at + 1] in (b"Q", b"S")
        at += 1 + int.from_bytes(part[at + 1 : at + 5], "big")
    return count


def compare(lone: Lone, pool: str, flow: Flow) -> None:
    """The same answers as PostgreSQL's, for this client; another one with the same texts and names is not touched."""
    bystander = lone.client(pool)
    play(bystander, BOTH)
    with Raw((lone.postgres.host, lone.postgres.port)).log_in() as direct:
        assert play(lone.client(pool), flow) == play(direct, flow)
    assert [first_value(bystander.converse(part)) for part in BOTH * 2] == ["p", "q", "S"] * 2


@pytest.mark.parametrize("pool", ["one", "two"])
@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_a_flow_is_answered_as_postgresql_would(lone: Lone, pool: str, flow: Flow) -> None:
    compare(lone, pool, flow)


def test_the_tags(lone: Lone) -> None:
    raw = lone.client()
    play(raw, [])
    for sql, tag in (
        ("DEALLOCATE p", "DEALLOCATE"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("DISCARD ALL", "DISCARD ALL"),
    ):
        assert tag_of(raw.converse(query(sql))) == tag


def test_names_that_only_the_pooler_knows_cost_no_server(lone: Lone) -> None:
    raw, holder = lone.client(), lone.client()
    play(raw, [])
    holder.ask(query("BEGIN; SELECT 1"))
    for sql in ("DEALLOCATE p", "DEALLOCATE ALL", "DISCARD ALL"):
        assert raw.ask(query(sql)) == "C ZI"
    holder.ask(query("COMMIT"))
    assert [first_value(raw.converse(part)) for part in BOTH] == ["26000"] * 3


def test_a_client_that_quits_while_it_deallocates(lone: Lone) -> None:
    other, raw = lone.client(), lone.client()
    play(other, BOTH)
    raw.ask(query("BEGIN"), query("SELECT 1"), ready=2)
    raw.send(query("DEALLOCATE ALL"), TERMINATE)
    raw.read_to_end()
    assert [first_value(other.converse(part)) for part in BOTH] == ["p", "q", "S"]


def test_two_clients_execute_each_its_own_statement_of_one_name(lone: Lone) -> None:
    one, other = lone.client("two"), lone.client("two")
    one.ask(parse("SELECT 1 AS a", "p"), SYNC)
    other.ask(parse("SELECT 'x' AS b, 'y' AS c", "p"), SYNC)
    for _ in range(3):
        for raw, row in ((one, ["1"]), (other, ["x", "y"])):
            assert raw.rows("EXECUTE p") == [row]
            got = raw.converse(parse("EXECUTE p"), describe_statement(), bind(), execute(), SYNC)
            assert [first_value([message]) for message in got if message.kind == b"D"] == row[:1]
            assert [message.body[1] for message in got if message.kind == b"T"] == [len(row)]


@pytest.mark.parametrize("encode", [query, extended], ids=["simple", "extended"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS tl, 2 AS execute",
        "EXPLAIN SELECT 1 AS tl, 2 AS execute",
        "SELECT 'EXECUTE tl' -- EXECUTE tl",
        "DEALLOCATE tl",
    ],
)
def test_a_word_that_is_also_a_statements_name(lone: Lone, sql: str, encode: Callable[[str], bytes]) -> None:
    """To give it to the server would be to wait for the lock."""
    holder, raw = lone.client("two"), lone.client("two")
    raw.ask(query("CREATE TABLE IF NOT EXISTS locked (x int)"), parse("TABLE locked", "tl"), SYNC, ready=2)
    holder.ask(query("BEGIN; LOCK locked"))
    try:
        raw.ask(query("BEGIN"))
        raw.ask(query("SELECT pg_backend_pid()"))
        assert "E:" not in raw.ask(encode(sql))
        assert raw.ask(query("ROLLBACK")) == "C ZI"
    finally:
        holder.ask(query("ROLLBACK"))


def test_one_text_is_not_lent_statements_without_end(lone: Lone) -> None:
    """Each is written for each of its names: a Query of 27 kB took 263 MB."""
    raw = lone.client()
    text = f"SELECT 'long' /*{'x' * 60_000}*/"
    raw.ask(*[parse(text, f"s{number}") for number in range(300)], SYNC)
    assert len(raw.rows("; ".join(f"EXECUTE s{number}" for number in range(200)))) == 200
    error = raw.error(query("; ".join(f"EXECUTE s{number}" for number in range(300))))
    assert error["C"] == "54000" and "Query" in error["H"]
    assert raw.ask(query("EXECUTE nothing")) == "E:26000 ZI"
    raw.ask(query("BEGIN"))
    assert raw.error(query("; ".join(f"EXECUTE s{number}" for number in reversed(range(300)))))["C"] == "54000"
    assert raw.ask(query("ROLLBACK")) == "C ZI"
    assert raw.rows("EXECUTE s299; EXECUTE s0") == [["long"], ["long"]]


def test_no_client_deallocates_what_others_share(lone: Lone) -> None:
    """The names on servers can be computed, or looked up, by anybody."""
    raw, other = lone.client(), lone.client()
    for encode in (query, extended):
        play(other, BOTH)
        raw.ask(query("BEGIN"))
        for [name] in raw.rows("SELECT name FROM pg_prepared_statements"):
            assert name is not None and raw.ask(encode(f'DEALLOCATE "{name}"')).endswith(
                "C ZT" if encode is query else "2 C ZT"
            )
        raw.ask(query("COMMIT"))
        assert [first_value(other.converse(part)) for part in BOTH] == ["p", "q", "S"]
        other.ask(query("DEALLOCATE ALL"))
