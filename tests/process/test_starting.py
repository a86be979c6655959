"""The start: when the port opens, what keeps it from opening, what is said and which exit code tells."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Doorman, Postgres, procfs
from tests.harness.service import port_answers
from tests.process.load import kill
from tests.process.watching import wait_for

EXIT_FAILURE, EXIT_OS, EXIT_CONFIG = 1, 71, 78
SYS_PIDFD_GETFD = 438


def birth(doorman: Doorman) -> set[int]:
    """Children of the master, from their first moment."""
    return set(procfs.children(doorman.pid))


def test_the_port_accepts_only_when_every_worker_is_ready(make_doorman: Any) -> None:
    """Each child is stopped as soon as it is seen; on a busy machine it may have been ready before: then again."""
    for _ in range(5):
        doorman = make_doorman(start=False, general={"worker_threads": 4})
        doorman.spawn_only()
        *others, last = stop_at_birth(doorman, 5)
        is_early = accepts_soon(doorman)
        resume(others)
        is_early = accepts_soon(doorman) or is_early
        resume([last])
        doorman.wait_until(doorman.is_serving, "opening of the port", 5)
        assert doorman.query("SELECT 1") == [(1,)]
        if not is_early:
            return
        doorman.stop()
    raise AssertionError("the port accepts although a process has not said that it is ready")


def stop_at_birth(doorman: Doorman, count: int) -> list[int]:
    """Pids of so many children, all stopped; the youngest last."""
    stopped: list[int] = []
    until = time.monotonic() + 10
    while len(stopped) < count and time.monotonic() < until:
        for pid in sorted(birth(doorman) - set(stopped)):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
    assert len(stopped) == count
    return stopped


def accepts_soon(doorman: Doorman) -> bool:
    """Does the port accept after a while?"""
    time.sleep(0.3)
    return port_answers(doorman.host, doorman.port)


def resume(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_a_worker_that_dies_once_at_boot_does_not_end_the_start(make_doorman: Any) -> None:
    doorman = make_doorman(start=False)
    doorman.spawn_only()
    wait_for(lambda: birth(doorman), "a first child")
    os.kill(min(birth(doorman)), signal.SIGKILL)
    doorman.wait_until(doorman.is_serving, "opening of the port", 5)
    assert doorman.query("SELECT 1") == [(1,)]


@pytest.mark.parametrize("limit", [6, 8, 10, 12])
def test_without_descriptors_for_the_master_the_start_ends_with_a_clear_error(make_doorman: Any, limit: int) -> None:
    doorman = make_doorman(start=False, limit_files=limit)
    doorman.spawn_only()
    assert doorman.wait_exit() in (EXIT_FAILURE, EXIT_OS)
    assert doorman.log_contains("ERROR.*Too many open files")
    assert not doorman.log_contains("Traceback")


def test_a_port_on_which_another_program_listens_is_an_error(make_doorman: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        doorman = make_doorman(start=False, port=other.getsockname()[1])
        doorman.spawn_only()
        assert doorman.wait_exit() == EXIT_FAILURE
        assert doorman.log_contains(rf"cannot listen on 127.0.0.1:{doorman.port}: .*in use")


def test_a_second_start_on_the_same_port_is_refused_and_the_first_serves_on(make_doorman: Any) -> None:
    """Although our own sockets are SO_REUSEPORT, so that the kernel would let it share the port."""
    first = make_doorman()
    second = make_doorman(start=False, port=first.port)
    second.spawn_only()
    assert second.wait_exit() == EXIT_FAILURE
    assert second.log_contains(rf"cannot listen on 127.0.0.1:{first.port}: .*in use")
    assert first.query("SELECT 1") == [(1,)]


def test_an_address_that_is_not_of_this_machine_is_an_error(make_doorman: Any) -> None:
    doorman = make_doorman(start=False, general={"host": "192.0.2.1"})
    doorman.spawn_only()
    assert doorman.wait_exit() == EXIT_FAILURE
    assert doorman.log_contains("cannot listen on 192.0.2.1:")
    assert not doorman.log_contains("Traceback")


def test_a_start_directly_after_a_stop_with_clients_is_not_refused(make_doorman: Any) -> None:
    """Connections in TIME_WAIT do not keep the port from being bound again."""
    doorman = make_doorman()
    for _ in range(2):
        with doorman.connect() as client:
            client.execute("SELECT 1")
            doorman.stop()
        doorman.start()
    assert doorman.query("SELECT 1") == [(1,)]


# --- Unix sockets ----------------------------------------------------------------------------------------------------


def socket_path(doorman: Doorman, directory: Path) -> Path:
    return directory / f".s.PGSQL.{doorman.port}"


@pytest.mark.parametrize("mode", ["0600", "0660", "0777"])
def test_the_unix_socket_has_exactly_the_configured_mode(make_doorman: Any, tmp_path: Path, mode: str) -> None:
    doorman = make_doorman(general={"unix_socket_dir": str(tmp_path), "unix_socket_mode": mode})
    path = socket_path(doorman, tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    assert doorman.query("SELECT 'unix'", host=str(tmp_path)) == [("unix",)]
    doorman.stop()
    assert not path.exists()


def test_a_live_unix_socket_is_not_taken_over(make_doorman: Any, tmp_path: Path) -> None:
    doorman = make_doorman(start=False, general={"unix_socket_dir": str(tmp_path)})
    path = socket_path(doorman, tmp_path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        doorman.spawn_only()
        assert doorman.wait_exit() == EXIT_OS
        assert f"cannot listen on {path}: " in doorman.log_text()
        assert doorman.log_contains("in use by another process")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_stale_unix_socket_is_replaced(make_doorman: Any, tmp_path: Path) -> None:
    doorman = make_doorman(start=False, general={"unix_socket_dir": str(tmp_path)})
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(socket_path(doorman, tmp_path)))
    doorman.start()
    assert doorman.query("SELECT 'unix'", host=str(tmp_path)) == [("unix",)]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_socket_is_not_removed_from_the_sockets_path(make_doorman: Any, tmp_path: Path, kind: str) -> None:
    doorman = make_doorman(start=False, general={"unix_socket_dir": str(tmp_path)})
    path = socket_path(doorman, tmp_path)
    path.write_text("precious") if kind == "file" else path.mkdir()
    doorman.spawn_only()
    assert doorman.wait_exit() == EXIT_OS
    assert path.exists()
    assert not doorman.log_contains("Traceback")
    path.unlink() if kind == "file" else path.rmdir()


def test_a_directory_that_does_not_exist_is_an_error(make_doorman: Any, tmp_path: Path) -> None:
    doorman = make_doorman(start=False, general={"unix_socket_dir": str(tmp_path / "absent")})
    doorman.spawn_only()
    assert doorman.wait_exit() in (EXIT_OS, EXIT_CONFIG)
    assert doorman.log_contains("absent")
    assert not doorman.log_contains("Traceback")


def test_a_successors_unix_socket_is_not_removed_at_the_end(make_doorman: Any, tmp_path: Path) -> None:
    doorman = make_doorman(general={"unix_socket_dir": str(tmp_path)})
    path = socket_path(doorman, tmp_path)
    path.unlink()
    path.write_text("the successor's")
    with pytest.raises(AssertionError, match="left files"):
        doorman.stop()
    assert path.read_text() == "the successor's"


def test_all_workers_accept_from_the_unix_socket(make_doorman: Any, postgres: Postgres, tmp_path: Path) -> None:
    """It is one socket, unlike TCP's: whichever worker is awake takes the connection, and a dead one loses nothing."""
    doorman = make_doorman(general={"unix_socket_dir": str(tmp_path)})
    for _ in range(4):
        doorman.kill_worker()
        assert doorman.query("SELECT 'unix'", host=str(tmp_path)) == [("unix",)]


