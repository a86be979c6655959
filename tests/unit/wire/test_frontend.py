"""Messages from client to server, and the bounds on a client's login answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.errors import ClientFault, ProtocolViolation
from doorman.wire import frontend


@pytest.mark.parametrize(
    ("message", "raw"),
    [
        (frontend.ssl_request(), b"\0\0\0\x08\x04\xd2\x16\x2f"),
        (frontend.cancel_request(7, b"\1\2\3\4"), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\7\1\2\3\4"),
        (frontend.startup_message({"user": "a"}), b"\0\0\0\x10\0\3\0\0user\0a\0\0"),
        (frontend.startup_message({}, minor=2), b"\0\0\0\x09\0\3\0\2\0"),
        (frontend.password("x"), b"p\0\0\0\x06x\0"),
        (frontend.sasl_initial("M", b"abc"), b"p\0\0\0\x0dM\0\0\0\0\x03abc"),
        (frontend.sasl_initial("M", None), b"p\0\0\0\x0aM\0\xff\xff\xff\xff"),
        (frontend.sasl_response(b"abc"), b"p\0\0\0\x07abc"),
        (frontend.query("select 1"), b"Q\0\0\0\x0dselect 1\0"),
        (frontend.sync(), b"S\0\0\0\x04"),
        (frontend.terminate(), b"X\0\0\0\x04"),
        (frontend.copy_fail("no"), b"f\0\0\0\x07no\0"),
    ],
)
def test_bytes(message: bytes, raw: bytes) -> None:
    assert message == raw


def test_startup_pairs_keep_their_order() -> None:
    assert frontend.startup_message({"b": "1", "a": "2"}).endswith(b"b\x001\0a\x002\0\0")


def test_a_nul_cannot_smuggle_a_parameter() -> None:
    with pytest.raises(ValueError, match="NUL"):
        frontend.startup_message({"user": "app\0database\0other"})


@pytest.mark.parametrize("length", [1, 1024, 60_000])
def test_long_passwords_are_passwords(length: int) -> None:
    assert frontend.parse_password(b"x" * length + b"\0") == b"x" * length


def test_an_empty_password_is_refused_as_postgresql_does() -> None:
    with pytest.raises(ClientFault, match="empty password returned by client") as caught:
        frontend.parse_password(b"\0")
    assert caught.value.sqlstate == "28P01"


@pytest.mark.parametrize("body", [b"", b"x", b"x\0y", b"x\0y\0", b"\0\0", b"x" * 70_000 + b"\0"])
def test_other_password_bodies_are_violations(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        frontend.parse_password(body)


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), st.none() | st.binary())
def test_sasl_initial_responses_come_back(mechanism: str, data: bytes | None) -> None:
    assert frontend.parse_sasl_initial(frontend.sasl_initial(mechanism, data)[5:]) == (mechanism, data)


@pytest.mark.parametrize(
    "body",
    [b"", b"M", b"\0\0\0\0\0", b"M\0", b"M\0\0\0\0", b"M\0\0\0\0\1", b"M\0\0\0\0\1ab", b"M\0\xff\xff\xff\xffa",
     b"M\0\xff\xff\xff\xfe", b"M\0\x7f\xff\xff\xff", b"M\0\0\1\x11\x70" + b"x" * 70_000],
)  # fmt: skip
def test_other_sasl_initial_bodies_are_violations(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        frontend.parse_sasl_initial(body)


@given(st.binary(max_size=60))
def test_random_bodies_never_raise_anything_but_client_faults(body: bytes) -> None:
    for parse in (frontend.parse_password, frontend.parse_sasl_initial, frontend.parse_sasl_response):
        try:
            parse(body)
        except ClientFault as fault:
            assert fault.sqlstate in ("08P01", "28P01")


def test_the_length_of_a_password_message() -> None:
    message = frontend.password("secret")
    assert [frontend.auth_message_length(message[:size]) for size in range(7)] == [0] * 5 + [len(message)] * 2


@pytest.mark.parametrize("length", [0, 3, 65_537, 2**31 - 1, 2**31, 2**32 - 1])
def test_password_messages_of_other_lengths_are_refused_at_once(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid length"):
        frontend.auth_message_length(b"p" + length.to_bytes(4, "big"))


def test_another_message_is_refused_at_its_first_byte() -> None:
    with pytest.raises(ProtocolViolation, match="expected password response, got message type 81"):
        frontend.auth_message_length(b"Q")
