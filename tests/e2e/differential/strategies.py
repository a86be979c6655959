"""Generated scripts, whose answers depend on nothing but the script.

Rules
1. No pid, no time, nothing random shows; rows are ordered.
2. COPY FROM STDIN is started only by parts that also end it: PostgreSQL ends the session at any other message.
3. What a session keeps and a server of a pool does not (settings, SQL-level PREPARE, temporary tables,
cursors) is made and
   used only inside one transaction (`blocks`), whose Sync before it sees to it that its BEGIN is not skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hypothesis import strategies as st

from tests.e2e.differential.bench import RIVALS, Case
from tests.e2e.differential.script import (
    COPY_DONE,
    FLUSH,
    SYNC,
    WAIT,
    Script,
    bind,
    bind_as,
    close_portal,
    close_statement,
    copy_data,
    copy_fail,
    describe_portal,
    describe_statement,
    execute,
    function_call,
    parse,
    query,
    rival,
    texts_of,
)

INT4, TEXT, NO_SUCH_TYPE = 23, 25, 4_000_000
Values = list[bytes | None]
Scripts = st.SearchStrategy[Script]

# -- words

TEXTS: dict[str, Values] = {
    "SELECT 1": [],
    "SELECT $1::text": [b"x"],
    "SELECT $1::int + 1 AS n, $2": [b"41", b"y"],
    "SELECT generate_series(1, 5)": [],
    "INSERT INTO scratch VALUES ($1, 'p') RETURNING id": [b"7"],
    "SELECT id, name FROM scratch ORDER BY 1, 2": [],
    "SELECT count(*) FROM scratch": [],
    "SELECT 1/0": [],
    "SELECT 1 / (3 - g) FROM generate_series(1, 5) g": [],
    "SELECT 10 / $1::int": [b"0"],
    "SELEC": [],
    "TABLE nowhere": [],
    "SELECT 1; SELECT 2": [],
    "": [],
    "SELECT g, repeat('r', 40) FROM generate_series(1, 1500) g": [],
    "SELECT repeat('x', 70000)": [],
    "SELECT '" + "s" * 20_000 + "'": [],
    "SELECT $1 = $1": [b"y" * 70_000],
    "DO $$BEGIN RAISE NOTICE 'heard'; END$$": [],
    "COPY (SELECT generate_series(1, 3)) TO STDOUT": [],
}
GOOD_TEXTS = [
    "SELECT 1", "SELECT $1::text", "SELECT $1::int + 1 AS n, $2", "SELECT generate_series(1, 5)",
    "INSERT INTO scratch VALUES ($1, 'p') RETURNING id", "SELECT id, name FROM scratch ORDER BY 1, 2",
]  # fmt: skip
CONTROL_TEXTS = [
    "BEGIN", "BEGIN;", "START TRANSACTION READ ONLY", "COMMIT", "END;", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s",
    "RELEASE s", "COMMIT AND CHAIN",
]  # fmt: skip
FORGETTING = [
    "DEALLOCATE a", "DEALLOCATE PREPARE b", "deallocate all", "DEALLOCATE ALL", "DEALLOCATE nosuch", 'DEALLOCATE "S_1"',
    "deallocate A;", "DISCARD ALL", "DISCARD PLANS", "DEALLOCATE PREPARE ALL",
]  # fmt: skip
QUERIES = [
    "SELECT 1", "SELECT 1/0", "SELEC", "", ";", "SELECT 1; SELECT 'two'", "SELECT 1; SELEC; SELECT 2",
    "SELECT 1; SELECT 1/0",
    "SELECT repeat('x', 70000)", "INSERT INTO scratch VALUES (1, 'a')", "SELECT id, name FROM scratch ORDER BY 1, 2",
    "DO $$BEGIN RAISE NOTICE 'heard'; END$$", "TABLE nowhere", "COPY scratch TO STDOUT", "DELETE FROM scratch",
    "SELECT g, repeat('q', 90) FROM generate_series(1, 900) g", "SELECT 1; COPY scratch TO STDOUT; SELECT 2",
    "-- nothing",
    "COPY (SELECT 1/0) TO STDOUT", "COPY nowhere FROM STDIN",
]  # fmt: skip
BEGINS = ["BEGIN", "begin;", "BEGIN;", "bEgIn;", "begin ;", "START TRANSACTION", "BEGIN READ ONLY", "begin; "]
ENDS = ["COMMIT", "ROLLBACK", "END", "commit;", "rollback;", "ABORT", "ROLLBACK AND CHAIN"]
TRANSACTION_WORDS = [
    *BEGINS, *ENDS, "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "BEGIN; SELECT 1; COMMIT", "BEGIN; SELECT 1/0; COMMIT",
    "BEGIN; SELECT 1", "COMMIT; BEGIN", "SELECT 1; COMMIT; SELECT 1/0",
    "SELECT 1; BEGIN; INSERT INTO scratch VALUES (3)",
]  # fmt: skip
SESSION_QUERIES = [
    "SET x.y = 'set'", "SELECT coalesce(current_setting('x.y', true), '')", "SET TimeZone = 'Asia/Tokyo'", "RESET ALL",
    "PREPARE q AS SELECT 1", "EXECUTE q", "EXECUTE a", "DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 9)",
    "FETCH 2 FROM h", "CREATE TEMP TABLE t AS SELECT 1 AS one", "SELECT one + 0 FROM t", "SHOW TimeZone",
]  # fmt: skip
BLOCK_QUERIES = [
    "SET LOCAL x.y = 'set'", "SELECT coalesce(current_setting('x.y', true), '')", "SET LOCAL TimeZone = 'Asia/Tokyo'",
    "SHOW TimeZone",
    "PREPARE q# AS SELECT 1", "EXECUTE q#", "DEALLOCATE q#", "DECLARE c CURSOR FOR SELECT generate_series(1, 9)",
    "FETCH 2 FROM c", "MOVE 3 FROM c", "CLOSE c", "CREATE TEMP TABLE t# ON COMMIT DROP AS SELECT 1 AS one",
    "SELECT one + 0 FROM t#", "SELECT 1/0", "SELECT 1", "SAVEPOINT b", "ROLLBACK TO b",
    "PREPARE q# AS SELECT $1::int + 1",
    "EXECUTE q#(1)", "DISCARD ALL", "LOCK TABLE scratch", "INSERT INTO scratch VALUES (8, 'block')",
]  # fmt: skip

READ_AS_SET = [
    "SELECT '2020-01-01 00:00'::timestamptz AT TIME ZONE 'UTC'", "SELECT '01/02/2020'::date - '2020-01-01'::date",
    "SELECT id + 0 AS n FROM scratch ORDER BY 1", "INSERT INTO scratch VALUES (6, 'inside') RETURNING id + 0 AS n",
]  # fmt: skip
CHANGES = [
    "SET LOCAL TimeZone = 'Asia/Tokyo'", "SET LOCAL TimeZone = 'America/Lima'", "SET LOCAL DateStyle = 'ISO, DMY'",
    "SET LOCAL DateStyle = 'ISO, MDY'", "CREATE TEMP TABLE IF NOT EXISTS scratch (id int, name text) ON COMMIT DROP",
    "SAVEPOINT b", "ROLLBACK TO b", "SELECT set_config('TimeZone', 'Asia/Tokyo', true)",
]  # fmt: skip

DOING = [
    "UPDATE scratch SET name = name || '+' WHERE id < 9 RETURNING id", "DELETE FROM scratch WHERE id > 6 RETURNING id",
    "INSERT INTO scratch VALUES (5, 'q'), (7, 'r') RETURNING id", "SELECT id, name FROM scratch ORDER BY 1, 2",
    "SELECT count(*) FROM scratch",
]  # fmt: skip

names = st.sampled_from(["", "", "a", "a", "b", "S_1"])
statement_names = st.one_of(names, names, st.just("nosuch"))
portals = st.sampled_from(["", "", "", "p", "P_2"])
texts = st.sampled_from([*TEXTS, *CONTROL_TEXTS])
good_texts = st.sampled_from(GOOD_TEXTS)
some_texts = st.one_of(good_texts, good_texts, texts)
any_text = st.one_of(some_texts, good_texts, good_texts, st.sampled_from(FORGETTING))
types = st.sampled_from([(), (), (), (), (INT4,), (TEXT,), (0, TEXT), (NO_SUCH_TYPE,)])
limits = st.sampled_from([0, 0, 0, 1, 2, 1000])
any_values: st.SearchStrategy[Values] = st.sampled_from(
    [[], [b"x"], [b"5"], [None], [b"1", b"2"], [b"\0\0\0\7"], [b"\xff"]]
)
any_formats: st.SearchStrategy[list[int]] = st.sampled_from([[], [0], [1], [1, 0], [0, 0, 1], [7]])
results: st.SearchStrategy[list[int]] = st.sampled_from([[], [0], [1], [1, 1]])

# -- extended messages, one by one: they are answered by no ReadyForQuery of their own

parses = st.builds(parse, any_text, names, types)
binds = st.one_of(
    st.builds(bind, any_values, statement_names, portals),
    st.builds(bind_as, any_values, statement_names, portals, any_formats, results),
)
describes = st.one_of(st.builds(describe_statement, statement_names), st.builds(describe_portal, portals))
executes = st.builds(execute, portals, limits)
closes = st.one_of(st.builds(close_statement, statement_names), st.builds(close_portal, portals))
single = st.one_of(parses, binds, describes, executes, closes).map(lambda one: [one])
flushes = st.sampled_from([[FLUSH], [FLUSH, WAIT]])
syncs = st.sampled_from([[SYNC], [SYNC], [SYNC, WAIT], [SYNC, WAIT], [SYNC, SYNC]])
ending: Scripts = st.one_of(syncs, syncs, syncs, flushes, st.just([]))
recoveries = st.just([SYNC, query("ROLLBACK")])

# -- batches that mostly make sense


@st.composite
def batches(draw: st.DrawFn, text: st.SearchStrategy[str] = any_text) -> Script:
    """Parse, Bind, perhaps Describe, Execute, with the right values; now and then Flush in between."""
    sql, name, portal = draw(text), draw(names), draw(portals)
    script = [parse(sql, name)]
    if draw(st.booleans()):
        script.append(describe_statement(name))
    script += [bound(draw, sql, name, portal)]
    if draw(st.booleans()):
        script.append(describe_portal(portal))
    return executed(draw, script, portal)


@st.composite
def uses(draw: st.DrawFn) -> Script:
    """A named statement used again, as if it were there; it may have been prepared with this text or not at all."""
    name, portal = draw(names), draw(portals)
    return executed(draw, [bound(draw, draw(some_texts), name, portal)], portal)


@st.composite
def namings(draw: st.DrawFn) -> Script:
    """The same name twice; two names of one text; a name again after Close, with another text."""
    one, other = draw(some_texts), draw(any_text)
    first, second = draw(st.permutations(["a", "b", "S_1", ""]))[:2]
    shapes = {
        "same name twice": [parse(one, first), parse(draw(st.sampled_from([one, other])), first)],
        "two names one text": [parse(one, first), parse(one, second)],
        "again after Close": [parse(one, first), close_statement(first), parse(other, first)],
        "used after Close": [parse(one, first), close_statement(first), bound(draw, one, first, "")],
        "only Close": [close_statement(first), parse(other, second)],
    }
    shape = draw(st.sampled_from(list(shapes)))
    between = draw(st.sampled_from([[], [], [SYNC], [SYNC, WAIT], [FLUSH]]))
    script = [part for step in shapes[shape] for part in (step, *between)]
    return [*script, *(executed(draw, [bound(draw, one, first, "")], "") if draw(st.booleans()) else []), *draw(ending)]


@st.composite
def prepares(draw: st.DrawFn) -> Script:
    """Several Parse and Describe before the Sync, as drivers do for a batch."""
    script: Script = []
    for name in draw(st.lists(names, min_size=1, max_size=4)):
        script += [parse(draw(any_text), name), *draw(st.sampled_from([[], [describe_statement(name)]]))]
    return [*script, *draw(ending)]


@st.composite
def pipelines(draw: st.DrawFn) -> Script:
    """Several Syncs in flight."""
    parts = draw(st.lists(st.one_of(batches(some_texts), uses()), min_size=2, max_size=5))
    return [step for part in parts for step in (*(step for step in part if step not in (SYNC, WAIT)), SYNC)]


@st.composite
def unfinished(draw: st.DrawFn) -> Script:
    """Portals that have rows to come, and what is parsed and run behind them without a Sync: what does it see?"""
    script: Script = []
    for number in range(draw(st.integers(2, 5))):
        portal = draw(st.sampled_from(["", f"p{number}"]))
        text = draw(st.sampled_from(DOING))
        script += [parse(text), bind([], "", portal), execute(portal, draw(st.sampled_from([0, 1, 1, 2])))]
    return [*script, SYNC, WAIT]


def bound(draw: st.DrawFn, sql: str, name: str, portal: str) -> bytes:
    """Bind with values that fit the text, in text or in binary."""
    values = TEXTS.get(sql, [])
    if values and values[0] and values[0].isdigit() and draw(st.integers(0, 3)) == 0:
        binary: Values = [struct.pack("!i", int(values[0])), *values[1:]]
        return bind_as(binary, name, portal, [1, 0][: len(values)], draw(results))
    if draw(st.integers(0, 5)) == 0:
        return bind_as(values, name, portal, [], [1])
    return bind(values, name, portal)


def executed(draw: st.DrawFn, script: Script, portal: str) -> Script:
    """Execute, perhaps in several goes; Sync, Flush or nothing at the end, perhaps a Flush in between."""
    goes = draw(st.sampled_from([[0], [0], [0], [0], [2, 2], [2, 0], [1, 1, 0], [3, 3]]))
    script = [*script, *(execute(portal, limit) for limit in goes)]
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(script)))
        script[at:at] = draw(flushes)
    return script + draw(ending)


# -- Query, FunctionCall, COPY


def queries(texts: Sequence[str]) -> Scripts:
    return st.tuples(st.sampled_from(texts).map(query), pauses).map(lambda parts: [parts[0], *parts[1]])


pauses: Scripts = st.sampled_from([[], [WAIT]])
functions = st.tuples(st.sampled_from([1, 1370, 2026 + 1_000_000]), pauses).map(
    lambda got: [function_call(got[0], []), *got[1]]
)
stray = st.sampled_from([copy_data(b"left"), COPY_DONE, copy_fail("left")]).map(lambda one: [one])
rows = st.lists(st.sampled_from([b"1\tone\n", b"2\t\\N\n", b"bad\tx\n", b"", b"3\t" + b"z" * 9000 + b"\n"]), max_size=4)
COPY_IN = [
    "COPY scratch FROM STDIN",
    "SELECT 1; COPY scratch FROM STDIN; SELECT 2",
    "COPY scratch FROM STDIN; SELECT 1/0",
]


@st.composite
def copies(draw: st.DrawFn) -> Script:
    """COPY IN by Query. The data may be sent before the answer is read; an error may come before its end."""
    data = [copy_data(row) for row in draw(rows)]
    end = draw(st.sampled_from([COPY_DONE, COPY_DONE, copy_fail("no more")]))
    pause = draw(pauses)
    return [query(draw(st.sampled_from(COPY_IN))), *pause, *data, end, *draw(pauses)]


@st.composite
def extended_copies(draw: st.DrawFn) -> Script:
    """COPY IN by Execute; Sync and Flush during the COPY are ignored by PostgreSQL."""
    start = [parse("COPY scratch FROM STDIN"), bind(), *draw(st.sampled_from([[], [describe_portal()]])), execute()]
    early = draw(st.sampled_from([[], [], [FLUSH], [FLUSH, WAIT], [SYNC], [SYNC, WAIT]]))
    data = [copy_data(row) for row in draw(rows)]
    if data and draw(st.integers(0, 3)) == 0:
        data.insert(draw(st.integers(0, len(data))), draw(st.sampled_from([FLUSH, SYNC])))
    end = draw(st.sampled_from([COPY_DONE, COPY_DONE, copy_fail("no more")]))
    return [*start, *early, *data, end, SYNC, *draw(pauses)]


# -- whole scripts


@st.composite
def blocks(draw: st.DrawFn) -> Script:
    """Rule 3; `#` becomes a number of this block, so that no other block meets what it leaves in a session."""
    inner = st.one_of(
        queries(BLOCK_QUERIES),
        st.sampled_from([b"SELECT 1", b"SELECT 1/0", b"FETCH 1 FROM c", b"EXECUTE q#"]).map(
            lambda sql: [parse(sql.decode()), bind(), describe_portal(), execute(), SYNC]
        ),
    )
    body = [step for part in draw(st.lists(inner, min_size=1, max_size=6)) for step in part]
    first = query(draw(st.sampled_from(["BEGIN", "begin;", "START TRANSACTION"])))
    last = query(draw(st.sampled_from(["COMMIT", "ROLLBACK"])))
    return [SYNC, query("ROLLBACK"), first, *draw(pauses), *body, last, *draw(pauses)]


@st.composite
def changed(draw: st.DrawFn) -> Script:
    """What texts mean changes within a transaction, and back at its end: each is parsed right before it is run. Who has
    prepared such a text outside may find it as it was, or not: that is left out (docs/prepared-statements.md)."""

    def said(text: str) -> Script:
        if draw(st.integers(0, 2)) == 0:
            return [SYNC, query(text), *draw(pauses)]
        return [parse(text), bind(), execute(), *draw(st.sampled_from([[], [], [SYNC], [SYNC, WAIT]]))]

    words = draw(st.lists(st.sampled_from([*CHANGES, *READ_AS_SET, *READ_AS_SET]), min_size=2, max_size=8))
    end, behind = draw(st.sampled_from(["COMMIT", "ROLLBACK"])), draw(st.sampled_from(READ_AS_SET))
    body = [step for text in [*words, end, behind] for step in said(text)]
    return [SYNC, query("ROLLBACK"), query("BEGIN"), *draw(pauses), *body, SYNC, query("ROLLBACK"), WAIT]


@st.composite
def deferred(draw: st.DrawFn) -> Script:
    """BEGIN, and at once something that a pooler which has not sent it yet may stumble over."""
    begin = [query(draw(st.sampled_from(BEGINS))), *draw(pauses)]
    then = draw(
        st.one_of(
            queries(["SELEC", "COMMIT", "ROLLBACK", "begin;", "SELECT 1/0", "", ";", "BEGIN", "DEALLOCATE a",
            "DISCARD ALL"]),
            batches(), uses(), syncs, flushes, single, functions, copies(), extended_copies(), stray,
        )
    )  # fmt: skip
    return [*begin, *then, *draw(st.sampled_from([[], [query("COMMIT")], [SYNC, query("COMMIT"), WAIT], [SYNC]]))]


extended: Scripts = st.one_of(
    single,
    batches(),
    batches(good_texts),
    uses(),
    uses(),
    namings(),
    prepares(),
    pipelines(),
    unfinished(),
    syncs,
    flushes,
)
simple: Scripts = st.one_of(
    queries(QUERIES), queries(TRANSACTION_WORDS), queries(FORGETTING), functions, stray, copies()
)
any_part: Scripts = st.one_of(
    extended, extended, extended, simple, deferred(), blocks(), changed(), extended_copies(), recoveries
)
session_part: Scripts = st.one_of(any_part, any_part, any_part, queries(SESSION_QUERIES))
rivals = st.integers(0, len(RIVALS) - 1).map(lambda number: [rival(number)])


def assemble(parts: Sequence[Script], *, bare: bool, patient: bool) -> Script:
    """One script of all parts. `bare`: without a Sync before a Query or FunctionCall that follows unsynced messages;
    `patient`: a pause after each Sync and each part that ends with a Query, so that the server is given back."""
    script: Script = []
    is_open = False
    for number, part in enumerate(parts):
        for step in part:
            kind = step[:1]
            if not bare and is_open and kind in (b"Q", b"F"):
                script.append(SYNC)
            script.append(step[:5] + step[5:].replace(b"#", b"%d" % (number % 10)) if kind in (b"Q", b"P") else step)
            is_open = kind in (b"P", b"B", b"D", b"E", b"C") or (is_open and kind not in (b"S", b"Q", b"F"))
            if patient and kind == b"S":
                script.append(WAIT)
        if patient and script[-1][:1] == b"Q":
            script.append(WAIT)
    return script


def scripts(part: Scripts, *, bare: bool, most: int = 9) -> Scripts:
    parts = st.lists(part, min_size=1, max_size=most)
    return st.builds(lambda parts, patient: assemble(parts, bare=bare, patient=patient), parts, st.booleans())


pieces: st.SearchStrategy[list[int]] = st.one_of(
    st.just([]),
    st.just([]),
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.just([1]),
    st.lists(st.integers(1, 5000), max_size=4),
)


@st.composite
def cases(draw: st.DrawFn, pool: str, *, bare: bool = False) -> Case:
    """A case for this pool: with other clients in the tight pools, with what only a session keeps in session mode."""
    part = session_part if pool in ("session", "direct") else any_part
    if pool.startswith("tight"):
        part = st.one_of(any_part, any_part, any_part, st.one_of(rivals, syncs))
    script = draw(scripts(part, bare=bare))
    parsed = [text for text in texts_of(script) if text in TEXTS or text in READ_AS_SET or text in DOING]
    warm = draw(st.lists(st.sampled_from(parsed), unique=True, max_size=4)) if parsed and pool != "session" else []
    return Case(pool, script, draw(pieces), warm)
