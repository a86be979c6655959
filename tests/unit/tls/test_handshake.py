"""Handshakes of OpenSSL without a socket: both sides in memory, whatever the certificate, and how they fail."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from doorman.tls.contexts import Acceptor, Connector, make_acceptor, make_connector
from doorman.tls.faults import Fault
from doorman.tls.handshake import MOST_BYTES, Handshake, HandshakeFault
from doorman.tls.material import Material
from doorman.tls.record import private_layer
from doorman.tls.suites import SUITES, TLS_1_2, TLS_1_3, Suite
from tests.harness.certificates import DAY, Authority, Pair

HOST = "db.corp.example"
VERSIONS = {TLS_1_2: SSL.TLS1_2_VERSION, TLS_1_3: SSL.TLS1_3_VERSION}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue(HOST, names=(HOST,), label="server")


def material_of(pair: Pair | None, authorities: bytes = b"") -> Material:
    if pair is None:
        return Material(authorities=authorities)
    return Material(pair.certificate_path.read_bytes(), pair.key_path.read_bytes(), authorities)


def acceptor_of(pair: Pair, authorities: bytes = b"") -> Acceptor:
    return make_acceptor(material_of(pair, authorities), asks=bool(authorities), demands=bool(authorities))


def connector_of(authorities: bytes = b"", *, host: bool = True, pair: Pair | None = None) -> Connector:
    return make_connector(material_of(pair, authorities), verifies=bool(authorities), verifies_host=host)


@dataclass
class Met:
    """Both sides after their last word; `faults` by side; `rest` is what came for the client when it was done."""

    client: Handshake
    server: Handshake
    rest: bytes = b""
    faults: dict[str, HandshakeFault] = field(default_factory=dict)


def meet(acceptor: Acceptor, connector: Connector, *, piece: int = 1 << 20, host: str = HOST, **words: Any) -> Met:
    """Let them talk, `piece` bytes at a time, until one has a fault or both have nothing to say."""
    met = Met(Handshake(connector, host=host), Handshake(acceptor, **words))
    data, receiver = met.client.start(), "server"
    while data and not met.faults:
        answer = b""
        side: Handshake = getattr(met, receiver)
        for at in range(0, len(data), piece):
            if side.done:
                met.rest = side.rest + data[at:]
                break
            try:
                answer += side.feed(data[at : at + piece])
            except HandshakeFault as fault:
                met.faults[receiver] = fault
                break
        data, receiver = answer, "client" if receiver == "server" else "server"
    return met


def restrict(side: Acceptor | Connector, suite: Suite) -> None:
    """Offer this suite alone."""
    version = VERSIONS[suite.version]
    side.context.set_min_proto_version(version)
    side.context.set_max_proto_version(version)
    if suite.version == TLS_1_3:
        side.context.set_tls13_ciphersuites(suite.name.encode())
    else:
        side.context.set_cipher_list(suite.name.encode())


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_both_sides_come_to_the_same_keys(authority: Authority, suite: Suite, piece: int) -> None:
    """And those are the keys of the records that follow, with OpenSSL's own counted in."""
    kind = "rsa" if "-RSA-" in suite.name else "ec"
    if not (authority.directory / f"for-{kind}.crt").exists():
        authority.issue(HOST, kind=kind, names=(HOST,), label=f"for-{kind}")
    files = [(authority.directory / f"for-{kind}.{end}").read_bytes() for end in ("crt", "key")]
    acceptor = make_acceptor(Material(*files), asks=False, demands=False)
    connector = connector_of(authority.pem)
    restrict(connector, suite)
    met = meet(acceptor, connector, piece=piece)
    assert not met.faults
    client, server = met.client.session, met.server.session
    assert client is not None and server is not None
    assert (client.version, client.suite) == (server.version, server.suite) == (suite.version, suite.number)
    for here, there in ((client.outbound, server.inbound), (server.outbound, client.inbound)):
        assert (here.key, here.iv, here.secret) == (there.key, there.iv, there.secret)
    one, other = private_layer(client, is_client=True), private_layer(server, is_client=False)
    assert one.open_bytes(met.rest or met.client.rest) == b"", "nothing but tickets"
    for sender, receiver in ((one, other), (other, one)) * 2:
        assert receiver.open_bytes(sender.seal_bytes(b"SELECT 1")) == b"SELECT 1"
    assert (one.fault, other.fault) == (0, 0)


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
@pytest.mark.parametrize("version", VERSIONS)
def test_kinds_of_certificates(authority: Authority, kind: str, version: int) -> None:
    pair = authority.issue(HOST, kind=kind, names=(HOST,), label=f"{kind}-{version}")
    connector = connector_of(authority.pem)
    connector.context.set_max_proto_version(VERSIONS[version])
    met = meet(acceptor_of(pair), connector)
    assert not met.faults
    assert met.server.session is not None and met.server.session.version == version
    expected = hashlib.sha256(pair.certificate.public_bytes(Encoding.DER)).digest()
    assert met.client.binding == met.server.binding == expected


