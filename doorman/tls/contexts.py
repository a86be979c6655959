"""OpenSSL contexts for both sides, made from file contents. An `Acceptor` faces clients, a `Connector` faces servers.

Rules
1. TLS 1.2 and 1.3, AEAD suites with ephemeral keys only; no compression, renegotiation, resumption or early data.
2. `verify-ca` and `verify-full` trust the configured authorities and nothing else.
3. Revocation lists that stand among the authorities count, for the whole chain as in PostgreSQL: a certificate or an
   authority without a list of its issuer is refused then.
"""

from __future__ import annotations

import hashlib

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto

from doorman.config.pem import PemFault
from doorman.tls.material import Material
from doorman.tls.suites import CIPHERS_1_2, CIPHERS_1_3

ALPN = b"postgresql"
CRL_BEGIN = b"-----BEGIN X509 CRL-----"
CRL_END = b"-----END X509 CRL-----"


class Acceptor(msgspec.Struct, frozen=True):
    """The client-facing side. `binding`: hash of our certificate for SCRAM-SHA-256-PLUS, None where RFC 5929 defines
    none. `asks`: clients are asked for a certificate; `demands`: and refused without one."""

    context: SSL.Context
    material: Material
    binding: bytes | None
    asks: bool
    demands: bool


class Connector(msgspec.Struct, frozen=True):
    """The server-facing side for one set of material and one kind of verification."""

    context: SSL.Context
    material: Material
    verifies: bool
    verifies_host: bool


def make_acceptor(material: Material, *, asks: bool, demands: bool) -> Acceptor:
    """Raises `PemFault` when something does not fit together."""
    context = _new_context(SSL.TLS_SERVER_METHOD)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    leaf = _use_key_pair(context, material)
    if asks:
        names = _trust(context, material.authorities)
        context.set_client_ca_list(names)
        demand = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if demands else 0
        context.set_verify(SSL.VERIFY_PEER | demand, _note_verification)
    context.set_alpn_select_callback(_select_protocol)
    return Acceptor(context, material, end_point_hash(leaf), asks, demands)


def make_connector(material: Material, *, verifies: bool, verifies_host: bool) -> Connector:
    """Raises `PemFault` when something does not fit together."""
    context = _new_context(SSL.TLS_CLIENT_METHOD)
    if material.certificates:
        _use_key_pair(context, material)
    if verifies:
        _trust(context, material.authorities)
        context.set_verify(SSL.VERIFY_PEER, _note_verification)
    context.set_alpn_protos([ALPN])
    return Connector(context, material, verifies, verifies_host)


def end_point_hash(certificate: x509.Certificate) -> bytes | None:
    """`tls-server-end-point` of RFC 5929 section 4.1: the certificate by its signature's hash, at least SHA-256."""
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    try:
        return hashlib.new(name.replace("-", "_"), der_of(certificate)).digest()
    except ValueError:
        return None


def der_of(certificate: x509.Certificate) -> bytes:
    """The certificate as it goes over the wire."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _new_context(method: int) -> SSL.Context:
    """Rule 1."""
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS_1_2.encode())
    context.set_tls13_ciphersuites(CIPHERS_1_3.encode())
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_keylog_callback(_note_secret)
    return context


def _use_key_pair(context: SSL.Context, material: Material) -> x509.Certificate:
    """Certificate chain and key; the leaf."""
    try:
        chain = x509.load_pem_x509_certificates(material.certificates)
        key = load_pem_private_key(material.key, password=None)
    except (ValueError, TypeError) as error:
        raise PemFault(f"certificate or key cannot be used: {error}") from None
    try:
        context.use_certificate(chain[0])
        for certificate in chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(key)  # type: ignore[arg-type]
        context.check_privatekey()
    except (SSL.Error, TypeError) as error:
        raise PemFault(f"the certificate and its key cannot be used together: {_reason(error)}") from None
    return chain[0]


def _trust(context: SSL.Context, authorities: bytes) -> list[crypto.X509Name]:
    """Rules 2 and 3. The names of the authorities."""
    store = context.get_cert_store()
    assert store is not None
    try:
        certificates = x509.load_pem_x509_certificates(authorities)
        lists = [x509.load_pem_x509_crl(block) for block in _revocation_lists(authorities)]
    except ValueError as error:
        raise PemFault(f"the certificate authorities cannot be used: {error}") from None
    for certificate in certificates:
        store.add_cert(crypto.X509.from_cryptography(certificate))
    for revoked in lists:
        store.add_crl(revoked)
    if lists:
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
    return [crypto.X509.from_cryptography(certificate).get_subject() for certificate in certificates]


def _revocation_lists(pem: bytes) -> list[bytes]:
    blocks = pem.split(CRL_BEGIN)[1:]
    return [CRL_BEGIN + block.partition(CRL_END)[0] + CRL_END + b"\n" for block in blocks]


def _reason(error: Exception) -> str:
    """OpenSSL's own words."""
    words = error.args[0] if error.args else ""
    return words[0][-1] if isinstance(words, list) and words else str(words)


def _note_secret(connection: SSL.Connection, line: bytes) -> None:
    """OpenSSL tells a secret of a handshake (NSS key log format)."""
    connection.get_app_data().note_secret(line)


def _note_verification(connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int) -> bool:
    """OpenSSL verified one certificate of a chain."""
    if not ok:
        connection.get_app_data().note_verification(code, depth)
    return bool(ok)


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """PostgreSQL's protocol or none; nothing in common is the end (RFC 7301 section 3.2), as in PostgreSQL 17."""
    if ALPN in offered:
        return ALPN
    return connection.get_app_data().refuse_protocol()  # type: ignore[no-any-return]
