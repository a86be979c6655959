"""Plans that DDL has made stale: clients that asked for a fresh one get it, those who know an old description are told.

trap: sqlalchemy + asyncpg through other poolers fails after every ALTER TABLE, because the driver's new Parse lands on
the same stale statement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from tests.e2e.conftest import POOL_SIZE, Connect
from tests.e2e.lone import extended
from tests.e2e.raw import Raw, tell, wait_until
from tests.harness import Postgres
from tests.torture.wire import (
    FLUSH,
    SYNC,
    TERMINATE,
    bind,
    close_statement,
    describe_portal,
    describe_statement,
    execute,
    parse,
    query,
)


def batch(table: str, name: str = "") -> list[bytes]:
    """What psycopg and pgx send for a statement that is not prepared yet."""
    return [parse(f"SELECT * FROM {table}", name), bind([], name), describe_portal(), execute(), SYNC]


def columns(raw: Raw, *data: bytes) -> list[Sequence[bytes | None]]:
    answers = raw.converse(*data)
    assert not [got.fields() for got in answers if got.kind == b"E"]
    return [got.columns() for got in answers if got.kind == b"D"]


@pytest.fixture
def warm(connect: Connect, table: str, postgres: Postgres) -> list[Raw]:
    """Six clients; every server of the pool has the statement prepared and used, and then the table changes."""
    clients = make_used(connect.many(6), table, postgres)
    postgres.query(f"ALTER TABLE {table} ADD COLUMN extra int DEFAULT 7")
    return clients


def test_an_unnamed_statement_is_new_at_each_parse(warm: list[Raw], table: str) -> None:
    for client in warm * 2:
        assert columns(client, *batch(table)) == [[b"1", b"one", b"7"]]


def test_a_description_comes_from_the_new_plan(warm: list[Raw], table: str) -> None:
    for client in warm:
        answer = client.converse(parse(f"SELECT * FROM {table}", "s"), describe_statement("s"), SYNC)
        assert tell(answer) == "1 t T ZI"
        assert answer[2].body.startswith(b"\x00\x03")  # three columns
        assert columns(client, bind([], "s"), execute(), SYNC) == [[b"1", b"one", b"7"]]


def test_with_flush_instead_of_sync(warm: list[Raw], table: str) -> None:
    client = warm[0]
    client.send(parse(f"SELECT * FROM {table}", "f"), describe_statement("f"), FLUSH)
    assert tell(client.until("T")) == "1 t T"
    client.send(bind([], "f"), execute(), SYNC)
    assert tell(client.until("Z")) == "2 D C ZI"


def test_batches_that_are_under_way_together_are_told_once_at_most(warm: list[Raw], table: str) -> None:
    """What was sent behind the stale statement may have run already: nothing is sent again then."""
    assert warm[0].ask(*batch(table) * 3, ready=3) == " ".join(["1 E:0A000 ZI"] * 3)
    for client in warm:
        assert client.ask(*batch(table) * 3, ready=3) == " ".join(["1 2 T D C ZI"] * 3)


def test_in_a_transaction_the_error_is_passed_on_and_the_next_attempt_works(warm: list[Raw], table: str) -> None:
    client = warm[0]
    client.ask(query("BEGIN; SELECT 1"))
    assert client.ask(*batch(table)) == "1 E:0A000 ZE"
    client.ask(query("ROLLBACK"))
    client.ask(query("BEGIN; SELECT 1"))
    assert client.ask(*batch(table)) == "1 2 T D C ZT"
    client.ask(query("COMMIT"))


@pytest.fixture
def used(connect: Connect, table: str, postgres: Postgres) -> list[Raw]:
    """Six clients; every server of the pool has the statement prepared and used."""
    return make_used(connect.many(6), table, postgres)


def make_used(clients: list[Raw], table: str, postgres: Postgres) -> list[Raw]:
    postgres.query(f"INSERT INTO {table} VALUES (1, 'one')")
    for client in clients[:POOL_SIZE]:  # each has a server of its own
        client.ask(query("BEGIN; SELECT 1"))
        client.ask(*batch(table))
    for client in clients[:POOL_SIZE]:
        client.ask(query("COMMIT"))
    for client in clients:
        client.ask(*batch(table))
    return clients


ADD = "ALTER TABLE {} ADD COLUMN extra int DEFAULT 7"


@pytest.mark.parametrize("user", ["app", "scram_user"])
def test_ddl_through_the_pooler_makes_every_server_prepare_anew(
    connect: Connect, table: str, postgres: Postgres, user: str
) -> None:
    """In a transaction, and several batches at once, where nothing can be healed; by any pool of the database, whatever
    its mode."""
    used = make_used(connect.many(6, "mixed"), table, postgres)
    assert connect("mixed", user).ask(query(ADD.format(table))) == "C ZI"
    for client in used:
        client.ask(query("BEGIN; SELECT 1"))
        assert client.ask(*batch(table)) == "1 2 T D C ZT"
        client.ask(query("COMMIT"))
        assert client.ask(*batch(table) * 3, ready=3) == " ".join(["1 2 T D C ZI"] * 3)


def test_ddl_of_a_client_that_leaves_before_it_is_done(connect: Connect, used: list[Raw], table: str) -> None:
    actor = connect()
    actor.send(query(f"SELECT pg_sleep(0.2); {ADD.format(table)}"), TERMINATE)
    actor.read_to_end()
    attributes = f"SELECT array_agg(attname) FROM pg_attribute WHERE attrelid = '{table}'::regclass"
    wait_until(lambda: "extra" in (used[0].value(attributes) or ""), "the column is there")
    for client in used:
        client.ask(query("BEGIN; SELECT 1"))
        assert client.ask(*batch(table)) == "1 2 T D C ZT"
        client.ask(query("COMMIT"))


@pytest.mark.parametrize("send", [query, extended], ids=["simple", "extended"])
def test_the_transaction_of_the_ddl_itself(used: list[Raw], table: str, send: Callable[[str], bytes]) -> None:
    client = used[0]
    client.ask(query("BEGIN"))
    assert client.ask(*batch(table)) == "1 2 T D C ZT"
    client.ask(send(ADD.format(table)))
    assert columns(client, *batch(table)) == [[b"1", b"one", b"7"]]
    client.ask(query("ROLLBACK"))
    for other in used:
        assert columns(other, *batch(table)) == [[b"1", b"one"]]


def test_ddl_and_a_known_statement_in_one_batch(used: list[Raw], table: str) -> None:
    ddl = parse(ADD.format(table)) + bind() + execute()
    assert used[0].ask(ddl, *batch(table)) == "1 2 C 1 2 T D C ZI"


def test_a_text_whose_table_was_dropped_fails_at_parse(
    connect: Connect, used: list[Raw], table: str, postgres: Postgres
) -> None:
    connect().ask(query(f"DROP TABLE {table}"))
    for client in used:
        assert client.ask(*batch(table)) == "E:42P01 ZI"
    postgres.query(f"CREATE TABLE {table} (id int, name text)")


def test_a_text_whose_table_was_dropped_by_others_fails_at_bind(
    used: list[Raw], table: str, postgres: Postgres
) -> None:
    """docs/prepared-statements.md: what does not pass through here is noticed when the statement is used."""
    postgres.query(f"DROP TABLE {table}")
    assert used[0].ask(*batch(table)) == "1 E:42P01 ZI"
    postgres.query(f"CREATE TABLE {table} (id int, name text)")


def test_temporary_tables_that_come_and_go_do_not_end_the_sharing(used: list[Raw], table: str) -> None:
    counted = f"SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%{table}%' AND name LIKE 'DOORMAN%'"
    for client in used:
        client.ask(query("BEGIN"), query("CREATE TEMP TABLE scrap (a int)"), query("DROP TABLE scrap"), ready=3)
        client.ask(query("COMMIT"))
    for client in used:
        assert client.value(counted) == "1"


def test_whoever_knows_the_old_description_is_told(connect: Connect, table: str, postgres: Postgres) -> None:
    postgres.query(f"INSERT INTO {table} VALUES (1, 'one')")
    client = connect()
    client.ask(parse(f"SELECT * FROM {table}", "told"), describe_statement("told"), SYNC)
    assert columns(client, bind([], "told"), execute(), SYNC) == [[b"1", b"one"]]
    postgres.query(f"ALTER TABLE {table} ADD COLUMN extra int DEFAULT 7")
    assert client.error(bind([], "told"), execute(), SYNC)["C"] == "0A000"
    again = [close_statement("told"), parse(f"SELECT * FROM {table}", "told"), describe_statement("told"), SYNC]
    assert client.ask(*again) == "3 1 t T ZI"
    assert columns(client, bind([], "told"), execute(), SYNC) == [[b"1", b"one", b"7"]]


def test_a_change_that_leaves_the_columns_alone_is_not_noticed(warm: list[Raw], table: str, postgres: Postgres) -> None:
    for client in warm:
        columns(client, *batch(table))
    postgres.query(f"CREATE INDEX ON {table} (id)")
    for client in warm:
        assert columns(client, *batch(table)) == [[b"1", b"one", b"7"]]


@pytest.mark.parametrize("described_there", [True, False])
def test_rows_always_look_as_described(
    connect: Connect, table: str, postgres: Postgres, *, described_there: bool
) -> None:
    postgres.query(f"INSERT INTO {table} VALUES (1, 'one')")
    knowing, others = connect.many(3), connect.many(3)
    for client in knowing:
        client.ask(parse(f"SELECT * FROM {table}", "told"), describe_statement("told"), SYNC)
        assert columns(client, bind([], "told"), execute(), SYNC) == [[b"1", b"one"]]
    postgres.query(f"ALTER TABLE {table} ADD COLUMN extra int DEFAULT 7")
    fresh = batch(table) if described_there else [part for part in batch(table) if part[:1] != b"D"]
    for other in others * 3:
        assert columns(other, *fresh) == [[b"1", b"one", b"7"]]
    for client in knowing * 2:
        assert client.error(bind([], "told"), execute(), SYNC)["C"] == "0A000"
        client.ask(query("BEGIN; SELECT 1"))
        assert client.ask(bind([], "told"), execute(), SYNC) == "E:0A000 ZE"
        assert client.ask(query("ROLLBACK")) == "C ZI"
    for client in knowing:
        client.ask(close_statement("told"), parse(f"SELECT * FROM {table}", "told"), describe_statement("told"), SYNC)
        assert columns(client, bind([], "told"), execute(), SYNC) == [[b"1", b"one", b"7"]]


def test_known_statements_go_from_server_to_server(connect: Connect, table: str) -> None:
    """Each server is asked once what a statement returns there, and then no more."""
    clients = connect.many(6)
    for client in clients:
        client.ask(parse("SELECT $1::int AS a, 'b' AS b", "k"), describe_statement("k"), SYNC)
    for _ in range(5):
        for client in clients:
            client.send(bind([b"5"], "k"), execute(), SYNC, bind([b"6"], "k"), execute(), SYNC)
        for client in clients:
            assert tell(client.until("Z") + client.until("Z")) == "2 D C ZI 2 D C ZI"


def test_a_server_whose_plan_is_older_than_what_the_client_was_told(
    connect: Connect, table: str, postgres: Postgres
) -> None:
    """The client was told by a server that prepared the statement after the change, and then gets one from before."""
    postgres.query(f"INSERT INTO {table} VALUES (1, 'one')")
    old, blocker, new = connect(), connect(), connect()
    old.ask(*batch(table))  # on the server that is used first
    postgres.query(f"ALTER TABLE {table} ADD COLUMN extra int DEFAULT 7")
    blocker.ask(query("BEGIN; SELECT 1"))  # that very server
    new.ask(parse(f"SELECT * FROM {table}", "n"), describe_statement("n"), SYNC)
    new_ones = connect.many(2)
    for client in new_ones:
        client.ask(query("BEGIN; SELECT 1"))
    blocker.ask(query("COMMIT"))
    for _ in range(3):
        assert columns(new, bind([], "n"), execute(), SYNC) == [[b"1", b"one", b"7"]]
    for client in new_ones:
        client.ask(query("COMMIT"))


def test_a_portal_is_described_as_the_statement_that_it_runs(connect: Connect) -> None:
    """Not as the one that was bound last: else each statement would be thought to return the other's rows."""
    clients = connect.many(5)
    for client in clients:
        client.ask(parse("SELECT 1 AS a", "one"), parse("SELECT 'x' AS b, 2 AS c", "two"), SYNC)
    for _ in range(4):
        for client in clients:
            bound = [bind([], "one", portal="p1"), bind([], "two", portal="p2")]
            described = [describe_portal("p1"), describe_portal("p2"), execute("p1"), execute("p2"), SYNC]
            assert client.ask(*bound, *described) == "2 2 T T D C D C ZI"
            assert client.ask(bind([], "one"), execute(), SYNC, bind([], "two"), execute(), SYNC, ready=2) == " ".join(
                ["2 D C ZI"] * 2
            )


