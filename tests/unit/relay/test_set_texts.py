"""Which texts change what the statements behind them mean."""

from __future__ import annotations

import pytest

from doorman.workers.set_texts import folds, hides_value, settings_in

HARMLESS = [
    ("SELECT 1", 0),
    ("SET statement_timeout = 5", 1),
    (" set local Lock_Timeout to 5 ;", 1),
    ("SET app.user = 'x; SET y = 1'", 1),
    ('SET "work.mem" TO 1', 1),
    ("RESET log_statement", 1),
    ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", 1),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", 1),
    ("SET CONSTRAINTS ALL DEFERRED", 1),
    ("BEGIN; SET LOCAL statement_timeout = 1; SELECT 'SET x = 1'", 1),
    ("/* SET x = 1; */ SELECT 1 -- ; SET x = 1", 0),
    ("SELECT set_config('app.user', $1, true), set_config('statement_timeout', '5', true)", 0),
    ("UPDATE settings SET x = 1", 0),
    ("", 0),
]
MATTERING = [
    ("SET transform_null_equals = on", 1),
    ("/* why */ SET LOCAL search_path = aside", 1),
    ("-- why\nset\n local\tarray_nulls to off", 1),
    ("SET ROLE other", 1),
    ("SET SESSION AUTHORIZATION other", 1),
    ("SET TIME ZONE LOCAL", 1),
    ("SET enable_nestloop = off", 1),
    ("RESET ALL", 1),
    ("SELECT 1; SET work_mem = '1GB'; SET statement_timeout = 1", 2),
    ("SELECT set_config($1, $2, true)", 0),
    ("SELECT SET_CONFIG ( 'app.user', $1, true), set_config('array_nulls', 'off', true)", 0),
    ("UPDATE pg_settings SET setting = 'off' WHERE name = 'array_nulls'", 0),
]


@pytest.mark.parametrize(("text", "tags"), HARMLESS)
def test_what_matters_to_no_statement(text: str, tags: int) -> None:
    assert settings_in(text.encode()) == (tags, False)


@pytest.mark.parametrize(("text", "tags"), MATTERING)
def test_what_matters(text: str, tags: int) -> None:
    assert settings_in(text.encode()) == (tags, True)


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("SET LOCAL extra_float_digits = 0", True),
        ("SET XML OPTION DOCUMENT", True),
        ("SELECT set_config($1, $2, true)", True),
        ("SELECT set_config('search_path', $1, true), set_config('role', $2, true)", False),
        ("SET LOCAL work_mem = '1GB'; SET search_path = a", True),
        ("SET LOCAL enable_seqscan = off", True),
        ("SET TIME ZONE 'UTC'", True),
        ("RESET ALL", True),
        ("SET LOCAL statement_timeout = 0; SET LOCAL app.user = 'x'", False),
        ("SET SESSION AUTHORIZATION a; SET LOCAL ROLE b; SET SCHEMA 'c'; SET NAMES 'UTF8'", False),
    ],
)
def test_what_stays_in_plans(text: str, yes: bool) -> None:
    assert folds(text.encode()) is yes


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("SELECT set_config('a', 'b', true), pg_catalog.set_config ( 'search_path' , E'' , false )", False),
        ("SELECT set_config($1, $2, $3), set_config('array_nulls', $4::text, true)", False),
        ("SET LOCAL array_nulls = off", False),
        ("SELECT set_config('a', current_setting('b'), true)", True),
        ("SELECT set_config('a', 'b', true), set_config('a', v, true) FROM t", True),
        ("UPDATE pg_settings SET setting = 'off' WHERE name = 'array_nulls'", True),
        ("DECLARE c CURSOR FOR SELECT set_config('a', 'b', true)", True),
        ("SELECT 1; prepare a AS SELECT set_config('a', 'b', true)", True),
    ],
)
def test_a_value_that_the_text_does_not_tell(text: str, yes: bool) -> None:
    assert hides_value(text.encode()) is yes
