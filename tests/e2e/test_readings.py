"""What PostgreSQL reads when it parses a text or first runs a function, and keeps: it is of one client and one moment.

Each scene is also played directly to PostgreSQL, whose answers are the ones to give.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.lone import Lone, extended, lone_pooler
from tests.e2e.raw import Raw
from tests.e2e.test_among_clients import ask, run
from tests.harness import Doorman, Postgres
from tests.torture.wire import (
    FLUSH,
    SYNC,
    bind,
    close_statement,
    describe_portal,
    describe_statement,
    execute,
    function_call,
    parse,
    query,
)

Dial = Callable[..., Raw]
SET_CONFIG = 2078  # its oid

FUNCTIONS = {
    "moment": "to_char(timestamptz '2026-01-01 12:00' AT TIME ZONE 'UTC', 'DD HH24:MI')",
    "day": "to_char(date '01/02/2026', 'DD Month')",
    "list": "('{NULL}'::text[])[1]",
    "number": "(1.23456789012::float8)::text",
    "secret_of_wrapper": "secret(1)",
}


def the_time_in_a_literal(dial: Dial) -> Iterator[list[str]]:
    text = "SELECT clock_timestamp() - 'now'::timestamptz > '0.5 s', $1::text"
    one, other = dial(), dial()
    for name, raw in (("", one), ("", other), ("s", one), ("s", other)):
        yield ask(raw, parse(text, name), bind([b"x"], name), execute(), SYNC)
        time.sleep(0.6)
    yield ask(one, parse("SELECT 'Now or TODAY' <> ' today'"), bind(), describe_portal(), execute(), SYNC)


def a_cursor_of_another_described(dial: Dial) -> Iterator[list[str]]:
    for raw, columns in ((dial(), "1 AS a, 2 AS b"), (dial(), "'text'::text AS t")):
        for _ in range(2):
            raw.ask(query("BEGIN"), query(f"DECLARE c CURSOR FOR SELECT {columns}"), ready=2)
            told = raw.converse(parse("FETCH 1 FROM c", "f"), describe_statement("f"), bind([], "f"), execute(), SYNC)
            raw.ask(query("COMMIT"))
            yield [f"{got.kind!r} {got.body!r}" for got in told if got.kind in b"1TDE"]
            raw.ask(query("DEALLOCATE f"))


def settings_of_another_in_the_plans_of_functions(dial: Dial) -> Iterator[list[str]]:
    one, other = dial(), dial(TimeZone="UTC", DateStyle="ISO, MDY")
    tokyo = dial(TimeZone="Asia/Tokyo", DateStyle="ISO, DMY")
    yield ask(tokyo, extended("SELECT moment(), day()"))
    yield ask(other, extended("SELECT moment(), day()"))
    tokyo.ask(query("BEGIN"), query("RESET TimeZone"), query("COMMIT"), ready=3)
    yield ask(one, extended("SELECT moment(), day(), list(), number()"))
    for name, value in (("array_nulls", "off"), ("extra_float_digits", "-10"), ("TimeZone", "'Asia/Tokyo'")):
        other.ask(query("BEGIN"), query(f"SET LOCAL {name} = {value}"), query("DISCARD PLANS"), ready=3)
        yield ask(other, extended("SELECT list(), number(), moment()"))
        other.ask(query("COMMIT"))
        yield ask(one, extended("SELECT list(), number(), moment()"))


def a_setting_whose_value_is_not_in_the_text(dial: Dial) -> Iterator[list[str]]:
    reads = "SELECT '{NULL}'::text[] = ARRAY[NULL::text]"
    raws = dial(), dial()
    for raw, value in zip(raws, ("on", "off"), strict=True):
        raw.ask(query("BEGIN"), query(f"SET LOCAL app.v = '{value}'"), ready=2)
        raw.ask(query("SELECT set_config('array_nulls', current_setting('app.v'), true)"))
        yield ask(raw, extended(reads))
        raw.ask(query("COMMIT"))
    for raw, value in zip(raws, ("on", "off"), strict=True):
        raw.ask(query("BEGIN"), query(f"SET LOCAL app.v = '{value}'"), ready=2)
        raw.ask(extended("SELECT set_config('array_nulls', current_setting('app.v'), true)"))
        yield ask(raw, extended(reads))
        raw.ask(query("COMMIT"))


def what_is_parsed_between_a_bind_and_its_execute(dial: Dial) -> Iterator[list[str]]:
    raw = dial()
    raw.ask(query("CREATE TABLE between_them (a int)"), query("INSERT INTO between_them VALUES (1)"), ready=2)
    for change, text in (
        ("SET LOCAL TimeZone TO 'Asia/Tokyo'", "SELECT timestamptz '2026-01-01 00:00' = '2026-01-01 00:00+09'"),
        ("ALTER TABLE between_them ALTER a TYPE text", "SELECT * FROM between_them"),
        ("DEALLOCATE ALL", "SELECT 'after'"),
    ):
        raw.ask(query("BEGIN"))
        raw.ask(run("SELECT 'known'"), SYNC)
        changed = parse(change) + bind() + parse(text, "s") + execute()
        yield ask(raw, changed, parse(text, "z"), bind([], "z"), execute(), SYNC)
        raw.ask(query("ROLLBACK"), query("DEALLOCATE ALL"), ready=2)
    raw.ask(query("DROP TABLE between_them"))


def a_taken_name_behind_what_forgets_all(dial: Dial) -> Iterator[list[str]]:
    raw = dial()
    forget = parse("DEALLOCATE ALL") + bind() + parse("", "b") + execute()
    yield ask(raw, forget, parse("", "a"), parse("SELECT 1", "a"), SYNC)
    time.sleep(3)  # who found that its answers did not fit was ended after two seconds of silence
    yield ask(raw, extended("SELECT 'lives'"))


def a_cursor_of_the_extended_protocol_with_the_name_of_a_portal(dial: Dial) -> Iterator[list[str]]:
    raw, other = dial(), dial()
    raw.ask(parse("SELECT 1", "s"), describe_statement("s"), SYNC)
    raw.ask(query("BEGIN"))
    raw.ask(bind([], "s", "c"), SYNC)
    for text in ("CLOSE c", "DECLARE c CURSOR FOR SELECT 'x'::text AS other"):
        raw.ask(extended(text))
    yield ask(raw, describe_portal("c"), SYNC)
    raw.ask(query("COMMIT"))
    for _ in range(2):
        for number in range(3):
            other.ask(extended(f"SELECT 'evict {number}'"))
        yield ask(raw, bind([], "s"), execute(), SYNC)


def a_batch_run_again_that_evicts_what_was_prepared_for_it(dial: Dial) -> Iterator[list[str]]:
    raw, other = dial(), dial()
    raw.ask(run("SELECT 'A'", "a"), SYNC)
    other.ask(query("SELECT forget()"))
    batch = bind([], "a") + execute() + run("SELECT 'C'", "c") + FLUSH + bind([], "a") + execute()
    yield ask(raw, batch, SYNC)
    yield ask(raw, bind([], "a"), execute(), bind([], "c"), execute(), SYNC)


def a_string_that_speaks_of_temporary_tables(dial: Dial) -> Iterator[list[str]]:
    raw, other = dial(), dial(search_path="hides, public")
    raw.ask(query("CREATE SCHEMA hides; CREATE TABLE shown AS SELECT 'public' AS a"))
    yield ask(other, extended("SELECT a FROM shown"))
    raw.ask(query("BEGIN"), query("SELECT 'goes into temp storage', 1 AS into"), ready=2)
    raw.ask(query("CREATE TABLE hides.shown AS SELECT 'hides' AS a"), query("COMMIT"), ready=2)
    yield ask(other, extended("SELECT a FROM shown"))
    raw.ask(query("DROP SCHEMA hides CASCADE; DROP TABLE shown"))


def what_extensions_keep(dial: Dial) -> Iterator[list[str]]:
    one, other = dial(), dial()
    yield ask(one, query("SELECT set_limit(0.9)"))
    yield ask(other, query("SELECT show_limit()"))
    yield ask(one, extended("SELECT set_limit(0.8)"))
    yield ask(other, query("SELECT show_limit()"))
    for ask_for in (query, extended):
        yield ask(one, ask_for(f"SELECT dblink_connect_u('{ask_for.__name__}', own_address())"))
        yield ask(other, query("SELECT dblink_get_connections()"))


NAMES = itertools.count()
LASTING = (
    "SELECT pg_create_physical_replication_slot('{0}', false, true)",
    "SELECT PG_Create_Physical_Replication_Slot('{0}', temporary => true)",
    "SELECT pg_replication_origin_create('{0}'), pg_replication_origin_session_setup('{0}')",
    "SELECT pg_backup_start('{0}', fast => true)",
)


def what_only_the_end_of_a_session_takes_back(dial: Dial) -> Iterator[list[str]]:
    other = dial("super")
    for text in LASTING:
        for ask_for in (query, extended):
            one = dial("super")
            got = one.ask(ask_for(text.format(f"lasting_{next(NAMES)}")))
            assert "D" in got, (text, got)
            yield ask(other, query("SELECT count(*) FROM pg_replication_slots WHERE active_pid = pg_backend_pid()"))
            yield ask(other, query("SELECT pg_replication_origin_session_is_setup()"))
            yield ask(other, query("SELECT pg_backup_stop()"))
            one.ask(query("DISCARD ALL"))
            yield ask(other, query("SELECT pg_replication_origin_session_is_setup()"))


def a_role_of_another_name(dial: Dial) -> Iterator[list[str]]:
    raw, other = dial("super"), dial("super")
    raw.ask(query("CREATE ROLE named"))
    yield ask(other, extended("SELECT 'named'::regrole::text"))
    raw.ask(query("ALTER ROLE named RENAME TO renamed"), query("CREATE ROLE named"), ready=2)
    yield ask(other, extended("SELECT 'named'::regrole::text"))
    raw.ask(query("DROP ROLE named, renamed"))


def what_the_role_of_another_may_execute(dial: Dial) -> Iterator[list[str]]:
    raw, one, other = dial("super"), dial(), dial(role="other")
    made = raw.ask(query("CREATE FUNCTION secret(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 41'"))
    assert made == "C ZI"
    raw.ask(query("REVOKE EXECUTE ON FUNCTION secret FROM public; GRANT EXECUTE ON FUNCTION secret TO app"))
    for _ in range(2):
        for client in (one, other):
            yield ask(client, query("SELECT secret_of_wrapper()"))
            yield ask(client, extended("SELECT secret(1)"))
            yield ask(client, run("SELECT secret(2)", "named"), close_statement("named"), SYNC)
    raw.ask(query("DROP FUNCTION secret"))


def a_type_made_anew_that_a_function_has(dial: Dial) -> Iterator[list[str]]:
    one, other = dial("super"), dial("super")
    one.ask(query("CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN code AS text CHECK (value <> 'x')"))
    body = "$$DECLARE a mood = 'sad'; b mood = 'happy'; c code = 'y'; BEGIN RETURN concat(a < b, c); END$$"
    one.ask(query(f"CREATE FUNCTION moods() RETURNS text LANGUAGE plpgsql AS {body}"))
    yield ask(one, query("SELECT moods()"))
    one.ask(query("DROP TYPE mood; CREATE TYPE mood AS ENUM ('happy', 'sad')"))
    other.close()
    other = dial("super")
    yield ask(other, query("SELECT moods()"))
    other.ask(
        query("BEGIN"), query("DROP DOMAIN code"), query("CREATE DOMAIN code AS varchar(3)"), query("COMMIT"), ready=4
    )
    yield ask(dial("super"), query("SELECT moods()"))
    other.ask(query("DROP FUNCTION moods; DROP TYPE mood; DROP DOMAIN code"))


def what_a_portal_that_is_not_done_has_changed(dial: Dial) -> Iterator[list[str]]:
    """Behind an Execute with a limit it is a Parse that shows what has changed."""
    raw = dial()
    raw.ask(query("CREATE TABLE changed AS SELECT 1 AS a, ''::text AS b"))
    texts = (
        "UPDATE changed SET b = b || 'x' WHERE a = 1 RETURNING b",
        "UPDATE changed SET b = b || 'y' WHERE a = 1",
        "SELECT count(*), max(b) FROM changed",
        "INSERT INTO changed VALUES (2, 'z') RETURNING a",
    )
    for text in texts:
        raw.ask(extended(text))
    for name in ("", "s"):
        for before in texts:
            limited = parse(before) + bind() + execute("", 1)
            yield ask(raw, limited, *(run(text, name and f"{name}{at}") for at, text in enumerate(texts)), SYNC)
            raw.ask(query("DEALLOCATE ALL"))
    raw.ask(query("DROP TABLE changed"))


def a_setting_that_a_function_call_makes(dial: Dial) -> Iterator[list[str]]:
    one, other = dial(), dial()
    one.ask(query("BEGIN"))
    yield ask(one, function_call(SET_CONFIG, [b"array_nulls", b"off", b"\0"]))
    yield ask(one, query("SELECT list()"))
    one.ask(query("COMMIT"))
    yield ask(other, query("SELECT list()"))


def a_temporary_table_that_was_not_made(dial: Dial) -> Iterator[list[str]]:
    raw, other = dial(), dial(search_path="hides, public")
    raw.ask(query("CREATE SCHEMA hides; CREATE TABLE shown AS SELECT 'public' AS a"))
    yield ask(other, extended("SELECT a FROM shown"))
    raw.ask(query("BEGIN"))
    raw.ask(parse("CREATE TEMP TABLE never (a int)"), bind(), SYNC)
    raw.ask(query("CREATE TABLE hides.shown AS SELECT 'hides' AS a"), query("COMMIT"), ready=2)
    yield ask(other, extended("SELECT a FROM shown"))
    raw.ask(query("DROP SCHEMA hides CASCADE; DROP TABLE shown"))


def a_temporary_table_that_hides_what_was_prepared(dial: Dial) -> Iterator[list[str]]:
    raw = dial()
    raw.ask(query("CREATE TABLE hidden AS SELECT 'public' AS a"))
    for _ in range(2):
        raw = dial()
        raw.ask(parse("SELECT a FROM hidden", "s"), SYNC)
        yield ask(raw, bind([], "s"), execute(), SYNC)
        raw.ask(query("BEGIN"), query("CREATE TEMP TABLE hidden AS SELECT 'temporary' AS a"), ready=2)
        yield ask(raw, bind([], "s"), execute(), SYNC)
        raw.ask(query("COMMIT"), query("DROP TABLE IF EXISTS pg_temp.hidden"), ready=2)
    raw.ask(query("DROP TABLE hidden"))


SCENES = [
    a_temporary_table_that_hides_what_was_prepared,
    the_time_in_a_literal,
    a_cursor_of_another_described,
    settings_of_another_in_the_plans_of_functions,
    a_setting_whose_value_is_not_in_the_text,
    what_is_parsed_between_a_bind_and_its_execute,
    a_taken_name_behind_what_forgets_all,
    a_cursor_of_the_extended_protocol_with_the_name_of_a_portal,
    a_batch_run_again_that_evicts_what_was_prepared_for_it,
    a_string_that_speaks_of_temporary_tables,
    what_extensions_keep,
    what_only_the_end_of_a_session_takes_back,
    a_temporary_table_that_was_not_made,
    what_a_portal_that_is_not_done_has_changed,
    a_setting_that_a_function_call_makes,
    a_type_made_anew_that_a_function_has,
    what_the_role_of_another_may_execute,
    a_role_of_another_name,
]


POOLS: dict[str, dict[str, int]] = {"ordinary": {}, "keeps one": {"server_prepared_statements_cache_size": 1}}


@pytest.fixture(scope="module", params=POOLS)
def services(request: pytest.FixtureRequest) -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler(pool=POOLS[request.param]) as (postgres, doorman):
        for name, expression in FUNCTIONS.items():
            body = f"$$BEGIN RETURN {expression}; END$$"
            postgres.admin(f"CREATE FUNCTION {name}() RETURNS text LANGUAGE plpgsql AS {body}")
        forget = "$$BEGIN EXECUTE 'DEALLOCATE ALL'; END$$"
        postgres.admin(f"CREATE FUNCTION forget() RETURNS void LANGUAGE plpgsql AS {forget}")
        postgres.admin("CREATE EXTENSION pg_trgm; CREATE EXTENSION dblink; GRANT CREATE ON DATABASE postgres TO app")
        postgres.admin("GRANT EXECUTE ON FUNCTION dblink_connect_u(text, text) TO app")
        address = f"host={postgres.host} port={postgres.port} user=app dbname=postgres"
        postgres.admin(f"CREATE FUNCTION own_address() RETURNS text LANGUAGE sql AS $$SELECT '{address}'$$")
        yield postgres, doorman


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_scene_is_answered_as_postgresql_would(
    services: tuple[Postgres, Doorman], scene: Callable[[Dial], Iterator[list[str]]]
) -> None:
    with Lone(*services) as lone:

        def direct(database: str = "", **parameters: str) -> Raw:
            user = "postgres" if database == "super" else "app"
            raw = Raw((lone.postgres.host, lone.postgres.port)).log_in(user, **parameters)
            lone.made.append(raw)
            return raw

        wanted = list(scene(direct))
        assert list(scene(lone.client)) == wanted


def test_a_dropped_type_replaces_servers_and_holds_up_no_login(services: tuple[Postgres, Doorman]) -> None:
    with Lone(*services) as lone:
        owner, other = lone.client("super"), lone.client()
        pid = other.value("SELECT pg_backend_pid()")
        for text in ("CREATE TYPE held AS ENUM ('x')", "BEGIN", "DROP TYPE held", "ROLLBACK"):
            owner.ask(query(text))
        assert other.value("SELECT pg_backend_pid()") == pid
        other.ask(query("BEGIN; SELECT 1"))  # the one server of this pool
        owner.ask(query("DROP TYPE held"))
        began = time.monotonic()
        newcomer = lone.client()
        assert time.monotonic() - began < 1
        other.ask(query("COMMIT"))
        assert newcomer.value("SELECT pg_backend_pid()") != pid