def test_a_known_statement_behind_a_set_of_the_same_batch(connect: Connect, table: str, postgres: Postgres) -> None:
    """It is asked once what rows it returns under the new settings, not for ever."""
    client, other = connect(), connect()
    client.ask(parse("SELECT '2020-01-01 12:00+00'::timestamptz AS at", "s"), describe_statement("s"), SYNC)
    other.ask(query("BEGIN; SELECT 1"))  # another server for what follows
    batch_ = [parse("SET LOCAL TimeZone = 'Asia/Tokyo'"), bind(), execute(), bind([], "s"), execute(), SYNC]
    for _ in range(3):
        assert client.ask(*batch_).replace("S ", "").replace("N ", "").startswith("1 2 C 2 D C")
    other.ask(query("COMMIT"))


def test_a_large_bind_of_what_has_changed_is_refused_as_a_whole(connect: Connect, table: str) -> None:
    """What looks like messages in its parameter is none."""
    client, actor = connect(), connect()
    assert client.ask(parse(f"SELECT *, $1::text FROM {table}", "s"), describe_statement("s"), SYNC) == "1 t T ZI"
    actor.ask(query(ADD.format(table)))
    inner = query("SELECT 'smuggled'") + SYNC
    assert client.ask(bind([inner * (1_000_000 // len(inner))], "s"), execute(), SYNC) == "E:0A000 ZI"
    assert client.value("SELECT 'in step'") == "in step"


INT4 = (42).to_bytes(4, "big")


@pytest.mark.parametrize("name", ["s", ""])
@pytest.mark.parametrize("type_", ["bigint", "real", "text"])
def test_parameters_keep_the_types_that_the_client_was_told(
    connect: Connect, table: str, name: str, type_: str
) -> None:
    """PostgreSQL decides them when a statement is parsed for the first time, and casts what comes later."""
    actor = connect()
    clients = connect.many(POOL_SIZE)
    text = f"INSERT INTO {table} (id) VALUES ($1)"
    for client in clients:
        assert client.ask(parse(text, name), describe_statement(name), SYNC) == "1 t n ZI"
    actor.ask(query(f"ALTER TABLE {table} ALTER id TYPE {type_}"))
    for client in clients * 2:
        assert client.ask(bind([INT4], name, binary=True), execute(), SYNC) == "2 C ZI"
    assert actor.rows(f"SELECT id::int FROM {table}") == [["42"]] * 2 * len(clients)
    for client in clients * 2:
        described = client.converse(describe_statement(name), bind([INT4], name, binary=True), execute(), SYNC)
        assert tell(described) == "t n 2 C ZI"
        assert described[0].body[2:] == (23).to_bytes(4, "big")
    assert actor.rows(f"SELECT id::int FROM {table}") == [["42"]] * 4 * len(clients)
    fresh = connect().converse(parse(text), describe_statement(), SYNC)
    assert tell(fresh) == "1 t n ZI"
    assert fresh[1].body != (1).to_bytes(2, "big") + (23).to_bytes(4, "big")  # a new Parse is of the new type


def test_parameters_of_a_type_that_was_changed_past_the_pooler(
    connect: Connect, table: str, postgres: Postgres
) -> None:
    """Servers that have prepared it before and after: each gets what the client means."""
    client, holders = connect(), connect.many(POOL_SIZE)
    text = f"INSERT INTO {table} (id) VALUES ($1)"
    client.ask(parse(text, "s"), describe_statement("s"), SYNC)
    postgres.query(f"ALTER TABLE {table} ALTER id TYPE real")
    types = set()
    for holder in holders:
        holder.ask(query("BEGIN; SELECT 1"))
        types.add(holder.converse(parse(text), describe_statement(), SYNC)[1].body[2:])
    assert types == {(23).to_bytes(4, "big"), (700).to_bytes(4, "big")}
    for holder in holders * 2:
        holder.ask(query("COMMIT"))
        assert client.ask(bind([INT4], "s", binary=True), execute(), SYNC) == "2 C ZI"
        holder.ask(query("BEGIN; SELECT 1"))
    for holder in holders:
        holder.ask(query("COMMIT"))
    assert client.rows(f"SELECT id FROM {table}") == [["42"]] * 2 * len(holders)


PREPARED = "SELECT pg_backend_pid(), prepare_time FROM pg_prepared_statements"
SENDERS = pytest.mark.parametrize("send", [query, extended], ids=["simple", "extended"])


@SENDERS
@pytest.mark.parametrize(
    "create", ["CREATE TEMP TABLE {0} (id int, name text)", "CREATE TEMP TABLE {0} AS SELECT 2 AS id"]
)
def test_a_temporary_table_hides_another_from_what_is_parsed_behind_it(
    used: list[Raw], table: str, send: Callable[[str], bytes], create: str
) -> None:
    for client in used:
        client.ask(query("BEGIN"))
        assert columns(client, *batch(table)) == [[b"1", b"one"]]
        client.ask(send(create.format(table)))
        assert columns(client, *batch(table)) in ([], [[b"2"]])
        client.ask(query("COMMIT"))
        assert columns(client, *batch(table)) == [[b"1", b"one"]]


def test_a_temporary_table_and_a_known_statement_in_one_batch(used: list[Raw], table: str) -> None:
    create = parse(f"CREATE TEMP TABLE {table} (id int)") + bind() + execute()
    assert used[0].ask(create, *batch(table)) == "1 2 C 1 2 T C ZI"


def test_temporary_tables_of_one_name_and_different_columns(used: list[Raw]) -> None:
    insert = "INSERT INTO scrap VALUES ($1) RETURNING a"
    for client, type_ in zip(used, ("int", "text", "bool", "int", "text", "bool"), strict=True):
        client.ask(query("BEGIN"), query(f"CREATE TEMP TABLE scrap (a {type_})"), ready=2)
        value = {"int": b"7", "text": b"seven", "bool": b"t"}[type_]
        assert columns(client, parse(insert), bind([value]), execute(), SYNC) == [[value]]
        client.ask(query("COMMIT"))


@SENDERS
@pytest.mark.parametrize("columns_", ["(id int)", "AS SELECT 1 AS id WHERE false"])
def test_a_new_table_hides_another_from_what_is_parsed_behind_it(
    connect: Connect, table: str, postgres: Postgres, send: Callable[[str], bytes], columns_: str
) -> None:
    """By its place in search_path: PostgreSQL itself does not look again for a plan that it has."""
    postgres.query(f"INSERT INTO {table} VALUES (1, 'one')")
    creator = connect()
    creator.ask(query("CREATE SCHEMA tenant"))
    tenants = [connect(search_path="tenant, public") for _ in range(POOL_SIZE + 1)]
    try:
        for client in tenants * 2:
            assert columns(client, *batch(table)) == [[b"1", b"one"]]
        creator.ask(send(f"CREATE TABLE tenant.{table} {columns_}"))
        for client in tenants * 2:
            assert columns(client, *batch(table)) == []
    finally:
        creator.ask(query("DROP SCHEMA tenant CASCADE"))


HIDERS = {
    "select into": lambda table: [query(f"SELECT 1 AS id INTO tenant.{table} WHERE false")],
    "behind begin": lambda table: [query(f"BEGIN; CREATE TABLE tenant.{table} AS SELECT 1 AS id WHERE false; COMMIT")],
    "large": lambda table: [query(f"CREATE TABLE tenant.{table} AS SELECT 1 AS id WHERE false -- {'x' * 70_000}")],
    "large table": lambda table: [query(f"CREATE TABLE tenant.{table} (id int) -- {'x' * 70_000}")],
    "described": lambda table: [
        parse(f"SELECT 1 AS id INTO tenant.{table} WHERE false") + bind() + describe_portal() + execute() + SYNC
    ],
    "text that speaks of a temporary table": lambda table: [
        query(f"CREATE TABLE tenant.{table} (id int) -- unlike CREATE TEMP TABLE x")
    ],
    "text that speaks of pg_temp": lambda table: [
        query("BEGIN"),
        query("SELECT to_regclass('pg_temp.x')"),
        query(f"CREATE TABLE tenant.{table} (id int); COMMIT"),
    ],
    "behind a temporary table that failed": lambda table: [
        query("BEGIN; SAVEPOINT a"),
        query("CREATE TEMP TABLE x AS SELECT 1/0"),
        query("ROLLBACK TO a"),
        query(f"CREATE TABLE tenant.{table} (id int); COMMIT"),
    ],
    "and chain": lambda table: [query(f"BEGIN; CREATE TABLE tenant.{table} (id int)"), query("COMMIT AND CHAIN")],
    "do": lambda table: [query(f"DO $$BEGIN CREATE TABLE tenant.{table} (id int); END$$")],
    "do, prepared": lambda table: [extended(f"DO $$BEGIN CREATE TABLE tenant.{table} (id int); END$$")],
    "explain, prepared": lambda table: [
        extended(f"explain analyze create table tenant.{table} as select 1 as id where false")
    ],
    "explain": lambda table: [query(f"EXPLAIN (ANALYZE) CREATE TABLE tenant.{table} AS SELECT 1 AS id WHERE false")],
    "pipelined": lambda table: [
        parse("SELECT pg_sleep(0.1)") + bind() + execute() + SYNC,
        parse(f"CREATE TABLE tenant.{table} AS SELECT 1 AS id WHERE false") + bind() + execute() + SYNC,
        parse("SELECT 1") + bind() + execute() + SYNC,
    ],
}


@pytest.mark.parametrize("where", [("postgres", "app"), ("mixed", "scram_user"), ("session", "app")], ids=str)
@pytest.mark.parametrize("hider", HIDERS)
def test_a_table_whose_tag_does_not_say_that_it_was_made(
    connect: Connect, table: str, postgres: Postgres, hider: str, where: tuple[str, str]
) -> None:
    """Whoever made it: a client in session mode, one of another pool that has the same database."""
    postgres.query(f"INSERT INTO {table} VALUES (1, 'one')")
    creator = connect(*where)
    creator.ask(query("CREATE SCHEMA tenant"))
    tenants = [connect(search_path="tenant, public") for _ in range(POOL_SIZE + 1)]
    try:
        for client in tenants * 2:
            assert columns(client, *batch(table)) == [[b"1", b"one"]]
        messages = HIDERS[hider](table)
        answer = creator.converse(*messages, ready=len(messages))
        assert {got.fields()["C"] for got in answer if got.kind == b"E"} <= {"22012"}
        for client in tenants * 2:
            assert columns(client, *batch(table)) == []
    finally:
        creator.ask(query("COMMIT; DROP SCHEMA tenant CASCADE"))


def test_foreign_tables_that_are_imported_hide_others(connect: Connect, table: str, postgres: Postgres) -> None:
    postgres.query(f"INSERT INTO {table} VALUES (1, 'one')")
    here = f"OPTIONS (host '{postgres.host}', port '{postgres.port}', dbname 'postgres')"
    creator, tenant = connect(), connect(search_path="tenant, public")
    creator.ask(query(f"CREATE SCHEMA tenant; CREATE SCHEMA away; CREATE TABLE away.{table} (id int)"))
    postgres.admin("CREATE EXTENSION postgres_fdw")
    postgres.admin(f"CREATE SERVER self FOREIGN DATA WRAPPER postgres_fdw {here}")
    postgres.admin("CREATE USER MAPPING FOR app SERVER self OPTIONS (user 'app', password_required 'false')")
    postgres.admin("GRANT USAGE ON FOREIGN SERVER self TO app")
    try:
        assert columns(tenant, *batch(table)) == [[b"1", b"one"]]
        assert creator.ask(query("IMPORT FOREIGN SCHEMA away FROM SERVER self INTO tenant")) == "C ZI"
        assert columns(tenant, *batch(table)) == []
    finally:
        postgres.admin("DROP EXTENSION postgres_fdw CASCADE")
        creator.ask(query("DROP SCHEMA tenant, away CASCADE"))


def test_a_table_made_behind_another_transaction_of_the_pipeline(
    connect: Connect, table: str, postgres: Postgres
) -> None:
    postgres.query(f"INSERT INTO {table} VALUES (1, 'one')")
    creator, tenant = connect(), connect(search_path="tenant, public")
    creator.ask(query("CREATE SCHEMA tenant"))
    known = parse("SELECT 1") + bind() + execute() + SYNC
    text = f"CREATE TABLE tenant.{table} AS SELECT count(*)::int AS id FROM pg_sleep(0.3)"
    try:
        creator.ask(known, known, ready=2)  # else the second transaction would wait for the end of the first
        creator.send(known, parse(text) + bind() + execute() + SYNC)
        creator.until("Z")
        assert columns(tenant, *batch(table)) == [[b"1", b"one"]]
        creator.until("Z")
        creator.ask(query("BEGIN; SELECT 1"))  # so that the other has the server that it had before
        assert columns(tenant, *batch(table)) == [[b"1"]]
        creator.ask(query("COMMIT"))
    finally:
        creator.ask(query("DROP SCHEMA tenant CASCADE"))


@pytest.mark.parametrize(
    "text", ["SELECT 1", "SELECT", "WITH made AS (INSERT INTO {0} VALUES (1) RETURNING id) SELECT id FROM made"]
)
@SENDERS
def test_what_makes_nothing_has_nothing_prepared_anew(
    connect: Connect, table: str, text: str, send: Callable[[str], bytes]
) -> None:
    client, other = connect(), connect()
    prepared = set()
    for number in range(10):
        client.ask(query("BEGIN"))
        columns(client, *batch(table))
        if number > 2:  # what other tests have changed is known
            prepared.update(map(tuple, client.rows(f"{PREPARED} WHERE statement = 'SELECT * FROM {table}'")))
        client.ask(query("COMMIT"))
        assert "E" not in other.ask(send(text.format(table)))
    assert len({pid for pid, _ in prepared}) == len(prepared)


@SENDERS
def test_a_temporary_table_by_search_path(
    connect: Connect, used: list[Raw], table: str, send: Callable[[str], bytes]
) -> None:
    client = connect(search_path="pg_temp, public")
    for _ in range(3):
        client.ask(query("BEGIN"))
        assert columns(client, *batch(table)) == [[b"1", b"one"]]
        client.ask(send(f"CREATE TABLE {table} (id int)"))
        assert columns(client, *batch(table)) == []
        client.ask(query("COMMIT"))
        for other in used:
            assert columns(other, *batch(table)) == [[b"1", b"one"]]


def test_a_text_too_large_for_the_cache_whose_rows_have_changed(connect: Connect, table: str) -> None:
    """And whose settings have: each attempt makes a statement of its own."""
    client, actor = connect(), connect()
    text = f"SELECT * FROM {table} -- {'x' * 70_000}"
    assert client.ask(parse(text, "s"), describe_statement("s"), SYNC) == "1 t T ZI"
    client.ask(query("SET TimeZone = 'Asia/Tokyo'"))
    actor.ask(query(ADD.format(table)))
    assert client.ask(bind([], "s"), execute(), SYNC) == "E:0A000 ZI"


@pytest.mark.parametrize("first", [describe_statement(""), bind([b"a"]) + execute()], ids=["Describe", "Execute"])
def test_a_stale_plan_is_found_while_a_message_behind_it_is_on_its_way(
    connect: Connect, table: str, postgres: Postgres, first: bytes
) -> None:
    """Nothing may be sent amid it. Either it is healed, or the client is told; the server is the pool's again."""
    text, big = f"SELECT id, length($1::text) FROM {table}", b"y" * 150_000
    postgres.query(f"INSERT INTO {table} VALUES (1, 'one')")
    clients = connect.many(POOL_SIZE)
    for client in clients:  # each holds another server
        client.ask(query("BEGIN"))
        client.ask(parse(text, "", [25]), bind([b"a"]), describe_portal(), execute(), SYNC)
    for client in clients:
        client.ask(query("COMMIT"))
    postgres.query(f"ALTER TABLE {table} ALTER id TYPE bigint")
    data = parse(text, "", [25]) + first + bind([big]) + execute() + SYNC
    clients[0].send(data[:40_000])
    time.sleep(0.3)
    clients[0].send(data[40_000:])
    told = tell(clients[0].until("Z"))
    assert "0A000" in told or "D" in told
    for client in clients:
        data = parse(text, "", [25]) + bind([b"a"]) + describe_portal() + execute() + SYNC
        assert columns(client, data) == [[b"1", b"1"]]
