"""Log lines as they arrive at descriptor 2 and at a syslog socket, also from several processes at once."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorman import log

ROOT = Path(__file__).resolve().parents[2]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
logger = logging.getLogger("doorman.test")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Give pytest its logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logger.setLevel(logging.NOTSET)


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return capfd.readouterr().err.splitlines()


def test_a_text_line(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup_logging("info", "text", False)
    logger.info("pool %s opened", "app")
    [line] = lines(capfd)
    assert re.fullmatch(rf"{STAMP}  INFO tests/unit/test_log\.py:\d+: pool app opened", line)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (logging.CRITICAL, "ERROR"),
        (logging.ERROR, "ERROR"),
        (logging.WARNING, " WARN"),
        (logging.INFO, " INFO"),
        (logging.DEBUG, "DEBUG"),
        (log.TRACE, "TRACE"),
    ],
)
def test_levels_are_aligned_to_five(capfd: pytest.CaptureFixture[str], number: int, shown: str) -> None:
    log.setup_logging("trace", "debug", False)
    logger.log(number, "x")
    [line] = lines(capfd)
    assert re.match(rf"{STAMP} {shown} tests/", line)


def test_each_level_lets_through_itself_and_above(capfd: pytest.CaptureFixture[str]) -> None:
    for count, level in enumerate(log.LEVELS, 1):
        log.setup_logging(level, "text", False)
        for number in log.LEVELS.values():
            logger.log(number, "x")
        assert len(lines(capfd)) == count


def test_one_module_may_have_its_own_level(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup_logging("error", "text", False)
    log.set_filter("error,doorman.test=debug")
    logger.debug("shown")
    logging.getLogger("doorman.other").warning("hidden")
    assert [line[-5:] for line in lines(capfd)] == ["shown"]


def test_a_structured_line(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup_logging("info", "structured", True)
    logger.warning('line one\nline "two" ü')
    [line] = lines(capfd)
    entry = json.loads(line)
    assert re.fullmatch(STAMP, entry.pop("timestamp"))
    assert isinstance(entry.pop("line"), int)
    assert entry == {"level": "WARN", "file": "tests/unit/test_log.py", "message": 'line one\nline "two" ü'}


def test_colour_is_around_the_level_alone(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup_logging("info", "text", True)
    logger.error("x")
    [line] = lines(capfd)
    assert re.fullmatch(rf"{STAMP} \x1b\[31mERROR\x1b\[0m tests/unit/test_log\.py:\d+: x", line)


def test_a_name_cannot_forge_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup_logging("info", "text", False)
    logger.info("user %s", "eve\n2026-01-01 forged\r\x1b[31m")
    [line] = lines(capfd)
    assert line.endswith(r"user eve\n2026-01-01 forged\r\x1b[31m")


def test_a_traceback_follows_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup_logging("info", "text", False)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logger.exception("failed")
    first, *rest = lines(capfd)
    assert first.endswith(": failed") and rest[0].startswith("Traceback") and rest[-1] == "RuntimeError: boom"


def test_unpaired_surrogates_do_not_lose_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup_logging("info", "text", False)
    logger.info("name %s", "a\udcff")
    [line] = lines(capfd)
    assert line.endswith(r"name a\udcff")


@pytest.mark.parametrize(("flag", "variable", "wanted"), [(False, "", False), (True, "", False), (False, "1", False)])
def test_no_colour_without_a_terminal(monkeypatch: pytest.MonkeyPatch, flag: bool, variable: str, wanted: bool) -> None:
    monkeypatch.setenv("NO_COLOR", variable)
    assert log.is_color_wanted(flag) is wanted


@pytest.mark.parametrize(
    ("variable", "flag", "wanted"), [("", "False", True), ("1", "False", False), ("", "True", False)]
)
def test_colour_on_a_terminal(variable: str, flag: str, wanted: bool) -> None:
    master, terminal = os.openpty()
    code = f"from doorman.log import is_color_wanted; print(is_color_wanted({flag}))"
    env = {**os.environ, "NO_COLOR": variable}
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=terminal, stdout=subprocess.PIPE, env=env, timeout=30, cwd=ROOT
    )
    os.close(master)
    os.close(terminal)
    assert done.stdout.decode().strip() == str(wanted)


CROWD = """
import logging, os
from doorman.log import setup_logging
setup_logging("info", "text", False)
children = []
for name in "abcd":
    child = os.fork()
    if not child:
        for number in range(500):
            logging.getLogger("doorman").info("%s-%d %s", name, number, name * 200)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


def test_lines_of_several_processes_do_not_mix() -> None:
    done = subprocess.run([sys.executable, "-c", CROWD], stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT)
    found = re.findall(r"^\S+  INFO \S+ ([a-d])-(\d+) (\1{200})$", done.stderr, re.MULTILINE)
    assert len(found) == 2000 == done.stderr.count("\n")


