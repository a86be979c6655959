"""SCRAM, both roles: the example of RFC 7677, each other, and peers that break the rules."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.auth.scram import ScramClient, ScramServer
from doorman.auth.verifier import ScramVerifier, derive_keys, mock_verifier, verifier_of_password
from doorman.errors import ClientFault, ProtocolViolation, ServerFault

VERIFIER = verifier_of_password("app", "secret")

# RFC 7677 section 3: user "user", password "pencil".
RFC_SALT = "W22ZaJ0SNY7soEsUEjb6gQ=="
RFC_CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
RFC_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def fixed(raw: bytes) -> Callable[[int], bytes]:
    return lambda size: raw


def rfc_verifier() -> ScramVerifier:
    keys = derive_keys("pencil", b64decode(RFC_SALT), 4096)
    return ScramVerifier(4096, RFC_SALT, sha256(keys.client_key).digest(), keys.server_key)


def test_rfc_7677_client() -> None:
    client = ScramClient(password="pencil")
    client._first_bare = RFC_CLIENT_FIRST[3:]  # the example's nonce and name; ours are random and empty
    client._nonce = b"rOprNGfwEbeRWgbNEkqO"
    assert client.final(RFC_SERVER_FIRST) == RFC_CLIENT_FINAL
    client.finish(RFC_SERVER_FINAL)
    assert client.is_finished


def test_rfc_7677_server() -> None:
    server = ScramServer("user", rfc_verifier())
    server.first(RFC_CLIENT_FIRST, is_plus=False)
    server._nonce = RFC_SERVER_FIRST.partition(b",")[0][2:]  # the example's nonce is no base64, as ours are
    server._server_first = RFC_SERVER_FIRST
    assert server.final(RFC_CLIENT_FINAL) == RFC_SERVER_FINAL
    assert server.client_key == derive_keys("pencil", b64decode(RFC_SALT), 4096).client_key


def converse(client: ScramClient, server: ScramServer) -> None:
    is_plus = client.mechanism.endswith("-PLUS")
    client.finish(server.final(client.final(server.first(client.first(), is_plus=is_plus))))
    assert client.is_finished


def test_client_and_server_agree() -> None:
    server = ScramServer("app", VERIFIER)
    converse(ScramClient(password="secret"), server)
    assert server.client_key is not None


def known_key() -> bytes:
    server = ScramServer("app", VERIFIER)
    converse(ScramClient(password="secret"), server)
    assert server.client_key is not None
    return server.client_key


def server_first(client: ScramClient, rest: bytes = VERIFIER.announcement) -> bytes:
    client.first(fixed(b"n" * 18))
    return b"r=" + client._nonce + b"more" + rest


def test_a_key_proves_the_same_whatever_else_the_server_says() -> None:
    """What the verifier's salt and iterations are known to be is not read again; an extension makes it be read."""
    known, bare = ScramClient(client_key=known_key(), verifier=VERIFIER), ScramClient(client_key=known_key())
    assert known.final(server_first(known)) == bare.final(server_first(bare))
    extended = VERIFIER.announcement + b",x=y"
    assert known.final(server_first(known, extended)) == bare.final(server_first(bare, extended))


@pytest.mark.parametrize(
    "rest",
    [b"", b",s=AAAA", VERIFIER.announcement[1:], VERIFIER.announcement + b"0"],
    ids=["nothing", "salt", "cut", "longer"],  # the salt is this process's where the machine has no id
)
def test_a_key_proves_nothing_to_a_server_that_says_something_else(rest: bytes) -> None:
    client = ScramClient(client_key=known_key(), verifier=VERIFIER)
    with pytest.raises(ServerFault):
        client.final(server_first(client, rest))


@pytest.mark.parametrize(
    "message",
    [VERIFIER.announcement, b"r=" + VERIFIER.announcement, b"s=" + b"n" * 40 + VERIFIER.announcement]
    + [b"r=" + word + VERIFIER.announcement for word in (b"a b", b"a,b", b"\xff", b"n" * 1100, b"elsewhere")],
    ids=["none", "empty", "no r", "space", "comma", "not ASCII", "long", "another's"],
)
def test_a_nonce_that_is_none_is_found_where_the_rest_is_known(message: bytes) -> None:
    client = ScramClient(client_key=known_key(), verifier=VERIFIER)
    client.first()
    with pytest.raises(ServerFault):
        client.final(message)


def test_a_servers_signature_may_be_followed_by_extensions() -> None:
    client, server = ScramClient(client_key=known_key(), verifier=VERIFIER), ScramServer("app", VERIFIER)
    client.finish(server.final(client.final(server.first(client.first(), is_plus=False))) + b",x=y")
    assert client.is_finished


@given(st.text(min_size=1, max_size=20))
def test_they_agree_on_every_password(password: str) -> None:
    keys = derive_keys(password, b"0123456789abcdef", 1)
    salt = b64encode(b"0123456789abcdef").decode()
    verifier = ScramVerifier(1, salt, sha256(keys.client_key).digest(), keys.server_key)
    converse(ScramClient(password=password), ScramServer("app", verifier))


