"""Talos tokens: a login as the user `talos` whose token says which role it really is (spec/auth.md section 9).

Rules
1. The key is the one whose file name, without extension, is the token's `kid`; RS256 alone.
2. The roles of all resources whose database is served here count; one unknown role among them refuses the token.
3. The strongest role is the user of the pool: owner, then read_write, then read_only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from doorman.auth.blocking import run_in_thread
from doorman.auth.exchange import CleartextExchange
from doorman.auth.jwt import TokenRefused, decode_token, read_header
from doorman.auth.public_keys import KeyUnavailable, key_file
from doorman.config.hba import Admission
from doorman.config.schema import Talos
from doorman.config.tokens import TALOS_ROLES
from doorman.errors import ClientFault

USER: Final = "talos"
PASSWORD_METHODS: Final = (None, "md5", "scram-sha-256", "password")
REFUSED_STATE: Final = "3D000"
"""As the reference does, since clients may look at it."""
SECONDS: Final = 30.0


class TalosLogin(msgspec.Struct, frozen=True):
    """Who the token says it is: a role, which is the pool's user, and the client's name for `application_name`."""

    role: str
    client_id: str


def is_talos(talos: Talos, user: str, admission: Admission) -> bool:
    """Is this a login by token? Where tokens are configured, and the rules ask for a password."""
    return user == USER and bool(talos.keys) and admission.method in PASSWORD_METHODS


def talos_exchange(talos: Talos, on_login: Callable[[TalosLogin], None]) -> CleartextExchange:
    """The token is sent as a password in clear; `on_login` may refuse whom it names."""

    async def judge(token: bytes) -> None:
        try:
            found = await run_in_thread(check_token, talos, token)
        except TokenRefused as refused:
            raise ClientFault(REFUSED_STATE, "Talos: invalid token", for_log=str(refused)) from None
        on_login(found)

    return CleartextExchange(judge, SECONDS, ClientFault(REFUSED_STATE, "Talos: invalid token", for_log="too slow"))


def check_token(talos: Talos, token: bytes) -> TalosLogin:
    """Raises `TokenRefused`, whose text is for the log."""
    claims = decode_token(token, find_key(talos, token))
    client_id, resources = claims.get("clientId"), claims.get("resource_access")
    if not isinstance(client_id, str) or not isinstance(resources, dict):
        raise TokenRefused("the claims clientId and resource_access are required")
    return TalosLogin(strongest_role(talos.databases, resources), client_id)


def find_key(talos: Talos, token: bytes) -> RSAPublicKey:
    """Rule 1."""
    kid = read_header(token).get("kid")
    path = next((path for path in talos.keys if kid and Path(path).stem == kid), None)
    if path is None:
        raise TokenRefused("its kid is missing or is none of talos.keys")
    try:
        key = key_file(path).get()
    except KeyUnavailable as error:
        raise TokenRefused(str(error)) from None
    if not isinstance(key, RSAPublicKey):
        raise TokenRefused(f"{path} holds no RSA key")
    return key


def strongest_role(databases: tuple[str, ...], resources: dict[str, Any]) -> str:
    """Rules 2 and 3. `resources`: "anything:database" -> {"roles": […]}."""
    roles: set[str] = set()
    for resource, access in resources.items():
        _, colon, database = resource.partition(":")
        if not colon or database not in databases:
            continue
        given = access.get("roles") if isinstance(access, dict) else None
        if not isinstance(given, list) or not all(isinstance(role, str) for role in given):
            raise TokenRefused("resource_access has an entry without a list of roles")
        roles.update(given)
    if not roles <= set(TALOS_ROLES):
        raise TokenRefused("it has a role that is none of owner, read_write and read_only")
    if not roles:
        raise TokenRefused("it has no role for a database of talos.databases")
    return next(role for role in TALOS_ROLES if role in roles)
