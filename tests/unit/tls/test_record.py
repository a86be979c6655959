"""The record layer against RFC 8448's trace, against itself, and against a peer that breaks the rules: all of it with
each of the two libraries that `doorman.tls.cipher` knows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorman.tls.cipher import use_libcrypto
from doorman.tls.faults import Fault
from doorman.tls.record import RecordLayer, private_layer
from doorman.tls.schedule import Keys, Session, expand_label, traffic_keys
from doorman.tls.suites import BY_NUMBER, SUITES, TLS_1_2, TLS_1_3


@pytest.fixture(scope="module", params=["cryptography", "libcrypto"], autouse=True)
def library(request: pytest.FixtureRequest) -> Iterator[None]:
    is_used = use_libcrypto(request.param == "libcrypto")
    if request.param == "libcrypto" and not is_used:
        pytest.skip("needs OpenSSL's libcrypto.so.3")
    yield
    use_libcrypto(True)


# RFC 8448 section 3, "Simple 1-RTT Handshake". The two secrets, the server's key and IV were compared with those in the
# tests of tlslite-ng 0.8.2 (unit_tests/test_tls1_3_vectors.py), the keys of the handshake with those in the tests of
# Go's crypto/tls (key_schedule_test.go). The records follow from them.
HANDSHAKE_SECRET = bytes.fromhex("b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38")
AES_128 = BY_NUMBER[0x1301]
CLIENT_SECRET = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
SERVER_SECRET = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
PAYLOAD = bytes(range(0x32))
CLIENT_DATA = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2"
    "977014bd1e3deae63aeebb21694915e4"
)
SERVER_DATA = bytes.fromhex(
    "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a2"
    "1c0047c2abf332540dd032e167c2955d"
)
CLIENT_CLOSE = bytes.fromhex("1703030013c9872760655666b74d7ff1153efd6db6d0b0e3")
SERVER_CLOSE = bytes.fromhex("1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9")


def rfc_8448(*, is_client: bool) -> RecordLayer:
    """After the server's session ticket, which had sequence number 0."""
    client, server = traffic_keys(AES_128, CLIENT_SECRET), traffic_keys(AES_128, SERVER_SECRET, 1)
    inbound, outbound = (server, client) if is_client else (client, server)
    return private_layer(Session(TLS_1_3, AES_128.number, inbound, outbound), is_client=is_client)


def test_keys_are_those_of_rfc_8448() -> None:
    client, server = traffic_keys(AES_128, CLIENT_SECRET), traffic_keys(AES_128, SERVER_SECRET)
    assert (client.key.hex(), client.iv.hex()) == ("17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9")
    assert (server.key.hex(), server.iv.hex()) == ("9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984")


def test_keys_of_the_handshake_are_those_of_rfc_8448() -> None:
    keys = traffic_keys(AES_128, HANDSHAKE_SECRET)
    assert (keys.key.hex(), keys.iv.hex()) == ("3fce516009c21727d0f2e4e86ee403bc", "5d313eb2671276ee13000b30")


def test_records_are_those_of_rfc_8448() -> None:
    client, server = rfc_8448(is_client=True), rfc_8448(is_client=False)
    assert client.seal_bytes(PAYLOAD) == CLIENT_DATA
    assert server.seal_bytes(PAYLOAD) == SERVER_DATA
    assert client.farewell() == CLIENT_CLOSE
    assert server.farewell() == SERVER_CLOSE


def test_records_of_rfc_8448_are_opened() -> None:
    client, server = rfc_8448(is_client=True), rfc_8448(is_client=False)
    assert server.open_bytes(CLIENT_DATA) == PAYLOAD
    assert client.open_bytes(SERVER_DATA) == PAYLOAD
    server.open_bytes(CLIENT_CLOSE)
    client.open_bytes(SERVER_CLOSE)
    assert (client.ended, server.ended, client.fault, server.fault) == (True, True, 0, 0)


