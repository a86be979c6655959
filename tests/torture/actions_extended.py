"""What a client does over the extended query protocol: statements, pipelines, Flush, portals, errors."""

from __future__ import annotations

import struct

from tests.torture import wire
from tests.torture.actions_simple import digest, series_rows, series_sql
from tests.torture.client import STATEMENT_NAMES, Client
from tests.torture.expect import (
    BOUND,
    CLOSED,
    NO_DATA,
    PARAMETERS_DESCRIBED,
    PARSED,
    SUSPENDED,
    Expected,
    described,
    done,
    error,
    ready,
    row,
)

INT4 = 23
SHARED_NAMES = STATEMENT_NAMES[:4]


def ran(*rows: Expected) -> list[Expected]:
    """BindComplete, rows and CommandComplete of one Bind and Execute."""
    return [BOUND, *rows, done(f"SELECT {len(rows)}")]


async def unnamed_statement(client: Client, tag: str) -> None:
    value = f"{tag}{client.rng.random()}"
    data = wire.parse(f"SELECT '{tag}', $1::text") + wire.bind([value.encode()]) + wire.execute() + wire.SYNC
    await client.exchange(data, [PARSED, *ran(row(tag, value)), ready()])


async def shared_text(client: Client, tag: str) -> None:
    """One text for all clients, as applications have it: only the parameter tells them apart."""
    data = wire.parse("SELECT $1::text, $2::int4 + 1", types=[25, INT4])
    data += wire.describe_statement() + wire.bind([tag.encode(), b"41"]) + wire.describe_portal()
    data += wire.execute() + wire.SYNC
    described_twice = [PARAMETERS_DESCRIBED, described("text"), BOUND, described("text")]
    await client.exchange(data, [PARSED, *described_twice, row(tag, 42), done("SELECT 1"), ready()])


async def binary_parameters(client: Client, tag: str) -> None:
    number = client.rng.randrange(1_000_000)
    data = wire.parse(f"SELECT '{tag}', $1", types=[INT4])
    data += wire.bind([struct.pack("!i", number)], binary=True) + wire.execute() + wire.SYNC
    await client.exchange(data, [PARSED, *ran(row(tag, number)), ready()])


async def large_parameter(client: Client, tag: str) -> None:
    value = tag * client.rng.choice((100, 3000, 60_000))
    data = wire.parse("SELECT md5($1::text)") + wire.bind([value.encode()]) + wire.execute() + wire.SYNC
    await client.exchange(data, [PARSED, *ran(row(digest(value))), ready()])


async def named_statement(client: Client, tag: str) -> None:
    """A named statement that stays: prepared once, run on whatever server comes, described as it was."""
    if not client.keeps_prepared:
        return
    name = client.rng.choice(SHARED_NAMES)
    if name not in client.prepared:
        text = f"SELECT '{tag}', $1::text AS \"{tag}\""
        await client.exchange(wire.parse(text, name) + wire.SYNC, [PARSED, ready()])
        client.prepared[name] = (tag, client.sequence)
    made_with, sequence = client.prepared[name]
    client.allowed.add(sequence)
    runs = client.rng.randint(1, 3)
    data = b"".join(wire.bind([tag.encode()], name) + wire.execute() for _ in range(runs))
    expected = ran(row(made_with, tag)) * runs
    if client.rng.random() < 0.3:
        data = wire.describe_statement(name) + data
        expected = [PARAMETERS_DESCRIBED, described(made_with), *expected]
    await client.exchange(data + wire.SYNC, [*expected, ready()])


async def close_statement(client: Client, tag: str) -> None:
    """After Close the name is free for another text; Bind to it without a new Parse is 26000."""
    if not client.keeps_prepared:
        return
    name = client.rng.choice(SHARED_NAMES)
    client.prepared.pop(name, None)
    await client.exchange(wire.close_statement(name) + wire.SYNC, [CLOSED, ready()])
    if client.rng.random() < 0.5:
        await client.exchange(wire.bind([tag.encode()], name) + wire.execute() + wire.SYNC, [error("26000"), ready()])


async def statement_in_transaction(client: Client, tag: str) -> None:
    """Prepare, run and close within one transaction: what every pooler must be able to do."""
    name = f"within_{client.number}_{client.sequence}"
    begin = wire.parse("BEGIN") + wire.bind() + wire.execute() + wire.SYNC
    await client.exchange(begin, [PARSED, BOUND, done("BEGIN"), ready("T")])
    data = wire.parse(f"SELECT '{tag}', $1::text", name) + wire.bind([tag.encode()], name) + wire.execute() + wire.SYNC
    await client.exchange(data, [PARSED, *ran(row(tag, tag)), ready("T")])
    await client.pause(0.01)
    data = wire.close_statement(name) + wire.parse("COMMIT") + wire.bind() + wire.execute() + wire.SYNC
    await client.exchange(data, [CLOSED, PARSED, BOUND, done("COMMIT"), ready()])


