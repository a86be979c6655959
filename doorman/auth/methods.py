"""From an HBA rule and a stored password to the exchange that a client has to get through.

Rules
1. `trust` trusts and asks nothing. `reject` never comes here.
2. `cert`, `pam` and `ldap` rules decide whatever is stored. Under the other rules a user's `auth_pam_service` comes
   first, then a stored key reference (JWT), then the stored password.
3. A user without an account goes through what one of the others would: the same service, directory, messages and work,
   and is refused at the end. `decoy` chooses whom it resembles: always the same one for the same name.
4. What a client is told of a refusal is the same for all methods; why it was refused is for the log (`for_log`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec
from cryptography import x509

from doorman.auth import jwt, ldap, pam
from doorman.auth.blocking import run_in_thread
from doorman.auth.cert import MapLine, check_certificate
from doorman.auth.decoy import resemble
from doorman.auth.exchange import TRUSTED, CleartextExchange, ClientExchange, choose_exchange
from doorman.auth.scram import wrong_password
from doorman.config.hba import Admission
from doorman.config.ldap_options import read_settings
from doorman.config.tokens import TOKEN_PREFIXES
from doorman.errors import ClientFault

LOCAL_HOST: Final = "[local]"


class Account(Protocol):
    """What is known of a user who may log in: `PoolSettings` has it."""

    @property
    def password(self) -> str: ...
    @property
    def auth_pam_service(self) -> str | None: ...
    @property
    def jwt_issuer(self) -> str | None: ...
    @property
    def jwt_audience(self) -> str | None: ...


class Applicant(msgspec.Struct, frozen=True):
    """Who wants in. `address` is None for the Unix socket; `binding` as for `choose_exchange`.

    `patience`: seconds that the login may wait for PAM, a directory or a key set.
    """

    user: str
    address: str | None
    patience: float
    binding: bytes | None = None
    certificate: x509.Certificate | None = None
    maps: tuple[MapLine, ...] = ()


def kind_of(admission: Admission, account: Account | None) -> str:
    """What will be asked for, in one word: for counters and log lines."""
    if admission.method in ("trust", "pam", "ldap", "cert"):
        return admission.method
    if account is not None and account.auth_pam_service:
        return "pam"
    if account is not None and account.password.startswith(TOKEN_PREFIXES):
        return "jwt"
    return "password"


def exchange_for(
    admission: Admission, applicant: Applicant, account: Account | None, others: Sequence[Account] = ()
) -> ClientExchange:
    """The exchange for an applicant. `account` is None for an unknown user, who resembles one of `others`."""
    check_certificate(admission, applicant.user, applicant.certificate, applicant.maps)
    if admission.method == "trust":
        return TRUSTED
    if admission.method == "cert":
        if account is None:
            raise refusal(applicant.user, "certificate: accepted, but there is no such user here")
        return TRUSTED
    likeness = account or resemble(applicant.user, others)
    kind = kind_of(admission, likeness)
    if kind in _ELSEWHERE:
        return _ELSEWHERE[kind](admission, applicant, likeness, account is not None)
    stored = account.password if account is not None else None
    model = likeness.password if likeness is not None else None
    return choose_exchange(admission.method, applicant.user, stored, binding=applicant.binding, model=model)


def _judged(applicant: Applicant, is_known: bool, what: str, check: Callable[[bytes], None]) -> CleartextExchange:
    """Ask for the password in clear and judge it by `check`, in a thread. Strangers are refused whatever it says."""

    async def judge(password: bytes) -> None:
        try:
            await run_in_thread(check, password)
        except (pam.PamRefused, ldap.LdapRefused, jwt.TokenRefused) as refused:
            raise refusal(applicant.user, f"{what}: {refused}") from None
        if not is_known:
            raise refusal(applicant.user, f"{what}: accepted, but there is no such user here")

    late = refusal(applicant.user, f"{what}: no answer within auth_wait_timeout ({applicant.patience:g} s)")
    return CleartextExchange(judge, applicant.patience, late)


def refusal(user: str, for_log: str) -> ClientFault:
    """Rule 4."""
    fault = wrong_password(user)
    fault.for_log = for_log
    return fault


def _pam(admission: Admission, applicant: Applicant, account: Account | None, is_known: bool) -> CleartextExchange:
    service = admission.options.get("pamservice") or (account.auth_pam_service if account is not None else None)
    name = service or pam.DEFAULT_SERVICE

    def check(password: bytes) -> None:
        pam.check_password(name, applicant.user, password, _remote_host(admission, applicant))

    return _judged(applicant, is_known, f"PAM service {name}", check)


def _remote_host(admission: Admission, applicant: Applicant) -> str:
    """In the thread: looking a name up may take its time."""
    if applicant.address is None:
        return LOCAL_HOST
    if admission.options.get("pam_use_hostname") == "1":
        with suppress(OSError):
            return socket.getnameinfo((applicant.address, 0), 0)[0]
    return applicant.address


def _ldap(admission: Admission, applicant: Applicant, account: Account | None, is_known: bool) -> CleartextExchange:
    settings = read_settings(admission.options)  # which cannot fail: the configuration was checked
    return _judged(
        applicant, is_known, "LDAP", lambda password: ldap.check_password(settings, applicant.user, password)
    )


def _jwt(admission: Admission, applicant: Applicant, account: Account | None, is_known: bool) -> CleartextExchange:
    assert account is not None
    source, issuer, audience = account.password, account.jwt_issuer, account.jwt_audience

    def check(token: bytes) -> None:
        jwt.check_token(source, token, applicant.user, issuer=issuer, audience=audience)

    return _judged(applicant, is_known, "JWT", check)


_ELSEWHERE: Final = {"pam": _pam, "ldap": _ldap, "jwt": _jwt}
