"""`max_memory_usage` bounds the large Parse messages that are being gathered; whoever leaves gives back its part.

trap: pg_doorman 1.7.7, 2.0.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.e2e.raw import Raw, wait_until
from tests.e2e.traps.clients import ask, run, words
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.torture.wire import SYNC, parse, query

MB = 1 << 20
LIMIT = 8 * MB


@pytest.fixture(scope="module")
def tight(postgres: Postgres) -> Iterator[Doorman]:
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 2)])}
    with Doorman(postgres, pools=pools, general={"max_memory_usage": LIMIT, "worker_threads": 2}) as doorman:
        yield doorman


def large(size: int, name: str = "") -> bytes:
    return parse(f"SELECT length('{'x' * size}')", name)


def test_clients_that_vanish_while_they_send_give_back_what_was_gathered(tight: Doorman) -> None:
    address = tight.host, tight.port
    for turn in range(24):
        raw = Raw(address).log_in()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # the one before may still be there
            raw.send(large(5 * MB)[: 4 * MB])
        raw.reset() if turn % 2 else raw.close()
    wait_until(lambda: not [row for row in tight.console("SHOW CLIENTS") if row["user"] == "app"], "all are gone")
    for _ in range(6):
        with Raw(address).log_in() as raw:
            assert ask(raw, large(5 * MB), run()) == [str(5 * MB)]


def test_beyond_the_limit_the_client_is_told_why_it_must_go(tight: Doorman) -> None:
    """It may still be sending: that does not fail, as many read no more after a failure to write."""
    address = tight.host, tight.port
    with Raw(address).log_in() as bystander:
        for _ in range(12):
            with Raw(address).log_in() as raw:
                raw.send(large(LIMIT + MB, "too_large"), run("too_large"), SYNC)
                assert raw.last_words()["C"] == "53200"
            assert ask(bystander, large(3 * MB), run()) == [str(3 * MB)]
    tight.wait_pool(sv_active=0, cl_waiting=0)


def test_the_limit_is_one_for_all_workers(tight: Doorman) -> None:
    """Of many clients on both workers two may send 4 MB each; their places are given back."""
    address = tight.host, tight.port
    for _ in range(2):
        raws = [Raw(address).log_in() for _ in range(12)]
        for raw in raws:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                raw.send(large(4 * MB - 64)[: 3 * MB])
        gathering = [raw for raw in raws if raw.is_silent(0.3)]
        assert len(gathering) == 2
        for raw in gathering:
            raw.send(large(4 * MB - 64)[3 * MB :], run(), SYNC)
            assert words(raw.until("Z")) == [str(4 * MB - 64)]
        for raw in raws:
            raw.close()


def test_what_waits_for_a_server_counts_until_it_has_one(tight: Doorman) -> None:
    address = tight.host, tight.port
    holders = [Raw(address).log_in() for _ in range(2)]
    for holder in holders:
        holder.ask(query("BEGIN"), query("SELECT 1"), ready=2)
    raws = [Raw(address).log_in() for _ in range(6)]
    for raw in raws:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            raw.send(large(3 * MB), run(), SYNC)
    waiting = [raw for raw in raws if raw.is_silent(0.3)]
    assert len(waiting) == 2
    for holder in holders:
        holder.ask(query("COMMIT"))
    for raw in waiting:
        assert words(raw.until("Z")) == [str(3 * MB)]
        assert ask(raw, large(3 * MB), run()) == [str(3 * MB)]
    for raw in [*holders, *raws]:
        raw.close()