def test_a_connection_whose_wake_up_went_to_a_dying_process_is_accepted_all_the_same(
    make_doorman: Any, tmp_path: Path
) -> None:
    """The kernel wakes one of those that wait for a connection on the Unix socket. Here that is a thread of ours, which
    came before the workers and does as one that is killed at that moment: nothing."""
    doorman = make_doorman(general={"unix_socket_dir": str(tmp_path)})
    listener = unix_listener_of(doorman.pid, socket_path(doorman, tmp_path))
    with select.epoll() as epoll:
        epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        waiting = threading.Thread(target=epoll.poll, args=(20,), daemon=True)
        waiting.start()
        family = doorman.pids()
        for pid in family.workers:
            kill(pid)
        doorman.wait_workers(2, without=family.workers)
        doorman.wait_until(doorman.is_serving, "workers that serve", 5)
        time.sleep(0.3)
        began = time.monotonic()
        assert doorman.query("SELECT 'accepted'", host=str(tmp_path)) == [("accepted",)]
        assert time.monotonic() - began < 5
        waiting.join(5)
        assert not waiting.is_alive(), "the wake-up went elsewhere"
    os.close(listener)


def unix_listener_of(pid: int, path: Path) -> int:
    """A duplicate of the process's descriptor of this listening socket."""
    listening = [line.split() for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(str(path))]
    sockets = {f"socket:[{words[6]}]" for words in listening}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if str(entry.readlink()) in sockets:
            pidfd = os.pidfd_open(pid)
            fd = int(ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, pidfd, int(entry.name), 0))
            os.close(pidfd)
            if fd < 0:
                pytest.skip(f"needs pidfd_getfd: {os.strerror(ctypes.get_errno())}")
            return fd
    raise AssertionError(f"process {pid} does not listen on {path}")