def test_a_learned_client_key_opens_without_the_password() -> None:
    learned = ScramServer("app", VERIFIER)
    converse(ScramClient(password="secret"), learned)
    converse(ScramClient(client_key=learned.client_key), ScramServer("app", VERIFIER))
    converse(ScramClient(client_key=learned.client_key, verifier=VERIFIER), ScramServer("app", VERIFIER))


def test_a_key_of_another_verifier_is_not_even_tried() -> None:
    """PostgreSQL would only say that the password is wrong."""
    other = ScramVerifier(VERIFIER.iterations + 1, VERIFIER.salt, VERIFIER.stored_key, VERIFIER.server_key)
    client = ScramClient(client_key=bytes(32), verifier=other)
    server_first = ScramServer("app", VERIFIER).first(client.first(), is_plus=False)
    with pytest.raises(ServerFault, match="another SCRAM verifier") as caught:
        client.final(server_first)
    assert caught.value.sqlstate == "28P01"


@pytest.mark.parametrize(
    "server",
    [
        ScramServer("app", verifier_of_password("app", "other")),
        ScramServer("app", VERIFIER, is_doomed=True),
        ScramServer("app", mock_verifier("app"), is_doomed=True),
    ],
)
def test_wrong_password_and_unknown_user_look_alike(server: ScramServer) -> None:
    client = ScramClient(password="secret")
    first = client.first()
    answer = server.first(first, is_plus=False)
    assert len(answer) == len(ScramServer("app", VERIFIER).first(first, is_plus=False))
    with pytest.raises(ClientFault) as caught:
        server.final(client.final(answer))
    assert (caught.value.sqlstate, caught.value.message) == ("28P01", 'password authentication failed for user "app"')
    assert server.client_key is None


# Channel binding


def test_channel_binding() -> None:
    converse(ScramClient(password="secret", binding=b"hash"), ScramServer("app", VERIFIER, binding=b"hash"))


def test_a_relayed_tls_connection_is_found() -> None:
    with pytest.raises(ClientFault, match="channel binding check failed"):
        converse(ScramClient(password="secret", binding=b"mine"), ScramServer("app", VERIFIER, binding=b"theirs"))


def test_a_hidden_plus_is_found() -> None:
    with pytest.raises(ClientFault, match="channel binding negotiation error") as caught:
        converse(ScramClient(password="secret", could_bind=True), ScramServer("app", VERIFIER, binding=b"hash"))
    assert caught.value.sqlstate == "28000"


def test_a_client_that_could_bind_may_meet_a_server_that_cannot() -> None:
    converse(ScramClient(password="secret", could_bind=True), ScramServer("app", VERIFIER))