async def pipeline_one_sync(client: Client, tag: str) -> None:
    """Several statements before one Sync."""
    parts = [f"{tag}{number}" for number in range(client.rng.randint(2, 8))]
    data = b"".join(wire.parse("SELECT $1::text") + wire.bind([part.encode()]) + wire.execute() for part in parts)
    expected = [item for part in parts for item in (PARSED, *ran(row(part)))]
    await client.exchange(data + wire.SYNC, [*expected, ready()])


async def pipeline_many_syncs(client: Client, tag: str) -> None:
    """Several batches in one write: each may run on another server, the answers come in order."""
    data, expected = b"", []
    for number in range(client.rng.randint(2, 6)):
        part = f"{tag}{number}"
        data += wire.parse("SELECT $1::text") + wire.bind([part.encode()]) + wire.execute() + wire.SYNC
        expected += [PARSED, *ran(row(part)), ready()]
    await client.exchange(data, expected)


async def pipeline_with_error(client: Client, tag: str) -> None:
    """After an error everything up to Sync is skipped; the batch behind it runs."""
    good = wire.parse(f"SELECT '{tag}'") + wire.bind() + wire.execute()
    bad = wire.parse(f"SELECT '{tag}'::int") + wire.bind() + wire.execute()
    data = good + bad + good + wire.SYNC + good + wire.SYNC
    expected = [PARSED, *ran(row(tag)), error("22P02", tag), ready(), PARSED, *ran(row(tag)), ready()]
    await client.exchange(data, expected)


async def failed_parse(client: Client, tag: str) -> None:
    """A Parse that fails leaves no statement behind, and the name can be used again."""
    data = wire.parse(f'SELECT "{tag}"', "broken") + wire.bind([], "broken") + wire.execute() + wire.SYNC
    await client.exchange(data, [error("42703", tag), ready()])
    if client.keeps_prepared:
        data = wire.bind([], "broken") + wire.execute() + wire.SYNC
        await client.exchange(data, [error("26000"), ready()])


async def flush_before_sync(client: Client, tag: str) -> None:
    """Answers come at Flush; the server stays with the client until Sync."""
    data = wire.parse(f"SELECT '{tag}', $1::text") + wire.describe_statement() + wire.FLUSH
    await client.exchange(data, [PARSED, PARAMETERS_DESCRIBED, described()])
    await client.pause(0.02)
    await client.exchange(wire.bind([tag.encode()]) + wire.execute() + wire.FLUSH, ran(row(tag, tag)))
    await client.exchange(wire.SYNC, [ready()])


async def portal_in_steps(client: Client, tag: str) -> None:
    """Execute with a row limit: PortalSuspended between the steps."""
    rows = series_rows(tag, 10)
    data = wire.parse(series_sql(tag, 10)) + wire.bind(portal="steps")
    data += wire.execute("steps", 4) + wire.execute("steps", 4) + wire.execute("steps", 4) + wire.SYNC
    expected = [PARSED, BOUND, *rows[:4], SUSPENDED, *rows[4:8], SUSPENDED, *rows[8:], done("SELECT 2"), ready()]
    await client.exchange(data, expected)


async def no_data(client: Client, tag: str) -> None:
    data = wire.parse(f"SET LOCAL my.tag = '{tag}'") + wire.describe_statement() + wire.bind() + wire.execute()
    expected = [PARSED, PARAMETERS_DESCRIBED, NO_DATA, BOUND]
    await client.send(wire.query("BEGIN") + data + wire.SYNC + wire.query("ROLLBACK"))
    expected = [done("BEGIN"), ready("T"), *expected, done("SET"), ready("T"), done("ROLLBACK"), ready()]
    await client.expect(expected)


async def mixed_protocols(client: Client, tag: str) -> None:
    """Extended batch, simple query and extended batch in one write."""
    batch = wire.parse(f"SELECT '{tag}'") + wire.bind() + wire.execute() + wire.SYNC
    answer = [PARSED, *ran(row(tag)), ready()]
    simple = [described(), row(tag), done("SELECT 1"), ready()]
    await client.exchange(batch + wire.query(f"SELECT '{tag}'") + batch, [*answer, *simple, *answer])


async def only_sync(client: Client, tag: str) -> None:
    await client.exchange(wire.SYNC, [ready()])
