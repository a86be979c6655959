"""The networks of this machine's interfaces, which the words `samehost` and `samenet` of pg_hba stand for.

Asked of the C library (`getifaddrs(3)`), as PostgreSQL does, once when the rules are read.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
from collections.abc import Iterator

_ADDRESS_OFFSET = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}
"""Where `sin_addr` and `sin6_addr` begin in their structs, and how long they are."""


class _Interface(ctypes.Structure):
    """`struct ifaddrs` of `<ifaddrs.h>`, as far as it is read here."""


_Interface._fields_ = [
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
]


def list_networks(*, hosts_only: bool) -> tuple[str, ...]:
    """CIDR texts of every interface: its own addresses (`samehost`) or its networks (`samenet`)."""
    found = dict.fromkeys(_host(address) if hosts_only else _network(address, mask) for address, mask in _walk())
    return tuple(found)


def _walk() -> Iterator[tuple[bytes, bytes]]:
    libc = ctypes.CDLL(None, use_errno=True)
    head = ctypes.POINTER(_Interface)()
    if libc.getifaddrs(ctypes.byref(head)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        entry = head
        while entry:
            address, mask = _read_address(entry.contents.address), _read_address(entry.contents.netmask)
            if address and mask and len(address) == len(mask):
                yield address, mask
            entry = entry.contents.next
    finally:
        libc.freeifaddrs(head)


def _read_address(pointer: int | None) -> bytes | None:
    if not pointer:
        return None
    family = ctypes.c_ushort.from_address(pointer).value
    offset, length = _ADDRESS_OFFSET.get(socket.AddressFamily(family), (0, 0))
    return ctypes.string_at(pointer + offset, length)


def _host(address: bytes) -> str:
    return str(ipaddress.ip_network((address, len(address) * 8)))


def _network(address: bytes, mask: bytes) -> str:
    prefix = int.from_bytes(mask, "big").bit_count()
    return str(ipaddress.ip_network((address, prefix), strict=False))
