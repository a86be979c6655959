"""LDAP: a password judged by a directory, by simple bind or by search and bind. Blocks, and so runs in a thread.

Rules
1. Options, defaults and the order of steps are PostgreSQL's (manual, "LDAP Authentication").
2. An empty password is never sent: a directory would take it for an anonymous bind and say yes.
3. A name that goes into a filter may not hold what means something there; such a user is refused.
4. TLS certificates are checked as `ldap.conf(5)` and the LDAPTLS_ variables say, by default against the system's CAs.

The library is libldap (OpenLDAP's), called through ctypes: PostgreSQL and PgBouncer use it, so URLs, `ldap.conf` and
environment mean the same here; it is kept, and needs no headers and no compiler. Of the bindings, python-ldap and
bonsai come as source and need both; ldap3, in pure Python, had its last release in 2021.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from doorman.config.ldap_options import LdapSettings

LIBRARIES: Final = ("libldap.so.2", "libldap-2.6.so.0", "libldap-2.5.so.0", "libldap_r-2.4.so.2", "libldap-2.4.so.2")
TIMEOUT_SECONDS: Final = 10.0
"""For each answer of a directory; the login as a whole has its own deadline."""

ENTRIES: Final = 2
"""More than one is refused: no more need to be sent."""

_SCOPE_NUMBERS: Final = {"base": 0, "one": 1, "sub": 2}
_NOT_IN_FILTERS: Final = frozenset("*()\\/\0")
_NO_ATTRIBUTES: Final = b"1.1"
_SUCCESS: Final = 0
_VERSION, _TIMEOUT, _NETWORK_TIMEOUT, _DIAGNOSTIC, _REFERRALS = 0x0011, 0x5002, 0x5005, 0x0032, 0x0008


class LdapRefused(Exception):
    """The directory said no, or could not be asked; the text is for the log."""


class LdapUnavailable(LdapRefused):
    """No directory answered: not the user's fault."""


class _Timeval(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("microseconds", ctypes.c_long))


class _Berval(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ulong), ("value", ctypes.c_char_p))


def check_password(settings: LdapSettings, user: str, password: bytes, timeout: float = TIMEOUT_SECONDS) -> None:
    """Return when the directory accepts, raise `LdapRefused` when it does not. Blocks.

    A directory that cannot be reached is passed over for the next one of `settings.urls`.
    """
    if not password:
        raise LdapRefused("an empty password is not sent to a directory")
    if settings.base_dn and not _NOT_IN_FILTERS.isdisjoint(user):
        raise LdapRefused("the user name holds a character that is not allowed in a search (* ( ) \\ /)")
    for at, url in enumerate(settings.urls):
        try:
            with _connected(settings, url, timeout) as directory:
                name = directory.find(settings, user) if settings.base_dn else settings.prefix + user + settings.suffix
            with _connected(settings, url, timeout) as directory:
                directory.bind(name, password)
                return
        except LdapUnavailable:
            if at + 1 == len(settings.urls):
                raise


