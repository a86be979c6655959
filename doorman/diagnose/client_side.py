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
from doorman.auth.auth_query import Found, LookUpProblem, is_possible_name
from doorman.auth.exchange import Answer, ClientExchange, Wait
from doorman.auth.md5 import is_md5_hash
from doorman.auth.methods import Account, Applicant, exchange_for, kind_of
from doorman.auth.pam import DEFAULT_SERVICE
from doorman.auth.server_login import Credentials, ServerLogin
from doorman.auth.talos import is_talos
from doorman.auth.verifier import PREFIX, parse_verifier
from doorman.config.hba import REJECT, Admission
from doorman.config.resolve import PoolSettings, resolve_passthrough_pool, resolve_pools, resolve_shared_pool
from doorman.config.schema import Config
from doorman.config.tokens import SIGNER_PREFIX, TOKEN_PREFIXES
from doorman.diagnose.elsewhere import check_holder, check_talos
from doorman.diagnose.report import Report
from doorman.errors import ClientFault, PeerFault, ServerFault
from doorman.wire.frontend import AUTH_HEADER_BYTES, auth_message_length
from doorman.workers.lookup_executor import Executor
from doorman.workers.lookups import Source, sources_of

CONSOLES: Final = ("pgdoorman", "pgbouncer")
PAM_DIRECTORIES: Final = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/share/pam.d")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Whose login is looked at. `address` is None for the Unix socket; `password` None: that step is left out.

    `asks_servers`: PostgreSQL may be asked for users (auth_query). `certificate`: the client's, a PEM file.
    """

    database: str
    user: str
    address: str | None
    tls: bool
    password: str | None
    asks_servers: bool = True
    certificate: str | None = None

    def __repr__(self) -> str:
        return f"Question({self.user}@{self.database})"


class Outcome(msgspec.Struct, frozen=True):
    """What the server's half needs: the pool, and the SCRAM key that the password proved."""

    pool: PoolSettings | None
    client_key: bytes | None = None

    def __repr__(self) -> str:
        return f"Outcome(pool={self.pool!r})"


def walk(config: Config, question: Question, report: Report) -> Outcome:
    """Walk the client's half as far as it goes."""
    admission = check_rule(config, question, report)
    if question.database in CONSOLES:
        return check_console(config, question, admission, report)
    if admission is not None and question.database in config.pools and is_talos(config.talos, question.user, admission):
        report.ok("method", "a Talos token is asked for, whose role is the user")
        return Outcome(check_talos(config, question.database, question.password, report))
    found = find_account(config, question, report)
    if found is None:
        return Outcome(None)
    if admission is None:
        return Outcome(found.pool)
    check_holder(config, admission, question.user, question.certificate, report)
    if admission.method in ("trust", "cert"):
        report.ok("password", f"none is asked for ({admission.method})")
        return Outcome(found.pool)
    check_stored(admission, found, report)
    admission = without_certificate(admission)
    key = try_password(question, report, lambda: exchange_for(admission, applicant(config, question), found.account))
    return Outcome(found.pool, key)


def without_certificate(admission: Admission) -> Admission:
    """What the rule asks for besides."""
    options = {name: value for name, value in admission.options.items() if name != "clientcert"}
    return Admission(admission.method, options, admission.line)


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


class Candidate(msgspec.Struct, frozen=True):
    """A user who exists: what is stored for him, the pool that he would use, and where the password stands."""

    account: Account
    pool: PoolSettings
    key: str

    def __repr__(self) -> str:
        return f"Candidate({self.pool.user}@{self.pool.database})"


def find_account(config: Config, question: Question, report: Report) -> Candidate | None:
    """The user of this login; None where there is none, or where something else decides."""
    pool, user, path = config.pools.get(question.database), question.user, f"pools.{question.database}"
    if pool is None:
        known = ", ".join(config.pools) or "none"
        report.fail("database", f"{path} does not exist (there are: {known})", "add the pool")
    elif any(one.username == user for one in pool.users):
        report.ok("user", f'"{user}" is a user of {path}')
        settings = next(one for one in resolve_pools(config) if (one.database, one.user) == (question.database, user))
        return Candidate(settings, settings, f'password of "{user}" in {path}.users')
    elif pool.auth_query is not None and not question.asks_servers:
        report.note("user", f"not in {path}.users: auth_query would be asked; left out (--no-server)")
    elif pool.auth_query is not None:
        return look_up(config, question, report)
    else:
        report.fail("user", f'"{user}" is no user of {path}', f"add it to {path}.users, or configure auth_query")
    return None


def look_up(config: Config, question: Question, report: Report) -> Candidate | None:
    """Ask PostgreSQL by auth_query, as the keeper would."""
    source, path = sources_of(config)[question.database], f"pools.{question.database}.auth_query"
    where = f"{source.target.host}:{source.target.port} database {source.target.database} as {source.target.user}"
    if not is_possible_name(question.user):
        report.fail("user", f"no role can have the name {question.user!r}", "log in with another name")
        return None
    try:
        found = asyncio.run(ask_once(source, question.user))
    except LookUpProblem as problem:
        report.fail("user", f"auth_query at {where}: {problem}", f"see {path}, and the rights of {source.target.user}")
        return None
    if found is None:
        change = f"create the role with a password that is in force, or change {path}.query"
        report.fail("user", f'auth_query at {where} finds no password for "{question.user}"', change)
        return None
    report.ok("user", f'auth_query at {where} finds "{question.user}"')
    for _, reason in found.dropped:
        report.note("startup parameters", reason)
    pool = resolve_shared_pool(config, question.database)
    if pool is None:
        own = resolve_passthrough_pool(config, question.database, question.user, found.parameters)
        pool = msgspec.structs.replace(own, password=found.password)
    return Candidate(found, pool, f'password that auth_query finds for "{question.user}"')


async def ask_once(source: Source, user: str) -> Found | None:
    """One look-up on a connection of its own."""
    executor = Executor(source.target, 1, source.connect_seconds)
    try:
        return await executor.fetch(user)
    finally:
        executor.close()


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


def check_stored(admission: Admission, found: Candidate, report: Report) -> None:
    """Where the password is looked for, and whether the rule and what is stored can come together at all."""
    account, key, kind = found.account, found.key, kind_of(admission, found.account)
    if kind == "pam":
        check_pam(admission.options.get("pamservice") or account.auth_pam_service or DEFAULT_SERVICE, report)
    elif kind == "ldap":
        options = admission.options
        way = "search and bind" if "ldapbasedn" in options or "ldapurl" in options else "simple bind"
        where = options.get("ldapurl") or options.get("ldapserver")
        report.ok("method", f"the password is asked for in clear and judged by LDAP, {way} at {where}")
    elif kind == "jwt":
        report.ok("method", f"a token is asked for, checked with {account.password}")
    elif not account.password:
        report.fail("method", f"the {key} is missing or empty: nobody gets in", "set it, or use another method")
    else:
        check_password_kind(admission, account.password, key, report)


def check_pam(service: str, report: Report) -> None:
    """A service file that is missing means PAM's "other", which refuses."""
    if any((Path(directory) / service).exists() for directory in PAM_DIRECTORIES):
        report.ok("method", f"the password is asked for in clear and judged by the PAM service {service}")
    else:
        change = f"create /etc/pam.d/{service}, or name another service (pamservice of the rule, auth_pam_service)"
        report.fail("method", f"there is no service file for the PAM service {service}", change)


def check_password_kind(admission: Admission, stored: str, key: str, report: Report) -> None:
    """An MD5 hash, a SCRAM verifier or a password in clear, against the rule's method."""
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
