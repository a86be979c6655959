"""RELOAD, SHUTDOWN and SET on the console: handed out, waited for, answered; in both protocols."""

from __future__ import annotations

import pytest

from doorman.admin.console import Console
from doorman.admin.orders import Order, OrderResult
from doorman.wire import frontend
from tests.unit.admin.client import (
    BOUND,
    NO_DATA,
    PARSED,
    READY,
    SHOWN,
    SYNC,
    Answer,
    Session,
    bind,
    describe,
    error,
    execute,
    parse,
    tell,
)

DONE = OrderResult(["general.port: 1 -> 2 (needs a restart)"])
FAILED = OrderResult([], "F0000", "no", "really not")


class Master(Session):
    """A session whose orders are carried out at once."""

    def __init__(self, console: Console, result: OrderResult) -> None:
        super().__init__(console)
        self.result = result
        self.orders: list[Order] = []

    def run(self, *messages: bytes) -> list[Answer]:
        answer = self.console.feed(b"".join(messages))
        rest, output = b"".join(messages)[answer.consumed :], answer.output
        while answer.order is not None or answer.has_more:
            if answer.order is not None:
                self.orders.append(answer.order)
                assert self.console.feed(rest).consumed == 0, "nothing is consumed meanwhile"
                self.console.finish_order(self.result)
            answer = self.console.feed(rest)
            rest, output = rest[answer.consumed :], output + answer.output
        return [message if message[0] != "N" else ("N",) for message in tell(output)]


@pytest.fixture
def master(console: Console) -> Master:
    return Master(console, DONE)


def test_reload_is_answered_with_what_it_did(master: Master) -> None:
    assert master.run(frontend.query("reload")) == [("N",), ("C", "RELOAD"), READY]
    assert [order.name for order in master.orders] == ["RELOAD"]


def test_what_stands_behind_an_order_waits_for_it(master: Master) -> None:
    answers = master.run(frontend.query("SHOW VERSION; RELOAD; SHOW VERSION"), frontend.query("SHOW VERSION"))
    assert [answer for answer in answers if answer[0] in "CNZ"] == [
        SHOWN, ("N",), ("C", "RELOAD"), SHOWN, READY, SHOWN, READY,
    ]  # fmt: skip


def test_an_order_that_fails_is_an_error_and_the_session_goes_on(console: Console) -> None:
    master = Master(console, FAILED)
    assert master.run(frontend.query("RELOAD; SHOW VERSION")) == [error("F0000"), READY]
    assert master.rows("SHOW VERSION")


def test_orders_over_the_extended_protocol(console: Console, master: Master) -> None:
    batch = (parse("RELOAD"), bind(), describe(), execute(), SYNC)
    assert master.run(*batch) == [PARSED, BOUND, NO_DATA, ("N",), ("C", "RELOAD"), READY]
    refused = Master(console, FAILED).run(*batch[:-1], execute(), SYNC)
    assert refused == [PARSED, BOUND, NO_DATA, error("F0000"), READY]


@pytest.mark.parametrize(("sql", "name"), [("SHUTDOWN", "SHUTDOWN"), ("shutdown wait_for_clients", "DRAIN")])
def test_shutdown_answers_before_it_is_done(master: Master, sql: str, name: str) -> None:
    answers = master.run(frontend.query(sql))
    assert answers == [("N",), ("T", "success"), ("D", "t"), ("C", "SHUTDOWN"), READY]
    assert [order.name for order in master.orders] == [name]


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SET log_level = 'debug'", "debug"),
        ("SET log_level='debug'", "debug"),
        ("set LOG_LEVEL TO debug", "debug"),
        ("SET log_level 'info, doorman.workers=debug'", "info,,doorman.workers=debug"),
        ("SET log_level = doorman.workers=debug", "doorman.workers=debug"),
        ("SET log_level doorman.workers=debug", "doorman.workers=debug"),
        ("SET log_level = default", "default"),
    ],
)
def test_set_log_level_in_all_its_spellings(master: Master, sql: str, wanted: str) -> None:
    assert master.run(frontend.query(sql))[-2:] == [("C", "SET"), READY]
    assert [(order.name, order.argument) for order in master.orders] == [("LOG_LEVEL", wanted)]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SET", "42601"),
        ("SET work_mem = 1", "42601"),
        ("SET log_level =", "42601"),
        ("SET log_level = loud", "22023"),
        ("SHUTDOWN NEVER", "42601"),
    ],
)
def test_orders_that_are_wrong_reach_nobody(master: Master, sql: str, sqlstate: str) -> None:
    assert master.run(frontend.query(sql)) == [error(sqlstate), READY]
    assert master.orders == []