class _Directory:
    """One connection."""

    def __init__(self, library: Any, handle: ctypes.c_void_p, url: str, timeout: float) -> None:
        self.library = library
        self.handle = handle
        self.url = url
        self.timeout = timeout

    def bind(self, name: str, password: bytes) -> None:
        """Simple bind."""
        credential = _Berval(len(password), password)
        dn = name.encode("utf-8", "surrogateescape")
        code = self.library.ldap_sasl_bind_s(self.handle, dn, None, ctypes.byref(credential), None, None, None)
        self.check(code, f'bind as "{name}"' if name else "anonymous bind")

    def find(self, settings: LdapSettings, user: str) -> str:
        """The name of the one entry that is this user's."""
        if settings.bind_dn or settings.ldapbindpasswd:
            self.bind(settings.bind_dn, settings.ldapbindpasswd.encode())
        search = settings.filter.replace("$username", user) or f"({settings.attribute}={user})"
        result = ctypes.c_void_p()
        attributes = (ctypes.c_char_p * 2)(_NO_ATTRIBUTES, None)
        base, wanted = settings.base_dn.encode(), search.encode("utf-8", "surrogateescape")
        limit = _Timeval(int(self.timeout), int(self.timeout % 1 * 1_000_000))
        code = self.library.ldap_search_ext_s(
            *(self.handle, base, _SCOPE_NUMBERS[settings.scope], wanted, attributes),
            *(0, None, None, ctypes.byref(limit), ENTRIES, ctypes.byref(result)),
        )
        try:
            count = self.library.ldap_count_entries(self.handle, result) if result else 0
            if count == 1:
                return self._name_of_first(result)
            if code == _SUCCESS or count > 1:
                raise LdapRefused(f'{count or "no"} entries found for the filter "{search}" below "{settings.base_dn}"')
            self.check(code, f'search with the filter "{search}" below "{settings.base_dn}"')
        finally:
            if result:
                self.library.ldap_msgfree(result)
        raise LdapRefused("the search came to nothing")

    def _name_of_first(self, result: ctypes.c_void_p) -> str:
        entry = self.library.ldap_first_entry(self.handle, result)
        name = self.library.ldap_get_dn(self.handle, entry)
        try:
            return ctypes.string_at(name).decode("utf-8", "surrogateescape")
        finally:
            self.library.ldap_memfree(name)

    def start_tls(self) -> None:
        """StartTLS, which ends the attempt when it fails: there is no going on in clear."""
        self.check(self.library.ldap_start_tls_s(self.handle, None, None), "StartTLS")

    def check(self, code: int, step: str) -> None:
        """Raise for what is not success. Negative codes are libldap's own: the directory was not reached."""
        if code == _SUCCESS:
            return
        words = (self.library.ldap_err2string(code) or b"").decode(errors="replace")
        fault = LdapUnavailable if code < 0 or code in (51, 52) else LdapRefused
        raise fault(f"{self.url}: {step}: {words}{self._diagnostic()}")

    def _diagnostic(self) -> str:
        text = ctypes.c_void_p()
        self.library.ldap_get_option(self.handle, _DIAGNOSTIC, ctypes.byref(text))
        if not text:
            return ""
        words = ctypes.string_at(text).decode(errors="replace")
        self.library.ldap_memfree(text)
        return f" ({words})" if words else ""


@contextmanager
def _connected(settings: LdapSettings, url: str, timeout: float) -> Iterator[_Directory]:
    library = load_library()
    handle = ctypes.c_void_p()
    code = library.ldap_initialize(ctypes.byref(handle), url.encode())
    if code != _SUCCESS:
        raise LdapRefused(f"{url}: {library.ldap_err2string(code).decode()}")
    directory = _Directory(library, handle, url, timeout)
    try:
        limit = _Timeval(int(timeout), int(timeout % 1 * 1_000_000))
        library.ldap_set_option(handle, _VERSION, ctypes.byref(ctypes.c_int(3)))
        library.ldap_set_option(handle, _REFERRALS, None)
        library.ldap_set_option(handle, _NETWORK_TIMEOUT, ctypes.byref(limit))
        library.ldap_set_option(handle, _TIMEOUT, ctypes.byref(limit))
        if settings.start_tls:
            directory.start_tls()
        yield directory
    finally:
        library.ldap_unbind_ext_s(handle, None, None)


@cache
def load_library() -> Any:
    """libldap with the types of what is called; `LdapRefused` where the system has none."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        break
    else:
        raise LdapUnavailable("libldap is not installed (Debian: apt-get install libldap-2.5-0)")
    pointer, text, integer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    library.ldap_initialize.argtypes = (ctypes.POINTER(pointer), text)
    library.ldap_set_option.argtypes = library.ldap_get_option.argtypes = (pointer, integer, pointer)
    library.ldap_start_tls_s.argtypes = (pointer, pointer, pointer)
    library.ldap_sasl_bind_s.argtypes = (pointer, text, text, ctypes.POINTER(_Berval), pointer, pointer, pointer)
    library.ldap_search_ext_s.argtypes = (
        *(pointer, text, integer, text, ctypes.POINTER(text), integer, pointer, pointer),
        *(ctypes.POINTER(_Timeval), integer, ctypes.POINTER(pointer)),
    )
    library.ldap_count_entries.argtypes = (pointer, pointer)
    library.ldap_first_entry.argtypes = (pointer, pointer)
    library.ldap_first_entry.restype = pointer
    library.ldap_get_dn.argtypes = (pointer, pointer)
    library.ldap_get_dn.restype = pointer
    library.ldap_memfree.argtypes = library.ldap_msgfree.argtypes = (pointer,)
    library.ldap_unbind_ext_s.argtypes = (pointer, pointer, pointer)
    library.ldap_err2string.argtypes = (integer,)
    library.ldap_err2string.restype = text
    return library
