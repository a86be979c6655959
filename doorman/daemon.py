"""Going to the background (`--daemon`): runs once in the process that the operator started, before any other fork."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

EXIT_FAILED = 71
"""EX_OSERR of sysexits.h."""

_DONE = b"\0"


def daemonize(pid_file: str) -> None:
    """Fork twice and return in the daemon only; the process that called ends with 0 once `pid_file` is complete.

    When the daemon cannot be made, the calling process says why on stderr and ends with 71. The working directory
    stays: paths of the configuration are relative to it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else EXIT_FAILED)
    _leave_session(pid_file)


def _leave_session(pid_file: str) -> None:
    """In the first child: a session without terminal, then the second fork; the daemon reports through a pipe."""
    try:
        os.setsid()
        os.umask(0o027)
        reader, writer = os.pipe()
        if os.fork():
            os.close(writer)
            _await_report(reader)
        os.close(reader)
    except OSError as error:
        _fail(2, f"cannot fork: {error.strerror}")
    try:
        write_pid_file(pid_file)
        _drop_streams()
    except OSError as error:
        _fail(writer, f"cannot write the pid file {pid_file}: {error.strerror}")
    os.write(writer, _DONE)
    os.close(writer)


def _await_report(reader: int) -> NoReturn:
    """Wait until the daemon reports; a daemon that dies without a word has failed."""
    report = b""
    while chunk := os.read(reader, 4096):
        report += chunk
    if report == _DONE:
        os._exit(0)
    _fail(2, report.decode(errors="replace") or "the daemon died at once")


def write_pid_file(path: str) -> None:
    """Write our pid and a newline, replacing what the file held."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    finally:
        os.close(descriptor)


def remove_pid_file(path: str) -> None:
    """At the end, unless a successor has written its own pid into it."""
    with contextlib.suppress(OSError):
        if Path(path).read_text() == f"{os.getpid()}\n":
            Path(path).unlink()


def _drop_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if null > 2:
        os.close(null)


def _fail(descriptor: int, reason: str) -> NoReturn:
    text = f"Daemonize error: {reason}\n" if descriptor == 2 else reason
    os.write(descriptor, text.encode(errors="replace"))
    os._exit(EXIT_FAILED)