# --- pairs ------------------------------------------------------------------------------------------------------------


def pair(number: int, *, sequence: int = 0) -> tuple[RecordLayer, RecordLayer]:
    """Client and server of one connection."""
    suite = BY_NUMBER[number]
    one, other = make_keys(number, 1, sequence), make_keys(number, 2, sequence)
    client = private_layer(Session(suite.version, number, other, one), is_client=True)
    return client, private_layer(Session(suite.version, number, one, other), is_client=False)


def make_keys(number: int, seed: int, sequence: int) -> Keys:
    suite = BY_NUMBER[number]
    if suite.version == TLS_1_3:
        return traffic_keys(suite, bytes((seed,)) * (48 if suite.digest == "sha384" else 32), sequence)
    return Keys(bytes((seed,)) * suite.key_bytes, bytes((seed,)) * suite.salt_bytes, sequence, b"", 7)


every_suite = pytest.mark.parametrize("number", [suite.number for suite in SUITES])
every_suite_13 = pytest.mark.parametrize("number", [suite.number for suite in SUITES if suite.version == TLS_1_3])
every_suite_12 = pytest.mark.parametrize("number", [suite.number for suite in SUITES if suite.version == TLS_1_2])
A_13, A_12 = 0x1301, 0xC02F


@every_suite
@pytest.mark.parametrize("size", [1, 16_383, 16_384, 16_385, 100_000])
def test_what_is_sealed_is_opened(number: int, size: int) -> None:
    client, server = pair(number)
    data = bytes(i & 255 for i in range(size))
    for sender, receiver in ((client, server), (server, client)) * 2:
        assert receiver.open_bytes(sender.seal_bytes(data)) == data


@every_suite
def test_records_hold_at_most_16_384_bytes(number: int) -> None:
    client, _ = pair(number)
    sealed = client.seal_bytes(bytes(16_385))
    assert 16_384 < int.from_bytes(sealed[3:5], "big") <= 16_384 + 256


@every_suite
def test_records_may_arrive_in_any_pieces(number: int) -> None:
    client, server = pair(number)
    sealed = b"".join(client.seal_bytes(bytes((i,)) * (i + 1)) for i in range(20))
    assert b"".join(server.open_bytes(sealed[i : i + 7]) for i in range(0, len(sealed), 7)) == b"".join(
        bytes((i,)) * (i + 1) for i in range(20)
    )
    assert server.is_between


@every_suite
def test_a_layer_goes_on_where_another_stopped(number: int) -> None:
    client, server = pair(number)
    for turn in range(5):
        assert server.open_bytes(client.seal_bytes(b"%d" % turn)) == b"%d" % turn
        client = private_layer(client.export(), is_client=True)
        server = private_layer(server.export(), is_client=False)


@every_suite
@pytest.mark.parametrize("at", [5, 12, -1])
def test_a_changed_byte_is_bad_record_mac(number: int, at: int) -> None:
    client, server = pair(number)
    sealed = bytearray(client.seal_bytes(b"secret"))
    sealed[at] ^= 1
    assert server.open_bytes(bytes(sealed)) == b""
    assert server.fault == Fault.BAD_RECORD_MAC
    client.open_bytes(server.farewell())
    assert (client.fault, client.alert) == (Fault.PEER_ALERT, 20)