def test_a_closed_stderr_stops_nothing() -> None:
    code = (
        "import logging, os; from doorman.log import setup_logging; setup_logging('info', 'text', False)\n"
        "os.close(2); logging.getLogger('x').error('lost'); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=30, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "alive\n")


# Syslog


def test_syslog_lines(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(10)
        handler = log.open_syslog("doorman", path)
        logging.getLogger().handlers[:] = [handler]
        log.set_filter("trace")
        expected = [
            (logging.ERROR, 11),
            (logging.WARNING, 12),
            (logging.INFO, 14),
            (logging.DEBUG, 15),
            (log.TRACE, 15),
        ]
        for number, priority in expected:
            logger.log(number, "one\ntwo")
            text = next(text for text in iter(lambda: server.recv(4096).decode(), "") if text.endswith("two"))
            stamp = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"
            where = r"tests/unit/test_log\.py:\d+"
            assert re.fullmatch(rf"<{priority}>{stamp} doorman\[{os.getpid()}\]: {where}: one\\ntwo", text)
        handler.close()


def test_no_syslog_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        log.open_syslog("doorman", str(tmp_path / "nobody"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("info", "info"),
        ("WARNING", "warn"),
        ("off", "off"),
        ("doorman.workers=debug", "info,doorman.workers=debug"),
        (" error , doorman=info,, doorman.workers.master = trace", "error,doorman.workers.master=trace,doorman=info"),
        ("pg_doorman::web::access=debug", "info,doorman.web.access=debug"),
    ],
)
def test_a_filter_is_read_and_shown(text: str, shown: str) -> None:
    assert str(log.parse_filter(text)) == shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("loud", "unknown level 'loud'"),
        ("info,debug", "more than one level"),
        ("", "empty"),
        (" , ", "empty"),
        ("=debug", "name of a module"),
        ("x" * 257 + "=debug", "name of a module"),
        ("doorman=", "unknown level ''"),
    ],
)
def test_a_filter_that_is_wrong_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        log.parse_filter(text)


def test_the_longest_name_that_fits_decides_in_both_directions(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup_logging("info", "text", False)
    quiet, late = logging.getLogger("doorman.test.quiet"), "doorman.test.late"
    log.set_filter("info,doorman.test=debug,doorman.test.quiet=error")
    logger.debug("one")
    quiet.warning("two")
    logging.getLogger(late).debug("three")
    logging.getLogger("doorman.other").debug("four")
    assert [line.split()[-1] for line in lines(capfd)] == ["one", "three"]
    log.set_filter("default")
    assert log.shown_filter() == "info"
    logger.debug("five")
    quiet.warning("six")
    assert [line.split()[-1] for line in lines(capfd)] == ["six"]


def test_repeats_are_left_out_and_counted(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(log, "repeats", log.Repeats())
    log.setup_logging("info", "text", False)
    for number in range(log.BURST + 30):
        logger.warning("flood %d", number)
        logger.info("session %d", number)
    shown = lines(capfd)
    assert sum("flood" in line for line in shown) == log.BURST
    assert sum("session" in line for line in shown) == log.BURST + 30
    log.repeats.flush(now[0] + 1)
    assert lines(capfd) == []
    now[0] += log.BURST_SECONDS
    log.repeats.flush(now[0])
    (summary,) = lines(capfd)
    assert " WARN tests/unit/test_log.py:" in summary
    assert "(30 more like 'flood 0' were left out in 5 s)" in summary
    logger.warning("flood again")
    assert lines(capfd)[0].endswith("flood again")


def test_a_flood_silences_no_other_message(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled modules have no lines: all that they say seems to come from one line of their caller."""
    monkeypatch.setattr(log, "repeats", log.Repeats())
    log.setup_logging("info", "text", False)
    for template in ["flood %d"] * (log.BURST + 5) + ["other %d"]:
        logger.warning(template, 1)
    shown = lines(capfd)
    assert len(shown) == log.BURST + 1 and shown[-1].endswith("other 1")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("doorman.workers.opening", "doorman/workers/opening.py:0"),
        ("doorman.relay", "doorman/relay:0"),
        ("doorman.errors", r"tests/unit/test_log\.py:\d+"),
        ("asyncio", r"tests/unit/test_log\.py:\d+"),
    ],
)
def test_a_compiled_module_does_not_speak_in_its_callers_name(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    """Compiled code has no frames, so that `logging` finds the next caller that has one."""
    monkeypatch.setattr(logging.getLogger(name), "propagate", True)  # the fuzzers' stage keeps a logger to itself
    importlib.import_module("doorman.workers.opening")
    log.setup_logging("info", "text", False)
    logging.getLogger(name).warning("here")
    (line,) = lines(capfd)
    assert re.search(rf" WARN {place}: here$", line)
    log.setup_logging("info", "structured", False)
    logging.getLogger(name).warning("here")
    entry = json.loads(lines(capfd)[0])
    assert re.fullmatch(place, f"{entry['file']}:{entry['line']}")
