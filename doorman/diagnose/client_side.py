"""The client's half of a login: rule, user, what is asked for, and whether a password is right.

Rules
1. What decides is what decides in a worker: `HbaRules.decide`, `exchange_for`, `console_exchange`.
2. The password goes nowhere but into the exchange (and so to PAM or a directory, where those are asked).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from doorman.admin.login import console_exchange
from doorman.auth.exchange import Answer, ClientExchange, Wait
from doorman.auth.md5 import is_md5_hash
from doorman.auth.methods import Applicant, exchange_for, kind_of
from doorman.auth.pam import DEFAULT_SERVICE
from doorman.auth.server_login import Credentials, ServerLogin
from doorman.auth.talos import is_talos
from doorman.auth.verifier import PREFIX, parse_verifier
from doorman.config.hba import REJECT, Admission
from doorman.config.resolve import PoolSettings, resolve_pools, resolve_shared_pool
from doorman.config.schema import Config
from doorman.config.tokens import SIGNER_PREFIX, TOKEN_PREFIXES
from doorman.diagnose.report import Report
from doorman.errors import ClientFault, PeerFault, ServerFault
from doorman.wire.frontend import AUTH_HEADER_BYTES, auth_message_length

CONSOLES: Final = ("pgdoorman", "pgbouncer")
PAM_DIRECTORIES: Final = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/share/pam.d")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Whose login is looked at. `address` is None for the Unix socket; `password` None: that step is left out."""

    database: str
    user: str
    address: str | None
    tls: bool
    password: str | None

    def __repr__(self) -> str:
        return f"Question({self.user}@{self.database})"


class Outcome(msgspec.Struct, frozen=True):
    """What the server's half needs: the pool, and the SCRAM key that the password proved."""

    pool: PoolSettings | None
    client_key: bytes | None = None


def walk(config: Config, question: Question, report: Report) -> Outcome:
    """Walk the client's half as far as it goes."""
    admission = check_rule(config, question, report)
    if question.database in CONSOLES:
        return check_console(config, question, admission, report)
    pool = find_pool(config, question, admission, report)
    if admission is None or pool is None:
        return Outcome(pool)
    if admission.method == "trust":
        report.ok("password", "none is asked for (trust)")
        return Outcome(pool)
    check_stored(admission, pool, report)
    return Outcome(
        pool, try_password(question, report, lambda: exchange_for(admission, applicant(config, question), pool))
    )


def applicant(config: Config, question: Question) -> Applicant:
    """The login as a worker would see it."""
    return Applicant(question.user, question.address, config.general.auth_wait_timeout / 1000)


# --- the rule ------------------------------------------------------------------------------------------------------


def check_rule(config: Config, question: Question, report: Report) -> Admission | None:
    """The HBA rule that decides; None where the client is not admitted."""
    general = config.general
    found = general.hba_rules().decide(
        database=question.database, user=question.user, address=question.address, tls=question.tls
    )
    whence = "the Unix socket" if question.address is None else question.address
    who = f"{question.user}@{question.database} from {whence} {'with' if question.tls else 'without'} TLS"
    if found is None and general.pg_hba is None:
        change = f"add a network that holds {whence} to general.hba, or use pg_hba"
        report.fail("rule", f"general.hba does not list the address of {who}", change)
    elif found is None:
        kind = "local" if question.address is None else "host"
        address = "" if question.address is None else f" {question.address}/{128 if ':' in question.address else 32}"
        change = f"add a rule such as: {kind} {question.database} {question.user}{address} scram-sha-256"
        report.fail("rule", f"no rule of general.pg_hba fits {who}", change)
    elif found.method == REJECT:
        change = "put a rule that admits the login before it"
        report.fail("rule", f"line {found.line} of general.pg_hba rejects {who}", change)
        found = None
    elif found.method is None:
        report.ok("rule", f"no rules are configured: {who} is admitted, and asked for what is stored")
    else:
        report.ok("rule", f"line {found.line} of general.pg_hba fits {who}: method {found.method}")
    return found


# --- the user ------------------------------------------------------------------------------------------------------


def find_pool(config: Config, question: Question, admission: Admission | None, report: Report) -> PoolSettings | None:
    """The static pool of this login; None where there is none, or where something else decides."""
    pool = config.pools.get(question.database)
    if pool is None:
        known = ", ".join(config.pools) or "none"
        report.fail("database", f"pools.{question.database} does not exist (there are: {known})", "add the pool")
        return None
    found = next(
        (one for one in resolve_pools(config) if (one.database, one.user) == (question.database, question.user)), None
    )
    shared = resolve_shared_pool(config, question.database)
    if found is not None and (shared is None or found.user != shared.user or found.password):
        report.ok("user", f'"{found.user}" is a user of pools.{question.database}')
        return found
    if admission is not None and is_talos(config.talos, question.user, admission):
        report.note(
            "user", "a login by Talos token: the token's role must be a user of the pool; that is not checked here"
        )
    elif pool.auth_query is not None:
        where = f"{pool.server_host}:{pool.server_port}"
        words = f'not in pools.{question.database}.users: auth_query asks {where} for "{question.user}"'
        report.note("user", words, "what the query finds is not checked here; SHOW AUTH_QUERY counts its failures")
    else:
        change = f"add it to pools.{question.database}.users, or configure auth_query"
        report.fail("user", f'"{question.user}" is no user of pools.{question.database}', change)
    return None


