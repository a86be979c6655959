"""JSON Web Tokens as passwords: signature, time and who the token is for. Values in, values out.

Rules
1. The algorithm is the key's (`public_keys`); a token that names another one, or none, is refused.
2. `exp` is required, `nbf` is honoured, without leeway; `preferred_username` must be the user who logs in.
3. `iss` and `aud` are checked where the configuration names them, and then required.
4. No part of a token is ever logged: whoever reads the log could use it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.exceptions import PyJWTError

from doorman.auth.public_keys import KeyUnavailable, algorithm_of, key_file, key_set
from doorman.config.tokens import KEY_FILE_PREFIX, KEY_SET_PREFIX

_OPTIONS: Final[Any] = {
    "verify_signature": True,
    "verify_exp": True,
    "verify_nbf": True,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
}


SIGNED_FOR_SECONDS: Final = 120
"""How long a token of ours is good: for one login."""


class TokenRefused(Exception):
    """The token does not open; the text is for the log and holds nothing of the token."""


def check_token(
    key_source: str, token: bytes, user: str, *, issuer: str | None = None, audience: str | None = None
) -> None:
    """Return when `token` is good for `user`. May fetch keys: blocks, and so runs in a thread.

    `key_source`: the stored password, `jwt-pkey-fpath:FILE` or `jwt-jwks-url:URL`.
    """
    try:
        key = find_key(key_source, token)
    except KeyUnavailable as error:
        raise TokenRefused(str(error)) from None
    claims = decode_token(token, key, issuer=issuer, audience=audience)
    if claims.get("preferred_username") != user:
        raise TokenRefused("preferred_username is missing or is somebody else")


def find_key(key_source: str, token: bytes) -> Any:
    """The key that this token should have been signed with."""
    if key_source.startswith(KEY_SET_PREFIX):
        kid = read_header(token).get("kid")
        return key_set(key_source.removeprefix(KEY_SET_PREFIX)).get(kid if isinstance(kid, str) else None)
    return key_file(key_source.removeprefix(KEY_FILE_PREFIX)).get()


def read_header(token: bytes) -> dict[str, Any]:
    """The header, which nobody vouches for yet."""
    try:
        return jwt.get_unverified_header(token)
    except (PyJWTError, ValueError, TypeError):
        raise TokenRefused("this is no token") from None


def decode_token(token: bytes, key: Any, *, issuer: str | None = None, audience: str | None = None) -> dict[str, Any]:
    """The claims of a token that is signed with `key` and in force now."""
    required = ["exp", *(["iss"] if issuer else []), *(["aud"] if audience else [])]
    options: Any = {**_OPTIONS, "require": required, "verify_iss": bool(issuer), "verify_aud": bool(audience)}
    try:
        claims: dict[str, Any] = jwt.decode(
            token, key, algorithms=[algorithm_of(key)], options=options, issuer=issuer, audience=audience
        )
    except PyJWTError as error:
        raise TokenRefused(_reason(error)) from None
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise TokenRefused("a claim has a form that it may not have") from None
    return claims


def sign_token(key_path: str, user: str) -> str:
    """A token with which we log in to a server as `user`. Raises `KeyUnavailable`; the file is read each time."""
    try:
        key = load_pem_private_key(Path(key_path).read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnavailable(f"{key_path}: {getattr(error, 'strerror', None) or 'no usable private key'}") from None
    if not isinstance(key, RSAPrivateKey):
        raise KeyUnavailable(f"{key_path} holds no RSA key")
    claims = {"exp": int(time.time()) + SIGNED_FOR_SECONDS, "preferred_username": user}
    return jwt.encode(claims, key, "RS256")


def _reason(error: PyJWTError) -> str:
    """What was wrong, by kind: PyJWT's own texts may quote the token."""
    return _REASONS.get(type(error).__name__, f"not accepted ({type(error).__name__})")


_REASONS: Final = {
    "ExpiredSignatureError": "it has expired",
    "ImmatureSignatureError": "it is not in force yet (nbf)",
    "InvalidSignatureError": "its signature is not that of the key",
    "InvalidAlgorithmError": "it is signed with another algorithm than the key is for",
    "InvalidIssuerError": "it has another issuer (iss)",
    "InvalidAudienceError": "it is for another audience (aud)",
    "MissingRequiredClaimError": "a claim is missing that is required (exp, and iss and aud where configured)",
    "DecodeError": "this is no token",
}
