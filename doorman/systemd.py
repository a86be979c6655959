"""What systemd is told (sd_notify(3)): ready, reloading, stopping, alive. Runs in the master; needs no systemd.

The protocol is a datagram of `KEY=value` lines to the socket named by NOTIFY_SOCKET. Nothing here blocks or fails.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)


class Notifier:
    """Talks to the service manager that started us, if there is one."""

    def __init__(self, address: str = "", watchdog_seconds: float | None = None) -> None:
        """address: path of the socket, or `@name` of an abstract one. watchdog_seconds: the longest silence allowed."""
        self.address = "\0" + address[1:] if address.startswith("@") else address
        self.interval = watchdog_seconds / 2 if watchdog_seconds and address else None
        self.alive_at = time.monotonic()
        self._has_complained = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Notifier:
        """NOTIFY_SOCKET, and WATCHDOG_USEC unless WATCHDOG_PID names another process."""
        seconds = None
        usec = environ.get("WATCHDOG_USEC", "")
        if usec.isdecimal() and int(usec) and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            seconds = int(usec) / 1_000_000
        return cls(environ.get("NOTIFY_SOCKET", ""), seconds)

    def ready(self, status: str) -> None:
        """The start is over, or a reload is."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. Type=notify-reload needs the time."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send("STOPPING=1", f"STATUS={status}")

    @property
    def next_sign(self) -> float | None:
        """When the watchdog must be told that all is well (time.monotonic); None without a watchdog."""
        return None if self.interval is None else self.alive_at + self.interval

    def is_due(self, now: float) -> bool:
        """Is it time for a sign of life?"""
        return self.next_sign is not None and now >= self.next_sign

    def alive(self, now: float, *, is_well: bool) -> None:
        """Give the sign of life, if all is well; silence makes systemd restart the service."""
        self.alive_at = now
        if is_well:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(), self.address)
        except OSError as error:
            if not self._has_complained:
                self._has_complained = True
                log.warning("systemd could not be told %s: %s", lines[0], error.strerror or error)