def check_console(config: Config, question: Question, admission: Admission | None, report: Report) -> Outcome:
    """A login to the console."""
    general = config.general
    if question.user == general.admin_username:
        report.ok("user", f'"{question.user}" is general.admin_username')
    else:
        change = f'log in as "{general.admin_username}", or change general.admin_username'
        report.fail("user", f'only general.admin_username gets into the console, not "{question.user}"', change)
    if admission is not None and admission.method != "trust":
        try_password(
            question,
            report,
            lambda: console_exchange(
                admission, applicant(config, question), general.admin_username, general.admin_password
            ),
        )
    return Outcome(None)


# --- what is asked for -----------------------------------------------------------------------------------------------


def check_stored(admission: Admission, pool: PoolSettings, report: Report) -> None:
    """Where the password is looked for, and whether the rule and what is stored can come together at all."""
    kind, key = kind_of(admission, pool), f'password of "{pool.user}" in pools.{pool.database}.users'
    if kind == "pam":
        check_pam(admission.options.get("pamservice") or pool.auth_pam_service or DEFAULT_SERVICE, report)
    elif kind == "ldap":
        options = admission.options
        way = "search and bind" if "ldapbasedn" in options or "ldapurl" in options else "simple bind"
        where = options.get("ldapurl") or options.get("ldapserver")
        report.ok("method", f"the password is asked for in clear and judged by LDAP, {way} at {where}")
    elif kind == "jwt":
        report.ok("method", f"a token is asked for, checked with {pool.password}")
    elif not pool.password:
        report.fail("method", f"the {key} is missing or empty: nobody gets in", "set it, or use another method")
    else:
        check_password_kind(admission, pool, key, report)


def check_pam(service: str, report: Report) -> None:
    """A service file that is missing means PAM's "other", which refuses."""
    if any((Path(directory) / service).exists() for directory in PAM_DIRECTORIES):
        report.ok("method", f"the password is asked for in clear and judged by the PAM service {service}")
    else:
        change = f"create /etc/pam.d/{service}, or name another service (pamservice of the rule, auth_pam_service)"
        report.fail("method", f"there is no service file for the PAM service {service}", change)


def check_password_kind(admission: Admission, pool: PoolSettings, key: str, report: Report) -> None:
    """An MD5 hash, a SCRAM verifier or a password in clear, against the rule's method."""
    stored = pool.password
    if stored.startswith(PREFIX):
        if parse_verifier(stored) is None:
            change = "copy rolpassword from pg_authid, unchanged and quoted"
            report.fail("method", f"the {key} begins like a SCRAM verifier but is none", change)
        else:
            asked = "the password in clear" if admission.method == "password" else "SCRAM-SHA-256"
            report.ok("method", f"{asked} is asked for, checked against the SCRAM verifier that is the {key}")
    elif is_md5_hash(stored):
        if admission.method == "scram-sha-256":
            change = "store a SCRAM verifier, or let the rule say md5"
            report.fail("method", f"the {key} is an MD5 hash, which a scram-sha-256 rule cannot use", change)
        else:
            report.ok("method", f"checked against the MD5 hash that is the {key}")
    elif stored.startswith(SIGNER_PREFIX):
        change = f"use {TOKEN_PREFIXES[0]}FILE with a public key, or a password"
        report.fail("method", f"the {key} names a private key, which belongs into server_password", change)
    else:
        report.ok("method", f"{admission.method or 'SCRAM-SHA-256'} is asked for, checked against the {key}, in clear")


# --- the password --------------------------------------------------------------------------------------------------


def try_password(question: Question, report: Report, make_exchange: Callable[[], ClientExchange]) -> bytes | None:
    """Play the client; the ClientKey where SCRAM was proved."""
    if question.password is None:
        report.note("password", "not tried: none was given", "set PGPASSWORD, or run this in a terminal to be asked")
        return None
    try:
        exchange = make_exchange()
        log_in(exchange, question.user, question.password)
    except PeerFault as fault:
        reason = f" ({fault.for_log})" if fault.for_log else ""
        report.fail("password", f"{fault.message}{reason}", "use the right password, or change what is stored")
        return None
    report.ok("password", "it is right")
    return exchange.client_key


def log_in(exchange: ClientExchange, user: str, password: str) -> None:
    """Join the exchange with our own client, which is the one that logs in to servers. Raises `PeerFault`."""
    client = ServerLogin(user, Credentials(password=password), "", {}, encrypted_or_local=True)
    client.start()
    answer, unread = settle(exchange.start()), b""
    while not exchange.done:
        try:
            unread += client.feed(answer)
        except ServerFault as fault:
            raise ClientFault(fault.sqlstate, fault.message) from None
        length = auth_message_length(unread)
        body, unread = unread[AUTH_HEADER_BYTES:length], unread[length:]
        answer = settle(exchange.feed(body))


def settle(answer: Answer) -> bytes:
    """Wait for what the exchange waits for."""

    async def wait(wanted: Wait) -> Answer:
        try:
            async with asyncio.timeout(wanted.seconds):
                return await wanted.work()
        except TimeoutError:
            raise wanted.late from None

    while isinstance(answer, Wait):
        answer = asyncio.run(wait(answer))
    return answer
