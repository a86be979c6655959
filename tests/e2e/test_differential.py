"""The same messages on a direct connection and through the pooler give the same bytes, however they are chopped."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.conftest import assert_whole
from tests.e2e.raw import Raw, tell
from tests.e2e.sequences import LAST_WORD, Part, anything, assemble, boundaries
from tests.harness import Doorman, Postgres
from tests.torture.wire import Message, query

EXAMPLES = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
cuts = st.lists(st.integers(1, 400), max_size=12)


def answers(port: int, database: str, stream: bytes, pieces: Sequence[int]) -> list[Message]:
    """Everything that comes back on a connection of its own."""
    with Raw(("127.0.0.1", port)) as raw:
        raw.log_in(database=database, application_name="differential")
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        at = 0
        for size in pieces:
            raw.send(stream[at : at + size])
            at += size
        raw.send(stream[at:])
        got = [raw.next()]
        while not (got[-1].kind == b"Z" and any(LAST_WORD in one.body for one in got[-4:])):
            got.append(raw.next())
        raw.quit()
    return got


def compare(doorman: Doorman, postgres: Postgres, database: str, stream: bytes, pieces: Sequence[int]) -> None:
    direct = answers(postgres.port, "postgres", stream, [])
    pooled = answers(doorman.port, database, stream, pieces)
    assert tell(pooled) == tell(direct)
    assert pooled == direct


@EXAMPLES
@given(parts=st.lists(st.one_of(anything, anything, boundaries), max_size=14), pieces=cuts)
def test_in_session_mode(shared: Doorman, postgres: Postgres, parts: list[Part], pieces: list[int]) -> None:
    compare(shared, postgres, "session", assemble(parts), pieces)


@EXAMPLES
@given(parts=st.lists(anything, max_size=14), pieces=cuts)
def test_one_transaction_in_transaction_mode(
    shared: Doorman, postgres: Postgres, parts: list[Part], pieces: list[int]
) -> None:
    stream = assemble(parts, first=query("BEGIN"))
    compare(shared, postgres, "postgres", stream, pieces)


@pytest.fixture(autouse=True, scope="module")
def whole_afterwards(shared: Doorman, postgres: Postgres) -> object:
    yield
    assert_whole(shared, postgres)
