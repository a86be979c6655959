"""How a login to the console is proved: which exchange, against `admin_username` and `admin_password`. No I/O.

Rules:
1. Only `admin_username` gets in, with `trust` too (decisions: Authentication and TLS).
2. Whoever else asks is challenged exactly like the administrator and refused at the end (28P01); only `trust`, which
   has no challenge, refuses at once.
3. The method of the HBA rule holds. `md5`, and no rule at all, mean an MD5 challenge, unless a SCRAM verifier is
   stored: then SCRAM, as PostgreSQL does.
"""

from __future__ import annotations

from doorman.auth.exchange import ClientExchange, ScramExchange, choose_exchange
from doorman.auth.scram import wrong_password
from doorman.auth.verifier import ScramVerifier, mock_verifier, parse_verifier


def console_exchange(method: str | None, user: str, admin_username: str, admin_password: str) -> ClientExchange:
    """The exchange for `user`, started by nobody yet.

    `method`: of the HBA rule, `None` when no rules are configured. `admin_password`: in clear, an `md5…` hash or a
    SCRAM verifier. Raises `ClientFault`: 28P01 for a stranger under `trust`, 28000 for a method that cannot be.
    """
    is_admin = user == admin_username
    if method == "trust" and not is_admin:
        raise wrong_password(user)
    exchange = choose_exchange(method or "md5", user, admin_password if is_admin else None)
    verifier = parse_verifier(admin_password)
    if is_admin or verifier is None or method == "password":
        return exchange
    return ScramExchange(user, _unmeetable_twin(verifier, user))


def _unmeetable_twin(verifier: ScramVerifier, user: str) -> ScramVerifier:
    """A verifier that no password meets and that looks like the administrator's, which may have its own iterations."""
    mock = mock_verifier(user)
    return ScramVerifier(verifier.iterations, mock.salt, mock.stored_key, mock.server_key)
