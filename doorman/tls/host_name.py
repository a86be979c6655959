"""Is a certificate a host's? libpq's rules (manual, section 34.19.1), which differ from browsers' in one point: the
common name counts where the certificate has no subject alternative name of a kind that names hosts."""

from __future__ import annotations

import ipaddress

from cryptography import x509
from cryptography.x509.oid import NameOID


def is_for_host(certificate: x509.Certificate, host: str) -> bool:
    """Does one of the certificate's names fit the host name or IP address that was connected to?"""
    names, addresses = alternative_names(certificate)
    address = _address(host)
    if address is not None:
        if address in addresses:
            return True
        return not addresses and not names and host in common_names(certificate)
    if not names and not addresses:
        names = common_names(certificate)[:1]
    return any(_fits(name.lower(), host.lower().rstrip(".")) for name in names)


def alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[object]]:
    """DNS names and IP addresses of the subject alternative name."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return [], []
    return extension.get_values_for_type(x509.DNSName), list(extension.get_values_for_type(x509.IPAddress))


def common_names(certificate: x509.Certificate) -> list[str]:
    """The CN values of the subject, first one first."""
    return [_text(entry.value) for entry in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _fits(pattern: str, host: str) -> bool:
    """A `*` stands for exactly the leftmost label (RFC 6125 section 6.4.3)."""
    if "\0" in pattern:
        return False
    if pattern.startswith("*."):
        label, dot, rest = host.partition(".")
        return bool(label) and bool(dot) and rest == pattern[2:] and "." in rest
    return pattern == host


def _address(host: str) -> object | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
