"""How a login to the console is proved: which exchange, against `admin_username` and `admin_password`. No I/O.

Rules:
1. Only `admin_username` gets in, with `trust` too (decisions: Authentication and TLS).
2. Whoever else asks is challenged exactly like the administrator and refused at the end (28P01); only `trust`, which
   has no challenge, refuses at once.
3. The method of the HBA rule holds. `md5`, and no rule at all, mean an MD5 challenge, unless a SCRAM verifier is
   stored: then SCRAM, as PostgreSQL does.
"""

from __future__ import annotations

import msgspec

from doorman.auth.exchange import ClientExchange
from doorman.auth.methods import Applicant, exchange_for
from doorman.auth.scram import wrong_password
from doorman.config.hba import Admission
from doorman.config.redact import Redacted


class AdminAccount(Redacted, frozen=True):
    """The administrator as an `Account`."""

    password: str
    auth_pam_service: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None


def console_exchange(
    admission: Admission, applicant: Applicant, admin_username: str, admin_password: str
) -> ClientExchange:
    """The exchange for `applicant`, started by nobody yet.

    `admin_password`: in clear, an `md5…` hash or a SCRAM verifier. Raises `ClientFault`: 28P01 for a stranger under
    `trust`, 28000 for a method that cannot be.
    """
    is_admin = applicant.user == admin_username
    if admission.method == "trust" and not is_admin:
        raise wrong_password(applicant.user)
    if admission.method is None:
        admission = msgspec.structs.replace(admission, method="md5")
    account = AdminAccount(admin_password)
    return exchange_for(admission, applicant, account if is_admin else None, [account])
