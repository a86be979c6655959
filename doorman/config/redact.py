"""Structs that hold secrets never show them: not in a log line, a traceback or a test's output."""

from __future__ import annotations

import msgspec

SECRET_KEYS = frozenset(
    {"password", "admin_password", "stats_password", "server_password", "ldapbindpasswd", "auth_ldap_options"}
)


class Redacted(msgspec.Struct, frozen=True):
    """Base of such structs: `repr` shows `***` in the place of a secret that is set."""

    def __repr__(self) -> str:
        shown = (f"{name}={_show(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"


def _show(name: str, value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_show(key, item)}" for key, item in value.items()) + "}"
    return "'***'" if name in SECRET_KEYS and value else repr(value)
