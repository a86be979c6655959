"""Listening sockets: bound by the master before the first fork, accepting only when every worker is ready.

Rules
1. One SO_REUSEPORT socket for each worker and address; the master keeps them, so a worker that dies loses no queued
   connection. A host's name may stand for several addresses (`localhost` for ::1 and 127.0.0.1): those of this machine.
2. A port on which somebody else listens is an error, although SO_REUSEPORT would let us share it.
3. The Unix socket is never reachable with wider rights than configured; a live one is not taken over; at the end it is
   removed only if it is still ours.
4. A TCP client speaks first. Until it has, or ACCEPT_SILENT_AFTER is over, the kernel keeps its connection to itself
   (TCP_DEFER_ACCEPT): a worker wakes once for a new client and its first packet.
5. By the socket pairs of `Handovers` workers hand new clients to each other (relay/accepting.pyx). They live as long as
   the master, so that a worker's successor takes what its predecessor has not taken.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

from doorman.config.schema import General, Web
from doorman.workers.socket_options import SocketOptions

DEFAULT_BACKLOG = 4096
ACCEPT_SILENT_AFTER = 1  # seconds
NOT_OF_THIS_MACHINE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class UnixSocketError(Exception):
    """The Unix socket cannot be made; the text says which and why."""


class WebSocketError(Exception):
    """The HTTP port cannot be had; the text says which and why."""


class Listeners:
    """All listening sockets of a pooler."""

    def __init__(self, general: General, workers: int, web: Web | None = None) -> None:
        options = SocketOptions.of(general)
        self.backlog = general.backlog or min(general.max_connections, DEFAULT_BACKLOG) or 1
        self.tcp = bind_tcp(general.host, general.port, workers, options)  # of each worker
        self.web = bind_web(web, options) if web is not None and web.enabled else None
        self.unix_path: Path | None = None
        self.unix: socket.socket | None = None
        self.unix_identity: tuple[int, int] | None = None
        if general.unix_socket_dir:
            self.unix_path = Path(general.unix_socket_dir) / f".s.PGSQL.{general.port}"
            try:
                self.unix = bind_unix(self.unix_path, general.unix_socket_mode, options)
            except OSError as error:
                raise UnixSocketError(f"cannot listen on {self.unix_path}: {error.strerror or error}") from error
            self.unix_identity = identity(self.unix_path)

    def open(self) -> None:
        """Accept from now on."""
        for sock in self.sockets():
            sock.listen(self.backlog)

    def sockets(self) -> list[socket.socket]:
        """All of them."""
        return [sock for own in self.tcp for sock in own] + ([self.unix] if self.unix is not None else [])

    def close_others(self, worker: int) -> None:
        """In a worker."""
        for number, own in enumerate(self.tcp):
            for sock in own if number != worker else []:
                sock.close()
        if self.web is not None:
            self.web.close()

    def set_options(self, options: SocketOptions) -> None:
        """For the connections that are accepted from now on, in whatever process."""
        for sock in self.sockets():
            if sock.fileno() >= 0:
                options.apply(sock)

    def close(self) -> None:
        """Refuse connections from now on."""
        for sock in self.sockets():
            sock.close()

    def remove(self) -> None:
        """Remove the Unix socket's file if it is still the one that we made."""
        if self.unix_path is not None and identity(self.unix_path) == self.unix_identity:
            self.unix_path.unlink(missing_ok=True)


class Handovers:
    """A socket pair for each worker: where its clients come from other workers, and where those send them."""

    def __init__(self, workers: int) -> None:
        self.pairs = [socket.socketpair() for _ in range(workers)]

    def of_worker(self, row: int) -> tuple[int, list[int]]:
        """In a worker: its own end, and by row the ends of all by which clients are sent. The rest is closed."""
        for number, (incoming, _) in enumerate(self.pairs):
            if number != row:
                incoming.close()
        return self.pairs[row][0].fileno(), [outgoing.fileno() for _, outgoing in self.pairs]

    def close(self) -> None:
        """In a process that takes no clients."""
        for row in range(len(self.pairs)):
            self.give_up(row)

    def give_up(self, row: int) -> None:
        """In the master, when a worker is gone and gets no successor: who waits for it is let go."""
        for end in self.pairs[row]:
            end.close()


def bind_web(web: Web, options: SocketOptions) -> socket.socket:
    """The HTTP port, which the keeper accepts from; a keeper that dies loses no connection that waits there."""
    try:
        ((sock, *others),) = bind_tcp(web.host, web.port, 1, options)
    except OSError as error:
        raise WebSocketError(f"cannot listen on {web.host}:{web.port} (web): {error.strerror or error}") from error
    for other in others:
        other.close()
    return sock


def bind_tcp(host: str, port: int, count: int, options: SocketOptions) -> list[list[socket.socket]]:
    """`count` times a socket on each address of the host; raises OSError that says what is wrong."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[list[socket.socket]] = []
    missing = None
    for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
        try:
            bound.append(bind_address(family, address, count, options))
        except OSError as error:
            if error.errno not in NOT_OF_THIS_MACHINE:
                raise
            missing = error
    if missing is not None and not bound:
        raise missing
    return [list(own) for own in zip(*bound, strict=True)]


def bind_address(family: int, address: Any, count: int, options: SocketOptions) -> list[socket.socket]:
    """`count` sockets on one address."""
    check_port_is_free(family, address)
    sockets = []
    for _ in range(count):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, ACCEPT_SILENT_AFTER)
        options.apply(sock)
        sock.bind(address)
        address = (*address[:1], sock.getsockname()[1], *address[2:])
        sockets.append(sock)
    return sockets


def check_port_is_free(family: int, address: Any) -> None:
    """Rule 2."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def bind_unix(path: Path, mode: int, options: SocketOptions) -> socket.socket:
    """The Unix socket; raises OSError when a live one is there."""
    remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    options.apply(sock)
    before = os.umask(0o777)
    try:
        sock.bind(str(path))
    finally:
        os.umask(before)
    path.chmod(mode)
    return sock


def remove_stale(path: Path) -> None:
    """Remove the file of a socket that nobody listens on; OSError when somebody does, or it is no socket."""
    if not path.exists():
        return
    if not path.is_socket():
        raise OSError(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise OSError(f"{path} is in use by another process")


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from its successor of the same name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
