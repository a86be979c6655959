"""Words of the configuration that have to do with tokens: forms of stored "passwords" and names of roles."""

from __future__ import annotations

from typing import Final

KEY_FILE_PREFIX: Final = "jwt-pkey-fpath:"
"""A PEM file with the public key that a user's tokens are signed for."""
KEY_SET_PREFIX: Final = "jwt-jwks-url:"
"""A URL of a JSON Web Key Set."""
TOKEN_PREFIXES: Final = (KEY_FILE_PREFIX, KEY_SET_PREFIX)
SIGNER_PREFIX: Final = "jwt-priv-key-fpath:"
"""`server_password`: a private key that tokens for PostgreSQL are signed with."""
TALOS_ROLES: Final = ("owner", "read_write", "read_only")
"""Strongest first."""