@every_suite
def test_nothing_is_read_or_written_after_a_fault(number: int) -> None:
    client, server = pair(number)
    good = client.seal_bytes(b"one")
    server.open_bytes(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert server.open_bytes(good) == b""
    assert server.seal_bytes(b"answer") == b""


@every_suite
def test_what_came_before_a_fault_is_delivered(number: int) -> None:
    client, server = pair(number)
    assert server.open_bytes(client.seal_bytes(b"one") + b"\x17\x03\x03\x00\x20" + bytes(32)) == b"one"


@every_suite
def test_repeated_and_swapped_records_are_refused(number: int) -> None:
    client, server = pair(number)
    one = client.seal_bytes(b"one")
    assert server.open_bytes(one) == b"one"
    assert server.open_bytes(one) == b""
    assert server.fault == Fault.BAD_RECORD_MAC
    client, server = pair(number)
    one, two = client.seal_bytes(b"one"), client.seal_bytes(b"two")
    assert server.open_bytes(two + one) == b""
    assert server.fault == Fault.BAD_RECORD_MAC


@every_suite
def test_close_notify_ends_the_stream(number: int) -> None:
    client, server = pair(number)
    assert server.open_bytes(client.seal_bytes(b"bye") + client.farewell() + client.seal_bytes(b"more")) == b"bye"
    assert server.ended and not server.fault


@every_suite
def test_sequence_numbers_do_not_wrap(number: int) -> None:
    client, server = pair(number, sequence=2**64 - 2)
    if client.version == TLS_1_2:
        assert server.open_bytes(client.seal_bytes(b"last")) == b"last"
        assert client.seal_bytes(b"over") == b""
        assert client.fault == Fault.SEQUENCE_OVERFLOW
    else:  # it takes the next key in time
        assert server.open_bytes(client.seal_bytes(b"one")) == b"one"
        assert client.export().outbound.sequence == 1
        assert server.open_bytes(client.seal_bytes(b"two")) == b"two"


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (b"\x19\x03\x03\x00\x20", Fault.UNEXPECTED_MESSAGE),
        (b"GET /", Fault.UNEXPECTED_MESSAGE),
        (b"\x17\x02\x03\x00\x20", Fault.BAD_VERSION),
        (b"\x17\x03\x03\xff\xff", Fault.RECORD_OVERFLOW),
        (b"\x17\x03\x03\x41\x01", Fault.RECORD_OVERFLOW),
        (b"\x17\x03\x03\x00\x00", Fault.BAD_RECORD_MAC),
        (b"\x17\x03\x03\x00\x10" + bytes(16), Fault.BAD_RECORD_MAC),
    ],
)
def test_a_header_that_cannot_be(head: bytes, fault: Fault) -> None:
    _, server = pair(A_13)
    assert server.open_bytes(head) == b""
    assert server.fault == fault


def test_plain_record_types_end_tls_13() -> None:
    for kind in (20, 21, 22):
        _, server = pair(A_13)
        server.open_bytes(bytes((kind, 3, 3, 0, 1, 1)))
        assert server.fault == Fault.UNEXPECTED_MESSAGE


# --- records by hand -------------------------------------------------------------------------------------------------


class Forger:
    """Seals records of any type with any padding, as a peer of the server (or, `is_server`, of the client)."""

    def __init__(self, number: int, *, is_server: bool = False) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.number = number
        self.keys = make_keys(number, 2 if is_server else 1, 0)
        self.aead = AESGCM(self.keys.key)
        self.sequence = 0

    def __call__(self, kind: int, content: bytes, padding: int = 0) -> bytes:
        number, self.sequence = self.sequence, self.sequence + 1
        if self.number == A_13:
            inner = content + bytes((kind,)) + bytes(padding)
            head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
            nonce = (int.from_bytes(self.keys.iv, "big") ^ number).to_bytes(12, "big")
            return head + self.aead.encrypt(nonce, inner, head)
        explicit = (99 + number).to_bytes(8, "big")
        aad = number.to_bytes(8, "big") + bytes((kind, 3, 3)) + len(content).to_bytes(2, "big")
        sealed = explicit + self.aead.encrypt(self.keys.iv + explicit, content, aad)
        return bytes((kind, 3, 3)) + len(sealed).to_bytes(2, "big") + sealed


both = pytest.mark.parametrize("number", [A_13, A_12])


def test_padding_is_dropped() -> None:
    _, server = pair(A_13)
    forge = Forger(A_13)
    assert server.open_bytes(forge(23, b"one", 100) + forge(23, b"two\0\0", 16_384 - 6)) == b"onetwo\0\0"