@pytest.mark.parametrize(
    ("is_plus", "first"),
    [
        (False, b"p=tls-server-end-point,,n=,r=x"),
        (True, b"n,,n=,r=x"),
        (True, b"y,,n=,r=x"),
        (True, b"p=tls-unique,,n=,r=x"),
    ],
)
def test_flag_and_mechanism_must_agree(is_plus: bool, first: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        ScramServer("app", VERIFIER, binding=b"hash").first(first, is_plus=is_plus)


# Clients that break the rules


@pytest.mark.parametrize(
    "first",
    [b"", b"n", b"n,", b"n,,", b"x,,n=,r=x", b"n,,n=", b"n,,r=x", b"n,,n=,r=", b"n,,n=,r=a\x7fb", b"n,,n=,r=a b",
     b"n,,n=,r=x\0", b"n,b=c,n=,r=x", b"n,,n=,r=" + b"x" * 1025, b"n,,n=,r=x," + b"y" * 5000, b"\xff\xfe,,n=,r=x"],
)  # fmt: skip
def test_malformed_first_messages(first: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        ScramServer("app", VERIFIER).first(first, is_plus=False)
    assert caught.value.sqlstate == "08P01"


def test_mandatory_extensions_are_not_supported() -> None:
    with pytest.raises(ClientFault) as caught:
        ScramServer("app", VERIFIER).first(b"n,,m=x,n=,r=x", is_plus=False)
    assert caught.value.sqlstate == "0A000"


def test_optional_extensions_and_names_are_ignored() -> None:
    for name in (b"somebody", b""):
        first = ScramServer("app", VERIFIER).first(b"n,,n=%b,r=abc,x=1" % name, is_plus=False)
        assert first.startswith(b"r=abc") and b"x=1" not in first


def test_the_own_name_may_be_the_authorization_identity() -> None:
    client, server = ScramClient(password="secret"), ScramServer("a=b,c", VERIFIER)
    client._gs2_header = b"n,a=a=3Db=2Cc,"
    converse(client, server)


def test_another_name_may_not() -> None:
    with pytest.raises(ClientFault) as caught:
        ScramServer("app", VERIFIER).first(b"n,a=postgres,n=,r=x", is_plus=False)
    assert caught.value.sqlstate == "0A000"


def final_of(change: Callable[[bytes], bytes]) -> None:
    client, server = ScramClient(password="secret"), ScramServer("app", VERIFIER)
    server.final(change(client.final(server.first(client.first(), is_plus=False))))


@pytest.mark.parametrize(
    "change",
    [
        lambda final: b"",
        lambda final: final[:-1],
        lambda final: final + b"x",
        lambda final: final + b",x=1",
        lambda final: final.replace(b",p=", b",p=AAAA,p="),
        lambda final: final.partition(b",p=")[0],
        lambda final: final.partition(b",p=")[0] + b",p=",
        lambda final: final.partition(b",p=")[0] + b",p=A",
        lambda final: final.partition(b",p=")[0] + b",p=AAAA",
        lambda final: b"p=" + b64encode(bytes(32)),
        lambda final: final.partition(b",p=")[0] + b",p=" + b64encode(bytes(31)),
        lambda final: final.partition(b",p=")[0] + b",p=" + b64encode(bytes(33)),
        lambda final: final.partition(b",p=")[0] + b",p=" + b"!" * 44,
        lambda final: final.replace(b"c=biws", b"c=eSws"),
        lambda final: final.replace(b"c=biws", b"c="),
        lambda final: final.replace(b"c=biws,", b""),
        lambda final: final.replace(b",r=", b",r=x"),
        lambda final: final.replace(b",r=", b",s="),
    ],
)
def test_malformed_final_messages(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ProtocolViolation):
        final_of(change)


def test_an_extension_that_is_not_signed_for_is_a_wrong_proof() -> None:
    with pytest.raises(ClientFault) as caught:
        final_of(lambda final: final.replace(b",p=", b",x=1,p="))
    assert caught.value.sqlstate == "28P01"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_random_clients_get_client_faults(first: bytes, final: bytes) -> None:
    server = ScramServer("app", VERIFIER)
    with pytest.raises(ClientFault):
        server.first(first, is_plus=False)
        server.final(final)


pieces = st.lists(
    st.sampled_from([b"n", b"y", b"p", b"=", b",", b"r", b"c", b"a", b"m", b"i", b"s", b"v", b"biws", b"4", b"AAAA"])
)


@given(pieces, pieces)
def test_plausible_clients_get_client_faults(first: list[bytes], final: list[bytes]) -> None:
    server = ScramServer("app", VERIFIER)
    with pytest.raises(ClientFault):
        server.first(b"n,,n=,r=" + b"".join(first), is_plus=False)
        server.final(b"".join(final))


# Servers that break the rules


def client_at_final() -> ScramClient:
    client = ScramClient(password="secret")
    client.first(fixed(b"\0" * 18))
    return client


NONCE = b64encode(bytes(18))


@pytest.mark.parametrize(
    "server_first",
    [
        b"",
        b"r=" + NONCE + b"x",
        b"r=" + NONCE + b",s=AAAA,i=4096",
        b"r=other,s=AAAA,i=4096",
        b"r=" + NONCE[:-1] + b"!x,s=AAAA,i=4096",
        b"r=" + NONCE + b"\x01,s=AAAA,i=4096",
        b"r=" + NONCE + b"x" * 1025 + b",s=AAAA,i=4096",
        b"r=" + NONCE + b"x,s=,i=4096",
        b"r=" + NONCE + b"x,s=A,i=4096",
        b"r=" + NONCE + b"x,s=AAAA,i=",
        b"r=" + NONCE + b"x,s=AAAA,i=0",
        b"r=" + NONCE + b"x,s=AAAA,i=-1",
        b"r=" + NONCE + b"x,s=AAAA,i=1000001",
        b"r=" + NONCE + b"x,s=AAAA,i=2147483647",
        b"r=" + NONCE + b"x,s=AAAA,i=" + b"9" * 3000,
        b"s=AAAA,r=" + NONCE + b"x,i=4096",
        b"e=other-error",
    ],
)
def test_malformed_server_first_messages(server_first: bytes) -> None:
    with pytest.raises(ServerFault) as caught:
        client_at_final().final(server_first)
    assert caught.value.sqlstate == "08P01"


@pytest.mark.parametrize("server_final", [b"", b"v=", b"v=AAAA", b"x=" + b64encode(bytes(32)), b"v=!!", b"e=x"])
def test_malformed_server_final_messages(server_final: bytes) -> None:
    client = client_at_final()
    client.final(b"r=" + NONCE + b"x,s=AAAA,i=1")
    with pytest.raises(ServerFault):
        client.finish(server_final)
    assert not client.is_finished


def test_a_server_that_does_not_know_the_password_is_found() -> None:
    client = client_at_final()
    client.final(b"r=" + NONCE + b"x,s=AAAA,i=1")
    with pytest.raises(ServerFault, match="incorrect SCRAM server signature"):
        client.finish(b"v=" + b64encode(bytes(32)))


@given(st.binary(max_size=200) | pieces.map(b"".join))
def test_random_servers_get_server_faults(data: bytes) -> None:
    client = client_at_final()
    with pytest.raises(ServerFault):
        client.final(data)
    with pytest.raises(ServerFault):
        client.final(b"r=" + NONCE + data)
    with pytest.raises(ServerFault):
        client.finish(data)
