"""The first packets of a connection in all their shapes."""

from __future__ import annotations

import struct

import pytest

from tests.e2e.conftest import Connect
from tests.e2e.raw import GSSENC_REQUEST, SSL_REQUEST, Raw, packet
from tests.torture.wire import query, startup

PROTOCOL_3_0, PROTOCOL_3_2, PROTOCOL_3_9 = 196608, 196610, 196617


def pairs(*words: str) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words) + b"\0"


APP = ("user", "app", "database", "postgres")


@pytest.mark.parametrize(
    "requests",
    [[SSL_REQUEST], [GSSENC_REQUEST], [SSL_REQUEST, GSSENC_REQUEST], [GSSENC_REQUEST, SSL_REQUEST]],
    ids=["ssl", "gss", "ssl-gss", "gss-ssl"],
)
def test_encryption_requests_are_declined_and_the_login_goes_on(connect: Connect, requests: list[bytes]) -> None:
    raw = connect.bare()
    for request in requests:
        raw.send(request)
        assert raw.read_bytes(1) == b"N"
    assert raw.log_in().value("SELECT 1") == "1"


def test_a_client_that_asks_for_encryption_over_and_over_is_sent_away(connect: Connect) -> None:
    raw = connect.bare()
    raw.send(SSL_REQUEST * 4)
    assert raw.read_bytes(3) == b"NNN"
    assert raw.last_words()["C"] == "08P01"


def test_all_first_packets_in_one_write(connect: Connect) -> None:
    raw = connect.bare()
    raw.send(SSL_REQUEST, GSSENC_REQUEST, startup("app", "postgres"), query("SELECT 7"))
    assert raw.read_bytes(2) == b"NN"
    raw.until("Z")
    assert [got.columns() for got in raw.until("Z") if got.kind == b"D"] == [[b"7"]]


def test_everything_byte_by_byte(connect: Connect) -> None:
    raw = connect.bare()
    raw.trickle(SSL_REQUEST)
    assert raw.read_bytes(1) == b"N"
    raw.trickle(startup("app", "postgres", client_encoding="UTF8") + query("SELECT 'a' || 'b'"))
    raw.until("Z")
    assert [got.columns() for got in raw.until("Z") if got.kind == b"D"] == [[b"ab"]]


@pytest.mark.parametrize(
    ("version", "answered"),
    [(PROTOCOL_3_0, ""), (PROTOCOL_3_2, ""), (PROTOCOL_3_9, "v")],
)
def test_later_minor_versions_are_negotiated_down(connect: Connect, version: int, answered: str) -> None:
    raw = connect.bare()
    raw.send(packet(version, pairs(*APP)))
    got = raw.until("Z")
    assert "".join(one.kind.decode() for one in got if one.kind == b"v") == answered
    if answered:
        assert struct.unpack("!ii", got[0].body) == (PROTOCOL_3_2, 0)
    assert len(raw.secret) == (4 if version == PROTOCOL_3_0 else 32)
    assert raw.value("SELECT 1") == "1"


def test_unknown_protocol_options_are_named_in_the_negotiation(connect: Connect) -> None:
    raw = connect.bare()
    raw.send(packet(PROTOCOL_3_0, pairs(*APP, "_pq_.magic", "1", "_pq_.more", "x")))
    got = raw.until("Z")
    assert got[0].kind == b"v"
    assert got[0].body == struct.pack("!ii", PROTOCOL_3_0, 2) + b"_pq_.magic\0_pq_.more\0"


