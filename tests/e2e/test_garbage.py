"""Bytes that are no protocol, at every state of a connection: it ends with an ErrorResponse, all else lives on."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from tests.e2e.conftest import POOL_SIZE, Connect
from tests.e2e.raw import SSL_REQUEST, Raw
from tests.harness.doorman import ADMIN_USER
from tests.torture.wire import FLUSH, SYNC, bind, execute, message, parse, query, startup

BAD_LENGTHS = [0, 3, 268_435_457, 2**31 - 1, 2**32 - 1]
UNKNOWN_TYPES = [b"z", b"\0", b"\xff", b"p", b"\n", b"R", b"1"]


def before_startup(connect: Connect) -> Raw:
    return connect.bare()


def after_ssl_request(connect: Connect) -> Raw:
    raw = connect.bare()
    raw.send(SSL_REQUEST)
    assert raw.read_bytes(1) == b"N"
    return raw


def idle(connect: Connect) -> Raw:
    return connect()


def idle_session(connect: Connect) -> Raw:
    return connect("session")


def in_transaction(connect: Connect) -> Raw:
    raw = connect()
    raw.ask(query("BEGIN"))
    return raw


def in_batch(connect: Connect) -> Raw:
    raw = connect()
    raw.send(parse("SELECT 1"), bind(), execute(), FLUSH)
    raw.until("C")
    return raw


def behind_an_error(connect: Connect) -> Raw:
    raw = connect()
    raw.send(parse("SELEC"), FLUSH)
    raw.until("E")
    return raw


def behind_an_unforwarded_query(connect: Connect) -> Raw:
    """Its bytes stand in the same packet as the garbage."""
    raw = connect()
    raw.send = lambda *data: Raw.send(raw, query("SELECT 1"), *data)  # type: ignore[method-assign]
    return raw


def in_copy(connect: Connect) -> Raw:
    raw = connect()
    raw.send(query("CREATE TEMP TABLE c (x int); COPY c FROM STDIN"))
    raw.until("G")
    return raw


STATES: list[Callable[[Connect], Raw]] = [
    idle,
    idle_session,
    in_transaction,
    in_batch,
    behind_an_error,
    behind_an_unforwarded_query,
    in_copy,
]
EARLY_STATES: list[Callable[[Connect], Raw]] = [before_startup, after_ssl_request]


def name_of(state: Callable[[Connect], Raw]) -> str:
    return state.__name__


def assert_others_live(connect: Connect, bystander: Raw) -> None:
    assert bystander.value("SELECT 1") == "1"
    assert all(raw.value("SELECT 2") == "2" for raw in connect.many(POOL_SIZE))


@pytest.mark.parametrize("state", STATES, ids=name_of)
@pytest.mark.parametrize("letter", UNKNOWN_TYPES)
def test_an_unknown_message_type(connect: Connect, state: Callable[[Connect], Raw], letter: bytes) -> None:
    bystander, raw = connect(), state(connect)
    raw.send(message(letter, b"whatever"))
    fields = raw.last_words()
    assert (fields["V"], fields["C"]) == ("FATAL", "08P01")
    assert_others_live(connect, bystander)


@pytest.mark.parametrize("state", STATES, ids=name_of)
@pytest.mark.parametrize("length", BAD_LENGTHS)
def test_an_absurd_length(connect: Connect, state: Callable[[Connect], Raw], length: int) -> None:
    bystander, raw = connect(), state(connect)
    raw.send(b"Q" + struct.pack("!I", length) + b"SELECT 1\0")
    fields = raw.last_words()
    assert (fields["V"], fields["C"]) == ("FATAL", "08P01")
    assert_others_live(connect, bystander)


@pytest.mark.parametrize("state", EARLY_STATES, ids=name_of)
@pytest.mark.parametrize("length", [0, 3, 7, 8193, 2**31 - 1, 2**32 - 1])
def test_an_absurd_length_before_the_login(connect: Connect, state: Callable[[Connect], Raw], length: int) -> None:
    bystander, raw = connect(), state(connect)
    raw.send(struct.pack("!I", length) + b"\0\3\0\0user\0app\0\0")
    assert raw.last_words()["C"] == "08P01"
    assert_others_live(connect, bystander)


@pytest.mark.parametrize("seed", range(25))
def test_random_bytes_in_every_state(connect: Connect, seed: int) -> None:
    dice = random.Random(seed)
    bystander = connect()
    for state in STATES + EARLY_STATES:
        raw = state(connect)
        try:
            raw.send(dice.randbytes(dice.choice([1, 5, 50, 5000])))
            raw.socket.settimeout(0.02)
            raw.read_to_end()
        except (TimeoutError, OSError):
            pass
        raw.close()
    assert_others_live(connect, bystander)


@pytest.mark.parametrize("seed", range(15))
def test_valid_messages_with_flipped_bytes(connect: Connect, seed: int) -> None:
    """What is framed well but wrong inside is PostgreSQL's to judge: it may not end more than this client's session."""
    dice = random.Random(seed)
    bystander = connect()
    stream = bytearray(b"".join([parse("SELECT $1::int"), bind([b"5"]), execute(), SYNC, query("SELECT 1"), SYNC]) * 3)
    for _ in range(dice.randint(1, 4)):
        stream[dice.randrange(len(stream))] = dice.randrange(256)
    for database in ("postgres", "session"):
        raw = connect(database)
        try:
            raw.send(bytes(stream))
            raw.socket.settimeout(0.05)
            raw.read_to_end()
        except (TimeoutError, OSError):
            pass
        raw.close()
    assert_others_live(connect, bystander)


@pytest.mark.parametrize(
    "garbage",
    [b"Q\0\0\0\3", b"p\xff\xff\xff\xff", b"p\0\0\0\3", message(b"p", b"x" * 70_000), query("SELECT 1"), b"\0" * 20],
)
def test_garbage_instead_of_a_password(connect: Connect, garbage: bytes) -> None:
    bystander, raw = connect(), connect.bare()
    raw.send(startup("guarded", "guarded"))
    assert raw.next().kind == b"R"
    raw.send(garbage)
    assert raw.last_words()["C"] in ("08P01", "28P01")
    assert_others_live(connect, bystander)


@pytest.mark.parametrize("garbage", [b"Q\0\0\0\0", b"Q\xff\xff\xff\xff", b"\0" * 50])
def test_garbage_in_the_console(connect: Connect, garbage: bytes) -> None:
    bystander, raw = connect(), connect.bare()
    raw.log_in(ADMIN_USER, "pgdoorman")
    raw.ask(query("SHOW VERSION"))
    raw.send(garbage)
    assert raw.last_words()["C"] in ("08P01", "53200")
    assert_others_live(connect, bystander)


def test_an_unknown_message_type_leaves_the_console_open(connect: Connect) -> None:
    raw = connect.bare()
    raw.log_in(ADMIN_USER, "pgdoorman")
    assert raw.ask(b"z\0\0\0\4") == "E:08P01 ZI"
    assert "C ZI" in raw.ask(query("SHOW VERSION"))


def test_a_nul_less_query_is_postgresqls_to_judge(connect: Connect) -> None:
    raw = connect()
    assert raw.ask(message(b"Q", b"SELECT 1")) == "E:08P01 ZI"
    assert raw.value("SELECT 1") == "1"