NAMES = {
    "alternative name": (HOST, {"common_name": None, "names": (HOST,)}, True),
    "wildcard": (HOST, {"common_name": None, "names": ("*.corp.example",)}, True),
    "wildcard for a whole top-level domain": ("db.example", {"common_name": None, "names": ("*.example",)}, False),
    "common name": (HOST, {"common_name": HOST}, True),
    "address": ("192.0.2.7", {"common_name": "x", "addresses": ("192.0.2.7",)}, True),
    "another alternative name hides the common name": (HOST, {"common_name": HOST, "names": ("x.example",)}, False),
    "another name": (HOST, {"common_name": "x.example"}, False),
    "another address": ("192.0.2.7", {"common_name": "192.0.2.8", "addresses": ("192.0.2.8",)}, False),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_in_the_certificate(authority: Authority, name: str) -> None:
    host, words, passes = NAMES[name]
    acceptor = acceptor_of(authority.issue(**words, label=f"name-{name.replace(' ', '-')}"))
    assert not meet(acceptor, connector_of(authority.pem, host=False), host=host).faults, "verify-ca looks at no name"
    met = meet(acceptor, connector_of(authority.pem), host=host)
    if passes:
        assert met.client.done
    else:
        assert met.faults["client"].fault == Fault.HOST_MISMATCH
        assert host in met.faults["client"].reason


def test_an_expired_certificate(authority: Authority) -> None:
    acceptor = acceptor_of(authority.issue(HOST, names=(HOST,), lifetime=-DAY, label="expired"))
    fault = meet(acceptor, connector_of(authority.pem)).faults["client"]
    assert (fault.fault, fault.reason) == (
        Fault.CERTIFICATE_EXPIRED,
        "certificate verify failed: certificate has expired",
    )
    assert fault.alert, "the server is told"
    assert not meet(acceptor, connector_of(host=False)).faults, "require looks at nothing"


def test_an_unknown_authority(pair: Pair, tmp_path: Path) -> None:
    fault = meet(acceptor_of(pair), connector_of(Authority(tmp_path).pem)).faults["client"]
    assert fault.fault == Fault.CERTIFICATE_UNTRUSTED


def test_revoked_certificates_and_authorities(tmp_path: Path) -> None:
    root = Authority(tmp_path, "root")
    good, bad = (Authority(tmp_path, name, parent=root) for name in ("good", "bad"))
    root.revoke(bad)
    leaves = {name: by.issue(HOST, names=(HOST,), label=name) for name, by in (("fine", good), ("by bad", bad))}
    leaves["revoked"] = good.issue(HOST, names=(HOST,), label="revoked")
    good.revoke(leaves["revoked"])
    without_lists = connector_of(root.pem)
    with_lists = connector_of(root.pem + root.revocations() + good.revocations() + bad.revocations())
    for name, leaf in leaves.items():
        assert not meet(acceptor_of(leaf), without_lists).faults
        faults = meet(acceptor_of(leaf), with_lists).faults
        if name == "fine":
            assert not faults
        else:
            assert faults["client"].fault == Fault.CERTIFICATE_REVOKED, name
    fault = meet(acceptor_of(leaves["fine"]), connector_of(root.pem + root.revocations())).faults["client"]
    assert "revocation list" in fault.reason, "every authority needs a list where there is one"


# --- certificates of clients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_with_and_without_a_certificate(authority: Authority, pair: Pair, version: int) -> None:
    acceptor = acceptor_of(pair, authority.pem)
    acceptor.context.set_max_proto_version(VERSIONS[version])
    known = authority.issue("somebody", label=f"client-{version}")
    met = meet(acceptor, connector_of(authority.pem, pair=known))
    assert met.server.peer_certificate == known.certificate
    fault = meet(acceptor, connector_of(authority.pem)).faults["server"]
    assert fault.fault == Fault.CERTIFICATE_MISSING
    late = authority.issue("somebody", lifetime=-DAY, label=f"client-late-{version}")
    fault = meet(acceptor, connector_of(authority.pem, pair=late)).faults["server"]
    assert fault.fault == Fault.CERTIFICATE_EXPIRED


def test_a_client_of_another_authority(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    stranger = Authority(tmp_path).issue("somebody")
    fault = meet(acceptor_of(pair, authority.pem), connector_of(authority.pem, pair=stranger)).faults["server"]
    assert fault.fault == Fault.CERTIFICATE_UNTRUSTED


# --- what is not a handshake -----------------------------------------------------------------------------------------


def test_bytes_behind_the_handshake_are_left_for_the_record_layer(pair: Pair) -> None:
    client, server = Handshake(connector_of(host=False), host=HOST), Handshake(acceptor_of(pair))
    last = client.feed(server.feed(client.start()))
    assert client.session is not None
    record = private_layer(client.session, is_client=True).seal_bytes(b"hello")
    server.feed(last + record + record[:3])
    assert server.rest == record + record[:3]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n", b"\x16\x03\x01\xff\xff", b"\x17\x02\x03\0\x01x"])
def test_what_is_no_tls_at_all(pair: Pair, data: bytes) -> None:
    with pytest.raises(HandshakeFault, match="does not speak TLS"):
        Handshake(acceptor_of(pair)).feed(data)


def test_nonsense_in_a_record(pair: Pair) -> None:
    with pytest.raises(HandshakeFault) as caught:
        Handshake(acceptor_of(pair)).feed(b"\x16\x03\x01\0\x05hello")
    assert caught.value.alert[:1] == b"\x15"


def test_a_handshake_has_its_limit(pair: Pair) -> None:
    """A ClientHello that never ends."""
    server = Handshake(acceptor_of(pair))
    fragment = b"\x16\x03\x01\x40\0" + b"\x01\xff\xff\xff" + bytes(16_380)
    with pytest.raises(HandshakeFault):
        for _ in range(MOST_BYTES // len(fragment) + 2):
            server.feed(fragment)


def test_an_old_version_is_refused(pair: Pair) -> None:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_max_proto_version(SSL.TLS1_1_VERSION)
    old = SSL.Connection(context, None)
    old.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        old.do_handshake()
    with pytest.raises(HandshakeFault) as caught:
        Handshake(acceptor_of(pair)).feed(old.bio_read(16_384))
    assert caught.value.fault == Fault.PROTOCOL_VERSION


def test_direct_tls_needs_alpn(pair: Pair) -> None:
    without = connector_of(host=False)
    assert meet(acceptor_of(pair), without, needs_alpn=True).server.done
    for protocols in ([], [b"http/1.1"]):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if protocols:
            context.set_alpn_protos(protocols)
        client = SSL.Connection(context, None)
        client.set_connect_state()
        server = Handshake(acceptor_of(pair), needs_alpn=True)
        with pytest.raises(HandshakeFault) as caught:
            for _ in range(3):
                with pytest.raises(SSL.WantReadError):
                    client.do_handshake()
                client.bio_write(server.feed(client.bio_read(16_384)))
                client.do_handshake()
                server.feed(client.bio_read(16_384))
        assert caught.value.fault == Fault.NO_ALPN


def test_nothing_is_kept_of_a_handshake_that_is_given_up(pair: Pair) -> None:
    server = Handshake(acceptor_of(pair))
    server.feed(Handshake(connector_of(host=False), host=HOST).start())
    server.give_up()
    assert not server.done and not server._secrets and server._connection is None
