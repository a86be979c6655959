"""The command line of `pg_doorman check-auth`."""

from __future__ import annotations

import ipaddress
import os
import sys

import click

from doorman.config.load import load_config
from doorman.diagnose import client_side, server_side
from doorman.diagnose.report import Report
from doorman.errors import ConfigError

EXIT_FAILED = 1
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h."""
PASSWORD_VARIABLES = ("PG_DOORMAN_PASSWORD", "PGPASSWORD")
LOCAL = "local"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Walk the steps of a login with the configuration CONFIG_FILE, and say which one fails and what to change. "
    "The server's side is tried for real. The password is taken from PG_DOORMAN_PASSWORD or PGPASSWORD, or asked for "
    "in a terminal; never from the command line, which others can read.",
)
@click.argument("config_file")
@click.option("--database", required=True, help="Database that the client asks for.")
@click.option("--user", required=True, help="User that the client says it is.")
@click.option(
    "--address", default="127.0.0.1", help="Client's IP address, or local for the Unix socket. [default: 127.0.0.1]"
)
@click.option("--tls", is_flag=True, help="The client comes with TLS.")
@click.option("--certificate", help="The client's certificate, a PEM file; implies --tls.")
@click.option("--no-password", is_flag=True, help="Do not ask for a password, and do not try one.")
@click.option("--no-server", is_flag=True, help="Do not log in to PostgreSQL.")
def main(
    config_file: str,
    database: str,
    user: str,
    address: str,
    tls: bool,
    certificate: str | None,
    no_password: bool,
    no_server: bool,
) -> None:
    """Ends the process: 0, 1 when the login fails, 78 when the configuration cannot be used."""
    question = client_side.Question(
        database=database,
        user=user,
        address=read_address(address),
        tls=tls or certificate is not None,
        password=None if no_password else find_password(user, database),
        asks_servers=not no_server,
        certificate=certificate,
    )
    report = Report()
    try:
        config = load_config(config_file).config
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"FAILED configuration: {problem}")
        raise SystemExit(EXIT_CONFIG) from None
    report.ok("configuration", f"{config_file} is in order")
    outcome = client_side.walk(config, question, report)
    if outcome.pool is not None and not no_server:
        server_side.walk(outcome.pool, outcome.client_key, report)
    click.echo("\n".join(report.lines()))
    raise SystemExit(EXIT_FAILED if report.has_failed else 0)


def read_address(text: str) -> str | None:
    """None is the Unix socket."""
    if text == LOCAL:
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise click.BadParameter(f"{text} is no IP address", param_hint="--address") from None


def find_password(user: str, database: str) -> str | None:
    """From the environment, or from whoever sits at the terminal; an empty answer means none."""
    for name in PASSWORD_VARIABLES:
        if name in os.environ:
            return os.environ[name]
    if not sys.stdin.isatty():
        return None
    return click.prompt(f"Password for {user}@{database}", hide_input=True, default="", show_default=False) or None