def test_a_record_of_nothing_but_padding_is_refused() -> None:
    _, server = pair(A_13)
    server.open_bytes(Forger(A_13)(0, b"", 10))
    assert server.fault == Fault.UNEXPECTED_MESSAGE


@both
def test_empty_records_are_skipped_but_not_for_ever(number: int) -> None:
    _, server = pair(number)
    forge = Forger(number)
    assert server.open_bytes(b"".join(forge(23, b"") for _ in range(32)) + forge(23, b"x")) == b"x"
    server.open_bytes(b"".join(forge(23, b"") for _ in range(33)))
    assert server.fault == Fault.TOO_MANY_EMPTY


def test_a_content_that_is_too_long_is_refused() -> None:
    _, server = pair(A_13)
    assert server.open_bytes(Forger(A_13)(23, bytes(16_385))) == b""
    assert server.fault == Fault.RECORD_OVERFLOW
    _, server = pair(A_12)
    assert server.open_bytes(Forger(A_12)(23, bytes(16_384))) == bytes(16_384)
    server.open_bytes(Forger(A_12)(23, bytes(16_385)))
    assert server.fault == Fault.RECORD_OVERFLOW


@both
@pytest.mark.parametrize(
    ("body", "ended", "fault"),
    [(b"\x01\x00", True, 0), (b"\x02\x28", False, Fault.PEER_ALERT), (b"\x02", False, Fault.DECODE_ERROR)],
)
def test_alerts(number: int, body: bytes, ended: bool, fault: int) -> None:
    _, server = pair(number)
    forge = Forger(number)
    assert server.open_bytes(forge(23, b"before") + forge(21, body) + forge(23, b"after")) == b"before"
    assert (server.ended, server.fault) == (ended, fault)


@both
def test_user_canceled_means_nothing(number: int) -> None:
    _, server = pair(number)
    forge = Forger(number)
    assert server.open_bytes(forge(21, b"\x01\x5a") + forge(23, b"go on")) == b"go on"


TICKET = b"\x04\x00\x00\x10" + bytes(16)
UPDATE, UPDATE_ASKED = b"\x18\x00\x00\x01\x00", b"\x18\x00\x00\x01\x01"


def test_tickets_from_a_server_are_skipped_however_they_are_cut() -> None:
    client, _ = pair(A_13)
    forge = Forger(A_13, is_server=True)
    whole = forge(22, TICKET + TICKET) + forge(22, TICKET[:3])
    client.open_bytes(whole)
    assert not client.fault and not client.is_between
    assert client.open_bytes(forge(22, TICKET[3:]) + forge(23, b"data")) == b"data"
    assert client.is_between


def test_data_amid_a_cut_message_is_refused() -> None:
    client, _ = pair(A_13)
    forge = Forger(A_13, is_server=True)
    assert client.open_bytes(forge(22, TICKET[:3]) + forge(23, b"data")) == b""
    assert client.fault == Fault.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("message", [TICKET, b"\x01\x00\x00\x00", UPDATE + TICKET, b"\x0d\x00\x00\x00"])
def test_handshake_messages_that_a_client_may_not_send(message: bytes) -> None:
    _, server = pair(A_13)
    server.open_bytes(Forger(A_13)(22, message))
    assert server.fault == Fault.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("message", [b"\x18\x00\x00\x01\x02", b"\x18\x00\x00\x00", b"\x18\x00\x00\x02\x00\x00"])
def test_malformed_key_updates_are_refused(message: bytes) -> None:
    _, server = pair(A_13)
    server.open_bytes(Forger(A_13)(22, message))
    assert server.fault == Fault.DECODE_ERROR


def test_renegotiation_is_refused() -> None:
    _, server = pair(A_12)
    server.open_bytes(Forger(A_12)(22, b"\x01\x00\x00\x00"))
    assert server.fault == Fault.UNEXPECTED_MESSAGE


