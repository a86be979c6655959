"""Arbitrary bytes from clients and from servers, plain or encrypted: nothing may crash, spin, be logged as an error, or
be left behind."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.script import Script, message
from tests.fuzz.stage import FarEnd, Stage
from tests.simulate.invariants import check_table

CLIENT_KINDS = b"QPBDECSHFdcfX"
SERVER_KINDS = b"Z123TnIsCEDSGtNAWHVdc"
SIZES = (0, 1, 500, 16_380, 65_530, 65_536, 140_000, 400_000, 1_200_000)
TIMES = (0, 100_000, 1_100_000, 2_100_000, 3_100_000, 5_100_000, 61_000_000)
STARTUPS = (None, None, {"timezone": "Asia/Tokyo"}, {"datestyle": "German"})
MOST_STEPS = 200

READY = {status: message(b"Z", bytes([status])) for status in b"ITE"}


def play(data: bytes) -> None:
    """Run one input; raises AssertionError (or Spins) for a finding."""
    script = Script(data)
    head = script.byte()
    stage = Stage(
        pool_size=1 + (head & 1),
        statement_limit=(3, 1, 0, 3)[head >> 1 & 3],
        cleanup=not head & 8,
        check_after_us=1_000_000 if head & 16 else 0,
        tls=bool(head & 128),
    )
    try:
        stage.connect(head >> 5 & 3 if head >> 5 & 3 < 3 else 0)
        for _ in range(MOST_STEPS):
            if script.is_over:
                break
            STEPS[script.byte() % len(STEPS)](stage, script)
            stage.check()
        stage.refuses_to_open = True
        stage.end()
        stage.check()
    finally:
        stage.close()


def client_of(stage: Stage, script: Script) -> FarEnd:
    return script.pick(stage.clients)


def server_of(stage: Stage, script: Script) -> FarEnd | None:
    number = script.byte()
    return stage.servers[-1 - number % len(stage.servers)] if stage.servers else None


def say(end: FarEnd | None, data: bytes) -> None:
    if end is not None:
        end.write(data)


def body_of(script: Script) -> bytes:
    return script.bytes(script.byte() & 63)


def client_message(stage: Stage, script: Script) -> None:
    say(client_of(stage, script), message(script.pick(CLIENT_KINDS), body_of(script)))


def client_named(stage: Stage, script: Script) -> None:
    """Parse, Bind, Execute, Sync of a short name: what bytes alone seldom make."""
    number = script.byte()
    name = bytes([97 + (number >> 4) % 4]) * (number >> 6) + b"\0"
    text = script.pick(TEXTS) + b"\0"
    batch = (
        message(b"P", name + text + b"\0\0"), message(b"B", b"\0" + name + b"\0" * 6), message(b"D", b"S" + name),
        message(b"E", b"\0\0\0\0\0"), message(b"C", b"S" + name), message(b"S", b""),
    )  # fmt: skip
    chosen = script.byte()
    say(client_of(stage, script), b"".join(part for bit, part in enumerate(batch) if chosen >> bit & 1))


def client_query(stage: Stage, script: Script) -> None:
    say(client_of(stage, script), message(b"Q", script.pick(TEXTS) + b"\0"))


TEXTS = (
    b"select 1", b"begin", b"commit", b";", b"deallocate a", b"deallocate all", b"discard all", b"set timezone to 'x'",
    b"BEGIN;", b"rollback", b"start transaction", b'deallocate "aa"', b"copy t from stdin",
    b"create temp table t(a int)", b"select pg_advisory_lock(1)", b"",
)  # fmt: skip


def client_bytes(stage: Stage, script: Script) -> None:
    say(client_of(stage, script), body_of(script))


def client_large(stage: Stage, script: Script) -> None:
    kind, size, head = script.pick(CLIENT_KINDS), script.pick(SIZES), body_of(script)
    whole = message(kind, head + bytes(max(size - len(head), 0)))
    say(client_of(stage, script), whole[: len(whole) - (script.byte() & 7) * len(whole) // 8])


def server_message(stage: Stage, script: Script) -> None:
    say(server_of(stage, script), message(script.pick(SERVER_KINDS), body_of(script)))


def server_answers(stage: Stage, script: Script) -> None:
    """Some of what answers a batch, in order."""
    parts = (
        b"1\0\0\0\x04", b"2\0\0\0\x04", message(b"t", b"\0\0"), b"n\0\0\0\x04",
        message(b"C", script.pick(TAGS) + b"\0"),
        message(b"E", script.pick(ERRORS)), b"3\0\0\0\x04", script.pick((*READY.values(), message(b"G", b"\0\0\0"))),
    )  # fmt: skip
    chosen = script.byte()
    say(server_of(stage, script), b"".join(part for bit, part in enumerate(parts) if chosen >> bit & 1))


ERRORS = (
    b"VERROR\0C42601\0\0", b"VERROR\0C0A000\0RRevalidateCachedQuery\0\0", b"VFATAL\0C57P01\0\0", b"",
    b"VERROR\0CXX000\0Mcache lookup failed for type 1\0\0",
    b"VERROR\0C26000\0MDOORMAN_0123456789abcdef0123456789abcdef\0\0",
)  # fmt: skip
TAGS = (b"SELECT 1", b"BEGIN", b"SET", b"DISCARD ALL", b"DEALLOCATE ALL", b"PREPARE", b"LISTEN", b"CREATE TABLE", b"")


def server_reports(stage: Stage, script: Script) -> None:
    say(server_of(stage, script), message(b"S", script.pick((b"TimeZone\0", b"DateStyle\0", b"")) + body_of(script)))


def server_ready(stage: Stage, script: Script) -> None:
    say(server_of(stage, script), READY[script.pick(b"IIIITE")])


def server_bytes(stage: Stage, script: Script) -> None:
    say(server_of(stage, script), body_of(script))


def server_large(stage: Stage, script: Script) -> None:
    kind, size, head = script.pick(SERVER_KINDS), script.pick(SIZES), body_of(script)
    whole = message(kind, head + bytes(max(size - len(head), 0)))
    say(server_of(stage, script), whole[: len(whole) - (script.byte() & 7) * len(whole) // 8])


def round_(stage: Stage, script: Script) -> None:
    stage.round()


def settle(stage: Stage, script: Script) -> None:
    stage.settle()
    check_table(stage.trial)


def connect(stage: Stage, script: Script) -> None:
    if len(stage.clients) < 8:
        number = script.byte()
        stage.connect(number % 3, STARTUPS[number // 3 % 4])


def client_ends(stage: Stage, script: Script) -> None:
    end = client_of(stage, script)
    [end.close, end.end_writing][script.byte() & 1]()


def server_ends(stage: Stage, script: Script) -> None:
    end = server_of(stage, script)
    if end is not None:
        [end.close, end.end_writing][script.byte() & 1]()


def tick(stage: Stage, script: Script) -> None:
    stage.tick(script.pick(TIMES))


def stop_reading(stage: Stage, script: Script) -> None:
    end = client_of(stage, script) if script.byte() & 1 else server_of(stage, script)
    if end is not None:
        end.reads = not end.reads


def from_python(stage: Stage, script: Script) -> None:
    """Things that come from elsewhere than the sockets."""
    number = script.byte()
    slot = number >> 4 & 3
    row = stage.trial.slot_row(slot)
    match number & 7:
        case 0:
            stage.refuses_to_open = not stage.refuses_to_open
        case 1:
            stage.relay.close_idle(slot, row["generation"])
        case 2:
            stage.trial.reconnect(row["pool"] if row["pool"] >= 0 else 0)
        case 3:
            for client in range(stage.trial.header_row()["clients_high"]):
                found = stage.relay.cancel_client(stage.trial.client_row(client)["cancel_pid"], SECRET)
                if found is not None and found[2]:
                    stage.host.cancel_server(*found[:2])
        case 4 | 5:
            stage.relay.open_minimum(slot % 3)
        case 6:
            stage.relay.drain()
        case _:
            stage.relay.take_home()


SECRET = b"0123456789abcdef"
Step = Callable[[Stage, Script], None]
STEPS: tuple[Step, ...] = (
    client_message, client_named, client_query, client_bytes, server_message, server_answers, server_ready,
    server_bytes, settle, round_, connect, client_ends, server_ends, tick, stop_reading, client_large, server_large,
    server_reports, from_python, settle,
)  # fmt: skip
