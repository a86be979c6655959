"""Our login at a server, against transcripts: those that PostgreSQL sends and those that it never would."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from doorman.auth.md5 import md5_answer, md5_hash
from doorman.auth.server_login import MAX_LOGIN_BYTES, Credentials, ServerLogin, ServerRefusal
from doorman.errors import ServerFault
from doorman.wire import backend, frontend
from tests.unit.auth.chopping import Chop, each_way
from tests.unit.auth.tokens import KEYS

SECRET = "s3cret-password"
SESSION = (
    backend.AUTHENTICATION_OK
    + backend.parameter_status("server_version", "18.1")
    + backend.notice_response("01000", "careful")
    + backend.parameter_status("TimeZone", "UTC")
    + backend.backend_key_data(4711, b"\1\2\3\4")
    + backend.READY_IDLE
)


def login(password: str | None = SECRET, **options: object) -> ServerLogin:
    arguments: dict[str, object] = {"encrypted_or_local": False, **options}
    return ServerLogin("app", Credentials(password=password), "shop", {}, **arguments)  # type: ignore[arg-type]


def feed(attempt: ServerLogin, data: bytes, chop: Chop) -> bytes:
    return b"".join([attempt.feed(piece) for piece in chop(data)])


def failure(attempt: ServerLogin, data: bytes) -> ServerFault:
    with pytest.raises(ServerFault) as caught:
        attempt.feed(data)
    assert not attempt.done
    text = f"{caught.value.message} {caught.value.detail} {caught.value.hint}"
    assert '"app"' in text
    assert '"shop"' in text
    assert SECRET not in text
    return caught.value


def test_the_startup_message_has_its_order() -> None:
    attempt = ServerLogin("app", Credentials(), "shop", {"work_mem": "8MB", "geqo": "off"}, encrypted_or_local=False)
    assert attempt.start() == frontend.startup_message(
        {"user": "app", "application_name": "pg_doorman", "database": "shop", "geqo": "off", "work_mem": "8MB"}
    )


def test_the_operator_may_name_the_application_but_not_the_role() -> None:
    parameters = {"application_name": "billing", "user": "postgres", "database": "other", "replication": "true"}
    attempt = ServerLogin("app", Credentials(), "shop", parameters, encrypted_or_local=False, minor=2)
    assert attempt.start() == frontend.startup_message(
        {"user": "app", "application_name": "billing", "database": "shop"}, minor=2
    )


def test_startup_parameters_that_do_not_fit_are_not_sent() -> None:
    attempt = ServerLogin("app", Credentials(), "shop", {"search_path": "x" * 10_000}, encrypted_or_local=False)
    with pytest.raises(ServerFault, match="10000") as caught:
        attempt.start()
    assert caught.value.sqlstate == "53400"


def test_a_nul_in_a_startup_parameter_is_refused() -> None:
    attempt = ServerLogin("app", Credentials(), "shop", {"search_path": "x\0user\0postgres"}, encrypted_or_local=False)
    with pytest.raises(ServerFault, match="NUL"):
        attempt.start()


@each_way
def test_a_trusting_server(chop: Chop) -> None:
    attempt = login()
    assert feed(attempt, SESSION, chop) == b""
    assert attempt.done
    assert attempt.parameters == {"server_version": "18.1", "TimeZone": "UTC"}
    assert (attempt.pid, attempt.secret, attempt.leftover) == (4711, b"\1\2\3\4", b"")
    assert [notice["M"] for notice in attempt.notices] == ["careful"]


def test_bytes_after_the_login_are_refused() -> None:
    attempt = login()
    with pytest.raises(ServerFault, match="5 unexpected bytes") as caught:
        attempt.feed(SESSION + b"N\0\0\0\4")
    assert caught.value.sqlstate == "08P01"
    assert not attempt.done


def test_a_server_that_is_ended_right_after_the_login_says_why() -> None:
    attempt = login()
    said = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    with pytest.raises(ServerFault, match="administrator command") as caught:
        attempt.feed(SESSION + b"E" + (len(said) + 4).to_bytes(4, "big") + said)
    assert caught.value.sqlstate == "57P01" and not attempt.done


def test_nothing_is_fed_after_the_end() -> None:
    attempt = login()
    attempt.feed(SESSION)
    with pytest.raises(ServerFault, match="after the end"):
        attempt.feed(b"N")


@each_way
def test_md5_from_the_password(chop: Chop) -> None:
    attempt = login()
    answer = md5_answer(md5_hash(SECRET, "app"), b"salt")
    assert feed(attempt, backend.md5_request(b"salt"), chop) == frontend.password(answer)
    feed(attempt, SESSION, chop)
    assert attempt.done


def test_md5_from_the_hash() -> None:
    stored = md5_hash(SECRET, "app")
    attempt = ServerLogin("app", Credentials(md5_hash=stored), "shop", {}, encrypted_or_local=False)
    assert attempt.feed(backend.md5_request(b"salt")) == frontend.password(md5_answer(stored, b"salt"))


def test_a_cleartext_password_goes_only_where_nobody_listens() -> None:
    assert login(encrypted_or_local=True).feed(backend.CLEARTEXT_REQUEST) == frontend.password(SECRET)
    assert failure(login(), backend.CLEARTEXT_REQUEST).sqlstate == "28000"


def test_a_token_is_signed_for_a_server_that_asks_for_a_password_in_clear(tmp_path: Path) -> None:
    key = tmp_path / "signer.pem"
    key.write_bytes(KEYS["RS256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    known = Credentials(token_key=str(key))
    answer = ServerLogin("app", known, "shop", {}, encrypted_or_local=True).feed(backend.CLEARTEXT_REQUEST)
    claims = jwt.decode(answer[5:-1], KEYS["RS256"].public_key(), ["RS256"])
    assert claims["preferred_username"] == "app" and 100 < claims["exp"] - time.time() <= 120
    attempt = ServerLogin("app", known, "shop", {}, encrypted_or_local=False)
    assert failure(attempt, backend.CLEARTEXT_REQUEST).sqlstate == "28000"
    attempt = ServerLogin("app", known, "shop", {}, encrypted_or_local=True)
    assert failure(attempt, backend.md5_request(b"salt")).sqlstate == "28P01"
    key.write_text("garbage")
    attempt = ServerLogin("app", known, "shop", {}, encrypted_or_local=True)
    assert "no usable private key" in failure(attempt, backend.CLEARTEXT_REQUEST).message


@pytest.mark.parametrize(
    "request_message",
    [backend.CLEARTEXT_REQUEST, backend.md5_request(b"salt"), backend.sasl_request(["SCRAM-SHA-256"])],
)
def test_a_request_that_nothing_can_answer(request_message: bytes) -> None:
    assert failure(login(None, encrypted_or_local=True), request_message).sqlstate == "28P01"
    assert failure(login("", encrypted_or_local=True), request_message).sqlstate == "28P01"


def test_plus_alone_cannot_be_used_without_tls() -> None:
    assert failure(login(), backend.sasl_request(["SCRAM-SHA-256-PLUS"])).sqlstate == "0A000"


def test_plus_is_preferred_over_tls() -> None:
    answer = login(binding=b"hash").feed(backend.sasl_request(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]))
    mechanism, data = frontend.parse_sasl_initial(answer[5:])
    assert mechanism == "SCRAM-SHA-256-PLUS"
    assert data is not None
    assert data.startswith(b"p=tls-server-end-point,,")


def test_a_server_without_plus_is_told_that_we_could() -> None:
    answer = login(binding=b"hash").feed(backend.sasl_request(["SCRAM-SHA-256"]))
    assert frontend.parse_sasl_initial(answer[5:])[1].startswith(b"y,,")  # type: ignore[union-attr]


@each_way
def test_an_error_response_keeps_postgresqls_words(chop: Chop) -> None:
    attempt = login()
    refusal = backend.error_response("3D000", 'database "shop" does not exist', hint="Create it.")
    with pytest.raises(ServerRefusal) as caught:
        feed(attempt, backend.AUTHENTICATION_OK + refusal, chop)
    fault = caught.value
    assert (fault.sqlstate, fault.message, fault.hint) == ("3D000", 'database "shop" does not exist', "Create it.")
    assert fault.detail == 'Login of role "app" to database "shop", step: session start.'
    assert fault.fields["S"] == "FATAL"


@pytest.mark.parametrize("body", [b"", b"\0", b"Mwhat\0\0", b"Cno\0\0", b"C\0\0\0", b"C28p01\0\0", b"\xff\xff"])
def test_an_error_without_sqlstate_is_a_refusal_still(body: bytes) -> None:
    fault = failure(login(), backend.message(b"E", body))
    assert fault.sqlstate == "58000"
    assert fault.message


def test_a_server_that_cannot_fork_is_understood() -> None:
    fault = failure(login(), b"Ecould not fork new process for connection: Resource temporarily unavailable\n\0")
    assert fault.message == "could not fork new process for connection: Resource temporarily unavailable"
    assert isinstance(fault, ServerRefusal)


def test_an_old_style_error_is_bounded() -> None:
    attempt = login()
    assert attempt.feed(b"Eabcd") == b""
    assert len(failure(attempt, b"x" * 5000).message) <= 1024


def test_negotiation_of_the_version() -> None:
    attempt = login(minor=2)
    attempt.feed(backend.negotiate_protocol_version(0, []) + SESSION)
    assert (attempt.done, attempt.minor) == (True, 0)


def test_a_long_secret() -> None:
    attempt = login(minor=2)
    attempt.feed(backend.AUTHENTICATION_OK + backend.backend_key_data(1, bytes(256)) + backend.READY_IDLE)
    assert attempt.secret == bytes(256)


def test_a_connection_that_is_lost_says_where() -> None:
    fault = login().connection_lost()
    assert fault.sqlstate == "08006"
    assert fault.message == (
        'login of role "app" to database "shop" failed in authentication: server closed the connection unexpectedly'
    )


SASL = backend.sasl_request(["SCRAM-SHA-256"])


@pytest.mark.parametrize(
    "data",
    [
        b"R\0\0\0\x03",
        b"R\0\0\0\x04",
        b"R\0\1\0\1",
        b"R\x7f\xff\xff\xff",
        b"R\xff\xff\xff\xff",
        b"Z\xff\xff\xff\xff",
        b"X\0\0\0\x04",
        b"D\0\0\0\x06\0\0",
        b"HTTP/1.1 400 Bad Request",
        backend.message(b"R", b"\0\0\0\7"),
        backend.message(b"R", b"\0\0\0\5abc"),
        backend.message(b"R", b"\0\0\0\5abcde"),
        backend.message(b"R", b"\0\0\0\x0a"),
        backend.sasl_continue(b"r=x"),
        backend.sasl_final(b"v=x"),
        SASL + SASL,
        SASL + backend.AUTHENTICATION_OK,
        SASL + backend.md5_request(b"salt"),
        SASL + backend.sasl_final(b"v=x"),
        SASL + backend.sasl_continue(b"r=" + b"x" * 60_000 + b",s=AAAA,i=1"),
        backend.md5_request(b"salt") + backend.md5_request(b"salt"),
        backend.md5_request(b"salt") + SASL,
        backend.READY_IDLE,
        backend.parameter_status("a", "b"),
        backend.backend_key_data(1, bytes(4)),
        backend.AUTHENTICATION_OK + backend.AUTHENTICATION_OK,
        backend.AUTHENTICATION_OK + backend.message(b"K", bytes(5)),
        backend.AUTHENTICATION_OK + backend.message(b"K", bytes(300)),
        backend.AUTHENTICATION_OK + backend.message(b"S", b"abc"),
        backend.AUTHENTICATION_OK + backend.READY_IN_TRANSACTION,
        backend.AUTHENTICATION_OK + backend.message(b"Z", b""),
        backend.AUTHENTICATION_OK + backend.negotiate_protocol_version(0, []),
        backend.negotiate_protocol_version(2, []),
        backend.negotiate_protocol_version(0, ["_pq_.x"]),
        backend.AUTHENTICATION_OK + backend.message(b"E", b"") ,
    ],
)  # fmt: skip
def test_what_postgresql_never_sends(data: bytes) -> None:
    attempt = login()
    failure(attempt, data)
    with pytest.raises(ServerFault):
        attempt.feed(SESSION)


def test_a_server_that_never_ends_is_ended() -> None:
    attempt = login()
    chatter = backend.notice_response("01000", "x" * 60_000)
    with pytest.raises(ServerFault, match="too much"):
        for _ in range(MAX_LOGIN_BYTES // len(chatter) + 1):
            attempt.feed(chatter)


valid_messages = st.sampled_from(
    [SESSION, SASL, backend.AUTHENTICATION_OK, backend.CLEARTEXT_REQUEST, backend.md5_request(b"salt"),
     backend.READY_IDLE, backend.sasl_continue(b"r=x,s=AAAA,i=1"), backend.sasl_final(b"v=x"),
     backend.error_response("57P03", "starting up"), backend.parameter_status("a", "b"),
     backend.backend_key_data(1, bytes(4)), backend.negotiate_protocol_version(0, [])]
)  # fmt: skip
built_messages = st.builds(
    backend.message, st.sampled_from([bytes([byte]) for byte in b"RSNKZEvA"]), st.binary(max_size=40)
)


@given(st.lists(valid_messages | built_messages | st.binary(max_size=40), max_size=6))
def test_any_server_ends_in_done_or_a_server_fault(pieces: list[bytes]) -> None:
    attempt = login(encrypted_or_local=True, binding=b"hash")
    try:
        for piece in pieces:
            attempt.feed(piece)
    except ServerFault as fault:
        assert len(fault.sqlstate) == 5
        assert SECRET not in fault.message


@given(st.lists(st.integers(0, len(SESSION)), max_size=10))
def test_chopped_anywhere(cuts: list[int]) -> None:
    attempt = login()
    edges = [0, *sorted(cuts), len(SESSION)]
    for start, end in pairwise(edges):
        if not attempt.done:
            attempt.feed(SESSION[start:end])
    assert attempt.done
