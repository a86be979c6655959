"""A server connection that ends after any byte of an answer: the client has a part of what PostgreSQL said, and is told
what happened only where a message may stand."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import pytest

from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.process.proxy import Proxy
from tests.torture.wire import SYNC, bind, describe_portal, execute, parse, query

LONG = 70_000  # bytes of a value: more than what is held back as one message


class Scissors(Proxy):
    """Cuts every connection behind `left` bytes more from the server; None: not at all."""

    left: int | None = None

    def cut_answer(self, data: bytes) -> bytes:
        if self.left is None:
            return data
        kept, self.left = data[: self.left], max(self.left - len(data), 0)
        return kept


@pytest.fixture(scope="module")
def scissors(postgres: Postgres) -> Iterator[Scissors]:
    with Scissors(postgres) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def doorman(postgres: Postgres, scissors: Scissors) -> Iterator[Doorman]:
    pools = {
        name: pool_of(postgres, users=[user_of("app", 1)], pool_mode=name, **scissors.pool)
        for name in ("transaction", "session")
    }
    with Doorman(postgres, pools=pools, general={"query_wait_timeout": 20_000}) as doorman:
        yield doorman


SAID = {
    "simple": [query("SELECT 'first', 'row' UNION ALL SELECT 'second', NULL; SELECT 1/0")],
    "extended": [parse("SELECT 'first', $1::text"), bind([b"value"]), describe_portal(), execute(), SYNC],
}


def answer_of(raw: Raw, sent: list[bytes]) -> bytes:
    """All bytes of the answer to one ReadyForQuery."""
    return b"".join(got.kind + struct.pack("!I", len(got.body) + 4) + got.body for got in raw.converse(*sent))


def boundaries(answer: bytes) -> set[int]:
    """Where a message ends."""
    ends, at = {0}, 0
    while at < len(answer):
        at += 1 + int.from_bytes(answer[at + 1 : at + 5], "big")
        ends.add(at)
    return ends


def heard_when_cut(doorman: Doorman, scissors: Scissors, mode: str, sent: list[bytes], cut: int) -> bytes:
    """What a client gets when its server's connection ends behind so many bytes of the answer."""
    with Raw((doorman.host, doorman.port)).log_in(database=mode) as raw:
        raw.value("SELECT 'warm'")
        scissors.left = cut
        try:
            raw.send(*sent)
            with contextlib.suppress(ConnectionResetError):
                raw.read_to_end()
        finally:
            scissors.left = None
        return bytes(raw.buffer)


def check(answer: bytes, cut: int, heard: bytes) -> None:
    whole = max(end for end in boundaries(answer) if end <= cut)
    behind = heard[whole:]
    assert heard[:whole] == answer[:whole], (cut, heard)
    if b"C08006" in behind:  # a message of ours: where one may begin, and whole
        assert 1 + int.from_bytes(behind[1:5], "big") == len(behind), (cut, behind)
    else:
        assert behind, cut
        assert answer[whole:cut].startswith(behind), (cut, behind)


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("kind", SAID)
def test_at_every_byte(postgres: Postgres, doorman: Doorman, scissors: Scissors, mode: str, kind: str) -> None:
    with Raw((postgres.host, postgres.port)).log_in() as direct:
        answer = answer_of(direct, SAID[kind])
    for cut in range(len(answer)):
        check(answer, cut, heard_when_cut(doorman, scissors, mode, SAID[kind], cut))


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_in_a_long_row(postgres: Postgres, doorman: Doorman, scissors: Scissors, mode: str) -> None:
    sent = [query(f"SELECT repeat('x', {LONG}), 'end' UNION ALL SELECT repeat('y', {LONG}), 'end'")]
    with Raw((postgres.host, postgres.port)).log_in() as direct:
        answer = answer_of(direct, sent)
    for cut in [*range(60, len(answer), 7_919), LONG + 90, *range(len(answer) - 40, len(answer))]:
        check(answer, cut, heard_when_cut(doorman, scissors, mode, sent, cut))
