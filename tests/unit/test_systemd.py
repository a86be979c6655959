"""What goes to the service manager's socket: a real one, by path and by abstract name."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorman.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@doorman-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.settimeout(5)
        yield sock, name


def heard(sock: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in sock.recv(4096).decode().split("\n"))


def test_what_is_said(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    notifier.ready("2 workers")
    assert heard(sock) == {"READY": "1", "STATUS": "2 workers"}
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    said = heard(sock)
    assert said.pop("RELOADING") == "1" and before <= int(said.pop("MONOTONIC_USEC")) and not said
    notifier.stopping("bye")
    assert heard(sock) == {"STOPPING": "1", "STATUS": "bye"}
    assert notifier.next_sign is None


def test_the_watchdog_hears_twice_in_its_time_and_only_while_all_is_well(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "4000000"})
    assert notifier.next_sign == notifier.alive_at + 2
    now = notifier.alive_at + 2
    assert notifier.is_due(now) and not notifier.is_due(now - 0.1)
    notifier.alive(now, is_well=True)
    assert heard(sock) == {"WATCHDOG": "1"}
    assert not notifier.is_due(now + 1.9)
    notifier.alive(now + 2, is_well=False)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(100)


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "4000000"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_watchdog_for_us(environ: dict[str, str]) -> None:
    assert Notifier.from_environment(environ).next_sign is None


def test_without_systemd_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.from_environment({})
    notifier.ready("x")
    notifier.stopping("x")
    assert not caplog.records


def test_a_manager_that_is_gone_is_complained_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        notifier.ready("x")
        notifier.reloading()
    assert len(caplog.records) == 1
