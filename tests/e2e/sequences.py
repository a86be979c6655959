"""Generated sequences of frontend messages, whose answers depend on nothing but the sequence.

Rules
1. No table's oid shows (columns are expressions), no pid, no time; all work is on a temporary table. A setting of one's
   own is asked for so that none and empty look alike: once set, PostgreSQL keeps its name even over DISCARD ALL.
2. A Query never stands right behind extended messages: PostgreSQL itself is confused by that (see pending.pxd).
3. A sequence ends with Sync and a Query whose row tells that everything before it has been answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from tests.torture.wire import (
    COPY_DONE,
    FLUSH,
    SYNC,
    bind,
    copy_data,
    copy_fail,
    describe_portal,
    describe_statement,
    execute,
    function_call,
    message,
    parse,
    query,
)

LAST_WORD = b"end of sequence"
SET_UP = query("CREATE TEMP TABLE d (id int, name text)")


class Part(NamedTuple):
    """Some messages; is_extended: they are answered by no ReadyForQuery of their own."""

    data: bytes
    is_extended: bool = False


QUERIES = [
    "SELECT 1", "SELECT 1/0", "SELEC", "", ";", "SELECT 1; SELECT 'two'", "SELECT 1; SELEC; SELECT 2",
    "SELECT repeat('x', 70000)", "INSERT INTO d VALUES (1, 'a')", "SELECT id + 0, name || '' FROM d", "SET x.y = 'set'",
    "SELECT coalesce(current_setting('x.y', true), '')",
    "SAVEPOINT s", "ROLLBACK TO s", "DO $$BEGIN RAISE NOTICE 'heard'; END$$", "TABLE nowhere",
    "DECLARE c CURSOR FOR SELECT generate_series(1, 9)", "FETCH 2 FROM c", "COPY d TO STDOUT",
    "SET TimeZone = 'Asia/Tokyo'",
]  # fmt: skip
TRANSACTIONS = ["BEGIN", "COMMIT", "ROLLBACK", "PREPARE q AS SELECT 1", "EXECUTE q", "DEALLOCATE ALL", "RESET ALL"]
STATEMENTS = [
    "SELECT $1::text",
    "SELECT generate_series(1, 3)",
    "SELEC",
    "INSERT INTO d VALUES (2, $1)",
    "",
    "SELECT 1/0",
]
names = st.sampled_from(["", "", "a", "b"])
portals = st.sampled_from(["", "", "p"])
values: st.SearchStrategy[list[bytes | None]] = st.sampled_from([[], [b"x"], [None], [b"1", b"2"], [b"y" * 70_000]])
rows = st.lists(st.sampled_from([b"1\tone\n", b"2\t\\N\n", b"bad\tx\n", b"", b"3\t" + b"z" * 3000 + b"\n"]), max_size=4)

simple = st.sampled_from(QUERIES).map(lambda sql: Part(query(sql)))
boundaries = st.sampled_from(TRANSACTIONS).map(lambda sql: Part(query(sql)))
functions = st.sampled_from([1610, 1, 1370]).map(lambda oid: Part(function_call(oid, [])))
leftovers = st.sampled_from([copy_data(b"left"), COPY_DONE, copy_fail("left"), FLUSH]).map(Part)
syncs = st.just(Part(SYNC))
extended = st.one_of(
    st.builds(parse, st.sampled_from(STATEMENTS), names),
    st.builds(bind, values, names, portals),
    st.builds(describe_statement, names),
    st.builds(describe_portal, portals),
    st.builds(execute, portals, st.sampled_from([0, 2])),
    st.builds(lambda kind, name: message(b"C", kind + name.encode() + b"\0"), st.sampled_from([b"S", b"P"]), names),
).map(lambda data: Part(data, True))
whole = st.builds(
    lambda sql, value, limit: Part(parse(sql) + bind(value) + describe_portal() + execute("", limit), True),
    st.sampled_from(STATEMENTS), values, st.sampled_from([0, 0, 1]),
)  # fmt: skip
ends = st.sampled_from([COPY_DONE, COPY_DONE, copy_fail("no more")])
copies = st.builds(lambda data, end: Part(query("COPY d FROM STDIN") + copied(data) + end), rows, ends)
extended_copies = st.builds(
    lambda data, end: Part(parse("COPY d FROM STDIN") + bind() + execute() + copied(data) + end + SYNC), rows, ends
)
anything = st.one_of(simple, extended, whole, syncs, leftovers, functions, copies, extended_copies)


def copied(data: Sequence[bytes]) -> bytes:
    return b"".join(map(copy_data, data))


def assemble(parts: Sequence[Part], *, first: bytes = b"") -> bytes:
    """Rules 2 and 3. ROLLBACK, because in a failed transaction the last word would not be answered."""
    stream, is_open = [first, SET_UP], False
    for part in parts:
        if is_open and part.data[:1] in (b"Q", b"F", b"P") and not part.is_extended:
            stream.append(SYNC)
        stream.append(part.data)
        is_open = part.is_extended or (is_open and part.data[:1] in (b"H", b"d", b"c", b"f"))
    return b"".join([*stream, SYNC, query("ROLLBACK"), query(f"SELECT '{LAST_WORD.decode()}'")])
