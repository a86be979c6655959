"""The command line as an operator meets it: real processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doorman import __version__

GOOD = "general: {admin_username: a, admin_password: hunter2, %s}\npools: {}\n"
ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return subprocess.run(
        [sys.executable, "-m", "doorman.cli", *arguments],
        cwd=cwd,
        env=clean | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD % f"daemon_pid_file: {tmp_path}/no/such/pid")
    return path


# Help, version, usage


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(tmp_path: Path, flag: str) -> None:
    done = run(flag, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"pg_doorman {__version__}\n")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_option(tmp_path: Path, flag: str) -> None:
    done = run(flag, cwd=tmp_path)
    assert done.returncode == 0
    for option in ("--log-level", "--log-format", "--no-color", "--daemon", "--test-config", "--inherit-fd"):
        assert option in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("-x",),
        ("-l", "loud", "-t"),
        ("-F", "xml"),
        ("one.yaml", "two.yaml"),
        ("--inherit-fd", "x"),
        ("--inherit-fd", "-1"),
    ],
)
def test_usage_errors_exit_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "Error:" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("env", [{"DAEMON": "banana"}, {"LOG_LEVEL": "loud"}, {"INHERIT_FD": "x"}])
def test_bad_environment_exits_with_2(tmp_path: Path, env: dict[str, str]) -> None:
    assert run("-t", cwd=tmp_path, **env).returncode == 2


@pytest.mark.parametrize("level", ["error", "WARN", "Info", "debug", "TRACE"])
def test_log_levels_in_any_case(good: Path, level: str) -> None:
    assert run("-t", "-l", level, str(good), cwd=good.parent).returncode == 0
    assert run("-t", str(good), cwd=good.parent, LOG_LEVEL=level).returncode == 0


# -t


def test_a_good_file_passes_the_test(good: Path) -> None:
    for arguments in (("-t", "good.yaml"), ("good.yaml", "--test-config"), ("-l", "debug", "good.yaml", "-t")):
        done = run(*arguments, cwd=good.parent)
        assert done.returncode == 0
        assert done.stdout == "good.yaml syntax is ok\ngood.yaml test is successful\n"
        assert done.stderr == ""


def test_the_file_comes_from_the_environment_or_has_a_default_name(good: Path) -> None:
    assert run("-t", cwd=good.parent, CONFIG_FILE="good.yaml").returncode == 0
    done = run("-t", cwd=good.parent)
    assert done.returncode == 78 and "pg_doorman.toml" in done.stderr
    (good.parent / "pg_doorman.toml").write_text('[general]\nadmin_username="a"\nadmin_password="b"\n[pools]\n')
    assert run("-t", cwd=good.parent).returncode == 0
    assert run("-t", "missing.toml", cwd=good.parent, CONFIG_FILE="good.yaml").returncode == 78


def test_warnings_are_printed_with_the_test(good: Path) -> None:
    good.write_text(GOOD % "prot: 1")
    done = run("-t", "good.yaml", cwd=good.parent)
    assert done.returncode == 0
    assert done.stderr == ('Config warning: general.prot: unknown key, the nearest existing one is "port"; ignored\n')


def test_one_problem_is_one_line(good: Path) -> None:
    good.write_text(GOOD % "port: -1")
    done = run("-t", "good.yaml", cwd=good.parent)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("Config parse error: general.port: expected a whole number")
    assert done.stderr.count("\n") == 1


def test_all_problems_are_listed_and_no_secret_is(good: Path) -> None:
    good.write_text((GOOD % "port: -1, prepared_statements_cache_size: 0").replace("hunter2", "31337"))
    for arguments in (("-t", "good.yaml"), ("good.yaml",)):
        done = run(*arguments, cwd=good.parent)
        assert done.returncode == 78
        first, *problems = done.stderr.splitlines()
        assert first == "Config parse error: 3 problems in good.yaml:"
        assert [problem.split(":")[0] for problem in problems] == [
            "  general.admin_password",
            "  general.port",
            "  general.prepared_statements_cache_size",
        ]
        assert "31337" not in done.stderr


def test_a_file_named_like_a_word_works(tmp_path: Path) -> None:
    (tmp_path / "production").write_text('[general]\nadmin_username="a"\nadmin_password="b"\n[pools]\n')
    assert run("production", "-t", cwd=tmp_path).returncode == 0


# Start


def test_a_daemon_that_cannot_write_its_pid_exits_with_71(good: Path) -> None:
    for done in (run("-d", "good.yaml", cwd=good.parent), run("good.yaml", cwd=good.parent, DAEMON="true")):
        assert done.returncode == 71
        reason = f"cannot write the pid file {good.parent}/no/such/pid: No such file or directory"
        assert done.stderr == f"Daemonize error: {reason}\n"


def test_warnings_are_logged_at_start(good: Path) -> None:
    good.write_text(GOOD % f"prot: 1, daemon_pid_file: {good.parent}/no/such/pid")
    text = run("-d", "good.yaml", cwd=good.parent).stderr.splitlines()[0]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  WARN doorman/cli\.py:\d+: config: general\.prot: .* ignored", text
    )
    entry = json.loads(run("-d", "-F", "structured", "good.yaml", cwd=good.parent).stderr.splitlines()[0])
    assert entry["level"] == "WARN" and entry["message"].startswith("config: general.prot: ")
    assert "prot" not in run("-d", "-l", "error", "good.yaml", cwd=good.parent).stderr


def test_systemd_and_daemon_do_not_go_together(good: Path) -> None:
    assert "NOTIFY_SOCKET" in run("-d", "good.yaml", cwd=good.parent, NOTIFY_SOCKET="/run/x").stderr


@pytest.mark.skipif(Path("/dev/log").exists(), reason="this machine has a syslog")
def test_no_syslog_exits_with_1(good: Path) -> None:
    good.write_text(GOOD % "syslog_prog_name: doorman")
    done = run("good.yaml", cwd=good.parent)
    assert (done.returncode, done.stderr) == (1, "Cannot open syslog: No such file or directory\n")


# Daemon


DAEMON = """
import os, sys, time
from doorman.daemon import daemonize
print("before", flush=True)
daemonize(sys.argv[1])
print("after")
with open("facts", "w") as facts:
    mask = os.umask(0)
    print(os.getpid(), os.getsid(0), os.getcwd(), oct(mask), os.readlink("/proc/self/fd/1"), file=facts)
os.rename("facts", "facts.done")
time.sleep(60)
"""


def test_the_daemon_is_whole_when_the_command_returns(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text("1234567890 an older and longer text\n")
    done = subprocess.run(
        [sys.executable, "-c", DAEMON, "pid"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    text = pid_file.read_text()
    assert (done.returncode, done.stdout, done.stderr) == (0, "before\n", "")
    assert re.fullmatch(r"[0-9]+\n", text)
    pid = int(text)
    try:
        deadline = time.monotonic() + 10
        while not (tmp_path / "facts.done").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        its_pid, session, directory, mask, stdout = (tmp_path / "facts.done").read_text().split()
        assert int(its_pid) == pid and int(session) not in (pid, os.getsid(0))
        assert (directory, mask, stdout) == (str(tmp_path), "0o27", "/dev/null")
    finally:
        os.kill(pid, signal.SIGTERM)
