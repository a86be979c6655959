"""Logins that no stored password decides, for `check-auth`: client certificates and Talos tokens."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from doorman.auth.cert import MapLine, check_certificate, parse_user_map
from doorman.auth.jwt import TokenRefused
from doorman.auth.talos import check_token
from doorman.config.hba import Admission
from doorman.config.resolve import PoolSettings, resolve_pools
from doorman.config.schema import Config
from doorman.diagnose.report import Report
from doorman.errors import ClientFault


def check_holder(config: Config, admission: Admission, user: str, file: str | None, report: Report) -> None:
    """Whether the client's certificate (a PEM file) is of that user. Who signed it is OpenSSL's matter."""
    wanted = "verify-full" if admission.method == "cert" else admission.options.get("clientcert")
    if wanted is None:
        return
    if file is None:
        report.note("certificate", "the rule asks for one; not looked at: none was given", "give it by --certificate")
        return
    try:
        certificate = x509.load_pem_x509_certificate(Path(file).read_bytes())
        maps = read_maps(config)
    except (OSError, ValueError) as error:
        report.fail("certificate", f"it cannot be read: {error}", "give PEM files")
        return
    subject = certificate.subject.rfc4514_string()
    try:
        check_certificate(admission, user, certificate, maps)
    except ClientFault:
        change = "use a certificate of that name, or a map of general.auth_ident_file"
        report.fail(
            "certificate", f'line {admission.line} of general.pg_hba does not take {subject} for "{user}"', change
        )
    else:
        report.ok("certificate", f'{subject} may be "{user}"')


def read_maps(config: Config) -> tuple[MapLine, ...]:
    """The user maps."""
    path = config.general.auth_ident_file
    return tuple(parse_user_map(Path(path).read_text())) if path else ()


def check_talos(config: Config, database: str, token: str | None, report: Report) -> PoolSettings | None:
    """Which role a Talos token means, and whether the database has it as a user: its pool."""
    if token is None:
        report.note("password", "no token was given: not tried", "set PGPASSWORD to the token")
        return None
    try:
        found = check_token(config.talos, token.encode())
    except TokenRefused as refused:
        report.fail("password", f"the token is refused: {refused}", "have a new token, or see talos.keys")
        return None
    report.ok("password", f'the token is good: role "{found.role}" for the client "{found.client_id}"')
    pool = next((one for one in resolve_pools(config) if (one.database, one.user) == (database, found.role)), None)
    if pool is None:
        change = f'add a user "{found.role}" to pools.{database}.users'
        report.fail("user", f'pools.{database} has no user "{found.role}", which is the token\'s role', change)
    else:
        report.ok("user", f'"{found.role}" is a user of pools.{database}')
    return pool
