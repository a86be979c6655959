"""The first packet: what is taken, what is refused, and with which words."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.errors import ClientFault, ProtocolViolation
from doorman.wire.backend import negotiation_answer, parse_negotiate_protocol_version
from doorman.wire.frontend import cancel_request, ssl_request, startup_message
from doorman.wire.startup import (
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupMessage,
    is_direct_tls,
    parse_startup_packet,
    startup_length,
)
from doorman.wire.text import encode


def packet(code: int, body: bytes = b"") -> bytes:
    return struct.pack("!II", 8 + len(body), code) + body


def startup(body: bytes, minor: int = 0) -> StartupMessage:
    message = parse_startup_packet(packet(196608 | minor, body))
    assert isinstance(message, StartupMessage)
    return message


def test_pairs_become_parameters_in_packet_order() -> None:
    message = startup(b"user\0app\0database\0shop\0application_name\0psql\0\0")
    assert message == StartupMessage(3, 0, {"user": "app", "database": "shop", "application_name": "psql"}, [])
    assert (message.user, message.database, message.needs_negotiation) == ("app", "shop", False)
    assert negotiation_answer(message) == b""


@pytest.mark.parametrize("body", [b"user\0app\0\0", b"user\0app\0database\0\0\0"])
def test_database_defaults_to_the_user(body: bytes) -> None:
    assert startup(body).database == "app"


def test_an_empty_value_does_not_shift_the_pairs() -> None:
    assert startup(b"options\0\0application_name\0\0user\0app\0\0").parameters == {
        "application_name": "",
        "user": "app",
        "database": "app",
    }


def test_later_duplicates_win() -> None:
    assert startup(b"user\0a\0user\0b\0\0").user == "b"


def test_bytes_that_are_no_utf8_come_back_unchanged() -> None:
    assert encode(startup(b"user\0caf\xe9\xff\0\0").user) == b"caf\xe9\xff"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0",
        b"user",
        b"user\0",
        b"user\0app",
        b"user\0app\0",
        b"user\0app\0database\0\0",
        b"user\0app\0database\0shop",
        b"user\0app\0\0trailing",
        b"user\0app\0\0a\0b\0\0",
        b"user\0app\0\0\0",
    ],
)
def test_a_wrong_layout_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="invalid startup packet layout: expected terminator as last byte"):
        startup(body)


@pytest.mark.parametrize("body", [b"\0", b"database\0shop\0\0", b"user\0\0\0"])
def test_a_user_is_mandatory(body: bytes) -> None:
    with pytest.raises(ClientFault, match="no PostgreSQL user name specified in startup packet") as caught:
        startup(body)
    assert caught.value.sqlstate == "28000"


@pytest.mark.parametrize(
    ("minor", "spoken", "negotiates"), [(0, 0, False), (1, 1, False), (2, 2, False), (3, 2, True), (9999, 2, True)]
)
def test_newer_minor_versions_are_negotiated_down(minor: int, spoken: int, negotiates: bool) -> None:
    message = startup(b"user\0app\0\0", minor)
    assert (message.minor, message.spoken_minor, message.needs_negotiation) == (minor, spoken, negotiates)
    if negotiates:
        assert parse_negotiate_protocol_version(negotiation_answer(message)[5:]) == (2, [])


def test_unknown_protocol_options_are_listed_and_not_parameters() -> None:
    message = startup(b"_pq_.first\x001\0user\0app\0_pq_.second\0\0\0")
    assert message.unknown_options == ["_pq_.first", "_pq_.second"]
    assert message.parameters == {"user": "app", "database": "app"}
    answer = negotiation_answer(message)
    assert answer[:1] == b"v"
    assert parse_negotiate_protocol_version(answer[5:]) == (0, ["_pq_.first", "_pq_.second"])


@pytest.mark.parametrize(
    ("code", "version"), [(2 << 16, "2.0"), (4 << 16 | 1, "4.1"), (0, "0.0"), (0xFFFFFFFF, "65535.65535")]
)
def test_other_major_versions_are_refused_in_postgresqls_words(code: int, version: str) -> None:
    with pytest.raises(ClientFault) as caught:
        parse_startup_packet(packet(code))
    assert caught.value.sqlstate == "0A000"
    assert caught.value.message == f"unsupported frontend protocol {version}: server supports 3.0 to 3.2"


@pytest.mark.parametrize("value", ["false", "off", "no", "0", "FALSE", "f", "of", "n"])
def test_replication_false_passes(value: str) -> None:
    assert "replication" not in startup(b"user\0app\0replication\0" + value.encode() + b"\0\0").parameters


@pytest.mark.parametrize("value", ["true", "database", "on", "1", "o", "", "perhaps"])
def test_replication_is_refused(value: str) -> None:
    with pytest.raises(ClientFault, match="replication") as caught:
        startup(b"user\0app\0replication\0" + value.encode() + b"\0\0")
    assert caught.value.sqlstate == "0A000"


def test_options_become_parameters_and_the_packets_own_win() -> None:
    message = startup(b"user\0app\0options\0-c geqo=off --TimeZone=UTC\0TimeZone\0Europe/Prague\0\0")
    assert message.parameters == {"geqo": "off", "TimeZone": "Europe/Prague", "user": "app", "database": "app"}


def test_options_cannot_choose_the_database() -> None:
    with pytest.raises(ClientFault, match='unrecognized configuration parameter "database"'):
        startup(b"user\0app\0options\0-c database=other\0\0")


def test_encryption_requests() -> None:
    assert parse_startup_packet(ssl_request()) == SslRequest()
    assert parse_startup_packet(packet(80877104)) == GssEncRequest()


@pytest.mark.parametrize("code", [80877103, 80877104])
def test_encryption_requests_carry_nothing(code: int) -> None:
    with pytest.raises(ProtocolViolation):
        parse_startup_packet(packet(code, b"stuffed"))


@pytest.mark.parametrize("size", [4, 5, 32, 256])
def test_cancel_requests_of_every_protocol(size: int) -> None:
    secret = bytes(range(1, 5)) * 64
    assert parse_startup_packet(cancel_request(0xFFFFFFFE, secret[:size])) == CancelRequest(0xFFFFFFFE, secret[:size])


@pytest.mark.parametrize("size", [0, 3, 257])
def test_cancel_requests_with_other_secrets_are_refused(size: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid length of query cancel packet"):
        parse_startup_packet(cancel_request(1, bytes(size)))


def test_a_cancel_request_without_pid_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        parse_startup_packet(packet(80877102))


@pytest.mark.parametrize("length", [8, 9, 8192])
def test_lengths_within_the_limits(length: int) -> None:
    assert startup_length(length.to_bytes(4, "big") + b"anything") == length


@pytest.mark.parametrize("length", [0, 4, 7, 8193, 2**31 - 1, 2**31, 2**32 - 1])
def test_lengths_outside_the_limits_are_refused_at_once(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid length of startup packet"):
        startup_length(length.to_bytes(4, "big"))


@pytest.mark.parametrize("buf", [b"", b"\xff", b"\0\0\0"])
def test_an_incomplete_length_is_awaited(buf: bytes) -> None:
    assert startup_length(buf) == 0


def test_a_packet_that_is_not_its_length_is_refused() -> None:
    whole = startup_message({"user": "app"})
    for chopped in (whole[:-1], whole + b"x", whole[:3]):
        with pytest.raises(ProtocolViolation):
            parse_startup_packet(chopped)


def test_a_tls_hello_is_recognised() -> None:
    assert is_direct_tls(b"\x16\x03\x01")
    assert not is_direct_tls(ssl_request())
    assert not is_direct_tls(b"")


names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20).filter(
    lambda name: not name.startswith("_pq_.") and name not in ("options", "replication", "user", "database")
)
values = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)


@given(st.dictionaries(names, values, max_size=8), names, names)
def test_what_is_built_is_parsed(parameters: dict[str, str], user: str, database: str) -> None:
    parameters = {**parameters, "user": user, "database": database}
    assert parse_startup_packet(startup_message(parameters)) == StartupMessage(3, 0, parameters, [])


@given(st.binary(max_size=300))
def test_random_bodies_never_raise_anything_but_client_faults(body: bytes) -> None:
    for code in (196608, 196610, 80877102, 80877103, 2 << 16):
        try:
            parse_startup_packet(packet(code, body))
        except ClientFault as fault:
            assert len(fault.sqlstate) == 5


@given(st.lists(st.sampled_from([b"user", b"options", b"replication", b"-c", b"a=b", b"\\", b" ", b"\0", b"--x"])))
def test_plausible_bodies_never_raise_anything_but_client_faults(pieces: list[bytes]) -> None:
    try:
        parse_startup_packet(packet(196608, b"".join(pieces)))
    except ClientFault as fault:
        assert len(fault.sqlstate) == 5


@given(st.binary(max_size=40))
def test_random_packets_never_raise_anything_but_client_faults(data: bytes) -> None:
    try:
        parse_startup_packet(data)
    except ClientFault as fault:
        assert len(fault.sqlstate) == 5
