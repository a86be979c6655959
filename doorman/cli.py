"""The command `pg_doorman`: reads the command line, loads the configuration, then tests it or starts the pooler."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

import click

from doorman import __version__
from doorman.config.load import DEFAULT_PATH, LoadedConfig, load_config
from doorman.errors import ConfigError
from doorman.log import FORMATS, LEVELS, is_color_wanted, setup_logging

EXIT_FAILURE = 1
EXIT_OS_ERROR = 71
"""EX_OSERR of sysexits.h."""
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h."""

logger = logging.getLogger(__name__)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="PostgreSQL connection pooler. CONFIG_FILE is YAML if it ends in .yaml or .yml, else TOML.",
    epilog="pg_doorman check-auth --help: find out why a login fails.",
)
@click.argument("config_file", envvar="CONFIG_FILE", default=DEFAULT_PATH)
@click.option(
    "-l",
    "--log-level",
    type=click.Choice(tuple(LEVELS), case_sensitive=False),
    envvar="LOG_LEVEL",
    help="Log this level and above. [env: LOG_LEVEL; default: general.log_level, else info]",
)
@click.option(
    "-F",
    "--log-format",
    type=click.Choice(FORMATS, case_sensitive=False),
    default="text",
    envvar="LOG_FORMAT",
    help="Form of log lines; structured is JSON. [env: LOG_FORMAT; default: text]",
)
@click.option(
    "-n", "--no-color", is_flag=True, help="Never colour log lines; NO_COLOR in the environment does the same."
)
@click.option("-d", "--daemon", is_flag=True, envvar="DAEMON", help="Run in the background. [env: DAEMON]")
@click.option(
    "--inherit-fd",
    type=click.IntRange(min=0),
    envvar="INHERIT_FD",
    help="Descriptor of a socket that already listens, to adopt. [env: INHERIT_FD]",
)
@click.option("-t", "--test-config", is_flag=True, help="Test the configuration, then exit.")
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def main(
    config_file: str,
    log_level: str | None,
    log_format: str,
    no_color: bool,
    daemon: bool,
    inherit_fd: int | None,
    test_config: bool,
) -> None:
    """Entry point of the command; always ends the process with one of the documented exit codes."""
    loaded = load_or_exit(config_file)
    if test_config:
        report_test(config_file, loaded)
    color = is_color_wanted(no_color)
    log_level = log_level or loaded.config.general.log_level or "info"
    start_logging(loaded, log_level, log_format, color)
    if daemon:
        go_to_background(loaded.config.general.daemon_pid_file)
    if inherit_fd is not None:
        os.environ["INHERIT_FD"] = str(inherit_fd)  # where the master looks, whichever way it was given
    from doorman.workers.master import run_master

    code = run_master(loaded.config, config_file, log_level, log_format, color)
    if daemon:
        from doorman.daemon import remove_pid_file

        remove_pid_file(loaded.config.general.daemon_pid_file)
    raise SystemExit(code)


def load_or_exit(path: str) -> LoadedConfig:
    """The configuration, or exit 78 after listing every problem."""
    from doorman.workers.encryption import read_materials

    try:
        loaded = load_config(path)
        read_materials(loaded.config)
        return loaded
    except ConfigError as error:
        lines = [str(problem) for problem in error.problems]
        text = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems in {path}:", *lines])
        click.echo(f"Config parse error: {text}", err=True)
        raise SystemExit(EXIT_CONFIG) from None


def report_test(path: str, loaded: LoadedConfig) -> NoReturn:
    """What `-t` prints for a configuration that is in order."""
    for warning in loaded.warnings:
        click.echo(f"Config warning: {warning}", err=True)
    click.echo(f"{path} syntax is ok")
    click.echo(f"{path} test is successful")
    raise SystemExit(0)


def start_logging(loaded: LoadedConfig, level: str, log_format: str, color: bool) -> None:
    """Set up the log and put the configuration's warnings into it; exit 1 when there is no syslog to log to."""
    prog_name = loaded.config.general.syslog_prog_name
    try:
        setup_logging(level, log_format, color, prog_name)
    except OSError as error:
        click.echo(f"Cannot open syslog: {error.strerror}", err=True)
        raise SystemExit(EXIT_FAILURE) from None
    for warning in loaded.warnings:
        logger.warning("config: %s", warning)
        if prog_name:
            click.echo(f"Config warning: {warning}", err=True)


def go_to_background(pid_file: str) -> None:
    """Return in the daemon; what started it ends with 0, or with 71 when it failed."""
    from doorman.daemon import daemonize

    if os.environ.get("NOTIFY_SOCKET"):
        logger.warning("--daemon together with systemd's NOTIFY_SOCKET: run in the foreground under systemd")
    try:
        daemonize(pid_file)
    except OSError as error:
        click.echo(f"Daemonize error: {error.strerror}", err=True)
        raise SystemExit(EXIT_OS_ERROR) from None


def run() -> None:
    """Entry point of `pg_doorman`: `check-auth` is a command of its own, everything else is about the pooler itself."""
    if sys.argv[1:2] == ["check-auth"]:
        from doorman.diagnose.command import main as check_auth

        check_auth(args=sys.argv[2:], prog_name="pg_doorman check-auth")
    main(prog_name="pg_doorman")


if __name__ == "__main__":
    run()
