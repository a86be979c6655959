"""Options of client and server sockets, from the configuration. Accepted sockets inherit them from their listener."""

from __future__ import annotations

import socket

import msgspec

from doorman.config.schema import General


class SocketOptions(msgspec.Struct, frozen=True):
    """Pairs of (level, option) and value for TCP, and the buffer size of Unix sockets (bytes, 0 = the kernel's)."""

    tcp: tuple[tuple[int, int, int], ...]
    unix_buffer: int

    @staticmethod
    def of(general: General) -> SocketOptions:
        """Read them out of the configuration (seconds, counts, bytes as there)."""
        tcp = [
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, int(general.tcp_no_delay)),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, general.tcp_keepalives_idle),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, general.tcp_keepalives_interval),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, general.tcp_keepalives_count),
        ]
        if general.tcp_user_timeout:
            tcp.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, general.tcp_user_timeout * 1000))
        if general.tcp_socket_buffer_size:
            tcp.append((socket.SOL_SOCKET, socket.SO_RCVBUF, general.tcp_socket_buffer_size))
            tcp.append((socket.SOL_SOCKET, socket.SO_SNDBUF, general.tcp_socket_buffer_size))
        return SocketOptions(tuple(tcp), general.unix_socket_buffer_size)

    def of_family(self, family: int) -> tuple[tuple[int, int, int], ...]:
        """(level, option, value) for a socket that is about to connect."""
        if family != socket.AF_UNIX:
            return self.tcp
        size = self.unix_buffer
        return (
            ((socket.SOL_SOCKET, socket.SO_SNDBUF, size), (socket.SOL_SOCKET, socket.SO_RCVBUF, size)) if size else ()
        )

    def apply(self, sock: socket.socket) -> None:
        """Set them on a listener."""
        for level, option, value in self.of_family(sock.family):
            sock.setsockopt(level, option, value)
