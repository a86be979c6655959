"""What a process has to log in to PostgreSQL with for a pool. Runs wherever servers are opened: workers and keeper.

Rules
1. `server_username` with `server_password` is used when configured. Otherwise the login is passed through: only to the
   role of the client's own name, with what the pool's `password` and the clients' logins have taught.
2. A ClientKey is used until a server refuses it (`note_refusal`); the next login of a client teaches it anew.
"""

from __future__ import annotations

from typing import Final

from doorman.auth.digest import sha256
from doorman.auth.md5 import is_md5_hash
from doorman.auth.server_login import Credentials
from doorman.auth.verifier import PREFIX, ScramVerifier, parse_verifier
from doorman.config.resolve import PoolSettings
from doorman.config.tokens import SIGNER_PREFIX, TOKEN_PREFIXES
from doorman.errors import ServerFault
from doorman.shm.table import Table
from doorman.shm.users import drop_key, find_key, has_key, keep_key
from doorman.wire.codes import SqlState

_SET_BOTH: Final = "set server_username and server_password to open servers without that"
_KEY_LACKS: Final = f"a SCRAM key cannot do that; {_SET_BOTH}"


def is_passthrough(pool: PoolSettings) -> bool:
    """Rule 1. A role of another name has no login that could be passed through."""
    return pool.server_password is None and pool.server_user == pool.user


def verifier_of(pool: PoolSettings) -> ScramVerifier | None:
    """The SCRAM verifier whose ClientKey opens this pool's servers."""
    if not is_passthrough(pool) or not pool.password.startswith(PREFIX):
        return None
    return parse_verifier(pool.password)


def credentials_for(pool: PoolSettings, table: Table) -> Credentials:
    """What there is at this moment. `lacking` says what is missing in a failure's text."""
    if (pool.server_password or "").startswith(SIGNER_PREFIX):
        token_key = (pool.server_password or "").removeprefix(SIGNER_PREFIX)
        return Credentials(token_key=token_key, lacking="a token answers only the request for a cleartext password")
    if pool.server_password is not None:
        return Credentials(password=pool.server_password, lacking="server_password is empty")
    if not is_passthrough(pool):
        return Credentials(lacking=f'server_password for server_username "{pool.server_user}" is not configured')
    if is_md5_hash(pool.password):
        return Credentials(md5_hash=pool.password, lacking=f"an MD5 hash cannot do that; {_SET_BOTH}")
    verifier = verifier_of(pool)
    if verifier is not None:
        return passed_through(pool, verifier, table)
    if pool.password and not pool.password.startswith((PREFIX, *TOKEN_PREFIXES)):
        return Credentials(password=pool.password)
    return Credentials(lacking=f'no password of user "{pool.user}" is known; {_SET_BOTH}')


def passed_through(pool: PoolSettings, verifier: ScramVerifier, table: Table) -> Credentials:
    """The key that a client has proved, if one has."""
    key = find_key(table, verifier.stored_key)
    if key is None:
        lacking = f'user "{pool.user}" has not logged in by SCRAM yet, which would teach its key; {_SET_BOTH}'
        return Credentials(verifier=verifier, lacking=lacking)
    return Credentials(None, None, key, verifier, None, _KEY_LACKS)


def is_pending(pool: PoolSettings, table: Table) -> bool:
    """Servers can be opened (unless PostgreSQL trusts us) only after a client's login has taught the key."""
    verifier = verifier_of(pool)
    return verifier is not None and not has_key(table, verifier.stored_key)


def learn(table: Table, client_key: bytes) -> None:
    """A client proved its verifier with this key."""
    keep_key(table, sha256(client_key), client_key)


def note_refusal(table: Table, credentials: Credentials, fault: ServerFault) -> None:
    """Rule 2."""
    if fault.sqlstate == SqlState.INVALID_PASSWORD and credentials.client_key and credentials.verifier:
        drop_key(table, credentials.verifier.stored_key)
