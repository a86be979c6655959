"""Every SQL command of PostgreSQL: examples of what it does to the session that runs it, or why it does nothing to it.

Rules
1. `EXAMPLES` and `CANNOT` together name each command of psql's `\\h`.
2. An example leaves a trace, which `snapshot` sees from inside; unless `leaves` is False: then it is there to show that
   nothing goes wrong.
3. Examples run as superuser, again and again, and change nothing that is everybody's.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Where = Literal["anywhere", "alone", "block"]


class Example(NamedTuple):
    """Statements, each sent by itself. where: `alone` is refused in a transaction block, `block` outside of one."""

    statements: tuple[str, ...]
    where: Where = "anywhere"
    leaves: bool = True

    @property
    def name(self) -> str:
        return " / ".join(self.statements)[:70]


def does(*statements: str, where: Where = "anywhere") -> Example:
    return Example(statements, where)


def tries(*statements: str, where: Where = "anywhere") -> Example:
    """Leaves nothing by itself."""
    return Example(statements, where, False)


SET = "set_config('work_mem', '7MB', false)"
LOCK = "pg_advisory_lock(7)"

EXAMPLES: dict[str, list[Example]] = {
    "ABORT": [tries("SET work_mem = '7MB'", "ABORT", where="block")],
    "BEGIN": [tries("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "COMMIT", where="alone")],
    "CLOSE": [
        does("DECLARE a CURSOR WITH HOLD FOR SELECT 1", "DECLARE b CURSOR WITH HOLD FOR SELECT 1", "CLOSE a"),
        tries("DECLARE a CURSOR WITH HOLD FOR SELECT 1", "CLOSE ALL"),
    ],
    "COMMIT": [does("SET work_mem = '7MB'", "COMMIT AND CHAIN", where="block")],
    "COPY": [does(f"COPY (SELECT {LOCK}) TO STDOUT"), does(f"COPY (SELECT {SET}) TO STDOUT")],
    "CREATE AGGREGATE": [
        does("CREATE AGGREGATE pg_temp.total(int) (sfunc = int4pl, stype = int)"),
    ],
    "CREATE DOMAIN": [does("CREATE DOMAIN pg_temp.positive AS int CHECK (value > 0)")],
    "CREATE FUNCTION": [does("CREATE FUNCTION pg_temp.one() RETURNS int LANGUAGE sql AS 'SELECT 1'")],
    "CREATE OPERATOR": [does("CREATE OPERATOR pg_temp.=== (leftarg = int, rightarg = int, function = int4eq)")],
    "CREATE PROCEDURE": [does("CREATE PROCEDURE pg_temp.nothing() LANGUAGE sql AS ''")],
    "CREATE SEQUENCE": [does("CREATE TEMP SEQUENCE numbers"), does("CREATE TEMP SEQUENCE n", "SELECT nextval('n')")],
    "CREATE TABLE": [
        does("CREATE TEMP TABLE mine (id serial PRIMARY KEY, name text)"),
        does("CREATE TEMPORARY TABLE mine (id int) ON COMMIT DELETE ROWS"),
        does("CREATE LOCAL TEMP TABLE mine (id int) ON COMMIT PRESERVE ROWS"),
        does("CREATE TABLE pg_temp.mine ()"),
        does("SET search_path = pg_temp", "CREATE TABLE mine ()"),
    ],
    "CREATE TABLE AS": [
        does("CREATE TEMP TABLE mine AS SELECT 1 AS x"),
        does("CREATE TABLE pg_temp.mine AS TABLE kept"),
        does("create\n\tglobal temporary table mine as values (1)"),
        does("CREATE /* why not */ TEMP TABLE mine AS SELECT 1"),
        does("CREATE -- why not\nTEMP TABLE mine AS SELECT 1"),
        does("CREATE TEMP TABLE IF NOT EXISTS mine AS SELECT 1 WITH NO DATA"),
        does("SET LOCAL search_path = pg_temp", "CREATE TABLE mine AS SELECT 1", where="block"),
    ],
    "CREATE TYPE": [does("CREATE TYPE pg_temp.mood AS ENUM ('good', 'bad')")],
    "CREATE VIEW": [
        does("CREATE TEMP VIEW mine AS SELECT 1"),
        does("CREATE OR REPLACE TEMPORARY RECURSIVE VIEW mine (n) AS SELECT 1"),
    ],
    "DEALLOCATE": [
        does("PREPARE a AS SELECT 1", "PREPARE b AS SELECT 2", "DEALLOCATE a"),
        tries("PREPARE a AS SELECT 1", "DEALLOCATE ALL"),
    ],
    "DECLARE": [
        does("DECLARE here CURSOR FOR SELECT generate_series(1, 9)", where="block"),
        does("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 9)"),
        does("declare held binary scroll cursor with hold for table kept"),
    ],
    "DELETE": [
        does("DELETE FROM kept WHERE pg_try_advisory_lock(7) IS NULL"),
        does(f"DELETE FROM kept WHERE {SET} = ''"),
    ],
    "DISCARD": [
        tries("SET work_mem = '7MB'", "DISCARD ALL", where="alone"),
        tries("CREATE TEMP TABLE mine ()", "DISCARD TEMP"),
        does("SET work_mem = '7MB'", "DISCARD PLANS"),
        does("LISTEN news", "DISCARD SEQUENCES"),
    ],
    "DO": [
        does("DO $$BEGIN SET work_mem = '7MB'; END$$"),
        does("DO $$BEGIN SET TimeZone = 'Asia/Tokyo'; END$$"),
        does("DO $$BEGIN SET ROLE app; END$$"),
        does("DO $$BEGIN EXECUTE 'SET SESSION AUTHORIZATION app'; END$$"),
        does(f"DO $$BEGIN PERFORM {SET}; END$$"),
        does(f"DO $$BEGIN PERFORM {LOCK}; END$$"),
        does("DO $$BEGIN EXECUTE 'PREPARE a AS SELECT 1'; END$$"),
        does("DO $$BEGIN EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT 1'; END$$"),
        does("DO $$BEGIN LISTEN news; END$$"),
        does("DO $$BEGIN CREATE TEMP TABLE mine (); END$$"),
        does("DO $$BEGIN CREATE TEMP TABLE mine AS SELECT 1; END$$"),
        does("DO $$BEGIN EXECUTE 'CREATE '||'TEMP TABLE mine ()'; END$$"),
    ],
    "END": [tries("SET LOCAL work_mem = '7MB'", "END", where="block")],
    "EXECUTE": [
        does(f"PREPARE a AS SELECT {LOCK}", "EXECUTE a", "DEALLOCATE a"),
        does(f"PREPARE a AS SELECT {SET}", "EXECUTE a", "DEALLOCATE a"),
        does("PREPARE a AS SELECT 1", "CREATE TEMP TABLE mine AS EXECUTE a", "DEALLOCATE a"),
    ],
    "EXPLAIN": [
        does(f"EXPLAIN ANALYZE SELECT {SET}"),
        does(f"EXPLAIN (ANALYZE, COSTS off) SELECT {LOCK}"),
        does("EXPLAIN ANALYZE CREATE TEMP TABLE mine AS SELECT 1"),
    ],
    "FETCH": [does("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 9)", "FETCH 2 FROM held")],
    "INSERT": [
        does(f"INSERT INTO kept SELECT 1, {SET}"),
        does(f"INSERT INTO kept SELECT 1, '' FROM {LOCK}"),
    ],
    "LISTEN": [does("LISTEN news")],
    "LOCK": [does("LOCK TABLE kept IN ACCESS EXCLUSIVE MODE", where="block"), does("LOCK kept NOWAIT", where="block")],
    "MERGE": [
        does(
            "MERGE INTO kept USING (SELECT pg_try_advisory_lock(7) AS got) one ON id = -1 AND got"
            " WHEN NOT MATCHED AND got THEN INSERT VALUES (2, 'merged')"
        ),
    ],
    "MOVE": [does("DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT generate_series(1, 9)", "MOVE LAST IN held")],
    "NOTIFY": [tries("NOTIFY news, 'x'"), does("LISTEN news", "NOTIFY news")],
    "PREPARE": [
        does("PREPARE a AS SELECT 1"),
        does("PREPARE a (text) AS INSERT INTO kept VALUES (1, $1)", "EXECUTE a ('x')"),
    ],
    "PREPARE TRANSACTION": [
        # Everybody's, until somebody ends it; the session is out of it.
        tries("INSERT INTO kept VALUES (3, '')", "PREPARE TRANSACTION 'two'", "ROLLBACK PREPARED 'two'", where="block"),
    ],
    "RELEASE SAVEPOINT": [does("SAVEPOINT s", "SET work_mem = '7MB'", "RELEASE s", where="block")],
    "RESET": [
        tries("SET work_mem = '7MB'", "RESET work_mem"),
        does("SET work_mem = '7MB'", "SET TimeZone = 'Asia/Tokyo'", "RESET TimeZone"),
        does("SET ROLE app", "RESET ALL"),
        tries("SET ROLE app", "RESET ROLE"),
        does("SET SESSION AUTHORIZATION app", "RESET SESSION AUTHORIZATION", "SET work_mem = '7MB'"),
    ],
    "ROLLBACK": [tries("SET work_mem = '7MB'", "ROLLBACK AND NO CHAIN", where="block")],
    "ROLLBACK TO SAVEPOINT": [does("SET work_mem = '7MB'", "SAVEPOINT s", "ROLLBACK TO s", where="block")],
    "SAVEPOINT": [does("SAVEPOINT s", "SET work_mem = '7MB'", where="block")],
    "SELECT": [
        does(f"SELECT {SET}"),
        does("SELECT set_config(name, '7MB', false) FROM pg_settings WHERE name LIKE 'work\\_mem'"),
        does("SELECT pg_catalog.set_config('search_path', 'nowhere', false)"),
        tries("SELECT set_config('work_mem', '7MB', true)"),
        does(f"SELECT {LOCK}"),
        does("SELECT pg_advisory_lock_shared(7, 8)"),
        does("SELECT pg_try_advisory_lock(7), pg_try_advisory_lock_shared(9)"),
        does("SELECT PG_ADVISORY_LOCK(id) FROM generate_series(1, 5) id"),
        does("SELECT pg_advisory_xact_lock(7), pg_try_advisory_xact_lock_shared(8)", where="block"),
        does("SELECT * FROM kept FOR UPDATE", where="block"),
        tries("SELECT lo_open(lo_create(0), 393216)"),
    ],
    "SELECT INTO": [
        does("SELECT 1 AS x INTO TEMP mine"),
        does("SELECT * INTO TEMPORARY TABLE mine FROM kept"),
        does("SELECT 1 AS x INTO pg_temp.mine"),
        does("WITH w AS (SELECT 1 AS x) SELECT x INTO LOCAL TEMP TABLE mine FROM w"),
        does("SELECT 1 AS x INTO -- why not\n TEMP mine"),
    ],
    "SET": [
        does("SET work_mem = '7MB'"),
        does("SET SESSION statement_timeout TO 54321"),
        does("SET search_path = nowhere, public"),
        does("SET TIME ZONE 'Asia/Tokyo'"),
        does("SET NAMES 'LATIN1'"),
        does("SET client_encoding = 'SQL_ASCII'"),
        does("SET DateStyle = 'German'"),
        does("SET LOCAL work_mem = '7MB'", where="block"),
        does("SET SCHEMA 'nowhere'"),
        does("SET XML OPTION DOCUMENT"),
        does("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"),
        does("SET default_transaction_read_only = on", "DISCARD PLANS"),
        does("SET session_replication_role = replica"),
        does("SET standard_conforming_strings = off"),
        does("SET application_name = 'tool'"),
        does("SET role = 'app'"),
        does("SET my.label = 'secret'"),
    ],
    "SET CONSTRAINTS": [tries("SET CONSTRAINTS ALL DEFERRED", where="block")],
    "SET ROLE": [does("SET ROLE app"), does("SET SESSION ROLE app"), does("SET LOCAL ROLE app", where="block")],
    "SET SESSION AUTHORIZATION": [
        does("SET SESSION AUTHORIZATION app"),
        does("SET SESSION AUTHORIZATION app", "SET ROLE NONE", "SET work_mem = '7MB'"),
        does("SET LOCAL SESSION AUTHORIZATION app", where="block"),
    ],
    "SET TRANSACTION": [does("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY", where="block")],
    "START TRANSACTION": [tries("START TRANSACTION READ ONLY", "END", where="alone")],
    "UNLISTEN": [does("LISTEN news", "LISTEN more", "UNLISTEN news"), tries("LISTEN news", "UNLISTEN *")],
    "UPDATE": [
        does("UPDATE pg_settings SET setting = '7777' WHERE name = 'work_mem'"),
        does(f"UPDATE kept SET name = {SET} WHERE id = (SELECT min(id) FROM kept)"),
    ],
    "VALUES": [does(f"VALUES ({SET})"), does(f"VALUES ({LOCK})")],
    "WITH": [does(f"WITH w AS MATERIALIZED (SELECT {LOCK}) SELECT * FROM w")],
}

# By the reason why no example is needed.
CANNOT: dict[str, str] = {
    "Works on the catalogue or on files, which are everybody's; names in pg_temp need a CREATE before.": """
        ALTER AGGREGATE, ALTER COLLATION, ALTER CONVERSION, ALTER DATABASE, ALTER DEFAULT PRIVILEGES, ALTER DOMAIN,
        ALTER EVENT TRIGGER, ALTER EXTENSION, ALTER FOREIGN DATA WRAPPER, ALTER FOREIGN TABLE, ALTER FUNCTION,
        ALTER GROUP, ALTER INDEX, ALTER LANGUAGE, ALTER LARGE OBJECT, ALTER MATERIALIZED VIEW, ALTER OPERATOR,
        ALTER OPERATOR CLASS, ALTER OPERATOR FAMILY, ALTER POLICY, ALTER PROCEDURE, ALTER PUBLICATION, ALTER ROLE,
        ALTER ROUTINE, ALTER RULE, ALTER SCHEMA, ALTER SEQUENCE, ALTER SERVER, ALTER STATISTICS, ALTER SUBSCRIPTION,
        ALTER TABLE, ALTER TABLESPACE, ALTER TEXT SEARCH CONFIGURATION, ALTER TEXT SEARCH DICTIONARY,
        ALTER TEXT SEARCH PARSER, ALTER TEXT SEARCH TEMPLATE, ALTER TRIGGER, ALTER TYPE, ALTER USER,
        ALTER USER MAPPING, ALTER VIEW, ANALYZE, CHECKPOINT, CLUSTER, COMMENT, CREATE ACCESS METHOD, CREATE CAST,
        CREATE CONVERSION, CREATE DATABASE, CREATE EVENT TRIGGER, CREATE FOREIGN DATA WRAPPER, CREATE GROUP,
        CREATE INDEX, CREATE LANGUAGE, CREATE POLICY, CREATE PUBLICATION, CREATE ROLE, CREATE RULE, CREATE SCHEMA,
        CREATE SERVER, CREATE SUBSCRIPTION, CREATE TABLESPACE, CREATE TRANSFORM, CREATE TRIGGER, CREATE USER,
        CREATE USER MAPPING, DROP ACCESS METHOD, DROP AGGREGATE, DROP CAST, DROP COLLATION, DROP CONVERSION,
        DROP DATABASE, DROP DOMAIN, DROP EVENT TRIGGER, DROP EXTENSION, DROP FOREIGN DATA WRAPPER,
        DROP FOREIGN TABLE, DROP FUNCTION, DROP GROUP, DROP INDEX, DROP LANGUAGE, DROP MATERIALIZED VIEW,
        DROP OPERATOR, DROP OPERATOR CLASS, DROP OPERATOR FAMILY, DROP OWNED, DROP POLICY, DROP PROCEDURE,
        DROP PUBLICATION, DROP ROLE, DROP ROUTINE, DROP RULE, DROP SCHEMA, DROP SEQUENCE, DROP SERVER,
        DROP STATISTICS, DROP SUBSCRIPTION, DROP TABLE, DROP TABLESPACE, DROP TEXT SEARCH CONFIGURATION,
        DROP TEXT SEARCH DICTIONARY, DROP TEXT SEARCH PARSER, DROP TEXT SEARCH TEMPLATE, DROP TRANSFORM, DROP TRIGGER,
        DROP TYPE, DROP USER, DROP USER MAPPING, DROP VIEW, GRANT, IMPORT FOREIGN SCHEMA, REASSIGN OWNED, REINDEX,
        REFRESH MATERIALIZED VIEW, REVOKE, SECURITY LABEL, TRUNCATE, VACUUM""",
    "As the above; in pg_temp it has the tag CREATE …, as the commands of that tag that have examples.": """
        CREATE COLLATION, CREATE FOREIGN TABLE, CREATE MATERIALIZED VIEW, CREATE OPERATOR CLASS,
        CREATE OPERATOR FAMILY, CREATE STATISTICS, CREATE TEXT SEARCH CONFIGURATION, CREATE TEXT SEARCH DICTIONARY,
        CREATE TEXT SEARCH PARSER, CREATE TEXT SEARCH TEMPLATE""",
    "Writes a file of the cluster; the session follows it like all others do.": "ALTER SYSTEM",
    "Ends a transaction that belongs to no session.": "COMMIT PREPARED, ROLLBACK PREPARED",
    "Only looks; what the functions behind a view do is an exception (`EXCEPTIONS`).": "SHOW, TABLE",
    "Runs a procedure: what that does inside is an exception (`EXCEPTIONS`).": "CALL",
    "Loads a library, for as long as the backend lives (`EXCEPTIONS`).": "LOAD, CREATE EXTENSION",
}

# What stays, with the reason: statements, what another client asks then, and what it gets.
EXCEPTIONS: dict[str, tuple[str, str, str]] = {
    "No command unloads a library, not even DISCARD ALL.": (
        "LOAD 'plpgsql'",
        "SELECT count(*) FROM pg_settings WHERE name = 'plpgsql.variable_conflict'",
        "1",
    ),
    "lastval() and currval() tell numbers that are everybody's; only DISCARD SEQUENCES at every check-in would help.": (
        "SELECT nextval('numbers')",
        "SELECT lastval() > 0",
        "t",
    ),
    "A function that changes the session inside is not seen unless PostgreSQL reports the parameter.": (
        "SELECT change_work_mem()",
        "SHOW work_mem",
        "7MB",
    ),
    "setseed() begins a series of numbers; nothing tells which one went on before, and DISCARD ALL does not either.": (
        "SELECT setseed(0.5)",
        "SELECT random()",
        "0.9851677175347999",
    ),
    "A procedure likewise.": ("CALL change_work_mem_too()", "SHOW work_mem", "7MB"),
    "RESET ALL and DISCARD ALL leave the name of a setting that an application invented, without its value.": (
        "SET invented.setting = 'secret'",
        "SHOW invented.setting",
        "",
    ),
}