@pytest.mark.parametrize(
    ("first", "sqlstate"),
    [
        (packet(131072, pairs(*APP)), "0A000"),  # protocol 2.0
        (packet(4 << 16, pairs(*APP)), "0A000"),
        (packet(PROTOCOL_3_0, pairs("database", "postgres")), "28000"),
        (packet(PROTOCOL_3_0, pairs("user", "")), "28000"),
        (packet(PROTOCOL_3_0, b"\0"), "28000"),
        (packet(PROTOCOL_3_0), "08P01"),
        (packet(PROTOCOL_3_0, pairs(*APP, "replication", "true")), "0A000"),
        (packet(PROTOCOL_3_0, pairs(*APP, "replication", "database")), "0A000"),
        (packet(PROTOCOL_3_0, pairs(*APP, "odd")), "08P01"),
        (packet(PROTOCOL_3_0, pairs(*APP)[:-1]), "08P01"),
        (packet(PROTOCOL_3_0, pairs(*APP) + b"\0more"), "08P01"),
        (packet(PROTOCOL_3_0, pairs(*APP, "options", "-x 1")), "0A000"),
        (packet(PROTOCOL_3_0, pairs(*APP, "options", "-c work_mem")), "42601"),
        (packet(PROTOCOL_3_0, pairs("user", "app", "database", "nowhere")), "3D000"),
        (packet(PROTOCOL_3_0, pairs("user", "nobody", "database", "postgres")), "3D000"),
        (packet(80877102, b"\0\0\0\1"), "08P01"),  # CancelRequest without a secret
        (packet(80877103, b"stuffed"), "08P01"),  # SSLRequest with bytes behind it
        (struct.pack("!i", 0) + b"\0" * 8, "08P01"),
        (struct.pack("!i", 7) + b"\0" * 8, "08P01"),
        (struct.pack("!i", 8193) + b"\0" * 8, "08P01"),
        (struct.pack("!I", 0x7FFFFFFF), "08P01"),
        (struct.pack("!I", 0xFFFFFFFF), "08P01"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "08P01"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "08P01"),  # a TLS ClientHello
    ],
)
def test_what_is_no_login_is_answered_with_one_error(connect: Connect, first: bytes, sqlstate: str) -> None:
    raw = connect.bare()
    raw.send(first)
    fields = raw.last_words()
    assert (fields["C"], fields["V"]) == (sqlstate, "FATAL")


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 7, 8, 20])
def test_half_a_packet_and_then_the_end(connect: Connect, keep: int) -> None:
    raw = connect.bare()
    raw.send(startup("app", "postgres")[:keep])
    raw.close()
    assert connect().value("SELECT 1") == "1"


def test_half_a_packet_and_then_silence_disturbs_nobody(connect: Connect) -> None:
    silent = [connect.bare() for _ in range(20)]
    for number, raw in enumerate(silent):
        raw.send(startup("app", "postgres")[:number])
    assert connect().value("SELECT 1") == "1"
    assert all(raw.is_silent(0.01) for raw in silent)


def test_an_empty_value_is_a_value_and_replication_may_be_refused_by_the_client_itself(connect: Connect) -> None:
    raw = connect.bare()
    raw.send(
        packet(PROTOCOL_3_0, pairs(*APP, "application_name", "", "replication", "false", "TimeZone", "Asia/Tokyo"))
    )
    raw.until("Z")
    assert raw.parameters["application_name"] == ""
    assert raw.parameters["TimeZone"] == "Asia/Tokyo"


def test_the_database_is_the_users_when_none_is_named(connect: Connect) -> None:
    raw = connect.bare()
    raw.send(packet(PROTOCOL_3_0, pairs("user", "app")))
    assert "database: app" in raw.last_words()["M"]


def test_a_client_may_leave_without_a_word_after_its_login(connect: Connect) -> None:
    for _ in range(5):
        connect().quit()


def test_garbage_behind_the_startup_packet_ends_that_connection_only(connect: Connect) -> None:
    bystander = connect()
    raw = connect.bare()
    raw.send(startup("app", "postgres"), b"\xff\x00\x00\x00\x04trailing")
    raw.until("Z")
    assert raw.last_words()["C"] == "08P01"
    assert bystander.value("SELECT 1") == "1"


def test_a_cancel_request_for_nobody_is_closed_without_an_answer(address: tuple[str, int]) -> None:
    for secret in (b"\0" * 4, b"x" * 32, b"y" * 256):
        with Raw(address) as raw:
            raw.send(packet(80877102, struct.pack("!I", 12345) + secret))
            assert raw.read_to_end() == b""
