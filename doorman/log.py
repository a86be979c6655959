"""Logging: one event, one line, on stderr or to the local syslog. Set up once before the first fork, used everywhere.

Modules take `logging.getLogger(__name__)`; the level below debug is `TRACE` (`logger.log(TRACE, …)`). A line goes out
in one write(2), so that lines of several processes do not mix.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import socket
import sys
import time
from functools import lru_cache
from pathlib import Path

TRACE = 5
LEVELS = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
FORMATS = ("text", "structured", "debug")
SYSLOG_SOCKET = "/dev/log"

_NAMES = {number: name.upper() for name, number in LEVELS.items()} | {logging.CRITICAL: "ERROR"}
_COLORS = {"ERROR": "31", "WARN": "33", "INFO": "32", "DEBUG": "34", "TRACE": "35"}
_ROOT = str(Path(__file__).resolve().parent.parent) + os.sep
_ONE_LINE = str.maketrans({"\n": "\\n", "\r": "\\r", "\x1b": "\\x1b", "\0": "\\0"})


def setup_logging(level: str, log_format: str, color: bool, syslog_prog_name: str | None = None) -> None:
    """Send everything of `level` (a key of `LEVELS`) and above to stderr, or to syslog under the given name.

    Raises `OSError` when syslog is asked for and its socket is not there.
    """
    if syslog_prog_name:
        handler: logging.Handler = open_syslog(syslog_prog_name)
    else:
        handler = StderrHandler()
        handler.setFormatter(JsonFormatter() if log_format == "structured" else TextFormatter(color))
    logging.addLevelName(TRACE, "TRACE")
    logging.raiseExceptions = False  # a log line that cannot be written must not stop anything
    logging.getLogger().handlers[:] = [handler]
    set_level(level)


def set_level(level: str, logger: str | None = None) -> None:
    """Change the level of everything, or of one module and what is below it (`doorman.workers`)."""
    logging.getLogger(logger).setLevel(LEVELS[level.lower()])


def is_color_wanted(no_color: bool) -> bool:
    """Colour is for terminals, and for those who did not switch it off by flag or by `NO_COLOR`."""
    return not no_color and not os.environ.get("NO_COLOR") and sys.stderr.isatty()


def open_syslog(prog_name: str, path: str = SYSLOG_SOCKET) -> logging.Handler:
    """A handler for the local syslog socket, facility USER; raises `OSError` when nobody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.connect(path)
    handler = SyslogHandler(path, logging.handlers.SysLogHandler.LOG_USER)
    handler.setFormatter(SyslogFormatter(prog_name))
    return handler


class StderrHandler(logging.Handler):
    """Writes whole lines to descriptor 2, past Python's buffers."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(2, (self.format(record) + "\n").encode("utf-8", "backslashreplace"))
        except (OSError, ValueError, TypeError):
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z  INFO doorman/cli.py:42: message`; a traceback follows on lines of its own."""

    def __init__(self, color: bool) -> None:
        super().__init__()
        self.color = color

    def format(self, record: logging.LogRecord) -> str:
        name = name_level(record.levelno)
        shown = f"\x1b[{_COLORS[name]}m{name:>5}\x1b[0m" if self.color else f"{name:>5}"
        message = record.getMessage().translate(_ONE_LINE) + self._format_traceback(record)
        return f"{format_time(record)} {shown} {shorten_path(record.pathname)}:{record.lineno}: {message}"

    def _format_traceback(self, record: logging.LogRecord) -> str:
        return "\n" + self.formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a traceback is part of the message."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        entry = {
            "timestamp": format_time(record),
            "level": name_level(record.levelno),
            "file": shorten_path(record.pathname),
            "line": record.lineno,
            "message": message,
        }
        return json.dumps(entry, ensure_ascii=False)


class SyslogFormatter(logging.Formatter):
    """`Jan 31 12:00:00 name[pid]: file:line: message`, the local form of RFC 3164 (the priority is the handler's)."""

    def __init__(self, prog_name: str) -> None:
        super().__init__()
        self.prog_name = prog_name

    def format(self, record: logging.LogRecord) -> str:
        now = time.localtime(record.created)
        stamp = f"{time.strftime('%b', now)} {now.tm_mday:2d} {time.strftime('%H:%M:%S', now)}"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        where = f"{shorten_path(record.pathname)}:{record.lineno}"
        return f"{stamp} {self.prog_name}[{os.getpid()}]: {where}: {message.translate(_ONE_LINE)}"


class SyslogHandler(logging.handlers.SysLogHandler):
    """The standard handler without its trailing NUL, and with `TRACE` as debug."""

    append_nul = False

    def mapPriority(self, levelName: str) -> str:
        return "debug" if levelName == "TRACE" else super().mapPriority(levelName)


def name_level(number: int) -> str:
    """The name of a level in log lines: ERROR, WARN, INFO, DEBUG or TRACE."""
    return _NAMES.get(number) or ("TRACE" if number < logging.DEBUG else "INFO")


def format_time(record: logging.LogRecord) -> str:
    """UTC with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=1024)
def shorten_path(path: str) -> str:
    """A source file's path from the package on."""
    return path.removeprefix(_ROOT)
