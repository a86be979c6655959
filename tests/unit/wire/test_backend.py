"""Messages from server to client: what is built can be parsed, and has the bytes that the manual shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.errors import ClientFault, ServerFault
from doorman.wire import backend
from doorman.wire.backend import Column
from doorman.wire.framing import Frames

text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)


def body_of(message: bytes, letter: bytes) -> bytes:
    frames = Frames(1 << 20)
    frames.feed(message)
    frame = frames.take()
    assert frame is not None
    assert frame[0] == letter[0]
    assert frames.rest() == b""
    return frame[1]


@pytest.mark.parametrize(
    ("message", "raw"),
    [
        (backend.AUTHENTICATION_OK, b"R\0\0\0\x08\0\0\0\0"),
        (backend.CLEARTEXT_REQUEST, b"R\0\0\0\x08\0\0\0\x03"),
        (backend.md5_request(b"salt"), b"R\0\0\0\x0c\0\0\0\x05salt"),
        (backend.sasl_request(["SCRAM-SHA-256"]), b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"),
        (backend.sasl_continue(b"r="), b"R\0\0\0\x0a\0\0\0\x0br="),
        (backend.sasl_final(b"v="), b"R\0\0\0\x0a\0\0\0\x0cv="),
        (backend.parameter_status("a", ""), b"S\0\0\0\x07a\0\0"),
        (backend.backend_key_data(-1, b"\1\2\3\4"), b"K\0\0\0\x0c\xff\xff\xff\xff\1\2\3\4"),
        (backend.ready_for_query("T"), b"Z\0\0\0\x05T"),
        (backend.command_complete("SHOW"), b"C\0\0\0\x09SHOW\0"),
        (backend.data_row(["a", None, ""]), b"D\0\0\0\x13\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0"),
        (backend.row_description([]), b"T\0\0\0\x06\0\0"),
        (backend.parameter_description([25]), b"t\0\0\0\x0a\0\x01\0\0\0\x19"),
        (backend.negotiate_protocol_version(2, ["_pq_.x"]), b"v\0\0\0\x13\0\3\0\2\0\0\0\1_pq_.x\0"),
        (backend.EMPTY_QUERY_RESPONSE, b"I\0\0\0\x04"),
        (backend.PARSE_COMPLETE, b"1\0\0\0\x04"),
        (backend.BIND_COMPLETE, b"2\0\0\0\x04"),
        (backend.CLOSE_COMPLETE, b"3\0\0\0\x04"),
        (backend.NO_DATA, b"n\0\0\0\x04"),
    ],
)
def test_bytes(message: bytes, raw: bytes) -> None:
    assert message == raw


def test_a_fault_becomes_an_error_response() -> None:
    fault = ClientFault("28000", "no\0way", detail="why", hint="do")
    assert body_of(backend.fault_response(fault), b"E") == b"SFATAL\0VFATAL\0C28000\0Mnoway\0Dwhy\0Hdo\0\0"


def test_a_plain_error_has_four_fields() -> None:
    body = body_of(backend.error_response("26000", "no such statement", severity="ERROR"), b"E")
    assert backend.parse_error_fields(body) == {"S": "ERROR", "V": "ERROR", "C": "26000", "M": "no such statement"}


def test_a_notice() -> None:
    body = body_of(backend.notice_response("01000", "careful", hint="look"), b"N")
    assert backend.parse_error_fields(body) == {
        "S": "WARNING", "V": "WARNING", "C": "01000", "M": "careful", "H": "look"
    }  # fmt: skip


def test_an_error_in_any_text_can_be_sent() -> None:
    body = body_of(backend.error_response("58000", "\udce9 \ud800 é"), b"E")
    assert body.endswith(b" \xc3\xa9\0\0")


def test_a_nul_in_a_c_string_is_a_bug() -> None:
    with pytest.raises(ValueError, match="NUL"):
        backend.parameter_status("a\0b", "")


@given(st.lists(st.builds(Column, text, st.integers(0, 2**32 - 1), st.integers(-(2**15), 2**15 - 1)), max_size=5))
def test_row_descriptions_come_back(columns: list[Column]) -> None:
    assert backend.parse_row_description(body_of(backend.row_description(columns), b"T")) == columns


@given(st.lists(st.none() | text, max_size=5))
def test_data_rows_come_back(values: list[str | None]) -> None:
    assert backend.parse_data_row(body_of(backend.data_row(values), b"D")) == values


@given(text.filter(bool), text)
def test_parameter_statuses_come_back(name: str, value: str) -> None:
    assert backend.parse_parameter_status(body_of(backend.parameter_status(name, value), b"S")) == (name, value)


@given(st.integers(0, 2**32 - 1), st.binary(min_size=4, max_size=256))
def test_keys_come_back(pid: int, secret: bytes) -> None:
    assert backend.parse_backend_key_data(body_of(backend.backend_key_data(pid, secret), b"K")) == (pid, secret)


@given(st.lists(text.filter(bool), max_size=4))
def test_mechanisms_come_back(names: list[str]) -> None:
    code, data = backend.parse_authentication(body_of(backend.sasl_request(names), b"R"))
    assert (code, backend.parse_sasl_mechanisms(data)) == (10, names)


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (backend.parse_authentication, b"\0\0\0"),
        (backend.parse_sasl_mechanisms, b""),
        (backend.parse_sasl_mechanisms, b"SCRAM-SHA-256"),
        (backend.parse_parameter_status, b""),
        (backend.parse_parameter_status, b"a\0b"),
        (backend.parse_parameter_status, b"a\0b\0c\0"),
        (backend.parse_parameter_status, b"\0b\0"),
        (backend.parse_backend_key_data, b""),
        (backend.parse_backend_key_data, bytes(7)),
        (backend.parse_backend_key_data, bytes(261)),
        (backend.parse_ready_for_query, b""),
        (backend.parse_ready_for_query, b"X"),
        (backend.parse_ready_for_query, b"II"),
        (backend.parse_negotiate_protocol_version, bytes(7)),
        (backend.parse_negotiate_protocol_version, b"\0\3\0\0\0\0\0\1"),
        (backend.parse_negotiate_protocol_version, b"\0\3\0\0\xff\xff\xff\xffa\0"),
        (backend.parse_negotiate_protocol_version, b"\0\4\0\0\0\0\0\0"),
        (backend.parse_row_description, b""),
        (backend.parse_row_description, b"\xff\xffa\0"),
        (backend.parse_row_description, b"\0\0x"),
        (backend.parse_data_row, b"\0"),
        (backend.parse_data_row, b"\0\1\0\0\0\x05abc"),
        (backend.parse_data_row, b"\0\1\xff\xff\xff\xfe"),
        (backend.parse_data_row, b"\0\0x"),
        (backend.parse_command_complete, b"SELECT 1"),
    ],
)
def test_malformed_bodies_are_the_servers_fault(parse: Callable[[bytes], Any], body: bytes) -> None:
    with pytest.raises(ServerFault, match="malformed") as caught:
        parse(body)
    assert caught.value.sqlstate == "08P01"


@given(st.binary(max_size=60))
def test_random_bodies_never_raise_anything_but_server_faults(body: bytes) -> None:
    backend.parse_error_fields(body)
    for parse in (
        backend.parse_authentication,
        backend.parse_sasl_mechanisms,
        backend.parse_parameter_status,
        backend.parse_backend_key_data,
        backend.parse_ready_for_query,
        backend.parse_negotiate_protocol_version,
        backend.parse_row_description,
        backend.parse_data_row,
        backend.parse_command_complete,
    ):
        try:
            parse(body)
        except ServerFault as fault:
            assert fault.sqlstate == "08P01"


NAMES = st.sampled_from(["a", "name", "named", "other name", "nam"])
BODIES = st.one_of(
    st.tuples(NAMES, st.sampled_from(["", "name", "x name", "1"])).map(lambda pair: f"{pair[0]}\0{pair[1]}\0".encode()),
    st.binary(max_size=6),
)


@given(st.lists(BODIES, max_size=6))
def test_many_parameter_statuses_are_checked_like_single_ones(bodies: list[bytes]) -> None:
    messages = [backend.message(b"S", body) for body in bodies]
    try:
        parsed = [backend.parse_parameter_status(body) for body in bodies]
    except ServerFault:
        with pytest.raises(ServerFault):
            backend.checked_parameter_statuses(b"".join(messages), b"name\0")
        return
    kept = [message for message, (name, _) in zip(messages, parsed, strict=True) if name != "name"]
    assert backend.checked_parameter_statuses(b"".join(messages), b"name\0") == b"".join(kept)
