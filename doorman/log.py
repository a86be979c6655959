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
from typing import NamedTuple

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
COMPILED_TOGETHER = ("doorman.auth", "doorman.relay", "doorman.tls")
"""Loggers that several compiled modules share."""
OFF = 100
MAX_PREFIX_BYTES = 256
BURST = 20
BURST_SECONDS = 5.0

_NAMES = {number: name.upper() for name, number in LEVELS.items()} | {logging.CRITICAL: "ERROR"}
_COLORS = {"ERROR": "31", "WARN": "33", "INFO": "32", "DEBUG": "34", "TRACE": "35"}
_FILTER_LEVELS = {**LEVELS, "warning": logging.WARNING, "off": OFF}
_FILTER_NAMES = {number: name for name, number in LEVELS.items()} | {OFF: "off"}
_ROOT = str(Path(__file__).resolve().parent.parent) + os.sep
_CONTROLS = [chr(code) for code in (*range(32), *range(127, 160), 0x2028, 0x2029) if chr(code) != "\t"]
_ONE_LINE = str.maketrans({char: char.encode("unicode_escape").decode() for char in _CONTROLS} | {"\0": "\\0"})


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
    handler.addFilter(repeats)
    logging.getLogger().handlers[:] = [handler]
    global _at_start
    _at_start = parse_filter(level)
    set_filter(level)


class Filter(NamedTuple):
    """What is logged: `base` for everything, `overrides` for the loggers whose names begin so, the longest first."""

    base: int
    overrides: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        words = [_FILTER_NAMES[self.base]] + [f"{prefix}={_FILTER_NAMES[level]}" for prefix, level in self.overrides]
        return ",".join(words)

    def level_for(self, name: str) -> int:
        """The level of a logger."""
        return next((level for prefix, level in self.overrides if name.startswith(prefix)), self.base)


def parse_filter(text: str) -> Filter:
    """`info,doorman.workers=debug`: at most one level for all, and levels for modules; `default` is that of the start.

    Modules may be written as in pg_doorman (`pg_doorman::web`). Raises ValueError with the reason.
    """
    if text.strip().lower() == "default":
        return _at_start
    bases = []
    overrides = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        prefix, equals, word = part.rpartition("=")
        level = _FILTER_LEVELS.get(word.strip().lower())
        if level is None:
            raise ValueError(f"unknown level {word.strip()!a} (known: {', '.join(_FILTER_LEVELS)})")
        if not equals:
            bases.append(level)
        elif not prefix.strip() or len(prefix.encode()) > MAX_PREFIX_BYTES:
            raise ValueError(f"the name of a module has 1 to {MAX_PREFIX_BYTES} bytes")
        else:
            overrides[_module_name(prefix.strip())] = level
    if len(bases) > 1:
        raise ValueError("more than one level for everything")
    if not bases and not overrides:
        raise ValueError("it is empty")
    longest_first = sorted(overrides.items(), key=lambda item: (-len(item[0]), item[0]))
    return Filter(bases[0] if bases else logging.INFO, tuple(longest_first))


def _module_name(prefix: str) -> str:
    name = prefix.replace("::", ".")
    return name.removeprefix("pg_") if name.startswith("pg_doorman") else name


def set_filter(text: str) -> None:
    """Log by this filter from now on, in this process and those that it forks. Raises ValueError as `parse_filter`."""
    global _now, lowest_level
    _now = parse_filter(text)
    lowest_level = min([_now.base, *(level for _, level in _now.overrides)])
    logging.getLogger().setLevel(_now.base)
    for prefix, level in _now.overrides:
        logging.getLogger(prefix).setLevel(level)  # also for modules that are imported later
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger):
            level = _now.level_for(name)
            logger.setLevel(logging.NOTSET if level == _now.base and not _now.overrides else level)


def shown_filter() -> str:
    """The filter that holds in this process, as SHOW LOG_LEVEL writes it."""
    return str(_now)


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


_at_start = _now = Filter(logging.INFO)
lowest_level = logging.INFO
"""Nothing below is logged by any module: asked where a logger's own answer would cost too much."""


class Repeats:
    """Lets no line of the source code flood the log: of its warnings and errors the first `BURST` in `BURST_SECONDS`.

    A line is known by its logger and the text before its arguments are in it: compiled modules have no lines of their
    own, `lineno` is their caller's, and what one of them floods must not silence the others.
    How many were left out is said by a line of its own when the time is over (`flush`, called now and then).
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, int], _Burst] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by the handler: False leaves the record out."""
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        key = record.name, str(record.msg), record.lineno
        burst = self._seen.get(key)
        if burst is None or now >= burst.until:
            self.flush(now)
            burst = self._seen[key] = _Burst(now + BURST_SECONDS, record)
        burst.count += 1
        return burst.count <= BURST

    def flush(self, now: float) -> None:
        """Say what was left out in times that are over."""
        over = [key for key, burst in self._seen.items() if now >= burst.until]
        for burst in [self._seen.pop(key) for key in over]:
            if burst.count > BURST:
                left_out = burst.count - BURST
                text = f"({left_out} more like {burst.record.getMessage()!a} were left out in {BURST_SECONDS:g} s)"
                logger = logging.getLogger(burst.record.name)
                record = logger.makeRecord(
                    logger.name, burst.record.levelno, burst.record.pathname, burst.record.lineno, text, (), None
                )
                logging.getLogger().handlers[0].emit(record)


class _Burst:
    def __init__(self, until: float, record: logging.LogRecord) -> None:
        self.until = until
        self.record = record
        self.count = 0


repeats = Repeats()


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
        return f"{format_time(record)} {shown} {format_place(record)}: {message}"

    def _format_traceback(self, record: logging.LogRecord) -> str:
        return "\n" + self.formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a traceback is part of the message."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        file, line = place_of(record)
        entry = {
            "timestamp": format_time(record),
            "level": name_level(record.levelno),
            "file": file,
            "line": line,
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
        return f"{stamp} {self.prog_name}[{os.getpid()}]: {format_place(record)}: {message.translate(_ONE_LINE)}"


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


def format_place(record: logging.LogRecord) -> str:
    """`file:line`."""
    file, line = place_of(record)
    return f"{file}:{line}"


def place_of(record: logging.LogRecord) -> tuple[str, int]:
    """File and line. A compiled module has no lines: `logging` finds its next caller that has. Then the line is 0."""
    file = compiled_file(record.name)
    return (file, 0) if file else (shorten_path(record.pathname), record.lineno)


@lru_cache(maxsize=256)
def compiled_file(name: str) -> str:
    """The source file of the compiled module whose logger this is; "" for any other logger."""
    if name in COMPILED_TOGETHER:
        return name.replace(".", "/")
    module = sys.modules.get(name)
    binary = getattr(module, "__file__", None) or ""
    return name.replace(".", "/") + ".py" if binary.endswith(".so") else ""


@lru_cache(maxsize=1024)
def shorten_path(path: str) -> str:
    """A source file's path from the package on."""
    return path.removeprefix(_ROOT)