@every_suite_13
def test_key_updates_in_both_directions(number: int) -> None:
    client, server = pair(number)
    for _ in range(3):
        assert server.open_bytes(client.update_key() + client.seal_bytes(b"up")) == b"up"
        assert client.open_bytes(server.update_key() + server.seal_bytes(b"down")) == b"down"
        assert client.export().outbound.sequence == 1
    first = make_keys(number, 1, 0)
    assert client.export().outbound.secret != first.secret


def test_a_key_update_that_asks_is_answered_before_the_next_data() -> None:
    client, server = pair(A_13)
    forge = Forger(A_13)
    server.open_bytes(forge(22, UPDATE_ASKED))
    answer = server.seal_bytes(b"data")
    assert client.open_bytes(answer) == b"data"
    assert client.export().inbound.secret == expand_label("sha256", b"\2" * 32, b"traffic upd", 32)
    assert server.export().inbound.secret == expand_label("sha256", b"\1" * 32, b"traffic upd", 32)


def test_many_updates_with_nothing_between_them_are_refused() -> None:
    client, server = pair(A_13)
    for _ in range(33):
        server.open_bytes(client.update_key())
    assert server.fault == Fault.TOO_MANY_EMPTY


@every_suite_12
def test_tls_12_has_no_key_update(number: int) -> None:
    with pytest.raises(ValueError, match="no KeyUpdate"):
        pair(number)[0].update_key()


def test_explicit_nonces_of_tls_12_go_on_from_the_handshake() -> None:
    client, _ = pair(A_12)
    sealed = [client.seal_bytes(b"x") for _ in range(3)]
    assert [int.from_bytes(record[5:13], "big") for record in sealed] == [7, 8, 9]


# --- anything --------------------------------------------------------------------------------------------------------

suites = st.sampled_from([suite.number for suite in SUITES])


@settings(max_examples=150, deadline=None)
@given(suites, st.binary(max_size=300), st.booleans())
def test_random_bytes_are_never_opened(number: int, data: bytes, starts_like_a_record: bool) -> None:
    _, server = pair(number)
    if starts_like_a_record:
        data = b"\x17\x03\x03" + len(data).to_bytes(2, "big") + data
    assert server.open_bytes(data) == b""
    assert not starts_like_a_record or server.fault


@settings(max_examples=150, deadline=None)
@given(suites, st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8), st.data())
def test_a_stream_that_was_tampered_with_yields_a_prefix(number: int, parts: list[bytes], data: st.DataObject) -> None:
    client, server = pair(number)
    records = [client.seal_bytes(part) for part in parts]
    how = data.draw(st.sampled_from(["drop", "swap", "flip", "cut", "repeat"]))
    at = data.draw(st.integers(0, len(records) - 1))
    if how == "drop":
        del records[at]
    elif how == "swap":
        records[at], records[-1] = records[-1], records[at]
    elif how == "repeat":
        records.insert(at, records[at])
    elif how == "flip":
        where = data.draw(st.integers(0, len(records[at]) - 1))
        records[at] = (
            records[at][:where]
            + bytes((records[at][where] ^ data.draw(st.integers(1, 255)),))
            + records[at][where + 1 :]
        )
    stream = b"".join(records)
    if how == "cut":
        stream = stream[: data.draw(st.integers(0, len(stream)))]
    assert b"".join(parts).startswith(server.open_bytes(stream))


@settings(max_examples=100, deadline=None)
@given(suites, st.lists(st.binary(max_size=70_000), max_size=4), st.lists(st.integers(1, 40_000), max_size=10))
def test_any_data_in_any_pieces(number: int, parts: list[bytes], cuts: list[int]) -> None:
    client, server = pair(number)
    stream = b"".join(client.seal_bytes(part) for part in parts)
    opened, at = [], 0
    for cut in cuts:
        opened.append(server.open_bytes(stream[at : at + cut]))
        at += cut
    opened.append(server.open_bytes(stream[at:]))
    assert b"".join(opened) == b"".join(parts)
